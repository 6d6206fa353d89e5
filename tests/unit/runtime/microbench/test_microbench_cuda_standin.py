"""Every microbenchmark and a whole validation through the CUDA back end, on a stand-in for streams and events.

No time means anything here: what counts is that every part runs, asks the device for nothing it does not have, and
leaves files that the next command reads.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.measurements import Measurements, load_measurements
from hwmodels.fits.fit import Fit
from hwmodels.platform import load_platform
from offload.ops import KERNEL_KINDS, OpKind
from pregate.ask.capturing.capture import Captured
from tests.cuda_standin import Event, StandIn
from tests.small_models import MODELS
from tests.told_watch import Watch
from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.running import measured_run  # noqa: E402
from pregate.validation import session as validation_session  # noqa: E402
from pregate.validation.cases import GPU_POLICIES, CaseGroup, CaseWorkload, suite_named  # noqa: E402
from pregate.validation.runs import case_runner  # noqa: E402
from pregate.validation.scores.validation_summary import summarise_validation  # noqa: E402
from pregate.validation.session import ValidationPlan, validate  # noqa: E402
from runtime.backends.backend import LaneFailure  # noqa: E402
from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.microbench import contention, gemms, host, parts, rounds, session  # noqa: E402
from runtime.microbench.copies import copy_samples  # noqa: E402
from runtime.microbench.probes import Probe  # noqa: E402

H100 = {
    "backend": "cuda", "name": "NVIDIA H100 80GB HBM3", "vendor": "NVIDIA", "spec": "h100-sxm",
    "hbm_bytes": 85_000_000_000, "n_compute_cores": 132, "dram_bytes": 128 << 30, "n_cores": 16,
}  # fmt: skip
DTYPES = ("fp32", "bf16")
CHANCE = {"launch", "beside", "apart"}
"""Samples that depend on what was under way."""


class Ticking(Event):
    """Milliseconds apart by a whole number, so that nothing takes no time."""

    clock = itertools.count(1)

    def record(self, stream: Any) -> None:
        self.n_recorded, self.at = self.n_recorded + 1, next(self.clock)


def api() -> StandIn:
    found = StandIn(free_bytes=4 << 30)
    found.Event = Ticking
    return found


def make(graphs: bool = False) -> CudaBackend:
    return CudaBackend(graphs=graphs, device="cpu", api=api())


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    equip(monkeypatch)


def equip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pools and probes, and a device that sleeps for nothing."""
    monkeypatch.setattr(parts, "CudaBackend", make)
    for module in (measured_run, case_runner):
        monkeypatch.setattr(module, "make_backend", lambda device: make(device.graphs))
    monkeypatch.setattr(session, "describe_device", lambda _: dict(H100))
    monkeypatch.setattr(validation_session, "describe_device", lambda _: dict(H100))
    monkeypatch.setattr(parts, "_sleep", lambda cycles: None)
    monkeypatch.setattr(parts, "device_node", lambda: 0)
    monkeypatch.setattr(rounds, "LoadWatch", Watch)
    monkeypatch.setattr(case_runner, "LoadWatch", Watch)
    monkeypatch.setattr(parts, "PARAMS", (1 << 12, 1 << 14))
    monkeypatch.setattr(parts, "_LARGE_PARAMS", (1 << 16,))
    monkeypatch.setattr(parts, "_QUICK_ROWS", (1, 4, 16))
    monkeypatch.setattr(gemms, "_POOL_BYTES", 8 << 20)
    monkeypatch.setattr(gemms, "_ACTION_S", 0.0)
    for name, size in (("_POOL_BYTES", 8 << 20), ("_COPY_BYTES", 1 << 20), ("_ROWS", 256), ("_COLUMNS", 256)):
        monkeypatch.setattr(contention, name, size)
    small = partial(copy_samples, sizes=(4096, 1 << 16, 1 << 20, 1 << 21), pool_bytes=8 << 20)
    monkeypatch.setattr(parts, "copy_samples", small)
    monkeypatch.setattr(parts, "host_samples", partial(host.host_samples, n=20))
    for module in (parts, session):
        monkeypatch.setattr(module, "probes_of", lambda settings: (p for d in settings.dtypes for p in small_probes(d)))


