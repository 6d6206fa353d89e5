"""A recording of runs judges as the runs did, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hwmodels.quantity import ReadOnly
from offload.metrics.run_metrics import of_timeline
from pregate.ask.simulation import interpret
from pregate.named import load_hardware, load_model
from pregate.validation.cases import CaseGroup, CaseWorkload
from pregate.validation.predictions import PreparedCase, exact_figures, prepare_cases
from pregate.validation.runs.recorded_routing import routing_arrays
from pregate.validation.runs.recording import RecordedCase, Recording, load_recording, measurement_of, save_recording
from traces.errors import InvalidFile, InvalidInput

GROUP = CaseGroup(load_model("switch-mini-16"), CaseWorkload(2, 4, 3, seed=1), ("on_demand", "pregate"))


@pytest.fixture(scope="module")
def prepared() -> list[PreparedCase]:
    return prepare_cases(GROUP, load_hardware("a100-sxm4-80gb", stack="streams"))


def recorded(case: PreparedCase, slower: float = 1.0) -> RecordedCase:
    """A run as the simulator has it, to the nanosecond, and one that took `slower` times as long."""
    timeline = interpret(case.captured, case.hw, "recurrence", with_intervals=False).timeline
    assert timeline is not None
    times = [
        np.array([np.rint(values * factor * 1e9) for factor in (1.0, slower)], dtype=np.int64)
        for values in (timeline.start_s, timeline.end_s)
    ]
    schedule = case.captured.decoded.schedule
    exact = exact_figures(schedule, case.captured)
    plan = case.captured.plan
    return RecordedCase(
        schedule.digest,
        plan.n_buffers,
        plan.n_cache_slots,
        "cuda",
        None,
        *times,
        exact,
        "d1",
        ("a busy neighbour",),
        0.5,
        0.25,
    )


def test_what_is_written_is_what_is_read(prepared: list[PreparedCase], tmp_path: Path) -> None:
    cases = {one.case.name: recorded(one, 1.5) for one in prepared}
    cases["paced"] = dataclasses.replace(cases[prepared[0].case.name], link_bytes_per_s=2e9)
    trace = prepared[0].captured.trace
    written = Recording(
        ReadOnly(cases), "streams", ReadOnly({"name": "a device", "spec": None}), ReadOnly({"date": "x"}),
        ReadOnly({GROUP.name: trace}),
    )  # fmt: skip
    save_recording(written, tmp_path / "runs.npz")
    read = load_recording(tmp_path / "runs.npz")
    assert (read.stack, dict(read.machine), dict(read.provenance)) == ("streams", dict(written.machine), {"date": "x"})
    for name, case in cases.items():
        for field in dataclasses.fields(case):
            mine, theirs = getattr(case, field.name), getattr(read.cases[name], field.name)
            assert np.array_equal(mine, theirs) if field.name.endswith("_ns") else mine == theirs
    assert {name: one.digest for name, one in read.routings.items()} == {GROUP.name: trace.digest}
    assert read.routings[GROUP.name].provenance.source == trace.provenance.source
    assert read.has(GROUP)
    assert not read.has(dataclasses.replace(GROUP, policies=("on_demand", "lru")))
    assert read.link_bytes_per_s(GROUP) is None


def test_runs_are_measured_by_the_definitions_of_all_metrics(prepared: list[PreparedCase]) -> None:
    one = prepared[1]
    found = measurement_of(recorded(one, 3.0), one.captured, drawn=True)
    timeline = interpret(one.captured, one.hw, "recurrence", with_intervals=False).timeline
    assert timeline is not None
    exact = found.exact
    wanted = of_timeline(
        timeline, one.captured.trace, one.captured.workload.n_output_tokens, (exact["lookups"], exact["hits"])
    )
    assert found.runs[0]["tpot_s"] == pytest.approx(wanted["tpot_s"], rel=1e-5)
    assert found.runs[1]["tpot_s"] == pytest.approx(3 * wanted["tpot_s"], rel=1e-5)
    assert found.timeline is not None  # of two runs the lower median
    assert found.timeline.makespan_s == pytest.approx(timeline.makespan_s, rel=1e-5)
    assert measurement_of(recorded(one), one.captured, drawn=False).timeline is None


def test_another_schedule_than_was_run_is_refused(prepared: list[PreparedCase]) -> None:
    cases = {one.case.name: dataclasses.replace(recorded(one), schedule_digest="other") for one in prepared}
    recording = Recording(ReadOnly(cases), "streams", ReadOnly({}), ReadOnly({}))
    with pytest.raises(InvalidInput, match="is not the one that was recorded, other: run it again"):
        recording.measure(prepared)


def test_a_case_is_prepared_with_the_slots_it_ran_with(prepared: list[PreparedCase]) -> None:
    """A recording stays what it is when memory is planned otherwise."""
    hw = load_hardware("a100-sxm4-80gb", stack="streams")
    names = [one.case.name for one in prepared]
    fewer = prepare_cases(GROUP, hw, None, {names[0]: (1, 0)})
    assert (fewer[0].captured.plan.n_buffers, fewer[0].captured.plan.n_cache_slots) == (1, 0)
    assert fewer[0].captured.decoded.schedule.digest != prepared[0].captured.decoded.schedule.digest
    assert fewer[1].captured.decoded.schedule.digest == prepared[1].captured.decoded.schedule.digest
    recording = Recording(
        ReadOnly({one.case.name: recorded(one) for one in fewer}), "streams", ReadOnly({}), ReadOnly({})
    )
    assert recording.slots(GROUP)[names[0]] == (1, 0)
    recording.measure(prepare_cases(GROUP, hw, None, recording.slots(GROUP)))


@pytest.mark.parametrize(
    ("start", "end"), [([[0, 5]], [[3, 4]]), ([[0]], [[1, 2]]), (np.zeros((0, 2)), np.zeros((0, 2))), ([0], [1])]
)
def test_no_run_ends_before_it_starts(start: list[int], end: list[int]) -> None:
    with pytest.raises(InvalidInput, match="are no recording"):
        RecordedCase("d", 1, 0, "cuda", None, np.array(start), np.array(end), {}, "o", (), 0.0)


def test_a_recording_is_judged_by_the_routing_that_it_ran(prepared: list[PreparedCase]) -> None:
    """Another generator makes other routing of the same seed."""
    hw, other = load_hardware("a100-sxm4-80gb", stack="streams"), dataclasses.replace(GROUP.workload, seed=2)
    moved = dataclasses.replace(GROUP, workload=other)
    routing = prepared[0].captured.trace
    again, anew = (prepare_cases(moved, hw, routing=one) for one in (routing, None))
    digests = [[one.captured.decoded.schedule.digest for one in cases] for cases in (prepared, again, anew)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("column", "line"), [("step", "no step"), ("experts", "shape")])
def test_routing_that_is_none_is_refused_by_name(
    prepared: list[PreparedCase], column: str, line: str, tmp_path: Path
) -> None:
    arrays, about = routing_arrays(prepared[0].captured.trace, "routing0")
    arrays[f"routing0.{column}"] = np.zeros(3, dtype=np.int16)
    if column == "step":
        del arrays["routing0.step"]
    whole = {**WHOLE, "cases": [], "routings": [{"group": "g", **about}]}
    path = rewritten(tmp_path / "runs.npz", whole, arrays)
    with pytest.raises(InvalidFile, match=line):
        load_recording(path)


def rewritten(path: Path, about: object, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """A file with another `about`."""
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, about=text, **(arrays or {}))
    return path


CASE = {
    "name": "c",
    "schedule": "s",
    "slots": [1, 0],
    "source": "cuda",
    "exact": {},
    "output": "o",
    "disturbances": [],
    "load": 0.0,
}
ROUTING = {"group": "g", "n_experts": 4, "model": "m", "source": "s", "note": ""}
WHOLE = {"version": 2, "stack": "streams", "machine": {}, "provenance": {}, "cases": [CASE]}


@pytest.mark.parametrize(
    ("about", "array", "line"),
    [
        ([], None, "expected a mapping, found list"),
        ({**WHOLE, "version": 1}, None, "version 1, this release reads 2"),
        (WHOLE, None, r"cases\[0\] has no runs"),
        (WHOLE, np.zeros((1, 2, 3)), "runs are float64"),
        (WHOLE, np.zeros((1, 3, 3), dtype=np.int64), r"of shape \(1, 3, 3\)"),
        (WHOLE, np.full((1, 2, 3), -1, dtype=np.int64), "are no recording"),
        ({**WHOLE, "cases": [{**CASE, "load": -1.0}]}, np.zeros((1, 2, 3), dtype=np.int64), "load"),
        ({**WHOLE, "cases": [{**CASE, "slots": [1]}]}, np.zeros((1, 2, 3), dtype=np.int64), r"slots = \[1\]"),
        ({**WHOLE, "cases": [{**CASE, "slots": [1, -1]}]}, np.zeros((1, 2, 3), dtype=np.int64), r"slots = \[1, -1\]"),
        ({**WHOLE, "cases": [{**CASE, "source": 1}]}, np.zeros((1, 2, 3), dtype=np.int64), "source = 1 is not text"),
        ({**WHOLE, "routings": [1]}, np.zeros((1, 2, 3), dtype=np.int64), r"routings\[0\] is not a mapping"),
        ({**WHOLE, "routings": [ROUTING]}, np.zeros((1, 2, 3), dtype=np.int64), "the routing has no experts"),
        ({**WHOLE, "more": 1}, np.zeros((1, 2, 3), dtype=np.int64), "more"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_by_name(
    about: object, array: np.ndarray | None, line: str, tmp_path: Path
) -> None:
    path = rewritten(tmp_path / "runs.npz", about, {} if array is None else {"case0": array})
    with pytest.raises((InvalidFile, InvalidInput), match=line) as error:
        load_recording(path)
    assert str(error.value).count(str(path)) == 1


def test_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "pickle.npz", "w") as archive:
        archive.writestr("about.npy", pickled.getvalue())
    (tmp_path / "text.npz").write_text("no archive")
    with (tmp_path / "words.npz").open("wb") as file:
        np.savez(file, about=np.frombuffer(b"no JSON", dtype=np.uint8))
    for name in ("pickle.npz", "text.npz", "words.npz", "missing.npz"):
        with pytest.raises(InvalidFile, match=name):
            load_recording(tmp_path / name)
