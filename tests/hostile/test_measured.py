"""Fits and measurements that nothing can have measured: refused in one line, never called fitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.measurements import load_measurements
from hwmodels.fits.fit_files import fit_names, load_fit
from tests import small_fits
from tests.command_line import Run
from traces.errors import InvalidInput

Change = Callable[[dict[str, Any]], Any]
TIMES = ("median_s", "p25_s", "p75_s", "mean_s")
ROOT = Path(__file__).parents[2]


def set_times(sample: dict[str, Any], seconds: float) -> None:
    sample.update(dict.fromkeys(TIMES, seconds))


def every_time(document: dict[str, Any], seconds: float) -> None:
    for sample in document["samples"]:
        set_times(sample, seconds)


def of_kind(document: dict[str, Any], what: str) -> dict[str, Any]:
    return next(sample for sample in document["samples"] if sample["what"] == what)


MEASUREMENTS: list[tuple[str, Change]] = [
    ("at most 3600", lambda d: set_times(d["samples"][5], 1e6)),
    ("at most 3600", lambda d: every_time(d, 1e300)),
    ("do not ascend", lambda d: d["samples"][5].update(p25_s=1e-3, p75_s=1e-9)),
    ("between half its median and three times", lambda d: d["samples"][5].update(mean_s=1.0)),
    ("at least 1 and at most", lambda d: d["samples"][5].update(n=10**12)),
    ("n = 0 is below 1", lambda d: d["samples"][5].update(n=0)),
    ("is no share", lambda d: d["samples"][5].update(scatter=1e9)),
    ("unknown kind of sample 'zzz'", lambda d: d["samples"][5].update(what="zzz")),
    ("not of an op", lambda d: d["samples"][-1]["parameters"].update(kind="exports")),
    ("but n = 64 and k = 64 make 4096", lambda d: d["samples"][0]["parameters"].update(params=1 << 30)),
    ("unknown stack 'mine'", lambda d: d.update(stack="mine")),
    ("the back end cpu runs threads", lambda d: d.update(stack="fastertransformer")),
    ("unknown back end 'tpu'", lambda d: d["machine"].update(backend="tpu")),
    ("is no name", lambda d: d["machine"].update(name="\x1b[31mred")),
    ("is no name", lambda d: d["machine"].update(name=None)),
    ("hbm_bytes = -1 is not above 0", lambda d: d["machine"].update(hbm_bytes=-1)),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), MEASUREMENTS, ids=[f"{i}" for i in range(len(MEASUREMENTS))])
def test_measurements_that_no_clock_gives_are_refused(message: str, change: Change, tmp_path: Path) -> None:
    document = json.loads(json.dumps(small_fits.measurements().to_dict()))
    change(document)
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidInput, match=message) as refusal:
        load_measurements(path)
    assert len(str(refusal.value).splitlines()) == 1
    assert str(refusal.value).isprintable()


def hurry(document: dict[str, Any], what: str, factor: float) -> None:
    for sample in document["samples"]:
        if sample["what"] == what:
            sample.update({name: sample[name] / factor for name in TIMES})


def times_of(document: dict[str, Any], what: str, seconds: float) -> None:
    for sample in document["samples"]:
        if sample["what"] == what:
            set_times(sample, seconds)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("larger copies take longer", lambda d: times_of(d, "h2d", 1.0)),
        (r"at most 4e\+09 B/s can be", lambda d: hurry(d, "h2d", 100)),
        ("6 GEMMs in fp32 are of 5 shapes", lambda d: d["samples"].__setitem__(1, d["samples"][0])),
        (
            "reaches .* of the roofline",
            lambda d: (
                d["machine"].update(spec="t4", backend="cuda"),
                d.update(stack="streams"),
                times_of(d, "gemm", 1e-12),
            ),
        ),
        ("unknown hardware 'tpu'", lambda d: d["machine"].update(spec="tpu")),
    ],
)
def test_measurements_of_no_machine_are_not_fitted(message: str, change: Change, tmp_path: Path, run: Run) -> None:
    document = json.loads(json.dumps(small_fits.measurements().to_dict()))
    change(document)
    path, output = tmp_path / "m.json", tmp_path / "fit.yaml"
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidInput, match=message):
        calibrate(load_measurements(path))
    status, _, error = run("calibrate", str(path), "-o", str(output))
    assert (status, len(error.splitlines()), output.exists()) == (2, 1, False)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(small_fits.fit().to_yaml())
    return document


def covariance(document: dict[str, Any], change: Callable[[Any], Any]) -> None:
    matrix = np.array(document["log_covariance"]["matrix"])
    changed = change(matrix)
    document["log_covariance"]["matrix"] = (matrix if changed is None else changed).tolist()


def indefinite(matrix: Any) -> Any:
    """Every constant goes with every other, but for two that go against each other."""
    scale = np.sqrt(matrix.diagonal())
    correlation = np.ones_like(matrix)
    correlation[0, 1] = correlation[1, 0] = -1
    return correlation * np.outer(scale, scale)


def constant(document: dict[str, Any], group: str, name: str, factor: float) -> None:
    entry = document[group][name]
    entry["value"] *= factor
    entry["ci95"] = [bound * factor for bound in entry["ci95"]]


FITS: list[tuple[str, Change]] = [
    ("but the machine described is 'made-up'", lambda d: d.update(hardware="bogus")),
    ("unknown hardware 'bogus'", lambda d: (d.pop("machine"), d.update(hardware="bogus"))),
    ("what was measured ran on", lambda d: d.update(stack="fastertransformer")),
    ("unknown stack 'mine'", lambda d: d.update(stack="mine")),
    ("unknown number format 'fp33'", lambda d: d.update(dtypes=["fp33"])),
    ("the formats that were measured", lambda d: d.update(dtypes=[])),
    ("gemm_tables are of other formats", lambda d: d.update(dtypes=["fp32", "bf16"])),
    ("variance of ln", lambda d: covariance(d, lambda m: -m)),
    ("variance of ln", lambda d: covariance(d, lambda m: 0 * m)),
    ("variance of ln", lambda d: covariance(d, lambda m: 1e6 * m)),
    ("standard deviations wide", lambda d: covariance(d, lambda m: 100 * m)),
    ("not symmetric", lambda d: covariance(d, lambda m: m.__setitem__((0, 1), m[0, 0] / 2 + m[0, 1]))),
    ("least eigenvalue", lambda d: covariance(d, indefinite)),
    ("is not an interval above 0", lambda d: d["constants"]["sync_s"].update(ci95=[-1.0, 1.0])),
    ("is above 1", lambda d: d["constants"]["link_efficiency"].update(value=7.0, ci95=[6.0, 8.0])),
    ("no machine has that", lambda d: constant(d, "constants", "sync_s", 1e9)),
    ("experts.offloaded = 1100: 0.1 to 10 can be", lambda d: constant(d, "kernels", "experts.offloaded", 1e3)),
    ("experts.fixed_s = .* no machine has that", lambda d: constant(d, "kernels", "experts.fixed_s", 1e12)),
    ("n is not the number of rows", lambda d: d["constants"]["sync_s"].update(n=0)),
    ("fitted on no rows", lambda d: d["constants"]["sync_s"].update(n=0, rows=[])),
    ("leave_one_out has nothing of", lambda d: d.pop("leave_one_out")),
    ("unknown leave-one-out error", lambda d: d["leave_one_out"].update(zzz=d["leave_one_out"]["gate"])),
    ("errors ascend from 0", lambda d: d["leave_one_out"]["gate"].update(scatter=1e9)),
    ("reaches 1e.06 of the roofline", lambda d: d["gemm_tables"][0].update(
        utilisation=(1e6 * np.ones(np.shape(d["gemm_tables"][0]["utilisation"]))).tolist())),
    ("changed after it was fitted", lambda d: d["provenance"].update(command="another")),
    ("changed after it was fitted", lambda d: d.update(digest="0123456789abcdef")),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), FITS, ids=[f"{i}" for i in range(len(FITS))])
def test_a_fit_that_no_calibration_gives_is_refused(
    message: str, change: Change, fitted: dict[str, Any], tmp_path: Path, run: Run
) -> None:
    document = json.loads(json.dumps(fitted))
    change(document)
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InvalidInput, match=message) as refusal:
        load_fit(path)
    assert str(refusal.value).startswith(str(path))
    assert run("hardware", "show", str(path))[0] == 2


def test_fits_that_were_made_are_taken() -> None:
    for fit in [*fit_names(), *(ROOT / "results").glob("*/*.yaml")]:
        found = load_fit(fit)
        assert found.constants or found.laws


def test_the_layout_of_a_fit_is_not_its_content(fitted: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(json.dumps(fitted, indent=1))
    assert load_fit(path).to_yaml().splitlines()[-1] == f"digest: {fitted['digest']}"
