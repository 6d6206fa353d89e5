"""Policies that a user wrote: named on the command line, held to what a policy may do, known again by what they say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import pregate
from offload.policies import policy_named
from pregate.ask.capturing.capture import capture
from tests.command_line import Run
from tests.policies_of_ones_own import AGAIN, HW, MODEL, TRACE, made
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, PregateError


def decode(text: str, trace: pregate.RoutingTrace = TRACE) -> Any:
    return capture(MODEL, HW, trace, pregate.load_policy(text))


def test_a_file_is_a_policy_with_its_arguments_cache_misses_and_placement(own: Callable[[str], Path]) -> None:
    own(AGAIN)
    policy = pregate.load_policy("./mine.py:Again:slots=3+lru:4@kv=cpu")
    assert policy.name == "./mine.py:Again:slots=3+lru:4@kv=cpu"
    assert policy.buffers(2, 6).full == 6
    assert policy.cache is not None
    assert policy.cache.n_slots == 4
    assert policy.placement.kv == "host"
    assert pregate.load_policy("mine.py:PLAIN:cpu").name == "mine.py:PLAIN:cpu"
    assert policy_named(policy.name).name == policy.name
    assert decode("mine.py:PLAIN").decoded.schedule == capture(MODEL, HW, TRACE, "on_demand").decoded.schedule


def test_what_it_brings_is_what_it_says(own: Callable[[str], Path]) -> None:
    own(AGAIN)
    found = pregate.simulate(MODEL, HW, TRACE, pregate.load_policy("mine.py:Again"))
    assert found.h2d_bytes > pregate.simulate(MODEL, HW, TRACE, "on_demand").h2d_bytes
    assert found.policy_source.startswith("mine.py ")
    assert pregate.simulate(MODEL, HW, TRACE, "on_demand").policy_source == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.py:Again", "none.py: cannot be read"),
        ("mine.py:Agian", "did you mean 'Again'"),
        ("mine.py:NUMBER", "neither a Policy nor what makes one"),
        ("mine.py:Other", "returned 'a policy', not a Policy"),
        ("mine.py:Needs", "Needs needs depth, say mine.py:Needs:depth="),
        ("mine.py:Leaves", "raises SystemExit: 0 "),
        ("mine.py:Broken", r"raises ZeroDivisionError: .*\(line 33 of mine.py\)"),
        ("mine.py:PLAIN:depth=2", "leave its arguments out"),
        ("mine.py:Again:slot=2", "did you mean 'slots'"),
        ("mine.py:Again:slots=2:slots=3", "gives slots twice"),
        ("mine.py:Again:cpu", "leave :cpu out"),
        ("mine.py:Again:cpu:cpu", "not of the form"),
        ("mine.py:Again+lrv:4", "did you mean 'lru'"),
    ],
)
def test_a_name_that_makes_no_policy_is_one_clear_line(
    own: Callable[[str], Path], run: Run, name: str, reason: str
) -> None:
    own(AGAIN)
    status, out, err = run("compare", "switch-mini-16", "--hardware", "rtx-4090", "--policies", name)
    assert (status, out, err.count("\n")) == (2, "", 1)
    with pytest.raises(PregateError, match=reason):
        pregate.load_policy(name)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def x(:\n", "mine.py, line 3: "),
        ("import sys\nsys.exit()", "raises SystemExit"),
        ("raise ValueError('no')", "raises ValueError: no .line 3 of mine.py. as it is loaded"),
        ("import no_such_module_anywhere", "raises ModuleNotFoundError"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_one_clear_line(own: Callable[[str], Path], code: str, reason: str) -> None:
    own(made(code))
    with pytest.raises(InvalidInput, match=reason):
        pregate.load_policy("mine.py:X")


MISTAKES = {
    "raises": ("prefetch=lambda view: 1 // 0", "prefetch raises ZeroDivisionError.*line 3 of mine.py"),
    "wrong type": ("prefetch=lambda view: 7", "prefetch returned 7, not a list of Fetch"),
    "no expert": ("prefetch=lambda view: [Fetch(view.block, (99,))]", "experts 0..5"),
    "no layer": ("prefetch=lambda view: [Fetch(40, (0,))]", "this block or a later one"),
    "forgets": ("on_miss=lambda view, missing: {}", "on_miss forgets expert"),
    "leaves": ("prefetch=lambda view: exit(0)", "prefetch raises SystemExit: 0 .line 3 of mine.py"),
    "leaves a miss": ("on_miss=lambda view, missing: exit(0)", "on_miss raises SystemExit"),
    "leaves buffers": ("buffers=lambda n, m: exit(0)", "buffers raises SystemExit"),
    "leaves a start": ("start=lambda facts: exit(0)", "start raises SystemExit"),
    "empties": ("on_miss=lambda view, missing: missing.clear()", "on_miss raises AttributeError"),
    "no answer": ("on_miss=lambda view, missing: dict.fromkeys(missing, 'cpu')", "it is a MissAction"),
    "buffers": ("buffers=lambda n, m: n", "not Buffers"),
    "buffers raise": ("buffers=lambda n, m: n / 0", "buffers raises ZeroDivisionError"),
    "start": ("start=lambda facts: None", "start returned None"),
    "start raises": ("start=lambda facts: facts.none", "start raises AttributeError"),
    "predictor raises": (
        "prefetch=lambda view: [] if view.predicted(view.block + 1) is None else [], predictor=lambda *a: 1 // 0",
        "predictor raises ZeroDivisionError",
    ),
    "mutates": ("prefetch=lambda view: object.__setattr__(view, 'active', ()) or []", "changes view.active"),
    "assigns": ("prefetch=lambda view: setattr(view, 'active', ()) or []", "raises FrozenInstanceError"),
    "writes": (
        "prefetch=lambda view: view.chosen(view.block).fill(0) or []",
        "prefetch raises ValueError: .*read-only",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_policy_may_not_do_is_one_clear_line(own: Callable[[str], Path], mistake: str) -> None:
    code, reason = MISTAKES[mistake]
    own(made(f"P = Policy('mine', {code})"))
    with pytest.raises(InvalidInput, match=reason) as caught:
        decode("mine.py:P")
    assert "mine.py:P" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_policy_sets_free_does_not_reach_the_trace(own: Callable[[str], Path]) -> None:
    own(
        made(
            """
