"""Fits as texts and machines: what survives, what is refused, what was a probe."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.measured_machine import machine_of
from hwmodels.calibrate.measurements import (
    load_measurements,
    sample_of,
    work_parameters,
    workload_digest,
)
from hwmodels.fits import fit_files
from hwmodels.fits.fit import Fit
from hwmodels.fits.fit_files import is_fit, load_fit
from hwmodels.platform import load_platform
from offload.ops import OpKind, Work
from tests import small_fits
from tests.made_up_measurements import (
    noisy_fit,
    synthetic,
)
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, PregateError, UnknownName


@pytest.fixture(scope="module")
def noisy() -> Fit:
    return noisy_fit()


def test_a_machine_that_nobody_describes_is_as_good_as_the_best_that_was_seen() -> None:
    name, machine, rates = machine_of(small_fits.measurements())
    assert machine is not None
    assert name == machine.accelerator.name == "made-up"
    assert rates.flop_per_s == {"fp32": pytest.approx(small_fits.FLOP_PER_S)}
    assert rates.hbm_bytes_per_s == pytest.approx(small_fits.BYTES_PER_S)
    assert (machine.link.h2d_bytes_per_s, machine.accelerator.hbm_bytes) == (2e9, 8 << 30)
    assert "measured" in machine.accelerator.sources["hbm_bytes_per_s"].source
    unpaced = small_fits.measurements(
        machine={**small_fits.measurements().machine, "h2d_bytes_per_s": None, "d2h_bytes_per_s": None}
    )
    described = machine_of(unpaced)[1]
    assert described is not None
    best = max(s.parameters["n_bytes"] / s.median_s for s in unpaced.of("h2d"))
    assert described.link.h2d_bytes_per_s == best < 2e9


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_fit_survives_its_own_text_and_is_a_machine(tmp_path: Path, suffix: str) -> None:
    fit = small_fits.fit()
    path = tmp_path / f"{fit.name}{suffix}"
    path.write_text(fit.to_yaml())
    assert is_fit(path)
    assert load_fit(path) == fit
    hw = load_platform(str(path))
    assert fit.machine is not None
    assert (hw.hardware, hw.stack.name, hw.fit) == ("made-up", "threads", fit)
    assert (hw.machine.accelerator, hw.machine.host) == (fit.machine.accelerator, fit.machine.host)
    assert hw.calibration("fp32") == "fitted"
    assert hw.calibration("bf16") == "extrapolated"
    assert hw.describe_calibration("fp32") == "fitted on made-up with threads"
    with pytest.raises(InvalidInput, match="was fitted with the stack threads, not streams"):
        load_platform(str(path), "streams")


def test_a_fit_of_a_described_machine_survives_and_finds_its_makers_numbers(noisy: Fit, tmp_path: Path) -> None:
    path = tmp_path / "a100-sxm4-80gb.pytorch-eager.yaml"
    path.write_text(noisy.to_yaml())
    assert load_fit(path) == noisy
    hw = load_platform(str(path))
    assert hw.machine == load_platform("a100-sxm4-80gb").machine
    assert hw.calibration("fp32") == "fitted"


def test_every_number_of_the_users_own_is_extrapolated_another_speed_of_the_link_too(tmp_path: Path) -> None:
    """The share of a link's rate that is achieved was measured at one rate: at another it is a guess."""
    path = tmp_path / "made-up.threads.yaml"
    path.write_text(small_fits.fit().to_yaml())
    for overrides in ({"link.h2d_bytes_per_s": "4GB/s"}, {"hbm_bytes": "4GiB"}, {"stack.sync_s": 1e-6}):
        hw = load_platform(str(path), overrides=overrides)
        assert hw.calibration("fp32") == "extrapolated"
        assert hw.describe_calibration("fp32") == "extrapolated: threads was fitted on made-up as measured, in fp32"
    same = load_platform(str(path), overrides={})
    assert same.calibration("fp32") == "fitted"


