"""Committed recordings of runs can be judged: schedules written today are those that ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwmodels.platform import load_platform
from pregate.validation.cases import suite_named
from pregate.validation.predictions import prepare_cases
from pregate.validation.runs.recording import load_recording

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(
    ("name", "suite"),
    [("h200-sxm-2026-11-29-graphs", "gpu"), ("h200-sxm-2026-11-29", "gpu"), ("cpu-amd-epyc-2c-2026-11-29", "full")],
)
def test_a_recording_is_of_schedules_as_they_are_written(name: str, suite: str) -> None:
    """Of its first group. Where a work asks something else than it did, the digest is another: then a recording can no
    longer be judged, which LOG.md has to say before its line here goes.
    """
    recording = load_recording(RESULTS / name / "runs.npz")
    groups = [group for group in suite_named(suite) if recording.has(group)]
    assert {group.name for group in groups} == set(recording.routings)
    first = groups[0]
    hw = load_platform(str(next((RESULTS / name).glob("*.yaml"))))
    link, slots = recording.link_bytes_per_s(first), recording.slots(first)
    cases = prepare_cases(first, hw, link, slots, recording.routings[first.name])
    assert [one.case.name for one in cases if one.case.name not in recording.cases] == []
    for one in cases:
        assert one.captured.decoded.schedule.digest == recording.cases[one.case.name].schedule_digest, one.case.name
