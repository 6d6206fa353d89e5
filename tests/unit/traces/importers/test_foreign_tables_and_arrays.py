"""Recordings with small variations: columns in any order, other names, arrays in any container, layers first."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from traces.errors import InvalidFile, InvalidInput
from traces.importers import import_trace
from traces.importers.counts.expert_counts import import_popularity
from traces.importers.model_shape import ModelShape
from traces.model.architecture import load_architecture
from traces.phase import Phase

EXPERTS = np.array([[[(t + layer) % 4, (t + layer + 1) % 4] for layer in range(2)] for t in range(5)])
SHAPE = ModelShape(n_layers=3, n_moe_layers=2, n_experts=4, top_k=2)
COLUMNS = ("phase", "token", "layer", "rank", "expert")
ROWS = [
    dict(zip(COLUMNS, ("decode" if t > 2 else "prefill", t, layer, slot, EXPERTS[t, layer, slot]), strict=True))
    for t in range(5)
    for layer in range(2)
    for slot in range(2)
]
CELLS = [
    {"Layer": layer, "token_idx": t, "experts": "[" + ", ".join(map(str, EXPERTS[t, layer])) + "]", "us": 3}
    for t in range(5)
    for layer in range(2)
]
COUNTS = [[3.0, 3.0, 2.0, 2.0], [2.0, 3.0, 3.0, 2.0]]
COUNTED = [{"expert_id": e, "layer": i, "count": COUNTS[i][e]} for e in range(4) for i in range(2)]


def table(rows: list[dict[str, Any]], columns: tuple[str, ...], separator: str = ",", first: str = "") -> str:
    quoted = [[f'"{row[name]}"' if "[" in str(row[name]) else str(row[name]) for name in columns] for row in rows]
    return first + "\n".join(separator.join(line) for line in [list(columns), *quoted]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        table(ROWS, ("token", "layer", "rank", "expert", "phase")),
        table(ROWS, COLUMNS, ";"),
        table(ROWS, COLUMNS, "\t"),
        table(ROWS, COLUMNS, ", "),
        table(ROWS, COLUMNS, first="# recorded by hand\n"),
        table(ROWS, COLUMNS).replace("phase,token", "Phase,Token"),
        table([row | {"us": 7} for row in ROWS], (*COLUMNS, "us")),
        table(ROWS, ("layer", "phase", "token", "expert")),
    ],
)
def test_columns_are_found_by_their_names(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    trace = import_trace(path)
    assert np.array_equal(trace.experts, EXPERTS)
    assert trace.phase.tolist() == [Phase.PREFILL] * 3 + [Phase.DECODE] * 2


def test_a_cell_may_hold_all_experts_of_a_layer(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(table(CELLS, ("Layer", "token_idx", "experts", "us")))
    assert np.array_equal(import_trace(tmp_path / "trace.csv").experts, EXPERTS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"phase": "idle"}, "phase 'idle' is neither prefill"),
        ({"expert": "x"}, "'x' is not a whole number"),
        ({"rank": 300}, "slot 300 is not 0 to 255"),
        ({"token": 1, "layer": 0, "rank": 0}, "comes twice"),
        ({"expert": '"1'}, "line 5: no row of a table"),
    ],
)
def test_a_row_that_says_nothing_is_named(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    rows = [*ROWS[:3], ROWS[3] | change, *ROWS[4:]]
    (tmp_path / "trace.csv").write_text(table(rows, COLUMNS[::-1]))
    with pytest.raises(InvalidFile, match=expected):
        import_trace(tmp_path / "trace.csv")


def test_a_column_under_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(table([row | {"pos": 0} for row in ROWS], ("pos", *COLUMNS)))
    with pytest.raises(InvalidFile, match="not a routing trace of a known format"):
        import_trace(tmp_path / "trace.csv")
    with pytest.raises(InvalidFile, match="position, layer, experts are needed, once each"):
        import_trace(tmp_path / "trace.csv", "table")


@pytest.mark.parametrize("with_model", [True, False])
def test_experts_that_count_from_one_are_read_where_the_model_is_known(with_model: bool, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(table([row | {"expert": row["expert"] + 1} for row in ROWS], COLUMNS))
    if with_model:
        trace = import_trace(path, None, SHAPE)
        assert trace.experts.max() == 3
        assert "numbered from 1 to 4 there: 1 is subtracted" in trace.provenance.note
    else:
        assert "taken as the largest id and one" in import_trace(path).provenance.note


def npz(name: str) -> Callable[[Path, Any], None]:
    return lambda path, array: np.savez(path, **{name: array})


def plain_npy(path: Path, array: Any) -> None:
    np.save(path, array)


def tensors(path: Path, array: Any) -> None:
    save_file({"routed_experts": np.ascontiguousarray(array)}, path)


def lists(path: Path, array: Any) -> None:
    path.write_text(json.dumps(array.tolist()))


WRITERS = [
    ("a.npz", npz("experts")), ("a.npz", npz("topk_ids")), ("a.npz", npz("arr_0")), ("a.npy", plain_npy),
    ("a.safetensors", tensors), ("a.json", lists),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("layers_first", [False, True])
def test_an_array_of_choices_is_read_from_any_container(
    name: str, write: Callable[[Path, Any], None], layers_first: bool, tmp_path: Path
) -> None:
    write(tmp_path / name, EXPERTS.swapaxes(0, 1) if layers_first else EXPERTS)
    assert np.array_equal(import_trace(tmp_path / name, None, SHAPE).experts, EXPERTS)


def test_an_array_of_another_models_layers_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", EXPERTS)
    with pytest.raises(InvalidFile, match="neither of its first two axes has the model's 7 layers"):
        import_trace(tmp_path / "a.npy", None, ModelShape(n_moe_layers=7))


SCORES = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
CHOSEN = np.argsort(-SCORES, axis=2)[:, :, :2].swapaxes(0, 1)


@pytest.mark.parametrize(
    "arrays",
    [{"router_logits": SCORES}, {"logits": SCORES.swapaxes(0, 1)}, {f"layers.{i + 9}.gate": SCORES[i] for i in (1, 0)},
     {"router_probs": np.exp(SCORES) / np.exp(SCORES).sum(-1, keepdims=True)}],
)  # fmt: skip
def test_scores_of_routers_become_the_largest(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert np.array_equal(import_trace(tmp_path / "a.npz", None, SHAPE).experts, CHOSEN)
    with pytest.raises(InvalidFile, match=r"say the model it is of \(--model NAME\)"):
        import_trace(tmp_path / "a.npz")


def test_counts_in_three_axes_stay_counts(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", counts=np.ones((3, 2, 4)))
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace"):
        import_trace(tmp_path / "a.npz")


def test_lines_that_hold_all_layers_of_a_token_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"token": t, "experts": EXPERTS[t].tolist()}) for t in range(5)))
    assert np.array_equal(import_trace(path).experts, EXPERTS)
    path.write_text(json.dumps({"token": 0, "experts": [[0, "x"]]}))
    with pytest.raises(InvalidFile, match="expert x is not a whole number"):
        import_trace(path)


def test_pickles_are_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"experts": EXPERTS}))
    with pytest.raises(InvalidFile, match=r"a pickle, which runs code.*save its arrays with numpy.savez"):
        import_trace(tmp_path / "a.pkl")
    np.savez(tmp_path / "a.npz", experts=np.array([{}], dtype=object))
    with pytest.raises(InvalidFile, match="it holds Python objects"):
        import_trace(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", table(COUNTED, ("expert_id", "layer", "count"))),
        ("a.csv", table(COUNTED, ("count", "layer", "expert_id"), "\t")),
        ("a.json", json.dumps({"layer_1": COUNTS[1], "layer_0": COUNTS[0]})),
        ("a.json", json.dumps({f"model.layers.{i + 9}.mlp": COUNTS[i] for i in range(2)})),
        ("a.jsonl", "\n".join(json.dumps({"layer": i, "counts": COUNTS[i]}) for i in (1, 0))),
    ],
)
def test_counts_under_other_names_are_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert import_popularity(tmp_path / name).counts.tolist() == COUNTS


def test_a_recording_of_some_layers_says_so_when_it_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(table([row for row in ROWS if row["layer"] == 0], COLUMNS))
    assert "1 of the model's 2 MoE layers" in import_trace(path, None, SHAPE).provenance.note
    assert "MoE layers" not in import_trace(path).provenance.note


def test_a_trace_of_no_stated_model_is_told_of_without_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(table(ROWS, COLUMNS))
    with pytest.raises(InvalidInput, match=r"^the trace has n_moe_layers = 2, model switch-base-8"):
        import_trace(path).check_model(load_architecture("switch-base-8"))


def test_ids_of_a_vocabulary_are_no_positions(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("token_id,layer,experts\n15043,0,1 2\n29892,0,0 3\n")
    with pytest.raises(InvalidFile, match="token_id is not 0 to n - 1: ids of a vocabulary"):
        import_trace(path)


def test_a_list_in_a_row_of_json_holds_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"token": 0, "layer": 0, "expert_ids": [1, "x"]}\n')
    with pytest.raises(InvalidFile, match=r"line 1: .* is no list of numbers"):
        import_trace(path)


def test_a_matrix_a_layer_where_an_expert_comes_twice_is_no_choice(tmp_path: Path) -> None:
    """[n_steps, n_experts] of counts, which have the same axes."""
    path = tmp_path / "t.npz"
    np.savez(path, layer_0=np.array([[3, 3, 1, 0]]), layer_1=np.array([[1, 1, 2, 3]]))
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace"):
        import_trace(path)


def test_lists_of_choices_a_layer_are_no_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"layer_0": [[1, 1], [2, 3]], "layer_1": [[0, 1], [2, 3]]}')
    with pytest.raises(InvalidFile, match="no counts, these are a number an expert"):
        import_popularity(path)


def test_weights_of_a_model_are_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"model.layers.{i}.mlp.down_proj.weight": -np.eye(4, dtype=np.float16) for i in range(2)}, path)
    with pytest.raises(InvalidFile, match="not a pregate-routing-trace"):
        import_trace(path)


def test_a_column_of_a_slot_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("token,layer,expert_0,expert_1,expert_0\n0,0,1,2,1\n")
    with pytest.raises(InvalidFile, match="not a routing trace of a known format"):
        import_trace(path)


@pytest.mark.parametrize("key", ["experts", "expert_ids", "selected_experts"])
def test_rows_of_json_are_known_by_their_token_whatever_experts_are_called(key: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"token": t, "layer": i, key: EXPERTS[t, i].tolist()} for t in range(5) for i in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert np.array_equal(import_trace(path, shape=SHAPE).experts, EXPERTS)