def prefetch(view):
    chosen = view.chosen(view.block)
    chosen.flags.writeable = True
    chosen[...] = 0
    return []

P = Policy("mine", prefetch=prefetch)"""
        )
    )
    before = TRACE.experts.copy()
    assert decode("mine.py:P").decoded.schedule == capture(MODEL, HW, TRACE, "on_demand").decoded.schedule
    assert (TRACE.experts == before).all()


@pytest.mark.parametrize(
    "code",
    [
        "import random\nP = Policy('mine', prefetch=lambda view: [Fetch(view.block, (random.randrange(6),))])",
        "import numpy as np\nRNG = np.random.default_rng(0)\n"
        "P = Policy('mine', prefetch=lambda view: [Fetch(view.block, (int(RNG.integers(6)),))])",
        "import itertools\nN = itertools.count()\n"
        "P = Policy('mine', prefetch=lambda view: [Fetch(view.block, (next(N) % 5,) if next(N) > 20 else ())])",
    ],
)
def test_a_policy_that_decides_otherwise_the_second_time_is_refused(own: Callable[[str], Path], code: str) -> None:
    own(made(code))
    with pytest.raises(InvalidInput, match=r"decides otherwise when it is asked again, first in step \d"):
        decode("mine.py:P")


def test_the_same_made_anew_in_start_is_allowed(own: Callable[[str], Path]) -> None:
    own(
        made(
            """
import numpy as np
from pregate import Decisions

def start(facts):
    rng = np.random.default_rng(0)
    return Decisions(prefetch=lambda view: [Fetch(view.block, (int(rng.integers(facts.n_experts)),))])

P = Policy("mine", start=start)"""
        )
    )
    assert decode("mine.py:P").decoded.schedule == decode("mine.py:P").decoded.schedule


PEEKS = {
    "the next block": "unions(view)[view.block + 1].experts if view.block + 1 < view.n_blocks else ()",
    "the last block": "unions(view)[-1].experts",
}


@pytest.mark.parametrize("what", PEEKS)
@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_policy_that_looks_behind_the_view_is_refused(own: Callable[[str], Path], what: str, lookahead: int) -> None:
    own(
        made(
            f"""
def unions(view):
    return view.revealed.__self__._unions

def prefetch(view):
    experts = {PEEKS[what]}
    return [Fetch(min(view.block + 1, view.n_blocks - 1), experts)]

P = Policy("mine", prefetch=prefetch, lookahead={lookahead})"""
        )
    )
    if lookahead and what == "the next block":  # which the gate has revealed
        decode("mine.py:P")
        return
    with pytest.raises(InvalidInput, match=r"prefetch knows what the gate of block . of step . will choose"):
        decode("mine.py:P")


def test_an_object_of_python_is_held_to_the_same() -> None:
    steps: Iterator[int] = itertools.count()

    def prefetch(view: pregate.BlockView) -> Sequence[pregate.Fetch]:
        return [pregate.Fetch(view.block, (0,))] if next(steps) > 9 else []

    with pytest.raises(InvalidInput, match="policy counts decides otherwise"):
        capture(MODEL, HW, TRACE, pregate.Policy("counts", prefetch=prefetch))


@pytest.mark.parametrize("name", ["encoder-decoder", "decoder-only"])
@pytest.mark.parametrize("preset", ["pregate", "pregate(2)", "prefetch_all", "lru_next_gate", "on_demand:cheaper=0.5"])
def test_presets_as_code_of_ones_own_see_nothing_they_may_not(preset: str, name: str) -> None:
    """Every preset passes what a user's policy is held to, so that the checks refuse nobody without a reason."""
    model = MODELS[name]
    policy = policy_named(preset)

    def mine(view: pregate.BlockView) -> Any:
        return policy.prefetch(view)

    def answers(view: pregate.BlockView, missing: Sequence[int]) -> Any:
        return policy.on_miss(view, missing)

    own = pregate.Policy(
        "mine", lookahead=policy.lookahead, prefetch=mine, on_miss=answers, predictor=policy.predictor,
        buffers=policy.buffers, cache=policy.cache,
    )  # fmt: skip
    trace = routing(model, batch=3, seed=2)
    capture(model, HW, trace, own)


def test_an_unknown_entry_is_told_what_the_file_itself_has(own: Callable[[str], Path]) -> None:
    """What a file has imported is no policy of it."""
    own("from pregate import BlockView, Policy\n\n\ndef mine() -> Policy:\n    return Policy('mine')\n")
    with pytest.raises(InvalidInput, match=r"unknown policy 'Nothing' in mine.py: .*\bmine\b") as error:
        pregate.load_policy("mine.py:Nothing")
    assert "BlockView" not in str(error.value)
    own("TEXT = 'none'\n")
    with pytest.raises(InvalidInput, match=r"unknown policy 'Nothing' in mine.py: there are none"):
        pregate.load_policy("mine.py:Nothing")
