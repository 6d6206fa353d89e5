"""Rounds of a session: what was disturbed is measured again, within a budget; the rounds that count are made one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from hwmodels.calibrate.measurements import Sample, sample_of
from hwmodels.calibrate.rounds import merged_rounds, rounds_left_out
from hwmodels.fits.fit import LeftOut
from hwmodels.fits.trust import LEVELS, TIMED_ONCE_SCATTER, Trust, least_trusted, recorded_trust, trust_of
from pregate.ask.capturing.capture import capture
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.timing.intervals import intervals
from tests.small_fits import platform
from tests.small_models import MODELS, routing
from traces.errors import UnknownName

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.machine.watch import Seen  # noqa: E402
from runtime.microbench import rounds  # noqa: E402
from runtime.microbench.rounds import Microbenchmark, in_rounds  # noqa: E402

QUIET, LOUD, LOUDER = (Seen(foreign=cores, steal=0.0, clock=1.0) for cores in (0.0, 1.0, 1.5))


class Machine:
    """A clock that only parts advance, and a watch that sees what a script says of each part in turn.

    No garbage is looked for between parts: in a process that has run other tests there is much to look through.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: dict[str, list[Seen]], took_s: float = 1.0) -> None:
        self.now_s, self.took_s, self.order = 0.0, took_s, list[str]()
        self.script = {name: iter(seen) for name, seen in script.items()}
        self.values: dict[str, Iterator[float]] = {}
        monkeypatch.setattr(rounds, "LoadWatch", lambda clock: self)
        monkeypatch.setattr(rounds, "Clock", lambda: None)
        monkeypatch.setattr(rounds, "gc", type("Garbage", (), {"collect": staticmethod(int)}))
        monkeypatch.setattr(rounds, "time", type("Clock", (), {"monotonic": staticmethod(lambda: self.now_s)}))

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.seen = next(self.script[self.order[-1]])

    def part(self, name: str, *values_s: float) -> Microbenchmark:
        values = iter(values_s or (1.0,) * 9)

        def run(first: bool) -> list[Sample]:
            self.order.append(name)
            assert first == (self.order.count(name) == 1)
            self.now_s += self.took_s
            return [sample_of(name, [next(values)])]

        return Microbenchmark(name, run)


def test_parts_take_turns_until_each_was_timed_twice_on_a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {"a": [QUIET] * 4, "b": [QUIET, LOUD, QUIET, QUIET], "c": [LOUD] * 4})
    session = in_rounds([machine.part(name) for name in "abc"], 100.0, lambda _: None)
    assert "".join(machine.order) == "abc" + "cab" + "cb" + "c", "what has not been timed quietly goes first"
    assert session.disturbances == ("c: other processes used 1.00 cores (at most 0.06)",)


@pytest.mark.parametrize(("budget_s", "order"), [(0.1, "abc"), (3.5, "abc"), (4.0, "abcc"), (5.9, "abcca")])
def test_what_is_needed_is_measured_whatever_it_takes_and_later_rounds_fit_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget_s: float, order: str
) -> None:
    machine = Machine(monkeypatch, {"a": [QUIET] * 4, "b": [QUIET] * 4, "c": [LOUD] * 4})
    session = in_rounds([needed(machine.part(name)) for name in "abc"], budget_s, lambda _: None)
    assert "".join(machine.order) == order
    assert session.left_out == ()


def needed(part: Microbenchmark) -> Microbenchmark:
    return dataclasses.replace(part, needed=True)


