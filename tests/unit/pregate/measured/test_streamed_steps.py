"""Steps of an engine that streams experts: laws by hand, and what constants of one run say of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwmodels.cost import price_figures
from offload.ops import OpKind
from pregate.measured.streamed_steps import (
    PARTS,
    ReaderConstants,
    StreamedRun,
    constants_of_run,
    load_runs,
    median_errors,
    predict_steps,
    reader_figures,
    steps_schedule,
)
from tests.engines import timed_alike
from traces.errors import InvalidInput, UnknownName


def run_of(read_bytes: float, n_readers: int = 4) -> StreamedRun:
    none = {part: np.ones(1) for part in PARTS}
    return StreamedRun("r", "gpt-oss-120b", 2, n_readers, none, np.array([read_bytes]))


RATES = ReaderConstants(10e9, 1e9, 1e12, 5e9)
EXPERT, DENSE, LAYERS = 13_219_200, 23_003_648, 36


def test_a_step_that_reads_nothing_computes_only() -> None:
    found = predict_steps(run_of(0.0), RATES)
    touched_ms = LAYERS * (DENSE + 2 * EXPERT) / 10e9 * 1e3
    assert found["compute"][0] == pytest.approx(touched_ms)
    assert found["wall"][0] == pytest.approx(touched_ms)
    assert found["reading"][0] == found["filing"][0] == 0
    assert found["stall"][0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n_readers", [1, 2, 3, 4, 6, 8])
def test_a_product_waits_for_its_matrix_of_every_expert(n_readers: int) -> None:
    """By hand, of a layer that misses both of its experts: six reads in rounds, three products of two matrices each."""
    found = predict_steps(run_of(LAYERS * 2 * EXPERT, n_readers), RATES)
    part, now_s, stall_s = EXPERT / 3, 0.0, 0.0
    for matrix in range(3):
        landed_s = (1 + (2 * matrix + 1) // n_readers) * part / 1e9
        stall_s += max(0.0, landed_s - now_s)
        now_s = max(now_s, landed_s) + 2 * part / 5e9 + 2 * part / 10e9
    assert found["stall"][0] == pytest.approx(LAYERS * stall_s * 1e3, rel=1e-5)
    assert found["filing"][0] == pytest.approx(LAYERS * 2 * EXPERT / 5e9 * 1e3)
    assert found["reading"][0] == pytest.approx(LAYERS * 2 * EXPERT / 1e9 * 1e3, rel=1e-5)


def test_experts_that_are_there_wait_for_one_that_is_not() -> None:
    """Where one of two is missed, a layer multiplies nothing before the first matrix of that one has landed."""
    misses = run_of(LAYERS * EXPERT, 4)
    for seed in (0, 1):
        schedule = steps_schedule(misses, np.random.default_rng(seed))
        n_waiting = np.unique(schedule.layer[schedule.kind == OpKind.DISK_READ]).size
        stall_ms = predict_steps(misses, RATES, seed)["stall"][0]
        assert LAYERS / 2 < n_waiting < LAYERS
        assert stall_ms >= n_waiting * EXPERT / 3 / 1e9 * 1e3 * (1 - 1e-9)


def test_storage_is_no_faster_than_it_was_seen_to_be() -> None:
    shared = ReaderConstants(10e9, 1e9, 2e9, 5e9)
    found = predict_steps(run_of(LAYERS * 2 * EXPERT, 6), shared)
    assert found["stall"][0] >= LAYERS * EXPERT / 2e9 * 1e3
    assert found["reading"][0] == pytest.approx(LAYERS * 6 * 2 * EXPERT / 2e9 * 1e3)


def test_every_engine_gives_the_same_steps() -> None:
    schedule = steps_schedule(run_of(LAYERS * EXPERT), np.random.default_rng(1))
    costs = price_figures(schedule.works, reader_figures(RATES))
    timed_alike(schedule, costs)
    reads, filings = (int(schedule.bytes[schedule.kind == kind].sum()) for kind in (OpKind.DISK_READ, OpKind.FILE))
    assert reads == filings == LAYERS * EXPERT


def test_constants_of_a_run_give_back_its_middle() -> None:
    run = next(run for run in load_runs() if run.name == "lanes4_k2")
    rates = constants_of_run(run)
    found = predict_steps(run, rates)
    assert found["compute"][0] == pytest.approx(np.median(run.parts["compute"]))
    assert found["reading"].sum() == pytest.approx(run.parts["reading"].sum(), rel=0.03)


def test_one_run_of_one_model_predicts_the_other_runs_and_the_other_model() -> None:
    """Where no system takes memory away: the wall within 9 %, eight readers as well as four."""
    errors = median_errors(load_runs(), "qwen-lru_a")
    for name in ("qwen-lru_b", "lanes4_k2", "lanes8_k2", "cliff_k4_c1500", "qwen-traced"):
        assert errors[name]["wall"] < 0.09, name
        assert errors[name]["stall"] < 0.15, name
        assert errors[name]["reading"] < 0.06, name
    assert errors["gptoss-traced"]["compute"] > 0.5  # its system took memory away, which nothing here knows


def test_wrong_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no run 'x': there are qwen-lru_a"):
        median_errors(load_runs(), "x")
    (tmp_path / "t.csv").write_text("run,model,top_k,io_lanes,step\na,nosuch,1,1,1\n")
    with pytest.raises(UnknownName, match="nosuch"):
        load_runs(tmp_path / "t.csv")
