"""docs/which-design.md: its cells are what the ranking says, its criticisms hold on a few points."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pregate.card.choice import TIED

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    spec = importlib.util.spec_from_file_location("which_design", DOCS / "which_design.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(DOCS))
    return module


def test_every_cell_is_kept(page: ModuleType) -> None:
    kept = json.loads(page.RESULTS.read_text())["cells"]
    asked = {(m, h, b, p) for m in page.MODELS for h in page.MACHINES for b in page.BATCHES for p in page.PROMPTS}
    assert {(c["model"], c["machine"], c["batch"], c["input_tokens"]) for c in kept} == asked
    for cell in kept:
        if cell["best"] is not None:
            assert cell["designs"][cell["best"]] <= TIED * min(cell["designs"].values())
            straddles = cell["margin"] is not None and cell["margin"][1] < 1 < cell["margin"][2]
            assert straddles <= bool(cell["rivals"])


def test_a_cell_is_what_is_computed_today(page: ModuleType) -> None:
    kept = json.loads(page.RESULTS.read_text())["cells"]
    cell = next(c for c in kept if (c["model"], c["machine"], c["batch"]) == ("gpt-oss-120b", "rtx-4090", 1))
    fresh = page.ranked((cell["model"], cell["machine"], cell["batch"], cell["input_tokens"]))
    assert fresh["best"] == cell["best"]
    assert fresh["designs"] == pytest.approx(cell["designs"], rel=2e-3)


def test_a_rule_takes_the_first_of_its_designs_that_fits(page: ModuleType) -> None:
    cell = {"designs": {"pregate": 3.0, "gpu_only@experts=cpu:keep=7": 2.0}}
    assert page._by_rule(cell, ("gpu_only", "pregate")) == 3.0
    assert page._by_rule(cell, ("gpu_only", "gpu_only@experts=cpu:keep=")) == 2.0
    assert page._by_rule(cell, ("gpu_only",)) is None


def test_a_faster_gpu_over_the_same_link_gains_less(page: ModuleType) -> None:
    gains = [page._tpot("on_demand", 31.5, faster=f) / page._tpot("pregate", 31.5, faster=f) for f in (0.25, 1.0, 8.0)]
    assert gains[0] > gains[1] > gains[2] > 1


def test_further_ahead_moves_nothing_without_a_cache(page: ModuleType) -> None:
    assert page._tpot("pregate(3)", 31.5) == pytest.approx(page._tpot("pregate", 31.5), rel=1e-3)
    one, three = (page._tpot(f"{p}+lru:0.75", 64.0, n_tokens=24) for p in ("pregate", "pregate(3)"))
    assert three < 0.95 * one
