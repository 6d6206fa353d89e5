"""Prompts whose rows do not state in which passes they were read, and how far that reaches."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from hwmodels.specs.spread import SPREAD_KEYS
from offload.slots.memory import CapacityExceeded
from pregate.measured.constants.spreads import Residual, interval_coverage, residuals
from pregate.measured.row_prediction import RowBench
from pregate.measured.table_prediction import predict_table
from pregate.measured.table_scores import PredictedRow
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
    assert unsaid.note == f"its pass is not stated (-ub): {large.predicted:.4g} {unsaid.row.unit} in the largest usual"
    assert not small.note
    (told,) = predict_table([unsaid.row], cache_dir=False).to_dict()["rows"]
    assert told["note"] == unsaid.note


def test_no_pass_is_taken_to_be_larger_than_the_usual(tmp_path: Path) -> None:
    long, at_most = predicted(tmp_path, input_tokens="8192"), f"{PROMPT['policy']}@ubatch={LARGEST}"
    assert long.larger is not None
    assert long.larger[0] == predicted(tmp_path, input_tokens="8192", policy=at_most).predicted


@pytest.mark.parametrize(
    "cells",
    [
        {"input_tokens": "512"},  # one pass of the engine's own
        {"policy": "gpu_only", "hardware": "rtx-4090"},  # nothing is copied
        {"policy": "gpu_only@experts=cpu:fit", "hardware": "rtx-4090"},  # all fits
        {"policy": "-ot exps=CPU"},  # flags that say none mean the engine's own
        {"metric": "decode_tokens_per_s", "input_tokens": "1"},
        {"stack": "ktransformers"},  # computes its prompts on the host
    ],
)
def test_where_no_pass_is_left_open_an_interval_is_what_it_was(tmp_path: Path, cells: dict[str, str]) -> None:
    assert predicted(tmp_path, **cells).larger is None


def needed(folder: Path, n_tokens: int) -> str:
    """The HBM, as an override, that passes of so many tokens need."""
    told = {"policy": f"{PROMPT['policy']}@ubatch={n_tokens}", "set": "accelerator.hbm_bytes=1GB"}
    (row,) = read(folder, PROMPT | told)
    with pytest.raises(CapacityExceeded) as caught:
        RowBench().predict(row)
    return f"accelerator.hbm_bytes={caught.value.needed_bytes}B"


def test_a_pass_that_memory_has_no_room_for_is_not_taken_to_have_run(tmp_path: Path) -> None:
    assert predicted(tmp_path, set=needed(tmp_path, 512)).larger is None


def test_where_the_largest_has_no_room_a_smaller_pass_is_reached(tmp_path: Path) -> None:
    room = needed(tmp_path, 1024)
    found, half = (predicted(tmp_path, set=room, policy=PROMPT["policy"] + more) for more in ("", "@ubatch=1024"))
    assert found.larger is not None
    assert found.larger[0] == half.predicted > found.predicted


def test_a_pass_is_of_the_tokens_of_all_prompts(tmp_path: Path) -> None:
    cells = {"input_tokens": "400", "batch": "4"}
    found, whole = (predicted(tmp_path, policy=PROMPT["policy"] + more, **cells) for more in ("", "@ubatch=1600"))
    assert found.larger is not None
    assert found.larger[0] == whole.predicted > found.predicted


@pytest.mark.parametrize(("metric", "unit"), [("ttft", "s"), ("e2el", "s"), ("tokens_per_s", "tokens/s")])
def test_every_time_with_a_prompt_in_it_reaches_so_far(metric: str, unit: str, tmp_path: Path) -> None:
    cells = {"metric": metric, "unit": unit}
    found, whole = (predicted(tmp_path, policy=PROMPT["policy"] + more, **cells) for more in ("", "@ubatch=2048"))
    assert found.larger is not None
    assert found.larger[0] == whole.predicted


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
