"""Counts of experts as numbers alone, and what stands in their place by mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pregate
from traces.errors import InvalidFile

COUNTS = np.array([[3, 3, 2, 2], [2, 3, 3, 2], [0, 5, 5, 0]])


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("form", ["d", ".1f", ".18e"])
def test_rows_of_numbers_alone_are_counts(separator: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text(
        "\n".join(separator.join(f"{float(x):{form}}" if "d" not in form else str(x) for x in row) for row in COUNTS)
    )
    assert (pregate.load_popularity(path).counts == COUNTS).all()


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text("\n".join(["3,3,2,2"] * 100 + ["3,3,2"]))
    with pytest.raises(InvalidFile, match="line 101: 3 numbers, not 4"):
        pregate.load_popularity(path)


@pytest.mark.parametrize(
    "rows",
    [
        ["0,0,1,2", "0,1,2,3", "1,0,3,0", "1,1,0,1"],
        ["-2,0,0,1", "-1,0,1,2", "-2,1,1,2", "-1,1,2,3", "0,0,2,3", "0,1,3,0"],
    ],
)
def test_positions_layers_and_choices_stay_a_trace(rows: list[str], tmp_path: Path) -> None:
    path = tmp_path / "moe.csv"
    path.write_text("\n".join(rows) + "\n")
    assert pregate.load_trace(path).experts.shape[1:] == (2, 2)


@pytest.mark.parametrize("header", ["layer_id,expert_id,num_tokens", "layer_idx,expert_idx,activation_frequency"])
def test_a_table_of_tokens_or_frequencies_is_counts(header: str, tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    rows = [f"{layer},{expert},{COUNTS[layer][expert]}" for layer in range(3) for expert in range(4)]
    path.write_text("\n".join([header, *rows]))
    assert (pregate.load_popularity(path).counts == COUNTS).all()


def test_experts_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    path.write_text('{"model.layers.0.mlp": {"expert_0": 2, "expert_1": 3}, "model.layers.1.mlp": {"expert_1": 4}}')
    assert (pregate.load_popularity(path).counts == np.array([[2, 3], [0, 4]])).all()
    path.write_text('{"0": {"expert_1": 2, "e1": 3}}')
    with pytest.raises(InvalidFile, match="counted twice in a layer"):
        pregate.load_popularity(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a pointer of Git LFS"),
        ("<!DOCTYPE html><html></html>", "a page of the web"),
        ('{"schemaVersion": 1, "traceEvents": [{"ph": "X", "name": "gemm"}]}', "a profile of kernels"),
        ('[{"ph": "X", "name": "gemm", "ts": 1}]', "a profile of kernels"),
    ],
)
def test_what_is_no_trace_at_all_says_what_it_is(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(InvalidFile, match=told):
        pregate.load_trace(path)
