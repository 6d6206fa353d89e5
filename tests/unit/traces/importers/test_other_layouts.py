"""Routing in layouts that a stranger would write: other headers, lists of rows, arrays under other names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from traces.errors import InvalidFile
from traces.importers import import_trace as load_trace
from traces.importers.tables import columns

N_TOKENS, N_LAYERS = 5, 2
CHOSEN = np.array([[[(t + layer) % 4, (t + layer + 1) % 4] for layer in range(N_LAYERS)] for t in range(N_TOKENS)])
PLACES = [(t, layer) for t in range(N_TOKENS) for layer in range(N_LAYERS)]


def cell(t: int, layer: int, mark: str) -> str:
    return mark.join(map(str, CHOSEN[t, layer]))


LAYOUTS: dict[str, Callable[[], str]] = {
    "words with spaces": lambda: (
        "Token Index,MoE Layer,Selected Experts\n"
        + "".join(f"{t},{layer},{cell(t, layer, ' ')}\n" for t, layer in PLACES)
    ),
    "blocks and passes": lambda: (
        "iter,block,e1,e2,w1,w2\n" + "".join(f"{t},{layer},{cell(t, layer, ',')},.6,.4\n" for t, layer in PLACES)
    ),
    "modules": lambda: (
        "token,model.layers.3,model.layers.4\n"
        + "".join(f'{t},"{cell(t, 0, ",")}","{cell(t, 1, ",")}"\n' for t in range(N_TOKENS))
    ),
    "tensors of llama.cpp": lambda: (
        "token,blk.3,blk.4\n" + "".join(f"{t},{cell(t, 0, ' ')},{cell(t, 1, ' ')}\n" for t in range(N_TOKENS))
    ),
    "a list of rows": lambda: json.dumps(
        [{"layer": layer, "token": t, "experts": CHOSEN[t, layer].tolist()} for t, layer in PLACES]
    ),
    "camel case": lambda: (
        "tokenIdx,layerID,selectedExperts\n" + "".join(f"{t},{layer},{cell(t, layer, ' ')}\n" for t, layer in PLACES)
    ),
    "lines in camel case": lambda: "".join(
        json.dumps({"tokenId": t, "layerIdx": layer, "expertIds": CHOSEN[t, layer].tolist()}) + "\n"
        for t, layer in PLACES
    ),
    "rows in a document": lambda: json.dumps(
        {"model": "m", "data": [{"token": t, "layer": n, "experts": CHOSEN[t, n].tolist()} for t, n in PLACES]}
    ),
    "tokens in a document": lambda: json.dumps(
        {"numLayers": N_LAYERS, "tokens": [{"tokenId": t, "layers": CHOSEN[t].tolist()} for t in range(N_TOKENS)]}
    ),
    "tokens in a document over many lines": lambda: json.dumps(
        {"numLayers": N_LAYERS, "tokens": [{"tokenId": t, "layers": CHOSEN[t].tolist()} for t in range(N_TOKENS)]},
        indent=2,
    ),
    "a list over many lines": lambda: json.dumps(
        [{"layer": layer, "token": t, "experts": CHOSEN[t, layer].tolist()} for t, layer in PLACES], indent=1
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_is_read_in_any_of_these_layouts(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_text(LAYOUTS[layout](), encoding="utf-8")
    assert np.array_equal(np.sort(load_trace(path).experts, axis=2), np.sort(CHOSEN, axis=2))


@pytest.mark.parametrize("name", ["indices", "routing", "topk_idx", "expert_idx", "choices", "assignments"])
def test_an_array_of_choices_is_one_under_any_of_these_names(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", **{name: CHOSEN, "num_experts": np.array(4)})
    trace = load_trace(tmp_path / "theirs.npz")
    assert np.array_equal(trace.experts, CHOSEN)
    assert "taken as 5 tokens of 2 layers" in str(trace.provenance)


def test_counts_under_such_a_name_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "counts.npz", routing=np.full((3, 2, 4), 7))
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace"):
        load_trace(tmp_path / "counts.npz")


def test_an_entry_of_a_list_that_is_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"layer": 0, "token": 0, "experts": [0, 1]}, 3]', encoding="utf-8")
    with pytest.raises(InvalidFile, match="entry 2 of its list is not a JSON object"):
        load_trace(path)


def test_a_column_twice_is_none() -> None:
    assert columns("token,Token Index,layer,expert") is None


def choices(n_tokens: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([[rng.choice(8, 2, replace=False) for _ in range(N_LAYERS)] for _ in range(n_tokens)])


TWO = {"a": choices(6, 1), "b": choices(6, 2)}


@pytest.mark.parametrize(
    "line",
    [
        lambda name, t: {"rid": name, "token_pos": t, "experts": TWO[name][t].tolist()},
        lambda name, t: {"seq_id": name, "token": " the", "routing": TWO[name][t].tolist()},
        lambda name, t: {"session_id": name, "experts": TWO[name][t].tolist()},
        lambda name, t: {"conversation": name, "pos": t, "experts": TWO[name][t].tolist()},
        lambda name, t: {"Request ID": name, "pos": t, "topk_ids": TWO[name][t].tolist()},
        lambda name, t: {"token": 900 + 7 * t, "rid": name, "position": t, "experts": TWO[name][t].tolist()},
        lambda name, t: {"sample": t, "seq": name, "token": 900 - t, "pos": t, "experts": TWO[name][t].tolist()},
        lambda name, t: {"request_id": name, "layers": {str(3 + i): TWO[name][t, i].tolist() for i in range(2)}},
    ],
)  # fmt: skip
def test_lines_of_requests_in_turn_are_of_a_sequence_each(
    line: Callable[[str, int], dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line(name, t)) + "\n" for t in range(6) for name in TWO))
    found = load_trace(path)
    assert (found.sequence == [0] * 6 + [1] * 6).all()
    assert (np.sort(found.experts, 2) == np.sort(np.concatenate(list(TWO.values())), 2)).all()


def test_passes_of_requests_in_turn_are_of_a_sequence_each(tmp_path: Path) -> None:
    lines = [
        {"request_id": name, "layer": layer, "experts": TWO[name][first:end, layer].tolist()}
        for first, end in ((0, 4), (4, 5), (5, 6))
        for name in TWO
        for layer in range(N_LAYERS)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = load_trace(path)
    assert (found.sequence == [0] * 6 + [1] * 6).all()
    assert (found.phase == [0, 0, 0, 0, 1, 1] * 2).all()
    assert (np.sort(found.experts, 2) == np.sort(np.concatenate(list(TWO.values())), 2)).all()


@pytest.mark.parametrize(
    "name", ["model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp", "layer_{}", "transformer.h.{}.moe"]
)
def test_a_layer_may_be_its_modules_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = ({"token": t, "layer": name.format(layer + 1), "topk": CHOSEN[t, layer].tolist()} for t, layer in PLACES)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (np.sort(load_trace(path).experts, 2) == np.sort(CHOSEN, 2)).all()


def test_ids_in_half_precision_are_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    np.save(tmp_path / "mine.npy", CHOSEN.astype(np.float16))
    assert (load_trace(tmp_path / "mine.npy").experts == CHOSEN).all()
    assert not recwarn.list


def test_a_step_of_prompts_and_tokens_is_two_passes(tmp_path: Path) -> None:
    """As engines make them: the tokens of the first sequence come before, beside and behind the prompt of another."""
    rng = np.random.default_rng(0)
    columns = {
        "sequence": np.array([0, 0, 0, 0, 1, 1, 0, 1, 0]),
        "position": np.array([0, 1, 2, 3, 0, 1, 4, 2, 5]),
        "phase": np.array([0, 0, 0, 1, 0, 0, 1, 1, 1]),
        "step": np.array([0, 0, 0, 4, 4, 4, 5, 6, 6]),
    }
    experts = np.stack([rng.permutation(4)[:2] for _ in range(9)])[:, None]
    weights = rng.random((9, 1, 2)).astype(np.float32)
    path = tmp_path / "served.npz"
    np.savez(path, experts=experts, gate_weights=weights, n_experts=4, **columns)
    trace = load_trace(path)
    order = [0, 1, 2, 4, 5, 3, 6, 7, 8]
    assert trace.step.tolist() == [0, 0, 0, 1, 1, 2, 3, 4, 4]
    assert trace.sequence.tolist() == columns["sequence"][order].tolist()
    assert trace.experts.tolist() == experts[order].tolist()
    assert trace.gate_weights is not None
    assert trace.gate_weights.tolist() == weights[order].tolist()
    assert "steps of both phases are read as two passes" in trace.provenance.note
    np.savez(path, experts=experts, n_experts=4, **columns | {"position": columns["position"][:5]})
    with pytest.raises(InvalidFile, match="position"):
        load_trace(path)


def _lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _of_passes(top_k: int) -> list[dict[str, object]]:
    """Two requests, three tokens of a prompt each and then two steps of one: tokens numbered anew in each step."""
    rows: list[dict[str, object]] = []
    for step, n_tokens in enumerate((3, 1, 1)):
        for request in ("a", "b"):
            for token in range(n_tokens):
                for layer in range(2):
                    first = 8 * len(rows) % 64
                    chosen = list(range(first, first + top_k))
                    rows.append({"step": step, "request": request, "token": token, "layer": layer, "experts": chosen})
    return rows


@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_tokens_numbered_within_each_step_stand_in_their_order_in_the_request(tmp_path: Path, top_k: int) -> None:
    rows = _of_passes(top_k)
    trace = load_trace(_lines(tmp_path / "passes.jsonl", rows))
    assert trace.experts.shape == (10, 2, top_k)
    assert trace.position.tolist() == [*range(5), *range(5)]
    of_a = [row["experts"] for row in rows if row["request"] == "a" and row["layer"] == 1]
    assert trace.experts[:5, 1].tolist() == of_a
    assert "counted within each step" in trace.provenance.note
    one_each = [row | {"experts": expert} for row in rows for expert in row["experts"]]  # type: ignore[attr-defined]
    assert load_trace(_lines(tmp_path / "choices.jsonl", one_each)).experts.tolist() == trace.experts.tolist()


def test_tokens_numbered_within_each_step_of_no_request_are_refused(tmp_path: Path) -> None:
    alone = [row for row in _of_passes(2) if row.pop("request") == "a"]
    with pytest.raises(InvalidFile, match="counted within each step: a column request must say whose they are"):
        load_trace(_lines(tmp_path / "nobody.jsonl", alone))


def test_a_step_that_numbers_layers_or_rows_leaves_places_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"step": step, "request": "a", "token": token, "layer": layer, "experts": [token, layer + 4]}
        for step, (token, layer) in enumerate((t, layer) for t in range(3) for layer in range(2))
    ]
    trace = load_trace(_lines(tmp_path / "rows.jsonl", rows))
    assert trace.position.tolist() == [0, 1, 2]
    assert "within each step" not in trace.provenance.note


def test_counts_by_layer_under_a_name_are_no_token_of_many_experts(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"layers": {"0": [85, 64, 51, 27], "1": [18, 81, 65, 91]}}), encoding="utf-8")
    with pytest.raises(InvalidFile, match=r"counts of experts, as \{.0.: .*go to --popularity"):
        load_trace(path)
    _lines(path, [{"layers": {"0": [t, t + 1], "1": [t, t + 2]}} for t in range(3)])
    assert load_trace(path).experts.shape == (3, 2, 2)


def test_arrays_of_prompts_and_answers_are_told_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "both.npz"
    np.savez(path, prefill=np.zeros((4, 2, 1), np.int64), decode=np.zeros((2, 2, 1), np.int64))
    with pytest.raises(InvalidFile, match="arrays prefill and decode: one array experts"):
        load_trace(path)
