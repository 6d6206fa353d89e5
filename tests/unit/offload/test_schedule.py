"""The schedule as data: what it refuses, what it keeps, and that a changed file is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from offload import schedule
from offload.ops import MOST_LANES, Gemm, Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.timeline import Timeline
from traces.errors import InvalidFile, InvalidInput


def tiny() -> Schedule:
    """A gate, a fetch that waits for it, and an FFN that waits for the fetch."""
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, Work(OpKind.GATE, (Gemm(1, 8, 16),)), step=0, layer=1)
    copy = Work(OpKind.FETCH, copy_bytes=100)
    fetch = recorder.issue(Lane.H2D, copy, (gate,), step=0, layer=1, expert=3, slot=0, hbm_acquired=100)
    recorder.issue(
        Lane.COMPUTE, Work(OpKind.EXPERTS, (Gemm(1, 4, 8, 2),)), (gate, fetch), step=0, layer=1, hbm_released=100
    )
    return recorder.schedule(static_bytes=50)


def parts(of: Schedule) -> dict[str, Any]:
    names = (
        "lane", "kind", "cost", "dep_ptr", "dep", "step", "layer", "expert", "slot", "bytes", "hbm_acquired",
        "hbm_released", "priority", "cancelled_by", "works", "static_bytes",
    )  # fmt: skip
    return {name: getattr(of, name) for name in names}


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 4])
def test_a_dependency_is_checked_wherever_it_stands(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parts(tiny())
    monkeypatch.setattr(schedule, "_CHECKED_OPS", at_a_time)
    Schedule(**whole)
    for place, owner in enumerate(np.repeat(np.arange(3), np.diff(whole["dep_ptr"])).tolist()):
        for named in (owner, -1):
            dep = whole["dep"].copy()
            dep[place] = named
            with pytest.raises(InvalidInput, match="depends on itself"):
                Schedule(**whole | {"dep": dep})


def changed(name: str, index: int, value: int) -> dict[str, Any]:
    given = parts(tiny())
    given[name] = given[name].copy()
    given[name][index] = value
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (changed("lane", 0, MOST_LANES), "lane is outside"),
        (changed("lane", 0, -1), "lane is outside"),
        (changed("kind", 0, len(OpKind)), "op kind is outside"),
        (changed("cost", 2, 3), "cost row is outside"),
        (changed("dep", 0, 1), "depends on itself"),
        (changed("dep", 0, -1), "none that exists"),
        (changed("dep_ptr", 0, 1), "must rise from 0"),
        (changed("dep_ptr", 1, 2), "must rise from 0"),
        (changed("hbm_acquired", 1, -5), "hbm_acquired of op 1 is below 0"),
        (changed("hbm_released", 2, -5), "hbm_released of op 2 is below 0"),
        (changed("priority", 1, -1), "priority of op 1 is below 0"),
        (changed("cancelled_by", 1, 3), "cancelled by one that does not exist"),
        (changed("cancelled_by", 1, -2), "cancelled by one that does not exist"),
        (changed("bytes", 1, -5), "bytes of op 1 is below 0"),
        (parts(tiny()) | {"static_bytes": -1}, "static_bytes = -1"),
        (parts(tiny()) | {"slot": np.zeros(2, np.int32)}, "slot has shape"),
        (parts(tiny()) | {"dep_ptr": np.zeros(0, np.int64)}, "dep"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Schedule(**given)
    assert "\n" not in str(caught.value)


def test_a_schedule_cannot_be_changed() -> None:
    schedule = tiny()
    with pytest.raises(ValueError, match="read-only"):
        schedule.lane[0] = 1
    with pytest.raises(AttributeError):
        schedule.static_bytes = 1  # type: ignore[misc]


def test_equal_schedules_have_one_digest_and_any_change_another() -> None:
    assert tiny() == tiny()
    assert len({tiny(), tiny()}) == 1
    variants = [changed("expert", 1, 2), changed("slot", 1, 1), changed("dep", 1, 1), changed("step", 0, 1)]
    variants += [changed("priority", 1, 1), changed("cancelled_by", 1, 0), parts(tiny()) | {"static_bytes": 51}]
    variants += [parts(tiny()) | {"works": (*tiny().works[:2], tiny().works[2]._replace(flop=1))}]
    digests = {Schedule(**given).digest for given in variants}
    assert len(digests) == len(variants)
    assert tiny().digest not in digests


def test_equal_works_share_a_row_of_the_cost_table() -> None:
    recorder = Recorder()
    for flop in (1, 2, 1, 2, 1):
        recorder.issue(Lane.COMPUTE, Work(OpKind.GATE, flop=flop), step=0)
    schedule = recorder.schedule()
    assert schedule.cost.tolist() == [0, 1, 0, 1, 0]
    assert [work.flop for work in schedule.works] == [1, 2]


def test_a_schedule_of_nothing_is_one() -> None:
    assert len(Recorder().schedule()) == 0
    assert Timeline(Recorder().schedule(7), np.zeros(0), np.zeros(0), "x").peak_hbm_bytes == 7


def test_a_table_that_the_host_looks_at_is_kept_in_the_file(tmp_path: Path) -> None:
    recorder = Recorder()
    for what in (Work(OpKind.SORT, n_entries=8), Work(OpKind.WAIT)):
        recorder.issue(Lane.HOST, what, step=0)
    schedule = recorder.schedule()
    schedule.save(tmp_path / "s.safetensors")
    assert Schedule.load(tmp_path / "s.safetensors").works == schedule.works


def test_what_a_core_unpacks_is_kept_in_the_file(tmp_path: Path) -> None:
    recorder = Recorder()
    for stored in ("", "iq3_s*0.75+iq3_xxs*0.25"):
        recorder.issue(Lane.CPU, Work(OpKind.CPU_EXPERT, (Gemm(1, 2, 4, 2), Gemm(1, 4, 2)), stored=stored), step=0)
    schedule = recorder.schedule()
    schedule.save(tmp_path / "s.safetensors")
    loaded = Schedule.load(tmp_path / "s.safetensors")
    assert loaded.works == schedule.works
    assert len({work.stored for work in loaded.works}) == 2


def test_the_file_holds_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "schedule.safetensors"
    tiny().save(path)
    loaded = Schedule.load(path)
    assert loaded.digest == tiny().digest
    assert loaded.works == tiny().works
    assert loaded.static_bytes == 50
    assert [type(work.kind) for work in loaded.works] == [OpKind] * 3
    for name in ("lane", "dep", "bytes", "hbm_released"):
        assert getattr(loaded, name).tolist() == getattr(tiny(), name).tolist()
    assert list(tmp_path.iterdir()) == [path]


Tamper = Callable[[dict[str, Any], dict[str, str]], Any]


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda arrays, header: arrays["expert"].__setitem__(1, 2), "the file was changed"),
        (lambda arrays, header: header.update(static_bytes="51"), "the file was changed"),
        (lambda arrays, header: header.pop("digest"), "the file was changed"),
        (lambda arrays, header: arrays.update(lane=arrays["lane"].astype(np.int64)), "lane is int64"),
        (lambda arrays, header: arrays.update(cost=arrays["cost"].astype(np.float32)), "cost is float32"),
        (lambda arrays, header: arrays["dep"].__setitem__(0, 2), "not a readable schedule"),
        (lambda arrays, header: arrays.pop("slot"), "not a readable schedule"),
        (lambda arrays, header: header.update(static_bytes="many"), "not a readable schedule"),
        (lambda arrays, header: header.update(works="[" * 50_000), "not a readable schedule"),
        (lambda arrays, header: header.update(works="[[2]]"), "not a readable schedule"),
        (
            lambda arrays, header: header.update(works=json.dumps([[99, [], "fp32", 32.0, 0, 0, 0, 0, "", 1]] * 3)),
            "readable",
        ),
        (lambda arrays, header: header.update(works="3"), "not a readable schedule"),
        (lambda arrays, header: header.update(version="2"), "of version 6"),
        (lambda arrays, header: header.update(format="other"), "not a pregate.schedule file"),
    ],
)
def test_a_tampered_file_is_refused_in_one_line(tmp_path: Path, tamper: Tamper, message: str) -> None:
    path = tmp_path / "schedule.safetensors"
    tiny().save(path)
    with safe_open(path, framework="numpy") as file:
        header = dict(file.metadata())
        arrays = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
    tamper(arrays, header)
    save_file(arrays, path, metadata=header)
    with pytest.raises(InvalidFile, match=message) as caught:
        Schedule.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_schedule_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("not a schedule")
    for path, told in (
        (text, "not a readable schedule"),
        (tmp_path, "not a regular file"),
        (tmp_path / "missing", "there is no such file"),
    ):
        with pytest.raises(InvalidFile, match=told):
            Schedule.load(path)


def test_a_timeline_holds_finite_times_only() -> None:
    start, end = np.zeros(3), np.array([1.0, 2.0, np.nan])
    with pytest.raises(InvalidInput, match="end_s holds a time that is not finite"):
        Timeline(tiny(), start, end, "x")


def test_hbm_given_back_at_the_time_it_is_taken_again_is_not_counted_twice() -> None:
    recorder = Recorder()
    for _ in range(2):
        recorder.issue(Lane.H2D, Work(OpKind.FETCH), step=0, hbm_acquired=10, hbm_released=10)
    timeline = Timeline(recorder.schedule(5), np.array([0.0, 1.0]), np.array([1.0, 2.0]), "x")
    times, level = timeline.hbm_events()
    assert times.tolist() == [0.0, 1.0, 1.0, 2.0]
    assert level.tolist() == [15, 5, 15, 5]
    assert timeline.peak_hbm_bytes == 15


def test_other_static_bytes_change_nothing_else() -> None:
    schedule = tiny()
    first = schedule.digest
    other = schedule.with_static_bytes(70)
    assert other.digest == Schedule(**parts(tiny()) | {"static_bytes": 70}).digest != first
    assert other.works is schedule.works
    assert schedule.with_static_bytes(50) == schedule
    with pytest.raises(InvalidInput, match="static_bytes = -1 is below 0"):
        schedule.with_static_bytes(-1)
