"""What a policy of a user's own is to caches, keys and other processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pregate
from offload.own_policies.own_code import OwnCode
from offload.policies import policy_named
from pregate.ask.capturing.request import request
from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_key
from tests.command_line import Run
from tests.policies_of_ones_own import AGAIN, HW, MODEL, TRACE, made
from traces.errors import InvalidInput


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
        ("from offload.prefetching.selected_ahead import SelectedAhead", True),
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
    own: Callable[[str], Path], run: Run, tmp_path: Path
) -> None:
    own(AGAIN + "\nopen('ran', 'w').close()\n")
    (tmp_path / "sweep.yaml").write_text(f"{SWEEP}policies: [pregate, './mine.py:Again']\naxes: {{batch: [1, 2]}}\n")
    status, _, err = run("sweep", "sweep.yaml", "--no-cache")
    assert status == 2
    assert "a YAML file runs no code, give it by --policies" in err
    assert not (tmp_path / "ran").exists()
    own(AGAIN)
    words = ("sweep", "sweep.yaml", "--no-cache", "--format", "json", "--policies")
    status, out, err = run(*words, "./mine.py:Again,pregate")
    assert status == 0, err
    assert "./mine.py:Again" in out
    status, again, err = run(*words, "./mine.py:Again,pregate", "--jobs", "1")
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
def test_every_command_takes_it(own: Callable[[str], Path], run: Run, words: tuple[str, ...]) -> None:
    own(AGAIN)
    status, out, err = run(*words, "./mine.py:Again:slots=3", "--output-tokens", "3", "--input-tokens", "4")
    assert status == 0, err
    assert "mine.py:Again" in out


def test_a_plan_judges_it_beside_the_designs_of_the_software(own: Callable[[str], Path], run: Run) -> None:
    own(AGAIN)
    words = ("plan", "mixtral-mini-8", "--hardware", "rtx-4090", "--input-tokens", "16", "--output-tokens", "8")
    now = (*words, "--stack", "streams", "--format", "json", "--now", "./mine.py:Again")
    status, out, err = run(*now, "--policies", "./mine.py:Again:slots=3")
    assert status == 0, err
    assert "streams/./mine.py:Again" in out
    job = pregate.RequestLoad(16, 8)
    with_it = pregate.plan("mixtral-mini-8", HW, job, policies=["./mine.py:Again"]).choice
    without = pregate.plan("mixtral-mini-8", HW, job).choice
    assert len(with_it.ranked) == len(without.ranked) + 1


def test_evictions_are_no_place_for_it(own: Callable[[str], Path], run: Run) -> None:
    own(AGAIN)
    status, _, err = run("residency", "gpt-oss-20b-mmlu", "--policies", "mine.py:Again")
    assert status == 2
    assert "residency replays evictions" in err


ROOT = Path(__file__).resolve().parents[4]


def test_the_worked_example_is_what_the_document_shows_and_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = (ROOT / "docs" / "policies.md").read_text()
    code = (ROOT / "examples" / "again.py").read_text()
    assert code[code.index("from pregate") :] in shown
    lines = [line[2:].split()[1:] for line in shown.splitlines() if line.startswith("$ pregate")]
    assert lines
    for words in lines:
        status, out, err = run(*words)
        assert status == 0, err
        assert "examples/again.py:again:slots=4+lru:0.1" in out
