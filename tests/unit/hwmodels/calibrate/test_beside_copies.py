"""What copies cost the kernels beside them: fitted where microbenchmarks tell it, priced, and told by a mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import pregate
from hwmodels.calibrate.beside_copies import fit_apart, fit_beside_copies, fit_readback
from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.cost import price, price_figures
from hwmodels.figures import figures_of
from hwmodels.fits.fit_files import load_fit
from hwmodels.platform import Platform, load_platform, platform_of
from offload.ops import KERNEL_KINDS, Lane, OpKind, Work
from offload.recorder import Recorder
from offload.work import expert_copy_work
from pregate.ask.capturing.capture import capture
from pregate.ask.timing.policy_modes import modes_measured
from pregate.cli.option_values import build_modes
from pregate.validation.cases import CaseGroup, CaseWorkload
from pregate.validation.predictions import predict, prepare_cases
from simulator.definition import des
from simulator.events import event_engine
from simulator.modes import Modes, NotFifo
from tests import small_fits
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput

MODEL = MODELS["shared experts, three matrices"]
TRACE = routing(MODEL, batch=3, seed=2)
BESIDE = Modes(beside_copies=True)
MORE_S = 6e-6
KEY = "stack.beside_copies_s"


def timed(one: Sample, what: str, seconds: float, **changes: object) -> Sample:
    return Sample(what, {**one.parameters, **changes}, seconds, seconds, seconds, seconds, 10)


def beside(
    more_s: float = MORE_S, factor: float = 1.0, what: str = "beside", policy: str = "pregate, 4 slots"
) -> list[Sample]:
    """Every op of `small_fits` beside copies."""
    alone = [one for one in small_fits.measurements().of("op", beside="nothing") if one.work.gemms]
    return [timed(one, what, one.mean_s * factor + more_s, beside=policy) for one in alone]


def of_kind(samples: Sequence[Sample], kind: str) -> list[Sample]:
    return [one for one in samples if one.parameters["kind"] == kind]


def records(*sizes: tuple[int, float]) -> list[Sample]:
    """Kernels of so many bytes and seconds, one a record and eight, alone and beside copies."""
    return [
        small_fits.sample("record", seconds + more_s, n_bytes=n, kernels=kernels, beside=told)
        for n, seconds in sizes
        for kernels, told, more_s in ((1, "nothing", 0.0), (1, "h2d", MORE_S), (8, "nothing", 1e-7), (8, "h2d", 1e-6))
    ]


def measured(more: Sequence[Sample]) -> Measurements:
    return dataclasses.replace(small_fits.measurements(), samples=(*small_fits.measurements().samples, *more))


def hw(more_s: float | None) -> Platform:
    """The made-up machine, with what copies cost the kernels beside them, or without."""
    fit = small_fits.fit() if more_s is None else calibrate(measured(beside(more_s)))
    return platform_of(fit)


def test_one_time_is_fitted_whatever_ops_do() -> None:
    found = fit_beside_copies(measured(beside()))
    kinds = {kind.name.lower() for kind in KERNEL_KINDS}
    assert set(found) == {"", *kinds} - {"head"}, "a head ends a pass, after all copies"
    for one in found.values():
        assert one.values["beside_copies_s"] == pytest.approx(MORE_S, rel=1e-9)
        assert np.abs(one.left_out).max() < 1e-9


def test_a_kind_whose_ops_record_twice_takes_a_time_of_its_own() -> None:
    of_experts = [timed(one, "beside", one.mean_s + MORE_S) for one in beside() if one.parameters["kind"] == "experts"]
    others = [one for one in beside() if one.parameters["kind"] != "experts"]
    found = fit_beside_copies(measured([*of_experts, *others]))
    assert found["experts"].values["beside_copies_s"] == pytest.approx(2 * MORE_S, rel=1e-9)
    assert found["gate"].values["beside_copies_s"] == pytest.approx(MORE_S, rel=1e-9)
    few = fit_beside_copies(measured([*of_experts[:3], *others]))
    assert "experts" not in few, "too few to tell"
    assert few[""].values["beside_copies_s"] == pytest.approx(MORE_S, rel=1e-9)


def test_what_ops_take_longer_without_a_copy_under_way_is_a_factor_of_their_kind() -> None:
    apart = [timed(one, "apart", 1.25 * (one.mean_s - MORE_S)) for one in beside()]
    after = [timed(one, "beside", 1.25 * (one.mean_s - MORE_S) + MORE_S) for one in beside()]
    factors = fit_apart(measured([*apart, timed(apart[0], "apart", 1.0, probe="never run alone")]))
    assert [one.values["apart"] for one in factors.values()] == pytest.approx([1.25] * 5)
    found = fit_beside_copies(measured([*apart, *after]))
    assert found["gate"].values["beside_copies_s"] == pytest.approx(MORE_S, rel=1e-9)
    machine = platform_of(calibrate(measured([*apart, *after])))
    figures = figures_of(machine)
    (work,) = {one.work for one in beside()[:1]}
    told, average = (
        price_figures([expert_copy_work(MODEL, OpKind.FETCH), work], one).duration_s[1]
        for one in (figures.told_apart(), figures)
    )
    assert told / average == pytest.approx(1.25 / 1.1, rel=1e-6)


def test_a_ratio_that_no_op_can_have_is_other_work_of_the_machine_and_left_out() -> None:
    """Ops that waited for a core took thirteen times as long in every probe: a busy machine still has a fit."""
    apart = [
        timed(one, "apart", one.mean_s * (13 if one.parameters["kind"] == "experts" else 1.25)) for one in beside(0)
    ]
    factors = fit_apart(measured(apart))
    assert {kind for kind, one in factors.items() if one.values["apart"] == pytest.approx(1.25)} == set(factors)
    assert "experts" not in factors
    fit = calibrate(measured(apart))
    assert "experts.apart" not in fit.kernels
    assert "gate.apart" in fit.kernels


@pytest.mark.parametrize(
    "more",
    [
        [],
        beside()[:7],
        beside(more_s=0.0, factor=1.3),  # a factor says it better
        [one for kind in ("gate", "experts", "dense_ffn") for one in of_kind(beside(0.0, 1.3), kind)[:3]],
        beside(more_s=0.0),
        records((1, 2e-5), (2, 2e-5), (3, 2e-5), (4, 2e-5), (5, 2e-5), (6, 2e-5), (7, 2e-5), (8, 2e-5)),  # one size
        records((1, 0.0), (2, 2e-5), (3, 3e-5), (4, 4e-5), (5, 5e-5), (6, 6e-5), (7, 7e-5), (8, 8e-5)),
        beside(more_s=-1e-6),
        beside(what="op", policy="on_demand, 4 slots"),
    ],
)
def test_nothing_is_fitted_that_samples_do_not_tell(more: list[Sample]) -> None:
    assert not fit_beside_copies(measured(more))


def test_files_without_samples_of_their_own_have_ops_of_a_policy_that_fetches_ahead() -> None:
    of_policy = beside(what="op")
    found = fit_beside_copies(measured(of_policy))
    assert found[""].values["beside_copies_s"] == pytest.approx(MORE_S, rel=1e-9)
    records = small_fits.sample("record", 1e-6, n_bytes=1, kernels=1, beside="nothing")
    assert not fit_beside_copies(measured([*of_policy, records])), "a file that could tell them apart"


def test_kernels_of_any_size_with_a_record_each_count_as_ops_do() -> None:
    of_sizes = records((1, 2e-6), (2, 2e-5), (3, 2e-4))
    found = fit_beside_copies(measured([*of_sizes, *beside()[:5]]))
    assert found[""].values["beside_copies_s"] == pytest.approx(MORE_S, rel=1e-9)
    assert "record" not in found
    assert not fit_beside_copies(measured([*of_sizes[:8], *beside(0.0, 1.3)]))
    slowed = [
        small_fits.sample("record", slower * i * 1e-5, n_bytes=i, kernels=1, beside=told)
        for i in range(1, 13)
        for told, slower in (("nothing", 1.0), ("h2d", 1.3))
    ]
    eight = [one for kind in ("gate", "experts") for one in of_kind(beside(), kind)]
    assert set(fit_beside_copies(measured([*slowed, *eight]))) == {"", "gate", "experts"}, "of eight ops, ops judge"
    assert not fit_beside_copies(measured([*slowed, *eight[:7]]))


def test_a_fit_keeps_it_from_file_to_price(tmp_path: Path) -> None:
    fit = calibrate(measured(beside()))
    (tmp_path / "fit.yaml").write_text(fit.to_yaml(), encoding="utf-8")
    machine = platform_of(load_fit(tmp_path / "fit.yaml"))
    assert machine.constants["beside_copies_s"] == pytest.approx(MORE_S, rel=1e-9)
    assert fit.left_out["beside_copies_s"].n == len(beside()) - 4
    schedule = capture(MODEL, machine, TRACE, "on_demand").decoded.schedule
    costs = price_figures(schedule.works, figures_of(machine).told_apart())
    for work, duration_s, share in zip(schedule.works, costs.duration_s, costs.beside_copies, strict=True):
        wanted = duration_s / (duration_s + MORE_S) if work.kind in KERNEL_KINDS else 1.0
        assert share == pytest.approx(wanted, rel=1e-9)
    average = price(schedule.works, machine).duration_s
    is_kernel = np.array([work.kind in KERNEL_KINDS for work in schedule.works])
    assert average[is_kernel] == pytest.approx(1.1 * costs.duration_s[is_kernel]), "what the engine tells is no average"
    assert price([expert_copy_work(MODEL, OpKind.FETCH)], machine).beside_copies.tolist() == [1.0]


def test_readbacks_take_what_they_take_without_copies_and_longer_beside_them() -> None:
    (whole,) = [one for one in small_fits.measurements().of("op", kind="readback")]
    assert fit_readback(small_fits.measurements())["readback"].values == {"fixed_s": pytest.approx(1e-4)}
    apart, after = (
        [timed(whole, what, seconds, beside=f"pregate, {i} slots") for i, seconds in enumerate(taken_s)]
        for what, taken_s in (("apart", (8e-6, 9e-6, 1e-5)), ("beside", (25e-6, 26e-6, 28e-6)))
    )
    found = fit_readback(measured([*apart, *after]))
    assert found["readback"].values == {"fixed_s": pytest.approx(9e-6)}
    assert found["readback/beside"].values == {"beside_copies_s": pytest.approx(17e-6)}
    for quick_s in (1e-6, 9e-6):
        quicker = [timed(whole, "beside", quick_s, beside="pregate, 1 slots")]
        assert set(fit_readback(measured([*apart, *quicker]))) == {"readback"}
    of_prompts = [timed(whole, what, 1.0, phase="prefill") for what in ("op", "apart", "beside") for _ in range(9)]
    assert fit_readback(measured(of_prompts))["readback"].values == {"fixed_s": pytest.approx(1e-4)}
    with_prompts = fit_readback(measured([*apart, *after, *of_prompts]))
    assert [one.values for one in with_prompts.values()] == [one.values for one in found.values()]
    machine = platform_of(calibrate(measured([*beside(), *apart, *after])))
    work = Work(OpKind.READBACK, copy_bytes=64)
    told, plain = (price_figures([work], one) for one in (figures_of(machine).told_apart(), figures_of(machine)))
    assert told.duration_s[0] == plain.duration_s[0] == pytest.approx(9e-6, rel=1e-2)
    assert told.link_s[0] == 0, "what waits behind copies is no transfer"
    assert told.beside_copies[0] == pytest.approx(told.duration_s[0] / (told.duration_s[0] + 17e-6), rel=1e-9)
    recorder = Recorder()
    recorder.issue(Lane.H2D, Work(OpKind.FETCH, copy_bytes=1 << 24), step=0)
    for _ in range(9):
        recorder.issue(Lane.D2H, work, step=0)
    schedule = recorder.schedule()
    costs = price_figures(schedule.works, figures_of(machine).told_apart())
    defined, found_by_events = (
        des.simulate(schedule, costs, 1 << 40, BESIDE), event_engine.simulate(schedule, costs, BESIDE),
    )  # fmt: skip
    alone_s, last_s = (float(defined.end_s[i] - defined.start_s[i]) for i in (1, 9))
    assert alone_s == pytest.approx(float(told.duration_s[0]), rel=1e-9), "the copy has not begun to move bytes"
    assert last_s == pytest.approx(alone_s + 17e-6, rel=1e-9)
    assert defined.end_s.tolist() == found_by_events.end_s.tolist()


def test_a_simulation_knows_the_mode_and_says_what_it_lacks() -> None:
    slow = {"link.h2d_bytes_per_s": 1e6, KEY: 1e-3}
    machine = load_platform("rtx-4090", "streams", slow)
    plain, slowed = (pregate.simulate(MODEL, machine, TRACE, "prefetch_all", modes=m) for m in (Modes(), BESIDE))
    assert slowed.tpot_s > plain.tpot_s
    assert pregate.simulate(MODEL, machine, TRACE, "prefetch_all", modes=BESIDE, check=True).tpot_s == slowed.tpot_s
    alone = pregate.simulate(MODEL, machine, TRACE, "gpu_only", modes=BESIDE)
    assert alone.tpot_s == pytest.approx(pregate.simulate(MODEL, machine, TRACE, "gpu_only").tpot_s, rel=1e-9)
    with pytest.raises(InvalidInput, match=r"--set stack\.beside_copies_s=6us"):
        pregate.simulate(MODEL, load_platform("rtx-4090", "streams"), TRACE, "on_demand", modes=BESIDE)
    with pytest.raises(NotFifo, match="kernels slowed by copies"):
        pregate.simulate(MODEL, machine, TRACE, "on_demand", modes=BESIDE, engine="recurrence")
    assert build_modes("beside") == BESIDE


def test_a_sweep_along_it_says_what_a_simulation_says() -> None:
    values = [1e-4, 1e-3]
    machine = load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 1e6})
    with pytest.warns(UserWarning, match="event: kernels slowed by copies"):
        grid = pregate.sweep(
            MODEL, machine, TRACE, policies=["prefetch_all"], axes={KEY: values}, modes=BESIDE, cache_dir=False
        )
    for i, value in enumerate(values):
        here = load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 1e6, KEY: value})
        assert float(grid.tpot_s[0, i]) == pregate.simulate(MODEL, here, TRACE, "prefetch_all", modes=BESIDE).tpot_s


def test_what_is_validated_is_predicted_by_what_its_fit_measured() -> None:
    group = CaseGroup(MODEL, CaseWorkload(1, 4, 4, seed=3), ("pregate",), link_bytes_per_s=4e7, hbm_share=0.5)
    assert modes_measured(hw(1e-3)) == BESIDE
    assert modes_measured(hw(None)).is_fifo
    told, untold = (predict(prepare_cases(group, hw(more_s))[0]) for more_s in (1e-3, None))
    (prepared,) = prepare_cases(group, hw(1e-3))
    wanted = pregate.ask.simulation.interpret(prepared.captured, prepared.hw, "event", modes=BESIDE)
    assert told.metrics["tpot_s"] == wanted.tpot_s
    assert told.metrics["tpot_s"] > untold.metrics["tpot_s"]
    for name, (low, high) in told.intervals.items():
        if name in untold.intervals:
            assert low <= told.metrics[name] <= high
