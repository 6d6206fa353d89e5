"""Policies that a user wrote: named on the command line, held to what a policy may do, known again by what they say."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import pregate
from hwmodels.platform import load_platform
from offload.own_code import OwnCode
from offload.policies import policy_named
from pregate.ask.capture import capture
from pregate.ask.request import request
from pregate.ask.schedule_cache import ScheduleCache, lasting_key
from tests.command_line import Run, runner
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, PregateError

MODEL = MODELS["decoder-only"]
HW = load_platform("rtx-4090")
TRACE = routing(MODEL, batch=1, seed=5)

AGAIN = """
from pregate import Buffers, Decisions, Fetch, Policy


def again(facts):
    last = {}

    def prefetch(view):
        last[view.block] = view.active
        after = view.block + 1
        return [Fetch(after, last[after])] if after in last and after < view.n_blocks else []

    return Decisions(prefetch=prefetch)


def Again(slots: int = 2, word: str = "") -> Policy:
    return Policy("again", start=again, buffers=lambda n_active, n_experts: Buffers(n_active, slots * n_active))


PLAIN = Policy("plain")
NUMBER = 7


def Needs(depth):
    return Policy("needs")


def Other():
    return "a policy"


def Broken(depth=1):
    return 1 // 0


def Leaves():
    exit(0)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes code to `mine.py` in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(code)
        return path

    return write


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def made(text: str) -> str:
    return f"from pregate import *\nfrom pregate import Fetch, MissAction, Policy\n{text}\n"


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
    own: Callable[[str], Path], command: Run, name: str, reason: str
) -> None:
    own(AGAIN)
    status, out, err = command("compare", "switch-mini-16", "--hardware", "rtx-4090", "--policies", name)
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


def test_an_edited_file_has_another_key_and_no_schedule_of_before(own: Callable[[str], Path], tmp_path: Path) -> None:
    cache = ScheduleCache(tmp_path / "cache")
    own(made("P = Policy('mine', prefetch=lambda view: [])"))
    first = request(MODEL, HW, TRACE, pregate.load_policy("mine.py:P"))
    kept = cache.captured(first)
    key = lasting_key(first)
    assert key is not None
    assert cache.load(key) == kept.decoded
    own(made("P = Policy('mine', prefetch=lambda view: [Fetch(view.block, (0,))])"))
    with pytest.raises(InvalidInput, match="not loaded as it is now"):
        policy_named("mine.py:P")
    second = request(MODEL, HW, TRACE, pregate.load_policy("mine.py:P"))
    assert lasting_key(second) not in (None, key)
    assert second.key != first.key
    assert cache.captured(second).decoded.schedule != kept.decoded.schedule


@pytest.mark.parametrize(
    ("code", "closed"),
    [
        ("import math", True),
        ("from collections import Counter", True),
        ("import numpy as np\nx = np.zeros(3)", True),
        ("from offload.policies.pregate import SelectedAhead", True),
        ("import os", False),
        ("from . import x", False),
        ("import numpy as np\nx = np.load('a')", False),
        ("x = open('a')", False),
        ("from numpy import load", False),
        ("from pathlib import Path", False),
        ("__import__('os')", False),
        ("x = getattr(1, 'real')", False),
    ],
)
def test_a_file_that_may_read_others_is_never_kept_on_disk(code: str, closed: bool) -> None:
    assert OwnCode("mine.py", code).is_closed is closed


def test_arguments_and_caches_are_part_of_the_key(own: Callable[[str], Path]) -> None:
    own(AGAIN)
    names = ("mine.py:Again", "mine.py:Again:slots=3", "mine.py:Again+lru:4", "mine.py:Again:word=x", "mine.py:PLAIN")
    keys = {lasting_key(request(MODEL, HW, TRACE, pregate.load_policy(name))) for name in names}
    assert len(keys - {None}) == len(names)


def test_what_python_changed_of_a_loaded_policy_is_kept_nowhere(own: Callable[[str], Path]) -> None:
    from dataclasses import replace

    own(AGAIN)
    changed = replace(pregate.load_policy("mine.py:PLAIN"), prefetch=lambda view: [])
    assert lasting_key(request(MODEL, HW, TRACE, changed)) is None


