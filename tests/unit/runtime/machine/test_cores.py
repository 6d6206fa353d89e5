"""The thread that issues runs on the fastest core, and where it may run is as before in the end."""

from __future__ import annotations

import pytest

from runtime.machine import cores
from runtime.machine.cores import OnFastestCore


class Machine:
    """Cores of which some are slow, and where its only thread may run."""

    def __init__(self, loop_s: dict[int, float]) -> None:
        self.loop_s, self.may_run, self.moves = loop_s, set(loop_s), 0

    def sched_getaffinity(self, pid: int) -> set[int]:
        assert pid == 0
        return set(self.may_run)

    def sched_setaffinity(self, pid: int, mine: set[int]) -> None:
        assert pid == 0
        self.may_run, self.moves = set(mine), self.moves + 1

    def loop(self, n_tries: int, n: int) -> float:
        assert n_tries > 1
        (core,) = self.may_run
        return self.loop_s[core]


def machine(monkeypatch: pytest.MonkeyPatch, loop_s: dict[int, float]) -> Machine:
    found = Machine(loop_s)
    monkeypatch.setattr(cores, "os", found)
    monkeypatch.setattr(cores, "loop_s", found.loop)
    return found


def test_a_thread_moves_to_the_fastest_core_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(monkeypatch, {0: 2.0, 3: 1.9, 4: 1.0, 7: 2.1})
    thread = OnFastestCore()
    thread.enter()
    assert here.may_run == {4}
    thread.enter()
    assert here.may_run == {4}
    thread.leave()
    assert here.may_run == {0, 3, 4, 7}
    moves = here.moves
    thread.leave()
    assert here.moves == moves


def test_few_cores_are_left_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(monkeypatch, {0: 2.0, 1: 1.0, 2: 3.0})
    OnFastestCore().enter()
    assert (here.may_run, here.moves) == ({0, 1, 2}, 0)


def test_an_interrupt_while_cores_are_timed_leaves_the_thread_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(monkeypatch, dict.fromkeys(range(4), 1.0))

    def interrupted(n_tries: int, n: int) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(cores, "loop_s", interrupted)
    with pytest.raises(KeyboardInterrupt):
        OnFastestCore().enter()
    assert here.may_run == {0, 1, 2, 3}
