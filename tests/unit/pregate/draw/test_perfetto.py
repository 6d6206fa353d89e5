"""The timeline file: what ui.perfetto.dev reads."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from offload.ops import Lane
from pregate.draw.perfetto import mismatches, simulated_again, write_comparison, write_comparisons, write_trace
from traces.errors import InvalidInput


@pytest.fixture(scope="module")
def result() -> pregate.SimulationResult:
    model = pregate.load_model("switch-base-8")
    return pregate.simulate(model, pregate.load_hardware("a100-sxm4-80gb"), pregate.synthesize(model, 8, 6), "pregate")


@pytest.fixture
def events(result: pregate.SimulationResult, tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "out.json"
    write_trace(result.timeline, path)
    found: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    return found


def test_every_op_is_a_slice_on_the_track_of_its_lane(
    result: pregate.SimulationResult, events: list[dict[str, Any]]
) -> None:
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == len(result.timeline.schedule)
    busy: defaultdict[int, float] = defaultdict(float)
    last: defaultdict[int, float] = defaultdict(float)
    for event in slices:
        assert event["ts"] >= last[event["tid"]] - 1e-9
        last[event["tid"]] = round(event["ts"] + event["dur"], 3)
        busy[event["tid"]] += event["dur"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    by_name = {names[tid]: total for tid, total in busy.items()}
    copied = [event["args"]["bytes"] for event in slices if event["cat"] == "fetch"]
    assert sum(copied) == result.h2d_bytes > 0
    assert by_name["compute"] == pytest.approx(result.timeline.busy_s(Lane.COMPUTE) * 1e6, rel=1e-3)


def test_counters_return_to_their_level(result: pregate.SimulationResult, events: list[dict[str, Any]]) -> None:
    counters: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            counters[event["name"]] += event["args"].values()
    hbm = next(values for name, values in counters.items() if "HBM" in name)
    assert max(hbm) == result.peak_hbm_bytes
    assert hbm[-1] == result.timeline.schedule.static_bytes
    queues = [values for name, values in counters.items() if "queue" in name.lower()]
    assert queues
    assert all(values[-1] == 0 and min(values) >= 0 and max(values) > 0 for values in queues)


def test_a_folder_that_is_not_there_is_one_clear_line(result: pregate.SimulationResult, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_trace(result.timeline, tmp_path / "no" / "out.json")


def slowed(timeline: Any, lane: Lane, factor: float) -> Any:
    """A run whose ops of one lane took `factor` times as long, the others as long as they did."""
    mine = timeline.schedule.lane == lane
    span_s = (timeline.end_s - timeline.start_s) * np.where(mine, factor, 1.0)
    return replace(timeline, end_s=timeline.start_s + span_s, source="real")


def compared(result: pregate.SimulationResult, path: Path, factor: float) -> dict[str, Any]:
    write_comparison(result.timeline, slowed(result.timeline, Lane.H2D, factor), path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_simulated_stands_over_real_on_the_same_tracks(result: pregate.SimulationResult, tmp_path: Path) -> None:
    document = compared(result, tmp_path / "both.json", 2.0)
    events, n = document["traceEvents"], len(result.timeline.schedule)
    read_strictly(events)
    tracks: dict[int, dict[int, str]] = {1: {}, 2: {}}
    for event in events:
        if event["ph"] == "M" and event["name"] == "thread_name":
            tracks[event["pid"]][event["tid"] - 100 * event["pid"]] = event["args"]["name"]
    assert tracks[1] == tracks[2]
    assert [sum(e["ph"] == "X" and e["pid"] == pid for e in events) for pid in (1, 2)] == [n, n]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names[1].startswith("pregate 1: simulated")
    assert names[2].startswith("pregate 2: real")


def test_mismatches_are_coloured_and_listed(result: pregate.SimulationResult, tmp_path: Path) -> None:
    error_s = mismatches(result.timeline, slowed(result.timeline, Lane.H2D, 2.0))
    expected = np.count_nonzero(error_s)
    assert expected > 0
    document = compared(result, tmp_path / "both.json", 2.0)
    coloured = [event for event in document["traceEvents"] if "cname" in event]
    assert len(coloured) == 2 * expected
    assert {event["tid"] % 10 for event in coloured} == {int(Lane.H2D)}
    assert {event["cname"] for event in coloured} == {"terrible"}
    listed = document["otherData"]["mismatches"]
    assert document["otherData"]["n_mismatches"] == expected
    assert len(listed) == min(expected, 100)
    lateness = [one["real_us"] - one["simulated_us"] for one in listed]
    assert lateness == sorted(lateness, reverse=True)
    alike = compared(result, tmp_path / "alike.json", 1.1)
    assert alike["otherData"]["n_mismatches"] == 0
    assert not any("cname" in event for event in alike["traceEvents"])


def test_an_arrow_leads_from_every_copy_to_what_reads_it(result: pregate.SimulationResult, tmp_path: Path) -> None:
    events = compared(result, tmp_path / "both.json", 1.0)["traceEvents"]
    schedule = result.timeline.schedule
    copies = np.count_nonzero(schedule.lane == Lane.H2D)
    begins = [event for event in events if event["ph"] == "s" and event["pid"] == 1]
    assert 0 < len({event["ts"] for event in begins}) <= copies
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert all(ends[event["id"]]["tid"] % 10 == Lane.COMPUTE for event in begins)


def test_one_timeline_has_the_same_arrows(
    result: pregate.SimulationResult, events: list[dict[str, Any]], tmp_path: Path
) -> None:
    read_strictly(events)
    beside = compared(result, tmp_path / "both.json", 1.0)["traceEvents"]
    mine, theirs = ([e for e in found if e["ph"] in "sf" and e["pid"] == 1] for found in (events, beside))
    assert mine == theirs != []


def test_several_runs_stand_below_one_another(result: pregate.SimulationResult, tmp_path: Path) -> None:
    pair = (result.timeline, slowed(result.timeline, Lane.H2D, 2.0))
    write_comparisons({"a": pair, "b": pair}, tmp_path / "all.json")
    document = json.loads((tmp_path / "all.json").read_text())
    events = document["traceEvents"]
    read_strictly(events)
    names = {e["pid"]: e["args"]["name"].split(":")[1].strip() for e in events if e["name"] == "process_name"}
    assert names == {1: "a, simulated", 2: "a, real", 3: "b, simulated", 4: "b, real"}
    counts = [said["n_mismatches"] for said in document["otherData"]["cases"].values()]
    assert counts[0] == counts[1] > 0
    assert sum("cname" in event for event in events) == 2 * sum(counts)
    with pytest.raises(InvalidInput, match="nothing to compare"):
        write_comparisons({}, tmp_path / "none.json")


def test_timelines_of_two_schedules_are_not_compared(result: pregate.SimulationResult, tmp_path: Path) -> None:
    model = pregate.load_model("switch-base-8")
    hw = pregate.load_hardware("a100-sxm4-80gb")
    other = pregate.simulate(model, hw, pregate.synthesize(model, 8, 6), "on_demand")
    with pytest.raises(InvalidInput, match="timelines of two schedules"):
        write_comparison(result.timeline, other.timeline, tmp_path / "both.json")
    assert not list(tmp_path.iterdir())


def test_the_same_machine_simulates_a_run_again(result: pregate.SimulationResult) -> None:
    again = simulated_again(result.timeline, pregate.load_hardware("a100-sxm4-80gb"))
    assert np.array_equal(again.end_s, result.timeline.end_s)


def read_strictly(events: list[dict[str, Any]]) -> None:
    """The rules of the trace event format: what each phase must have, and that flows begin and end inside slices."""
    wanted = {"X": {"ts", "dur", "tid"}, "M": {"args"}, "C": {"ts", "args"}, "s": {"ts", "id", "tid"}}
    wanted["f"] = wanted["s"] | {"bp"}
    slices: defaultdict[tuple[int, int], set[float]] = defaultdict(set)
    ends: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        assert wanted[event["ph"]] | {"name", "pid"} <= event.keys()
        assert event.get("tid", -1) not in (0, event["pid"])  # 0 is the first track in a viewer, a pid the main one
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices[event["pid"], event["tid"]].add(event["ts"])
        if event["ph"] in "sf":
            assert isinstance(event["id"], int)  # text that is no hexadecimal number is dropped
            ends[event["id"]].append(event)
    assert ends
    for pair in ends.values():
        assert [event["ph"] for event in pair] == ["s", "f"]
        assert pair[0]["pid"] == pair[1]["pid"]
        assert pair[0]["ts"] <= pair[1]["ts"]
        assert all(event["ts"] in slices[event["pid"], event["tid"]] for event in pair)
