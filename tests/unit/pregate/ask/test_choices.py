"""Words that are told before anything is loaded are those that what is loaded later knows."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pytest

import pregate
from pregate import load_hardware, load_model
from tests.command_line import Run
from traces.errors import PregateError

pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.ask.choices import FIGURES, RUN_FORMATS, SUITE_NAMES
from pregate.monitoring.alerts import Thresholds
from pregate.optima.goals import figure_names
from pregate.validation.cases import SUITES
from runtime.memory import TYPES


def test_suites_and_formats_are_those_that_there_are() -> None:
    assert list(SUITE_NAMES) == list(SUITES)
    assert list(RUN_FORMATS) == list(TYPES)


def test_figures_of_a_search_are_the_numbers_of_a_result_and_prices() -> None:
    assert list(FIGURES) == list(figure_names())


MODEL = load_model("switch-base-8")
HW = load_hardware("t4")
TRACE = pregate.synthesize(MODEL, 4, 3)
S8 = ("switch-base-8", "--hardware", "t4")
KNOWN = "gpt-oss-20b-mmlu"

LIMITS: list[tuple[tuple[str, ...], Callable[[], Any]]] = [
    (("compare", *S8, "--batch", "0"), lambda: pregate.synthesize(MODEL, batch=0)),
    (("compare", *S8, "--input-tokens", "0"), lambda: pregate.synthesize(MODEL, input_tokens=0)),
    (("compare", *S8, "--output-tokens", "0"), lambda: pregate.synthesize(MODEL, output_tokens=0)),
    (("compare", *S8, "--active", "0"), lambda: pregate.synthesize(MODEL, n_active=0)),
    (("compare", *S8, "--top-k", "0"), lambda: load_model("switch-base-8", top_k=0)),
    (("compare", *S8, "--hbm", "10"), lambda: load_hardware("t4", None, {"hbm_bytes": 10})),
    (("compare", *S8, "--stack", "nosuch"), lambda: load_hardware("t4", "nosuch")),
    (("compare", S8[0], "--hardware", "nosuch"), lambda: load_hardware("nosuch")),
    (("plan", *S8, "--link", "nosuch"), lambda: load_hardware("t4", None, {"link": "nosuch"})),
    (("plan", *S8, "--host", "nosuch"), lambda: load_hardware("t4", None, {"host": "nosuch"})),
    (("monitor", KNOWN, "--reference", KNOWN, "--held", "0"), lambda: pregate.monitor({"a": TRACE}, TRACE, held=0.0)),
    (("monitor", KNOWN, "--reference", KNOWN, "--alpha", "1"), lambda: Thresholds(alpha=1.0)),
    (("monitor", KNOWN, "--reference", KNOWN, "--hit-rate-loss", "0"), lambda: Thresholds(hit_rate_loss=0.0)),
    (("monitor", KNOWN, "--reference", KNOWN, "--stall-rise", "0"), lambda: Thresholds(stall_rise=0.0)),
    (
        ("monitor", KNOWN, "--reference", KNOWN, "--permutations", "0"),
        lambda: pregate.monitor({"a": TRACE}, TRACE, n_permutations=0),
    ),
    (
        ("crossover", *S8, "--axis", "batch", "--from", "1", "--to", "2", "--points", "1"),
        lambda: pregate.crossovers(MODEL, HW, TRACE, ["pregate", "gpu_only"], "hbm_bytes", 1e9, 2e9, n_scan=1),
    ),
    (("train", "-o", "tr", "--seeds", "1"), lambda: pregate.train("tr", short=True, seeds=1)),
    (("train", "-o", "tr", "--base-steps", "0"), lambda: pregate.train("tr", short=True, base_steps=0)),
    (("train", "-o", "tr", "--arm-steps", "0"), lambda: pregate.train("tr", short=True, arm_steps=0)),
    (("train", "-o", "tr", "--layout", "nosuch"), lambda: pregate.train("tr", short=True, layout="nosuch")),
    (("tune", *S8, "--trace", KNOWN, "--budget-s", "nan"), lambda: pregate.tune(MODEL, HW, TRACE, budget_s=nan)),
    (("tune", *S8, "--trace", KNOWN, "--objective", "x"), lambda: pregate.tune(MODEL, HW, TRACE, objective="x")),
    (("predictors", KNOWN, "--metric", "f1"), lambda: pregate.predictors(TRACE, metric="f1")),
    (("predictors", KNOWN, "--split", "thirds"), lambda: pregate.predictors(TRACE, split="thirds")),
    (("residency", KNOWN, "--policies", "nosuch"), lambda: pregate.residency(TRACE, ["nosuch"], expert_bytes=1)),
    (("residency", KNOWN, "--budgets-mib", "0"), lambda: pregate.residency(TRACE, ["lru"], [0], expert_bytes=1)),
    (("residency", KNOWN, "--expert-bytes", "0"), lambda: pregate.residency(TRACE, ["lru"], [1], expert_bytes=0)),
    (("reproduce", "nosuch"), lambda: pregate.reproduce("nosuch")),
    (("simulate", *S8, "--engine", "nosuch"), lambda: pregate.simulate(MODEL, HW, TRACE, engine="nosuch")),
    (("simulate", *S8, "--tier", "nosuch"), lambda: pregate.simulate(MODEL, HW, TRACE, expert_tier="nosuch")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "call"), LIMITS, ids=[f"{words[0]}{words[-2]}" for words, _ in LIMITS])
def test_what_a_word_may_not_be_its_room_refuses_too(
    words: tuple[str, ...], call: Callable[[], Any], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = run(*words)
    assert (status, error.count("\n")) == (2, 1)
    with pytest.raises(PregateError):
        call()
    assert not list(tmp_path.iterdir())
