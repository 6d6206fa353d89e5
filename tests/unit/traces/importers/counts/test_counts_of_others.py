"""Counts of experts as other tools write them: an importance matrix, a tensor of its own, JSON by layer."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.recorded_files import pt
from traces.errors import InvalidFile
from traces.importers import import_trace
from traces.importers.counts.expert_counts import import_popularity

COUNTS = np.array([[3, 3, 2, 2], [2, 3, 3, 2]], np.float32)


def imatrix(path: Path, names: dict[str, Any]) -> Path:
    """Tensors as llama.cpp writes them, by the format's own package."""
    gguf = pytest.importorskip("gguf", reason="the oracle of GGUF files is not installed")
    writer = gguf.GGUFWriter(str(path), "")
    writer.add_string("general.type", "imatrix")
    for name, values in names.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_importance_matrix_says_how_often_each_expert_was_chosen(tmp_path: Path) -> None:
    """Layers 1 and 2 of three: the first is dense, its `counts` are of no experts."""
    names: dict[str, Any] = {"blk.0.ffn_up.weight.counts": np.ones((1, 1), np.float32)}
    for layer in (2, 1):
        for matrix in ("down", "gate", "up"):
            names[f"blk.{layer}.ffn_{matrix}_exps.weight.in_sum2"] = np.ones((4, 64), np.float32)
            names[f"blk.{layer}.ffn_{matrix}_exps.weight.counts"] = COUNTS[layer - 1].reshape(4, 1)
    path = imatrix(tmp_path / "imatrix.gguf", names)
    profile = import_popularity(path)
    assert np.array_equal(profile.counts, COUNTS)
    assert profile.provenance.recorder == "llama.cpp importance matrix"
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace: give it to --popularity"):
        import_trace(path)


def test_a_file_of_weights_is_no_importance_matrix(tmp_path: Path) -> None:
    path = imatrix(tmp_path / "model.gguf", {"blk.0.ffn_up_exps.weight": np.ones((4, 8, 32), np.float32)})
    with pytest.raises(InvalidFile, match="a GGUF file without counts of experts"):
        import_popularity(path)
    uneven = {f"blk.{i}.ffn_up_exps.weight.counts": np.ones((3 + i, 1), np.float32) for i in range(2)}
    with pytest.raises(InvalidFile, match="different numbers of experts"):
        import_popularity(imatrix(tmp_path / "uneven.gguf", uneven))
    wide = {"blk.0.ffn_up_exps.weight.counts": np.ones((4, 1), np.float16)}
    with pytest.raises(InvalidFile, match="expected a small one of fp32"):
        import_popularity(imatrix(tmp_path / "wide.gguf", wide))


def test_a_tensor_of_its_own_is_read_as_an_array_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "f.pt").write_bytes(pt(torch.tensor(COUNTS)))
    assert np.array_equal(import_popularity(tmp_path / "f.pt").counts, COUNTS)


@pytest.mark.parametrize(
    "document",
    [
        {"logical_count": [COUNTS.tolist()]},
        {"logical_count": COUNTS.tolist()},
        {"10": COUNTS[1].tolist(), "2": COUNTS[0].tolist()},
        {str(i): {str(j): float(n) for j, n in enumerate(row)} for i, row in enumerate(COUNTS)},
        [[row.tolist() for row in COUNTS]],
    ],
)
def test_counts_in_json_stand_by_layer_or_under_their_name(document: Any, tmp_path: Path) -> None:
    for indent in (None, 2):
        (tmp_path / "f.json").write_text(json.dumps(document, indent=indent))
        assert np.array_equal(import_popularity(tmp_path / "f.json").counts, COUNTS)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"0": [1, 2], "x": [1, 2]}, "not numbers of layers"),
        ({"0": {"x": 1}}, "no number below"),
        ({"0": {"99999999": 1}}, "no number below"),
        ({"0": [1, 2], "1": {"0": 1}}, "rows differ in length"),
        ({"0": {}}, "layer 0 has no counts"),
        ({"logical_count": "many"}, "are not counts"),
        ({"0": {"0": "many"}}, "are not counts"),
    ],
)
def test_what_is_no_count_is_one_clear_line(document: Any, expected: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps(document))
    with pytest.raises(InvalidFile, match=expected):
        import_popularity(tmp_path / "f.json")


