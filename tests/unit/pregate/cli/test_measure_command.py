"""`pregate measure` and `pregate calibrate` as users type them: from this machine to a fit, on a few points."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import pregate
from hwmodels.calibrate.measurements import load_measurements, workload_digest
from hwmodels.fits import fit_limits
from hwmodels.fits.fit_files import load_fit
from hwmodels.platform import load_platform
from pregate import extras
from pregate.cli.main import application
from tests.small_fits import measurements
from tests.small_models import MODELS, routing
from tests.told_watch import Watch
from traces.errors import InvalidFile, InvalidInput, PregateError

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.machine import device  # noqa: E402
from runtime.machine.watch import Busy, Seen  # noqa: E402
from runtime.microbench import contention, gemms, live, parts, rounds, session  # noqa: E402
from runtime.microbench.probes import Probe  # noqa: E402
from runtime.microbench.rounds import Microbenchmark  # noqa: E402

PROBES = [
    Probe(MODELS["decoder-only"], 1, 4, 5, 2, offloaded=True, quick=True),
    Probe(MODELS["decoder-only"], 2, 4, 5, 3),
    Probe(MODELS["encoder-decoder"], 1, 4, 5, 1),
    Probe(MODELS["encoder-decoder"], 2, 8, 5, 2, quick=True),
]


class Loud(Watch):
    seen = Seen(foreign=9.0, steal=0.0, clock=1.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part of a session, a few points of each, on a machine that is said to be quiet and has all the time.

    Each part is run once and is said to take the same in every round: how far its rounds lie apart, which decides
    whether a session is refused, would be the machine's that runs the tests.
    """
    grid = {"rows": (1, 8), "params": (1 << 10, 1 << 12), "aspects": (0.5, 2.0), "point_s": 1e-3}
    few: dict[str, dict[str, Any]] = {
        "gemm_samples": grid,
        "copy_samples": {"sizes": (4096, 16384, 65536), "n": 6, "pool_bytes": 1 << 20},
        "host_samples": {"n": 20},
        "read_samples": {"sizes": (4096,), "file_bytes": 1 << 16},
    }

    def fewer(name: str) -> Callable[..., Any]:
        whole = getattr(parts, name)
        return lambda *args, **settings: whole(*args, **{**settings, **few[name]})

    for name in few:
        monkeypatch.setattr(parts, name, fewer(name))
    monkeypatch.setattr(parts, "probes", lambda dtype, scale: iter(PROBES))
    monkeypatch.setattr(rounds, "LoadWatch", Watch)
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: 0.0))
    whole = parts.microbenchmarks_of
    monkeypatch.setattr(session, "microbenchmarks_of", lambda settings: [run_once(part) for part in whole(settings)])
    for ratio in fit_limits._BOUNDS:  # few points on a loaded machine say anything
        monkeypatch.setitem(fit_limits._BOUNDS, ratio, (1e-6, 1e6))
    monkeypatch.setattr(gemms, "_POOL_BYTES", 1 << 20)
    monkeypatch.setattr(contention, "_POOL_BYTES", 32 << 20)
    monkeypatch.setattr(contention, "_COPY_BYTES", 1 << 14)
    monkeypatch.setattr(contention, "_N", 10)
    monkeypatch.setattr(live, "_NEW_TOKENS", 5)
    monkeypatch.setattr(live, "_RUNS", 2)