def test_a_shipped_fit_of_a_machine_nobody_describes_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_files, "FITS_DIR", tmp_path)
    fit = small_fits.fit()
    (tmp_path / "made-up.threads.yaml").write_text(fit.to_yaml())
    (tmp_path / "made-up.streams.yaml").write_text(dataclasses.replace(fit, stack="streams").to_yaml())
    hw = load_platform("made-up", "threads")
    assert (hw.fit, hw.calibration("fp32")) == (fit, "fitted")
    assert load_platform("made-up", "streams").stack.name == "streams"
    assert load_platform("made-up").stack.name == "streams"
    with pytest.raises(InvalidInput, match="not pytorch-eager: leave out --stack"):
        load_platform("made-up", "pytorch-eager")
    with pytest.raises(UnknownName, match="unknown hardware 'made-upp'"):
        load_platform("made-upp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["kernels"].__setitem__("experts.speed", d["kernels"]["experts.fixed_s"]), "'experts.speed' is no"),
        (lambda d: d["kernels"]["experts.fixed_s"].update(value=-1.0, ci95=[-2.0, 1.0]), "fixed_s = -1 is not above 0"),
        (lambda d: d["kernels"]["experts.fixed_s"].__setitem__("unit", "1"), "a fit is written in SI: 's'"),
        (lambda d: d["kernels"].pop("experts.gemm"), "log_covariance is not of the constants"),
        (lambda d: d.pop("gemm_tables"), "kernels without gemm_tables"),
        (lambda d: d.__setitem__("gemm_tables", [1]), "something that is no table"),
        (lambda d: d["gemm_tables"][0]["m"].reverse(), r"gemm_tables\[0\]: m: .* does not ascend"),
        (lambda d: d["leave_one_out"]["gate"].__setitem__("median", -0.1), "below 0"),
        (lambda d: d["leave_one_out"]["gate"].pop("scatter"), "key 'scatter' is missing"),
        (lambda d: d["machine"].pop("clock_hz"), "key 'clock_hz' is missing"),
        (lambda d: d["machine"]["link"]["h2d_bytes_per_s"].__setitem__("value", 0), "h2d_bytes_per_s"),
        (lambda d: d.__setitem__("probes", "all"), "probes is not a list"),
    ],
)
def test_a_malformed_fit_of_kernels_is_one_clear_line(tmp_path: Path, change: Any, message: str) -> None:
    document = yaml.safe_load(small_fits.fit().to_yaml())
    change(document)
    path = tmp_path / "made-up.threads.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(PregateError, match=message) as caught:
        load_fit(path)
    assert "\n" not in str(caught.value)


def test_a_fit_knows_its_probes_and_nothing_is_validated_on_them(tmp_path: Path) -> None:
    """From the file of measurements to the file of the fit to the refusal."""
    pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    from pregate.validation.cases import CaseGroup, CaseWorkload
    from pregate.validation.session import PREDICTIONS, validate

    group = CaseGroup(MODELS["decoder-only"], CaseWorkload(1, 4, 4, seed=3), ("pregate",), link_bytes_per_s=20e6)
    model, trace = group.model, group.workload.trace(group.model)
    measured = small_fits.measurements(probes=(workload_digest(model, routing(model)), workload_digest(model, trace)))
    measured.save(tmp_path / "m.json")
    fit = calibrate(load_measurements(tmp_path / "m.json"))
    assert fit.probes == measured.probes
    path = tmp_path / f"{fit.name}.yaml"
    path.write_text(fit.to_yaml())
    with pytest.raises(InvalidInput, match="made on this very workload") as caught:
        validate([group], load_platform(str(path)), directory=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / PREDICTIONS).exists()


def test_calibration_knows_neither_runs_nor_results() -> None:
    """It reads measurements and nothing else: no replay can slip in by an import."""
    program = (
        "import sys, hwmodels.calibrate.calibration; "
        "print([m for m in sys.modules if m.split('.')[0] in ('pregate', 'runtime', 'simulator', 'torch', 'scipy')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_picture_shows_each_kind_against_its_data_within_its_own_limits() -> None:
    from pregate.draw.calibration_plot import fit_against_data

    measured = synthetic(noise=0.03)
    prefill = sample_of(
        "op", [50.0], probe="p", phase="prefill", beside="nothing", **work_parameters(Work(OpKind.HEAD))
    )
    measured = dataclasses.replace(measured, samples=(*measured.samples, prefill))
    figure = fit_against_data(measured, calibrate(measured))
    panels = [axis for axis in figure.axes if axis.get_visible()]
    titles = ["self attention", "cross attention", "gate", "experts", "dense ffn", "head", "copies to the device"]
    assert [axis.get_title() for axis in panels] == titles
    for axis in panels:
        points = np.concatenate([line.get_xydata() for line in axis.lines if line.get_marker() in "os"])
        low, high = axis.get_xlim()
        assert axis.get_ylim() == (low, high)
        assert low < points.min() < 1.5 * low
        assert high / 1.5 < points.max() < high
    assert panels[5].get_xlim()[1] < 1000