def by_pass() -> dict[str, Any]:
    """SGLang in mode per_pass: physical experts, here the other way round, and one of them twice."""
    torch = pytest.importorskip("torch")
    logical = torch.tensor([[3, 2, 1, 0, 0]] * 2)
    passes = [[[2, 2, 3, 1, 1], [1, 3, 3, 0, 2]], [[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]]
    records = [{"forward_pass_id": i, "global_physical_count": torch.tensor(one)} for i, one in enumerate(passes)]
    return {"records": records, "last_physical_to_logical_map": logical}


@pytest.mark.parametrize(
    "made",
    [
        lambda torch: {"expert_load": torch.tensor(COUNTS)},
        lambda torch: {f"decoder.layers.{i}.mlp.router.tokens_per_expert": torch.tensor(COUNTS[i]) for i in (1, 0)},
        lambda torch: {i: torch.tensor(COUNTS[i]) for i in (1, 0)},
        lambda torch: by_pass(),
    ],
)
def test_tensors_of_counts_stand_under_a_name_by_layer_or_by_pass(made: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    path.write_bytes(pt(made(pytest.importorskip("torch"))))
    assert np.array_equal(import_popularity(path).counts, COUNTS)
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace: give it to --popularity"):
        import_trace(path)


def test_tensors_that_are_neither_are_not_sent_to_popularity(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "t.pt"
    path.write_bytes(pt({"weight": torch.ones(3, 4), "bias": torch.ones(3)}))
    with pytest.raises(InvalidFile, match="not a routing trace of a known format"):
        import_trace(path)
    with pytest.raises(InvalidFile, match="not a table of expert counts"):
        import_popularity(path)


@pytest.mark.parametrize("broken", [{"last_physical_to_logical_map": None}, {"records": []}])
def test_counts_of_passes_that_lack_a_part_are_refused(broken: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    path.write_bytes(pt(by_pass() | broken))
    with pytest.raises(InvalidFile, match="not a table of expert counts"):
        import_popularity(path)


def test_counts_stand_under_any_of_their_names_in_json(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"tokens_per_expert": COUNTS.tolist()}))
    assert np.array_equal(import_popularity(path).counts, COUNTS)


@pytest.mark.parametrize(
    "text",
    [
        "layer,expert_0,expert_1,expert_2\n0,5,0,1\n2,1,2,3\n",
        "layer_idx;e0;e1;e2\n2;1;2;3\n0;5;0;1\n",
        ",0,1,2\n0,5.0,0.0,1.0\n1,1.0,2.0,3.0\n",
        '"# of"\n"layer","0","1","2"\n"0","5","0","1"\n"1","1","2","3"\n'.removeprefix('"# of"\n'),
        '[{"layer": 0, "expert_counts": [5, 0, 1]}, {"layer": 1, "expert_counts": [1, 2, 3]}]',
        '{"layer": 0, "tokens_per_expert": [5, 0, 1]}\n{"layer": 1, "tokens_per_expert": [1, 2, 3]}\n',
    ],
)
def test_counts_may_have_a_column_an_expert_or_a_record_a_layer(text: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(text)
    assert import_popularity(path).counts.tolist() == [[5, 0, 1], [1, 2, 3]]
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace: give it to --popularity"):
        import_trace(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layer,e0,e1\n0,1\n", "line 2: 1 experts, not 2"),
        ("layer,e0,e1\n0,1,many\n", "line 2: 'many' is not a number"),
        ("layer,e0,e1\n0,1,2\n0,1,2\n", "line 3: layer 0 has two rows"),
        ("layer,e0,e1\n", "no rows"),
        ('[{"layer": 0, "counts": [1, 2]}, {"layer": 0, "counts": [1, 2]}]', "layer 0 comes twice"),
    ],
)
def test_wide_counts_that_are_broken_are_named(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(InvalidFile, match=expected):
        import_popularity(path)


def test_choices_with_their_weights_in_tensors_are_read(tmp_path: Path) -> None:
    ids = np.array([[[0, 3], [1, 2]], [[2, 1], [3, 0]]], dtype=np.int32)
    save_file({"topk_ids": ids, "topk_weights": np.full(ids.shape, 0.5, np.float32)}, tmp_path / "a.safetensors")
    assert import_trace(tmp_path / "a.safetensors").experts.tolist() == ids.tolist()


def test_an_importance_matrix_of_the_older_form_says_that_it_has_no_counts(tmp_path: Path) -> None:
    name = b"blk.0.ffn_gate_exps.weight"
    path = tmp_path / "imatrix.dat"
    path.write_bytes(struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 10, 4) + bytes(16))
    with pytest.raises(InvalidFile, match="older form, which keeps no counts by expert"):
        import_trace(path)