@pytest.mark.parametrize("slow", [1, 5, 50])
def test_a_busy_machine_leaves_out_what_is_not_needed_and_keeps_its_budget(
    monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    """The clock of a machine on which everything takes `slow` times as long, 10 s a part where it is idle."""
    names, budget_s = "abcdefgh", 300.0
    machine, said = Machine(monkeypatch, {name: [LOUD] * 4 for name in names}, took_s=10.0 * slow), list[str]()
    parts = [needed(part) if part.name in "cf" else part for part in map(machine.part, names)]
    session = in_rounds(parts, budget_s, said.append)
    assert "".join(machine.order)[:2] == "cf", "first what no fit can be made without"
    assert machine.now_s <= max(budget_s, 2 * machine.took_s)
    left_out = {1: "", 5: "gh", 50: "abdegh"}[slow]
    assert session.left_out == tuple(left_out)
    assert set(session.rounds) == set(names) - set(left_out)
    assert [sample.what for sample in session.samples] == [name for name in names if name in session.rounds]
    trust = session.trust(session.samples)
    if left_out:
        assert said[-1] == f"left out, there was no time for them: {', '.join(left_out)}"
        assert trust.level == "low"
        assert trust.reasons[-1] == f"{len(left_out)} of 8 parts were left out, there was no time for them"
    else:
        assert not said[-1].startswith("left out")


def test_progress_says_part_round_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, said = Machine(monkeypatch, {"a": [QUIET] * 2}), list[str]()
    in_rounds([machine.part("a")], 10.0, said.append)
    assert said == ["a (round 1, 0 of 10 s)", "a (round 2, 1 of 10 s)"]


def test_quiet_rounds_count_and_all_say_how_far_they_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {"a": [LOUD, QUIET, QUIET], "b": [LOUD, LOUDER, QUIET, LOUD]})
    parts = [machine.part("a", 5.0, 1.0, 1.1), machine.part("b", 3.0, 4.0, 2.0, 3.0)]
    session = in_rounds(parts, 100.0, lambda _: None)
    a, b = session.samples
    assert (a.mean_s, a.n) == (pytest.approx(1.05), 2)
    assert a.scatter == pytest.approx(0.0674, abs=1e-3)
    assert (b.mean_s, b.n) == (2.0, 1)
    assert b.scatter is not None
    assert b.scatter > 0.2, "one round counts, the others say what it may be off by"
    assert session.disturbances == ()


def test_where_no_round_was_quiet_the_less_disturbed_half_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {"a": [LOUDER, LOUD, LOUDER, LOUD]})
    session = in_rounds([machine.part("a", 9.0, 1.0, 9.0, 1.2)], 100.0, lambda _: None)
    assert session.samples[0].mean_s == pytest.approx(1.1)
    assert session.trust(session.samples).level == "low"


def test_samples_that_one_round_lacks_are_of_those_that_have_them() -> None:
    one, two = sample_of("x", [1.0], n_bytes=1), sample_of("x", [3.0], n_bytes=2)
    again = sample_of("x", [2.0], n_bytes=1)
    merged = merged_rounds([[one, two], [again]], [[one, two], [again]])
    assert [(sample.parameters["n_bytes"], sample.mean_s, sample.n) for sample in merged] == [(1, 1.5, 2), (2, 3.0, 1)]
    assert merged[1].scatter is None
    assert rounds_left_out(merged).n == 1
    assert rounds_left_out([*merged, two]).scatter == TIMED_ONCE_SCATTER, "most were timed once"
    assert rounds_left_out([two]) == LeftOut(0, *[TIMED_ONCE_SCATTER] * 3), "what was timed once is known no better"


@pytest.mark.parametrize("policy", ["gpu_only", "pregate"])
def test_a_machine_that_differs_from_itself_has_wider_intervals(policy: str) -> None:
    hw, model = platform(), MODELS["decoder-only"]
    assert hw.fit is not None
    captured = capture(model, memory_of(hw), routing(model), policy)
    widths = []
    for scatter in (0.0, 0.1, 0.3):
        fit = dataclasses.replace(hw.fit, left_out={**hw.fit.left_out, "rounds": LeftOut(9, scatter, scatter, scatter)})
        here = dataclasses.replace(hw, fit=fit)
        ends = intervals(captured, here, np.random.default_rng(0), metrics=("makespan_s",))["makespan_s"]
        assert ends is not None
        widths.append(ends[1] - ends[0])
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize(
    ("scatter", "loads", "level"),
    [
        (0.01, [0.2] * 10, "high"),
        (0.01, [0.2] * 9 + [9.0], "high"),
        (0.01, [0.2] * 8 + [1.2] * 2, "fair"),
        (0.10, [0.0], "fair"),
        (0.30, [0.0], "low"),
        (0.01, [17.0] * 6 + [0.0] * 4, "low"),
        (0.61, [0.0], "none"),
        (None, [0.0], "fair"),
        (0.02, [], "high"),
    ],
)
def test_trust_is_the_scatter_and_the_load(scatter: float | None, loads: list[float], level: str) -> None:
    found = trust_of(scatter, loads, "parts")
    assert found.level == level
    assert found.reasons
    assert recorded_trust(found.recorded()) == Trust(found.level, found.reasons)
    assert found.is_doubtful == (LEVELS.index(level) >= 2)


def test_the_least_trusted_counts_and_a_level_is_one_of_four() -> None:
    assert least_trusted(Trust("fair", ("a",)), Trust("low", ("b",)), Trust("high")).reasons == ("b",)
    assert recorded_trust({"date": "today"}) is None
    with pytest.raises(UnknownName, match="unknown level of trust 'hihg'"):
        Trust("hihg")
