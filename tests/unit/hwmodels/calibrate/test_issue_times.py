"""What the host pays to issue ops, from samples whose parts are known."""

from __future__ import annotations

from itertools import product

import pytest

from hwmodels.calibrate.issue_times import issue_times
from hwmodels.calibrate.measurements import Measurements, Sample, sample_of
from hwmodels.quantity import ReadOnly

BASE_S, GATHER_S, CLOSE_S, GATED_S, GATE_S = 55e-6, 25e-6, 40e-6, 12e-6, 110e-6


def measured(*samples: Sample) -> Measurements:
    return Measurements(ReadOnly({}), "pytorch-eager", ReadOnly({}), (), (), samples)


def issue(kind: str, seconds: float, phase: str = "decode", **more: int) -> Sample:
    return sample_of("issue", [seconds] * 4, kind=kind, phase=phase, probe="p", beside="nothing", **more)


def experts(gathers: int, closes: int, matrices: int) -> Sample:
    seconds = BASE_S + gathers * GATHER_S + closes * CLOSE_S + (matrices == 3) * GATED_S
    return issue("experts", seconds, gathers=gathers, closes=closes, matrices=matrices)


def test_what_closes_a_block_is_told_from_an_expert_and_charged_to_its_gate() -> None:
    samples = [experts(*told) for told in product((0, 1), (0, 1), (2, 3))]
    found = issue_times(measured(issue("gate", GATE_S), *samples))
    assert found["experts.issue_s"].value == pytest.approx(BASE_S)
    assert found["experts.issue_rows_s"].value == pytest.approx(GATHER_S)
    assert found["experts.issue_gated_s"].value == pytest.approx(GATED_S)
    assert found["gate.issue_s"].value == pytest.approx(GATE_S + CLOSE_S)


def test_a_middling_sample_counts_and_prompts_do_not() -> None:
    taken = [10e-6, 12e-6, 40e-6]
    found = issue_times(measured(*(issue("head", s) for s in taken), issue("head", 1.0, phase="prefill")))
    assert found["head.issue_s"].value == pytest.approx(12e-6)


def test_measurements_of_earlier_versions_tell_one_time_of_experts() -> None:
    found = issue_times(measured(*(issue("experts", s) for s in (60e-6, 80e-6, 100e-6))))
    assert {name: one.value for name, one in found.items()} == {"experts.issue_s": pytest.approx(80e-6)}