def run_once(part: Microbenchmark) -> Microbenchmark:
    """The same samples in every round."""
    samples = functools.cache(lambda: part.run(True))
    return dataclasses.replace(part, run=lambda first: samples())


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [*words], catch_exceptions=True)
    if isinstance(result.exception, PregateError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


CPU = ("--backend", "cpu", "--link", "100MB/s")
AS_MADE_UP = ("--backend", "cpu", "--link", "2GB/s")
"""The link of `tests.small_fits`."""


def test_a_machine_is_measured_calibrated_and_predicted_on(small: None, tmp_path: Path) -> None:
    path, fitted, picture = tmp_path / "m.json", tmp_path / "fit.yaml", tmp_path / "fit.png"
    status, text = run("measure", "-o", str(path), *CPU, "--storage", str(tmp_path))
    assert (status, list(tmp_path.iterdir())) == (0, [path])
    found = load_measurements(path)
    assert f"{len(found.samples)} samples of {found.machine['name']} (threads) in {path}" in text
    assert {"gemm", "h2d", "d2h", "issue", "contention", "op"} <= {sample.what for sample in found.samples}
    assert list(found.of("disk_read"))
    assert found.is_clean
    assert found.provenance["command"] == "pregate measure"
    assert found.provenance["torch"] == torch.__version__
    assert found.machine["h2d_bytes_per_s"] == 100e6
    assert found.probes == tuple(workload_digest(probe.model, probe.trace) for probe in PROBES)
    status, text = run("calibrate", str(path), "-o", str(fitted), "--plot", str(picture))
    assert status == 0
    assert "Leave-one-out errors" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    fit = load_fit(fitted)
    assert fit.provenance["measurements"] == found.digest
    assert fit.provenance["command"] == "pregate calibrate"
    assert fit.probes == found.probes
    hw = load_platform(str(fitted))
    assert hw.calibration("fp32") == "fitted"
    result = pregate.simulate(MODELS["decoder-only"], hw, routing(MODELS["decoder-only"]), "pregate")
    assert result.calibration in ("fitted", "extrapolated")
    assert result.tokens_per_s_ci95 is not None
    with pytest.raises(InvalidInput, match="a fit is a YAML file"):
        run("calibrate", str(path), "-o", str(tmp_path / "fit.json"))


def test_a_shared_machine_is_one_file_that_a_machine_is_taken_from(small: None, tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    status, text = run("measure", "--share", "-o", str(path), *CPU)
    assert (status, list(tmp_path.iterdir())) == (0, [path])
    fit = load_fit(path)
    assert f"hwmodels/fits/{fit.hardware}.threads.yaml" in text
    assert {"system", "dram_bytes"} <= set(fit.conditions)
    assert fit.provenance["command"] == "pregate measure --share"
    assert "both_ways_bytes_per_s" in fit.link
    assert {"launch_s", "copy_issue_s"} <= set(fit.constants)
    assert load_platform(str(path)).calibration("fp32") == "fitted"


def test_a_quick_session_takes_a_third_of_the_probes(small: None, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    assert run("measure", "-o", str(path), *CPU, "--quick", "--dtypes", " fp32 , ,fp32")[0] == 0
    found = load_measurements(path)
    assert found.probes == tuple(workload_digest(probe.model, probe.trace) for probe in (PROBES[0], PROBES[3]))
    assert {sample.parameters["dtype"] for sample in found.of("gemm")} == {"fp32"}
    assert not list(found.of("disk_read"))
    assert not list(found.of("h2d", beside="other way"))


def numbered(*scales: float) -> list[Microbenchmark]:
    """A part whose samples take so many times as long from round to round."""
    taken = iter(scales)

    def run(first: bool) -> list[Any]:
        scale = next(taken)
        return [
            dataclasses.replace(
                sample, mean_s=sample.mean_s * scale, median_s=sample.median_s * scale, p25_s=sample.p25_s * scale,
                p75_s=sample.p75_s * scale,
            )
            for sample in measurements().samples
        ]  # fmt: skip

    return [Microbenchmark("a part", run)]


def test_a_busy_machine_is_measured_and_says_so(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "LoadWatch", Loud)
    monkeypatch.setattr(session, "microbenchmarks_of", lambda settings: numbered(1.0, 1.02, 1.01, 1.0))
    path = tmp_path / "m.json"
    status, text = run("measure", "-o", str(path), *AS_MADE_UP)
    assert status == 0
    assert "Trust in them: low (the same thing takes 1 % more or less when timed again; 1 of 1 parts were" in text
    found = load_measurements(path)
    assert found.disturbances == ("a part: other processes used 9.00 cores (at most 0.06)",)
    assert found.trust.level == "low"
    status, text = run("calibrate", str(path), "-o", str(tmp_path / "fit.yaml"))
    assert status == 0
    assert "Trust in the measurements: low (the same thing" in text
    fit = load_fit(tmp_path / "fit.yaml")
    assert fit.provenance["disturbed"].startswith("a part: other processes")
    assert fit.provenance["trust"] == "low"
    assert fit.left_out["rounds"].scatter == pytest.approx(0.014, abs=2e-3)


def test_what_says_nothing_is_refused_with_the_way_out(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "microbenchmarks_of", lambda settings: numbered(1.0, 4.0))
    path = tmp_path / "m.json"
    with pytest.raises(
        Busy, match=r"takes 98 % more or less .*\(--budget-s\), or take what there is \(--even-if-busy\)"
    ):
        run("measure", "-o", str(path), *AS_MADE_UP)
    assert not path.exists()
    monkeypatch.setattr(session, "microbenchmarks_of", lambda settings: numbered(1.0, 4.0))
    assert run("measure", "-o", str(path), *AS_MADE_UP, "--even-if-busy")[0] == 0
    with pytest.raises(InvalidInput, match=r"say nothing of this machine: .* as they are \(--even-if-busy\)"):
        run("calibrate", str(path), "-o", str(tmp_path / "fit.yaml"))
    assert not (tmp_path / "fit.yaml").exists()
    assert run("calibrate", str(path), "-o", str(tmp_path / "fit.yaml"), "--even-if-busy")[0] == 0


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf"])
def test_a_budget_is_a_time(small: None, tmp_path: Path, budget: str) -> None:
    with pytest.raises(InvalidInput, match="is no time: give seconds above 0"):
        run("measure", "-o", str(tmp_path / "m.json"), *CPU, "--budget-s", budget)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "{}/no/m.json"), "there is no folder"),
        (("-o", "{}"), "is a folder: name a file in it"),
        (("-o", "{}/m.json", "--backend", "tpu"), "unknown back end 'tpu'"),
        (("-o", "{}/m.json", "--dtypes", "fp8"), "unknown number format 'fp8'"),
        (("-o", "{}/m.json", "--dtypes", "bf16", "--backend", "cpu"), "fp32 must be among them"),
        (("-o", "{}/m.json", "--dtypes", ",", "--backend", "cpu"), "fp32 must be among them"),
        (("-o", "{}/m.json", "--link", "fast", "--backend", "cpu"), "'fast' is not a number"),
        (("-o", "{}/m.json", "--link", "0", "--backend", "cpu"), "--link 0: it must be above 0"),
        (("-o", "{}/m.json", "--link", "2GB", "--backend", "cpu"), "GB is a unit of size"),
        (("-o", "{}/m.json", "--storage", "{}/no"), "there is no such folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(session, "measure", lambda *args, **rest: pytest.fail("measured"))
    with pytest.raises(InvalidInput, match=message) as caught:
        run("measure", *(word.format(tmp_path) for word in words))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_device_and_a_missing_torch_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_cuda", lambda: False)
    monkeypatch.setattr(session, "measure", lambda *args, **rest: pytest.fail("measured"))
    with pytest.raises(InvalidInput, match="no CUDA device"):
        run("measure", "-o", str(tmp_path / "m.json"), "--backend", "cuda")
    assert extras.backend_named("auto") == "cpu"
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"PyTorch is not installed.*pip install 'pregate\[runtime\]'"):
        run("measure", "-o", str(tmp_path / "m.json"), "--backend", "cpu")


def test_calibrate_refuses_what_it_cannot_read_or_write(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(InvalidFile, match="cannot be read"):
        run("calibrate", str(path), "-o", str(tmp_path / "fit.yaml"))
    path.write_text("{}")
    with pytest.raises(InvalidFile, match="key 'version' is missing"):
        run("calibrate", str(path), "-o", str(tmp_path / "fit.yaml"))
    measurements().save(path)
    with pytest.raises(InvalidInput, match="there is no folder"):
        run("calibrate", str(path), "-o", str(tmp_path / "no" / "fit.yaml"))
    assert list(tmp_path.iterdir()) == [path]


@dataclasses.dataclass
class Properties:
    """What a driver says of a device."""

    name: str
    total_memory: int = 24 << 30
    multi_processor_count: int = 68
    clock_rate: int = 1_545_000
    L2_cache_size: int = 6 << 20


@pytest.mark.parametrize(
    ("name", "gib", "spec"),
    [
        ("NVIDIA A100-SXM4-80GB", 79, "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", 79, "a100-pcie-80gb"),
        ("NVIDIA A100-SXM4-40GB", 39, "a100-sxm4-40gb"),
        ("NVIDIA H100 80GB HBM3", 79, "h100-sxm"),
        ("NVIDIA H100 PCIe", 79, "h100-pcie"),
        ("NVIDIA H200", 139, "h200-sxm"),
        ("NVIDIA GH200 480GB", 95, "gh200"),
        ("NVIDIA GeForce RTX 3080", 10, "rtx-3080"),
        ("NVIDIA GeForce RTX 3080", 12, "rtx-3080-12gb"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16, "rtx-4090-mobile"),
        ("NVIDIA L4", 22, "l4"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA GeForce RTX 3080", 20, None),
        ("NVIDIA L40", 45, "l40"),
        ("NVIDIA L40G", 24, None),
        ("NVIDIA T400", 4, None),
        ("NVIDIA GeForce RTX 4090", 16, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9, None),
    ],
)
def test_a_device_is_taken_for_no_other(monkeypatch: pytest.MonkeyPatch, name: str, gib: int, spec: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Properties(name, gib << 30))
    found = device.describe_device("cuda")
    assert found["spec"] == spec
    assert json.loads(json.dumps(found)) == found
    if spec is not None:
        assert load_platform(spec).hardware == spec


def test_a_device_that_no_maker_describes_can_be_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwmodels.calibrate.measured_machine import machine_of

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Properties("NVIDIA GeForce RTX 2080 Ti"))
    name, machine, _ = machine_of(measurements(machine=device.describe_device("cuda"), stack="pytorch-eager"))
    assert name == "nvidia-geforce-rtx-2080-ti"
    assert machine is not None
    assert (machine.accelerator.n_sm, machine.accelerator.clock_hz) == (68, 1.545e9)
    assert (machine.accelerator.hbm_bytes, machine.accelerator.l2_bytes) == (24 << 30, 6 << 20)
