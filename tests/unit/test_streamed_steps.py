"""Steps of an engine that streams experts: laws by hand, and what constants of one run say of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pregate.measured.streamed_steps import (
    PARTS,
    ReaderConstants,
    StreamedRun,
    constants_of_run,
    load_runs,
    median_errors,
    predict_steps,
)
from traces.errors import InvalidInput, UnknownName


def run_of(read_bytes: float, n_readers: int = 4) -> StreamedRun:
    none = {part: np.ones(1) for part in PARTS}
    return StreamedRun("r", "gpt-oss-120b", 2, n_readers, none, np.array([read_bytes]))


RATES = ReaderConstants(10e9, 1e9, 5e9)
EXPERT, DENSE, LAYERS = 13_219_200, 23_003_648, 36


def test_a_step_that_reads_nothing_computes_only() -> None:
    found = predict_steps(run_of(0.0), RATES)
    touched_ms = LAYERS * (DENSE + 2 * EXPERT) / 10e9 * 1e3
    assert found["compute"][0] == pytest.approx(touched_ms)
    assert found["wall"][0] == pytest.approx(touched_ms)
    assert found["stall"][0] == found["reading"][0] == found["filing"][0] == 0


@pytest.mark.parametrize(("n_readers", "rounds"), [(4, 2), (6, 1), (1, 6)])
def test_a_step_that_reads_all_waits_for_rounds_of_matrices(n_readers: int, rounds: int) -> None:
    found = predict_steps(run_of(LAYERS * 2 * EXPERT, n_readers), RATES)
    assert found["stall"][0] == pytest.approx(LAYERS * rounds * EXPERT / 3 / 1e9 * 1e3)
    assert found["reading"][0] == pytest.approx(LAYERS * 2 * EXPERT / 1e9 * 1e3)
    assert found["filing"][0] == pytest.approx(LAYERS * 2 * EXPERT / 5e9 * 1e3)


def test_resident_experts_are_computed_while_others_are_read() -> None:
    """Half are missed: one or both of a layer. Four readers read one in a round while the other one computes."""
    found = predict_steps(run_of(LAYERS * EXPERT), RATES)
    one_s, both_s = EXPERT / 3 / 1e9 - EXPERT / 10e9, 2 * EXPERT / 3 / 1e9
    assert found["stall"][0] == pytest.approx(LAYERS * (0.5 * one_s + 0.25 * both_s) * 1e3)


def test_constants_of_a_run_give_back_its_middle() -> None:
    run = next(run for run in load_runs() if run.name == "lanes4_k2")
    rates = constants_of_run(run)
    found = predict_steps(run, rates)
    assert found["compute"][0] == pytest.approx(np.median(run.parts["compute"]))
    assert found["reading"].sum() == pytest.approx(run.parts["reading"].sum())


def test_one_run_of_one_model_predicts_the_other_model() -> None:
    """With as many readers, and no system that takes memory away: the wall within 8 %."""
    errors = median_errors(load_runs(), "qwen-lru_a")
    for name in ("lanes4_k2", "qwen-lru_b", "qwen-traced"):
        assert errors[name]["wall"] < 0.08
        assert errors[name]["reading"] < 0.06
    assert errors["lanes4_k2"]["stall"] < 0.12
    assert errors["lanes8_k2"]["reading"] > 0.2  # a full flash, which four readers do not show


def test_wrong_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no run 'x': there are qwen-lru_a"):
        median_errors(load_runs(), "x")
    (tmp_path / "t.csv").write_text("run,model,top_k,io_lanes,step\na,nosuch,1,1,1\n")
    with pytest.raises(UnknownName, match="nosuch"):
        load_runs(tmp_path / "t.csv")
