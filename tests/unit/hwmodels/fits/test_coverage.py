"""What is said to be fitted, and what is not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

import pregate
from hwmodels.fits import coverage as coverage_module
from hwmodels.fits.coverage import beyond_fit, coverage
from hwmodels.fits.fit_files import load_fit
from hwmodels.platform import Platform, load_platform, platform_of
from hwmodels.specs.overrides import with_overrides
from hwmodels.specs.spread import HALF_95, shipped_spread
from offload.ops import Gemm, OpKind, Work
from pregate.ask.calibration_summary import describe_calibration
from tests import small_fits

A100 = load_platform("a100-sxm4-80gb", "fastertransformer")
MEASURED = platform_of(small_fits.fit())


def gemm(n: float) -> Work:
    return Work(OpKind.DENSE_FFN, (Gemm(1, int(n), int(n)),))


def inside(hw: Platform) -> Gemm:
    """The largest product of the measured grid."""
    assert hw.fit is not None
    table = hw.fit.gemm_tables[0]
    side = int(table.params[-1] ** 0.5)
    return Gemm(int(table.m[-1]), side, side)


def test_nothing_is_beyond_a_fit_that_is_not_there() -> None:
    assert coverage([gemm(10**6)], load_platform("t4")).beyond == ""
    assert coverage([gemm(10**6)], load_platform("t4")).share == 0


def test_formats_are_those_that_were_measured() -> None:
    assert coverage([gemm(512)], A100).beyond == ""
    assert coverage([gemm(512)._replace(compute="bf16")], A100).beyond == "arithmetic in bf16"
    assert coverage([gemm(512)._replace(weight_bits=8.0)], A100).beyond == "weights of 8 bits"
    assert coverage([gemm(512)._replace(flop=9, flop_compute="fp16")], A100).beyond == "arithmetic in fp16"


def test_the_share_is_of_time_and_of_how_often_each_work_runs() -> None:
    known = Work(OpKind.DENSE_FFN, (inside(MEASURED),))
    far = known._replace(gemms=(Gemm(256, 1024, 2048),))  # twice the weights, and about twice the time
    assert coverage([known], MEASURED).share == 1
    once, thrice = coverage([known, far], MEASURED), coverage([known, far], MEASURED, [3, 1])
    assert once.share == pytest.approx(1 / 3, abs=0.05)
    assert thrice.share == pytest.approx(3 / 5, abs=0.05)
    assert once.plus(thrice).share == pytest.approx(4 / 8, abs=0.05)
    assert coverage([gemm(512)], A100).share == 1  # constants of a stack, and no kernels
    assert coverage([gemm(512)._replace(compute="bf16")], A100).share == 0


def test_weights_of_another_format_are_in_no_table() -> None:
    """Products of a measured shape, of a fit of fp32: weights of 8 bits are not what its table timed."""
    known = Work(OpKind.DENSE_FFN, (inside(MEASURED),))
    assert coverage([known], MEASURED).share == 1
    assert coverage([known._replace(weight_bits=8.0)], MEASURED).share == 0
    both = coverage([known, known._replace(weight_bits=8.0)], MEASURED)
    assert 0 < both.share < 1


def test_the_share_is_a_field_of_every_result_and_in_the_line_on_constants() -> None:
    hw = load_platform("h100-sxm", "vllm")
    model = pregate.load_model("qwen3-30b-a3b")
    trace = pregate.synthesize(model, 4, 4)
    found = [pregate.simulate(model, hw, trace, "gpu_only", engine=engine) for engine in ("recurrence", "stream")]
    assert 0.5 < found[0].fitted_share < 1  # the head is wider than any matrix of the tables
    assert found[1].fitted_share == pytest.approx(found[0].fitted_share, rel=1e-9)
    assert found[0].to_dict()["fitted_share"] == found[0].fitted_share
    told = describe_calibration(hw, model, found[:1], [])
    assert told.endswith(
        f"{found[0].fitted_share:.0%}".replace("%", " % of the kernels' time at measured shapes and formats")
    )


def test_shapes_are_those_that_were_measured_by_what_they_weigh() -> None:
    known = Work(OpKind.DENSE_FFN, (inside(MEASURED),))
    far = known._replace(gemms=(Gemm(1, 1 << 17, 1 << 17),))
    speck = known._replace(gemms=(Gemm(1, 1, 1),))
    assert coverage([known], MEASURED).beyond == ""
    assert coverage([known, speck], MEASURED).beyond == ""
    assert "GEMM shapes (100% of their time)" in coverage([known, far], MEASURED).beyond


def test_a_large_model_on_a_fit_of_small_shapes_is_extrapolated() -> None:
    root = Path(__file__).parents[4] / "results" / "cpu-intel-xeon-2c-2026-11-24"
    hw = platform_of(load_fit(root / "cpu-intel-xeon-2c.threads.yaml"))
    model = pregate.load_model("mixtral-8x7b", dtype="fp32")
    hw = dataclasses.replace(hw, machine=with_overrides(hw.machine, {"hbm_bytes": 400e9, "host.dram_bytes": 400e9}))
    result = pregate.simulate(model, hw, pregate.synthesize(model, 2, 2), "on_demand")
    assert result.calibration == "extrapolated"
    assert "GEMM shapes" in result.beyond_fit


def test_what_is_beyond_a_fit_is_known_without_timing_kernels_where_a_device_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    h100, far = load_platform("h100-sxm", "vllm"), gemm(1 << 17)._replace(compute="bf16", weight_bits=16.0)
    copied = [far, Work(OpKind.FETCH)]
    for hw in (load_platform("t4"), A100, MEASURED, h100):
        for works in ([gemm(512)], [far], copied, [gemm(512)._replace(weight_bits=8.0)]):
            assert beyond_fit(works, hw) == coverage(works, hw).beyond
            assert beyond_fit(works, hw, [3] * len(works)) == coverage(works, hw, [3] * len(works)).beyond
    assert beyond_fit([far], h100).startswith("kernels")
    monkeypatch.delattr(coverage_module, "_by_law")
    assert beyond_fit(copied, h100) == "copies over the link"


@pytest.mark.parametrize("hardware", ["h100-sxm", "rtx-5090"])
def test_laws_of_kernels_know_no_link(hardware: str) -> None:
    """What waits for copies at a rate that a maker claims is as unsure as that rate, however sure the kernels are."""
    hw, model = load_platform(hardware, "vllm"), pregate.load_model("switch-base-8")
    trace = pregate.synthesize(model, 4, 4)
    resident, fetched = (pregate.simulate(model, hw, trace, policy) for policy in ("gpu_only", "on_demand"))
    assert hw.fit is not None
    assert "link" not in resident.beyond_fit
    assert (fetched.beyond_fit, fetched.calibration) == ("copies over the link", "extrapolated")
    assert resident.tokens_per_s_ci95 is not None
    assert fetched.tokens_per_s_ci95 is not None
    low, high = fetched.tokens_per_s_ci95
    of_a_row = math.exp(HALF_95 * shipped_spread().row)  # nothing that is claimed is surer than a measurement by itself
    assert low < fetched.tokens_per_s / of_a_row < of_a_row * fetched.tokens_per_s < high
    if hardware == hw.fit.hardware:  # its own kernels were measured, surer than any claim
        assert high / low > resident.tokens_per_s_ci95[1] / resident.tokens_per_s_ci95[0]
    assert coverage([Work(OpKind.FETCH)], A100).beyond == ""  # its copies were measured


@pytest.mark.parametrize("engine", ["recurrence", "stream"])
def test_whether_experts_are_fetched_is_what_the_schedule_says_in_every_engine(engine: str) -> None:
    """A warm cache that holds every expert fetches none: kernels take what they take alone."""
    root = Path(__file__).parents[4] / "results" / "cpu-intel-xeon-2c-2026-11-24"
    hw = platform_of(load_fit(root / "cpu-intel-xeon-2c.threads.yaml"))
    model = pregate.load_model("switch-mini-16")
    trace = pregate.synthesize(model, 8, 6)
    for policy in ("on_demand+lru:1.0:warm", "on_demand"):
        wanted = pregate.simulate(model, hw, trace, policy, engine="des")
        found = pregate.simulate(model, hw, trace, policy, engine=engine)
        assert found.makespan_s == pytest.approx(wanted.makespan_s, rel=1e-12)
        assert found.calibration == wanted.calibration
        assert (wanted.h2d_bytes == 0) is (policy != "on_demand")