def small_probes(dtype: str) -> Iterator[Probe]:
    for name, offloaded in (("encoder-decoder", True), ("shared experts, three matrices", False)):
        model = MODELS[name].with_dtype(dtype)
        for batch, context in ((1, 4), (2, 8), (3, 4)):
            n_active = min(model.n_experts, batch * model.top_k)
            yield Probe(model, batch, context, 5, n_active, offloaded)


@pytest.fixture(scope="module")
def measurements() -> Measurements:
    with pytest.MonkeyPatch.context() as monkeypatch:
        equip(monkeypatch)
        monkeypatch.setattr(rounds, "_MOST_ROUNDS", 1)
        settings = session.Settings("cuda", DTYPES, quick=True, budget_s=1e9)
        return session.measure(settings, {"command": "a test"}, insist=False)


@pytest.fixture(scope="module")
def fit(measurements: Measurements, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """What `calibrate` makes of the file of `measurements`."""
    path = tmp_path_factory.mktemp("measured") / "measurements.json"
    measurements.save(path)
    return calibrate(load_measurements(path), {"command": "a test"})


@pytest.fixture
def fit_file(fit: Fit, tmp_path: Path) -> Path:
    path = tmp_path / "fit.yaml"
    path.write_text(fit.to_yaml(), encoding="utf-8")
    return path


def test_a_session_without_time_measures_what_a_fit_needs() -> None:
    found = session.measure(session.Settings("cuda", DTYPES, quick=True, budget_s=1e-3), insist=False)
    assert {sample.what for sample in found.samples} - {"launch", "beside", "apart"} == {
        "d2h",
        "gemm",
        "h2d",
        "issue",
        "op",
    }
    assert found.trust.level == "low"
    assert found.trust.reasons[-1].endswith("parts were left out, there was no time for them")
    fit = calibrate(found)
    assert {kind.name.lower() for kind in KERNEL_KINDS} <= {name.partition(".")[0] for name in fit.kernels}
    assert "sync_s" in fit.constants


def test_everything_is_measured_in_both_formats_and_calibrate_takes_it(measurements: Measurements, fit: Fit) -> None:
    found = measurements
    assert {sample.what for sample in found.samples} - CHANCE == {"d2h", "decide", "gemm", "h2d", "issue", "op"}
    assert found.stack == "pytorch-eager"
    assert {sample.parameters["dtype"] for sample in found.of("gemm")} == set(DTYPES)
    assert {sample.parameters["memory"] for sample in found.of("h2d")} == {"pinned", "pageable", "mapped"}
    kinds = {sample.parameters["kind"] for sample in found.of("op")}
    assert {kind.name.lower() for kind in (OpKind.FETCH, OpKind.READBACK, OpKind.WAIT, OpKind.CROSS_ATTENTION)} <= kinds
    assert fit.name == "h100-sxm.pytorch-eager"
    assert fit.dtypes == DTYPES


def test_a_validation_runs_on_the_fit(fit_file: Path) -> None:
    groups = [
        CaseGroup(MODELS[name].with_dtype(dtype), CaseWorkload(2, 3, 3, seed=5), GPU_POLICIES, hbm_share=0.9)
        for name, dtype in (("decoder-only", "fp32"), ("encoder-decoder", "bf16"))
    ]
    found = validate(groups, load_platform(str(fit_file)), ValidationPlan("cuda", repeats=1))
    summary = summarise_validation(found)
    assert summary["n"] == 2 * len(GPU_POLICIES)
    assert summary["bytes_exact"]
    assert summary["residency_exact"]
    assert summary["outputs_equal"]
    assert {outcome.case.group for outcome in found.outcomes} == {f"{g.model.name}/b2" for g in groups}


def test_graphs_are_a_stack_of_their_own(tmp_path: Path) -> None:
    settings = session.Settings("cuda", DTYPES[:1], quick=True, graphs=True, budget_s=1e-3)
    fit = calibrate(session.measure(settings, {"command": "a test"}, insist=False), {"command": "a test"})
    assert fit.name == "h100-sxm.streams"
    path = tmp_path / "fit.yaml"
    path.write_text(fit.to_yaml(), encoding="utf-8")
    group = CaseGroup(MODELS["decoder-only"], CaseWorkload(1, 3, 3, seed=5), ("on_demand", "pregate"), hbm_share=0.9)
    summary = summarise_validation(
        validate([group], load_platform(str(path)), ValidationPlan("cuda", repeats=1, graphs=True))
    )
    assert summary["n"] == 2
    assert summary["outputs_equal"]
    with pytest.raises(InvalidInput, match="is of the stack streams, what would run is pytorch-eager: give a fit of"):
        validate([group], load_platform(str(path)), ValidationPlan("cuda", repeats=1))


def test_a_queue_of_copies_waits_until_all_are_issued() -> None:
    """A copy that begins while the host still issues would be timed with the host in it."""
    ran: list[str] = []

    class Recording(CudaBackend):
        def issue(self, op: int) -> None:
            ran.append("copy" if not callable(self._actions[op]) else "hold")
            super().issue(op)

    backends = [Recording(device="cpu", api=api()) for _ in range(2)]
    there: Callable[[], CudaBackend] = iter(backends).__next__
    samples = copy_samples(there, sizes=(4096, 8192), n=6, both_ways=False, pool_bytes=1 << 20, hold=lambda: None)
    assert ran == (["hold", *["copy"] * 6] * 2) * 2
    assert all(backend._api.n_waits >= 3 for backend in backends)  # the first copy on the hold, the second hold on it
    assert [sample.parameters["n_bytes"] for sample in samples] == [4096, 8192] * 2


def test_a_driver_fault_costs_its_group_alone(fit_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = CaseGroup(MODELS["decoder-only"], CaseWorkload(1, 3, 3, seed=6), ("on_demand",), hbm_share=0.9)
    groups = [group, dataclasses.replace(group, workload=CaseWorkload(2, 3, 3, seed=6))]
    real = case_runner.execute_captured

    def faulty(captured: Captured, *rest: Any, **named: Any) -> Any:
        if captured.workload.n_sequences == 1:
            raise LaneFailure("op 3 on lane COMPUTE failed: CUDA error")
        return real(captured, *rest, **named)

    monkeypatch.setattr(case_runner, "execute_captured", faulty)
    found = validate(groups, load_platform(str(fit_file)), ValidationPlan("cuda", repeats=1))
    assert [outcome.case.group for outcome in found.outcomes] == [groups[1].name]
    assert found.failed == {group.name: "op 3 on lane COMPUTE failed: CUDA error"}
    assert not summarise_validation(found)["valid"]
    with pytest.raises(LaneFailure):
        validate(groups[:1], load_platform(str(fit_file)), ValidationPlan("cuda", repeats=1))


def test_the_gpu_suite_has_what_it_must_show() -> None:
    groups = suite_named("gpu")
    cases = [(group, policy) for group in groups for policy in group.policies]
    assert len(cases) >= 50
    assert {policy for _, policy in cases} == set(GPU_POLICIES)
    assert {group.model.dtype.name for group in groups} == {"bf16", "fp32"}
    assert {1, 4, 16} <= {group.workload.batch for group in groups}
    forced = {group.workload.n_active for group in groups if group.model.name.startswith("switch-base-64")}
    assert {1, 8, 64} <= forced
    published = {name for name in PUBLISHED for group in groups if group.model.name.startswith(name)}
    assert published == set(PUBLISHED)
    for group in groups:
        model = group.model
        assert model.n_moe_layers * model.n_experts * model.expert_bytes < 60e9  # of host memory


PUBLISHED = (
    "switch-base-8", "switch-base-64", "switch-base-128", "switch-large-128", "mixtral-8x7b", "qwen3-30b-a3b",
    "deepseek-v2-lite", "gpt-oss-20b",
)  # fmt: skip


def test_beside_copies_a_device_computes_and_its_host_does_not() -> None:
    found = contention.contention_samples(make, "fp32", hold=lambda: None)
    assert {(one.parameters["of"], one.parameters["beside"]) for one in found} == {
        ("gemv", "nothing"), ("h2d", "nothing"), ("gemv", "h2d"), ("h2d", "gemv"),
        ("readback", "nothing"), ("readback", "h2d"), ("h2d", "readback"),
    }  # fmt: skip
