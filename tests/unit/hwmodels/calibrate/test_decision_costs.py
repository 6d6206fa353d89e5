"""Deciding op by op: measured on a small model, made into constants of a fit, and priced by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwmodels.calibrate.calibration import calibrate
from hwmodels.figures import figures_of
from hwmodels.fits.fit import Fit
from hwmodels.kernels.roofline import kernel_constant, measured_alone
from hwmodels.platform import platform_of
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.trained.live_prediction import deciding_of, knows_deciding, predicted_live
from runtime.backends.pacing import CHUNK_BYTES
from tests.made_up_measurements import op_s, synthetic
from tests.measured_deciding import EXPERTS, GATE, decide, deciding, live, measured


@pytest.fixture(scope="module")
def fit() -> Fit:
    return calibrate(measured())


def test_what_a_host_takes_to_decide_is_told_by_what_came_before(fit: Fit) -> None:
    found = {name: constant.value for name, constant in fit.kernels.items()}
    assert found["gate.decide_after_self_attention_s"] == pytest.approx(3e-5)
    assert found["experts.decide_after_gate_s"] == pytest.approx(6e-5)
    assert found["experts.decide_s"] == pytest.approx(7e-5)  # of three timings


def test_ops_live_are_a_ratio_to_what_the_fit_says_of_them(fit: Fit) -> None:
    found = {name: constant.value for name, constant in fit.kernels.items()}
    assert found["gate.live"] == pytest.approx(1.5, rel=0.02)
    assert found["experts.live"] == pytest.approx(0.5, rel=0.02)
    beside = found.get("experts.offloaded", 1.0)
    assert found["experts.live_offloaded"] == pytest.approx(2 / beside, rel=0.02)


def test_a_ratio_that_no_op_can_have_is_left_out() -> None:
    plain = synthetic()
    more = (decide("gate", "self_attention", 3e-5), live(GATE, 1.5 * op_s(GATE)), live(EXPERTS, 500 * op_s(EXPERTS)))
    found = calibrate(replace(plain, samples=(*plain.samples, *more))).kernels
    assert ("gate.live" in found, "experts.live" in found) == (True, False)


def test_what_host_and_kernels_lose_is_lost_while_both_are_at_it(fit: Fit) -> None:
    # Of 2 s together the host loses 1, so it goes at half its rate; kernels lose 1.5, and go at a quarter.
    assert fit.kernels["wait.beside_kernels"].value == pytest.approx(2.0)
    assert fit.kernels["wait.slows_kernels"].value == pytest.approx(4.0)


def test_a_machine_too_busy_to_tell_leaves_the_host_at_work() -> None:
    plain = synthetic()
    more = (
        deciding("host", "kernels", 9.0), deciding("host", "nothing", 2.0), deciding("kernels", "host", 9.0),
        deciding("kernels", "nothing", 1.0), deciding("both", "both", 2.0),
    )  # fmt: skip
    found = calibrate(replace(plain, samples=(*plain.samples, *more))).kernels
    assert found["wait.beside_kernels"].value == pytest.approx(4.0)
    assert found["wait.slows_kernels"].value == pytest.approx(1000.0)


def test_what_the_host_lost_to_copies_on_its_core_is_not_laid_on_kernels() -> None:
    plain = measured()
    more = deciding("host", "copies", 0.5), deciding("fetch", "core", 1e-4), deciding("readback", "core", 9e-5)
    fit = calibrate(replace(plain, samples=(*plain.samples, *more)))
    assert fit.kernels["wait.beside_kernels"].value == pytest.approx(1 / (1 - 0.5 / 2))
    assert fit.kernels["wait.slows_kernels"].value == pytest.approx(4.0)
    assert fit.kernels["fetch.core_s"].value == pytest.approx(1e-4)
    figures, recorder = figures_of(platform_of(fit)), Recorder()
    recorder.issue(Lane.H2D, Work(OpKind.FETCH, copy_bytes=3 * CHUNK_BYTES - 5), step=0)
    recorder.issue(Lane.D2H, Work(OpKind.READBACK, copy_bytes=8), step=0)
    recorder.issue(Lane.COMPUTE, GATE, step=0)
    found = deciding_of(recorder.schedule(), figures, np.zeros(3), {}).core_s
    assert found is not None
    assert found.tolist() == pytest.approx([3e-4, 9e-5, 0.0])


def test_a_fit_without_them_knows_no_deciding() -> None:
    assert not knows_deciding(platform_of(calibrate(synthetic())))


@pytest.mark.parametrize(
    ("key", "dimension"),
    [("experts.decide_s", "time"), ("experts.decide_after_wait_s", "time"), ("gate.decide_after_asked_s", "time"),
     ("fetch.core_s", "time"), ("gate.decide_after_lunch_s", None), ("gate.live", "ratio"), ("nosuch.live", None)],
)  # fmt: skip
def test_names_of_constants(key: str, dimension: str | None) -> None:
    assert kernel_constant(key) == dimension
    assert measured_alone(key) == (dimension is not None)


def block() -> Schedule:
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, GATE, step=0)
    recorder.issue(Lane.COMPUTE, EXPERTS, (gate,), step=0)
    return recorder.schedule()


def test_the_host_decides_on_each_op_before_it_is_issued(fit: Fit) -> None:
    schedule, figures = block(), figures_of(platform_of(fit))
    plain = deciding_of(schedule, figures, np.array([1e-6, 2e-6]), {})
    assert plain.host_s.tolist() == pytest.approx([1e-6, 6.2e-5])
    asked = deciding_of(schedule, figures, np.array([1e-6, 2e-6]), {1: 0})
    assert asked.host_s.tolist() == pytest.approx([1e-6, 9.2e-5])
    assert asked.slowed.tolist() == pytest.approx([4.0, 4.0])


def test_a_run_that_asks_is_predicted_to_wait_for_its_gate(fit: Fit) -> None:
    schedule, machine = block(), platform_of(fit)
    real = Timeline(schedule, np.zeros(2), np.ones(2), "a run")
    found = predicted_live(real, {1: 0}, machine)
    gate_s, woken_s = 1.5 * op_s(GATE), figures_of(machine).stack_constant("sync_s")
    issue_s = found.start_s[0]
    assert found.end_s[0] - issue_s == pytest.approx(gate_s, rel=0.02)
    assert found.start_s[1] == pytest.approx(issue_s + gate_s + woken_s + 9e-5 + issue_s, rel=0.05)


def test_where_nothing_is_known_ops_are_issued_as_of_a_schedule() -> None:
    schedule, machine = block(), platform_of(calibrate(synthetic()))
    real = Timeline(schedule, np.zeros(2), np.ones(2), "a run")
    found = predicted_live(real, {1: 0}, machine)
    assert found.start_s[1] == pytest.approx(found.end_s[0])


def test_a_pace_is_that_of_processors_and_not_of_links(fit: Fit) -> None:
    recorder = Recorder()
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH, copy_bytes=1 << 20), step=0, expert=0)
    recorder.issue(Lane.COMPUTE, GATE, (fetch,), step=0)
    schedule, machine = recorder.schedule(), platform_of(fit)
    real = Timeline(schedule, np.zeros(2), np.ones(2), "a run")
    once, thrice = (predicted_live(real, {}, machine, pace) for pace in (1.0, 3.0))
    took = [one.end_s - one.start_s for one in (once, thrice)]
    assert took[1].tolist() == pytest.approx([took[0][0], 3 * took[0][1]])
    assert thrice.start_s[0] == pytest.approx(3 * once.start_s[0])  # the host's own time before it


def test_a_kind_that_was_not_measured_takes_the_median_of_those_that_were(fit: Fit) -> None:
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, GATE, step=0)
    recorder.issue(Lane.CPU, EXPERTS._replace(kind=OpKind.CPU_EXPERT), (gate,), step=0, expert=0)
    figures = figures_of(platform_of(fit))
    found = deciding_of(recorder.schedule(), figures, np.zeros(2), {})
    measured_s = [figures.kernel(kind, "decide_s") for kind in OpKind]
    assert found.host_s[1] == pytest.approx(np.median([one for one in measured_s if one is not None]))
