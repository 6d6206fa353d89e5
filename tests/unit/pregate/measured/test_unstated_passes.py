"""Prompts whose rows do not state in which passes they were read, and how far that reaches."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from hwmodels.specs.spread import SPREAD_KEYS
from pregate.measured.constants.spreads import Residual, interval_coverage, residuals
from pregate.measured.table_prediction import PredictedRow, predict_table
from pregate.measured.unstated_passes import LARGEST
from tests.table_rows import ROW, read

PROMPT = ROW | {
    "model": "qwen3-30b-a3b", "hardware": "rtx-4080", "host": "ryzen-7950x", "formats": "all=q4_k_m",
    "stack": "llama-cpp", "policy": "gpu_only@experts=cpu", "metric": "prefill_tokens_per_s", "input_tokens": "2048",
    "output_tokens": "2",
}  # fmt: skip


def predicted(folder: Path, **cells: str) -> PredictedRow:
    (row,) = read(folder, PROMPT | cells)
    (found,) = predict_table([row], cache_dir=False).rows
    assert not found.reason
    return found


def test_a_prompt_of_an_unstated_pass_reaches_to_what_the_largest_gives(tmp_path: Path) -> None:
    unsaid = predicted(tmp_path)
    small, large = (predicted(tmp_path, policy=f"{PROMPT['policy']}@ubatch={n}") for n in (512, 2048))
    assert unsaid.predicted == small.predicted < large.predicted / 1.5
    assert unsaid.interval is not None
    assert small.interval is not None
    assert large.interval is not None
    assert unsaid.interval == (small.interval[0], large.interval[1])
    assert small.larger is None
    assert unsaid.larger is not None
    assert unsaid.larger[0] == large.predicted


def test_no_pass_is_taken_to_be_larger_than_the_usual(tmp_path: Path) -> None:
    long, at_most = predicted(tmp_path, input_tokens="8192"), f"{PROMPT['policy']}@ubatch={LARGEST}"
    assert long.larger is not None
    assert long.larger[0] == predicted(tmp_path, input_tokens="8192", policy=at_most).predicted


@pytest.mark.parametrize(
    "cells",
    [
        {"input_tokens": "512"},  # one pass of the engine's own
        {"policy": "gpu_only", "hardware": "rtx-4090"},  # nothing is copied
        {"policy": "-ot exps=CPU"},  # flags that say none mean the engine's own
        {"metric": "decode_tokens_per_s", "input_tokens": "1"},
        {"stack": "ktransformers"},  # computes its prompts on the host
    ],
)
def test_where_no_pass_is_left_open_an_interval_is_what_it_was(tmp_path: Path, cells: dict[str, str]) -> None:
    assert predicted(tmp_path, **cells).larger is None


def test_a_pass_that_memory_has_no_room_for_is_not_taken_to_have_run(tmp_path: Path) -> None:
    assert predicted(tmp_path, set="accelerator.hbm_bytes=2.16GB").larger is None


def test_a_row_is_inside_where_an_interval_of_one_of_its_passes_holds_it(tmp_path: Path) -> None:
    (row,) = read(tmp_path, PROMPT)
    (found,) = residuals(predict_table([row], cache_dir=False))
    assert found.larger is not None
    depends = tuple(float(key == "stack.cpu_efficiency") for key in SPREAD_KEYS)
    others = [Residual(f"{i}", f"source {i}", 0.1 * (-1) ** i, depends) for i in range(12)]
    far = found.larger[0] + 1.4  # what is copied from pageable memory scatters so far
    inside = [dataclasses.replace(found, off=off) for off in (far, math.log(1.01))]
    outside = [dataclasses.replace(found, off=far, larger=None), dataclasses.replace(found, off=-3.0)]
    held = [interval_coverage([*others, one]) for one in (*inside, *outside)]
    least = held[-1].n_inside
    assert [one.n_inside - least for one in held] == [1, 1, 0, 0]
