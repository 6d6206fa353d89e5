"""Machine code is called, loaded or compiled where Python would take longer than that, and never before."""

from __future__ import annotations

import pytest

from compiled import when_it_pays
from compiled.when_it_pays import machine_code_pays
from simulator import recurrence
from simulator.recurrence import WALK, is_small

STATES = {  # whether the kernel is loaded, whether it is kept, whether any other is loaded: the most that Python does
    (True, True, True): 20, (True, False, True): 20, (False, True, True): 20,
    (False, True, False): 50, (False, False, True): 90, (False, False, False): 90,
}  # fmt: skip


def told(monkeypatch: pytest.MonkeyPatch, state: tuple[bool, bool, bool]) -> None:
    for name, value in zip(("are_loaded", "are_kept"), state, strict=False):
        monkeypatch.setattr(when_it_pays, name, lambda *kernels, value=value: value)
    for module in (when_it_pays, recurrence):
        monkeypatch.setattr(module, "has_loaded", lambda: state[2])


@pytest.mark.parametrize(("state", "most"), STATES.items())
def test_python_does_what_it_does_sooner_than_the_code_is_there(
    state: tuple[bool, bool, bool], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, state)
    found = [n for n in range(100) if machine_code_pays(n, WALK, compile_above=90, load_above=50, call_above=20)]
    assert found == list(range(most + 1, 100))
    without = [n for n in range(100) if machine_code_pays(n, WALK, compile_above=90, load_above=50)]
    assert without == list(range(max(most, 50) + 1, 100))
    assert [machine_code_pays(n, WALK, compile_above=10, load_above=50, call_above=20) for n in (10, 11)] == [
        False,
        True,
    ]


def test_a_folder_is_not_looked_into_where_no_answer_would_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*kernels: object) -> bool:
        raise AssertionError("are_kept")

    monkeypatch.setattr(when_it_pays, "are_loaded", lambda *kernels: False)
    monkeypatch.setattr(when_it_pays, "has_loaded", lambda: False)
    monkeypatch.setattr(when_it_pays, "are_kept", looked)
    limits = {"compile_above": 90, "load_above": 50, "call_above": 20}
    assert [machine_code_pays(n, WALK, **limits) for n in (20, 50, 91)] == [False, False, True]


@pytest.mark.parametrize(("state", "most"), [
    ((True, True, True), 1000), ((False, True, True), 1000), ((False, False, True), 10_000),
    ((False, True, False), 10_000), ((False, False, False), 400_000),
])  # fmt: skip
def test_a_walk_is_short_to_compile_once_the_compiler_is_there(
    state: tuple[bool, bool, bool], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, state)
    assert [is_small(n_ops, 400_000, WALK) for n_ops in (most, most + 1)] == [True, False]