def test_a_policy_is_sent_as_its_code(own: Callable[[str], Path], tmp_path: Path) -> None:
    path = own(AGAIN)
    policy = pregate.load_policy("mine.py:Again:slots=3+lru:4")
    sent = tmp_path / "sent.pickle"
    sent.write_bytes(pickle.dumps(policy))
    path.unlink()  # a worker elsewhere has no such file
    code = (
        f"import pickle; p = pickle.load(open({str(sent)!r}, 'rb')); "
        f"print(p.name, p.buffers(2, 6).full, p.cache.n_slots, p.source.code.digest)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert policy.source is not None
    assert run.stdout.split() == [policy.name, "6", "4", policy.source.code.digest], run.stderr


SWEEP = "model: switch-mini-16\nhardware: rtx-4090\nworkload: {input_tokens: 4, output_tokens: 3}\n"


def test_a_yaml_file_runs_no_code_and_the_command_line_does(
    own: Callable[[str], Path], command: Run, tmp_path: Path
) -> None:
    own(AGAIN + "\nopen('ran', 'w').close()\n")
    (tmp_path / "sweep.yaml").write_text(f"{SWEEP}policies: [pregate, './mine.py:Again']\naxes: {{batch: [1, 2]}}\n")
    status, _, err = command("sweep", "sweep.yaml", "--no-cache")
    assert status == 2
    assert "a YAML file runs no code, give it by --policies" in err
    assert not (tmp_path / "ran").exists()
    own(AGAIN)
    words = ("sweep", "sweep.yaml", "--no-cache", "--format", "json", "--policies")
    status, out, err = command(*words, "./mine.py:Again,pregate")
    assert status == 0, err
    assert "./mine.py:Again" in out
    status, again, err = command(*words, "./mine.py:Again,pregate", "--jobs", "1")
    assert status == 0, err
    assert again == out


def test_from_python_text_that_nobody_loaded_runs_nothing(own: Callable[[str], Path], tmp_path: Path) -> None:
    own(AGAIN + "\nopen('ran', 'w').close()\n# of this test\n")
    with pytest.raises(InvalidInput, match=r"pregate\.load_policy"):
        pregate.simulate(MODEL, HW, TRACE, "mine.py:Again")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "switch-mini-16", "--hardware", "rtx-4090", "--policy"),
        ("explain", "switch-mini-16", "--hardware", "rtx-4090", "--policy"),
        ("compare", "switch-mini-16", "--hardware", "rtx-4090", "--policies"),
        ("cost", "switch-mini-16", "--hardware", "rtx-4090", "--policies"),
        ("optimize", "switch-mini-16", "--hardware", "rtx-4090", "--minimize", "tpot_s", "--policies"),
    ],
)
def test_every_command_takes_it(own: Callable[[str], Path], command: Run, words: tuple[str, ...]) -> None:
    own(AGAIN)
    status, out, err = command(*words, "./mine.py:Again:slots=3", "--output-tokens", "3", "--input-tokens", "4")
    assert status == 0, err
    assert "mine.py:Again" in out


def test_a_plan_judges_it_beside_the_designs_of_the_software(own: Callable[[str], Path], command: Run) -> None:
    own(AGAIN)
    words = ("plan", "mixtral-mini-8", "--hardware", "rtx-4090", "--input-tokens", "16", "--output-tokens", "8")
    now = (*words, "--stack", "streams", "--format", "json", "--now", "./mine.py:Again")
    status, out, err = command(*now, "--policies", "./mine.py:Again:slots=3")
    assert status == 0, err
    assert "streams/./mine.py:Again" in out
    job = pregate.RequestLoad(16, 8)
    with_it = pregate.plan("mixtral-mini-8", HW, job, policies=["./mine.py:Again"]).choice
    without = pregate.plan("mixtral-mini-8", HW, job).choice
    assert len(with_it.ranked) == len(without.ranked) + 1


def test_evictions_are_no_place_for_it(own: Callable[[str], Path], command: Run) -> None:
    own(AGAIN)
    status, _, err = command("residency", "gpt-oss-20b-mmlu", "--policies", "mine.py:Again")
    assert status == 2
    assert "residency replays evictions" in err


ROOT = Path(__file__).resolve().parents[2]


def test_the_worked_example_is_what_the_document_shows_and_runs(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = (ROOT / "docs" / "policies.md").read_text()
    code = (ROOT / "examples" / "again.py").read_text()
    assert code[code.index("from pregate") :] in shown
    lines = [line[2:].split()[1:] for line in shown.splitlines() if line.startswith("$ pregate")]
    assert lines
    for words in lines:
        status, out, err = command(*words)
        assert status == 0, err
        assert "examples/again.py:again:slots=4+lru:0.1" in out
