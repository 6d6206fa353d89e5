"""The timeline file: what ui.perfetto.dev reads."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import pregate
from offload.ops import Lane
from pregate.draw.perfetto import write_trace
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
