"""What a recording says twice: read where it agrees, refused by name where it does not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from traces.errors import InvalidFile

T, L, K, E = 6, 3, 2, 8
CHOSEN = np.array([[[0, 7], [1, 2], [3, 4]], *[[[t % 5, 5], [6, t % 5], [t % 3, 7]] for t in range(1, T)]])


def document(folder: Path, **beside: Any) -> Path:
    path = folder / "chosen.json"
    path.write_text(json.dumps({"topk_ids": CHOSEN.tolist()} | beside))
    return path


def lines(folder: Path, first: dict[str, Any] | None = None, add: int = 0, **stated: Any) -> Path:
    path = folder / "rows.jsonl"
    rows = [
        {"token": t, "layer": layer, "experts": (CHOSEN[t, layer] + add).tolist()}
        | {name: value(t) for name, value in stated.items()}
        for t in range(T)
        for layer in range(L)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in ([] if first is None else [first]) + rows))
    return path


def phases(path: Path) -> str:
    trace = pregate.load_trace(path)
    assert (np.sort(trace.experts) == np.sort(CHOSEN)).all()
    return "".join("pd"[int(one)] for one in trace.phase)


PROMPT = [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("beside", "why"),
    [
        ({"is_prefill": PROMPT, "is_decode": [1, 1, 0, 0, 1, 1]}, "is_prefill or .* and is_decode or .* differ"),
        ({"is_prefill": PROMPT, "phase": [1] * T}, "phase or phases, and is_prefill .* differ at token 0"),
        ({"phase": [0, 0, 0, 0, 1, 1], "prompt_len": 2}, "phase or phases, and prompt_len .* differ at token 2"),
        ({"seq_lens": [2, 4], "sequence": [0, 0, 0, 1, 1, 1]}, "sequence or .* and seq_lens .* differ at token 2"),
        ({"seq_lens": [2, 4], "cu_seqlens": [0, 3, 6]}, "cu_seqlens or .* and seq_lens .* differ at token 2"),
        ({"position": [0, 1, 2, 3, 4, 1e300]}, r"a token at position 1e\+300: positions are at most"),
        ({"prompt_len": [-1]}, r"prompt_len \[-1\] is not a whole number from 0 on"),
        ({"prompt_len": 2.5}, "prompt_len 2.5 is not a whole number from 0 on"),
        ({"num_experts": 0, "seq_lens": [T]}, "num_experts 0 is not a whole number from 1"),
    ],
)
def test_what_an_array_says_twice_has_to_agree(beside: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=why):
        pregate.load_trace(document(tmp_path, **beside))


def test_what_agrees_is_read(tmp_path: Path) -> None:
    assert phases(document(tmp_path, is_prefill=PROMPT, is_decode=[0, 0, 0, 0, 1, 1], prompt_len=4)) == "ppppdd"
    assert phases(document(tmp_path, prompt_len=[4])) == "ppppdd"
    path = document(tmp_path, seq_lens=[2, 0, 4], sequence=["a", "a", "b", "b", "b", "b"])
    assert pregate.load_trace(path).sequence.tolist() == [0, 0, 1, 1, 1, 1]


def test_lines_that_contradict_themselves_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="line 7: is_prefill and is_decode contradict each other"):
        pregate.load_trace(lines(tmp_path, is_prefill=lambda t: t < 4, is_decode=lambda t: t >= 2))
    with pytest.raises(InvalidFile, match="line 1: phase and is_prefill contradict each other"):
        pregate.load_trace(lines(tmp_path, phase=lambda t: "decode", is_prefill=lambda t: t < 4))


def test_lines_of_tokens_say_whether_they_are_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "tokens.jsonl"
    rows = [{"token": t, "experts": CHOSEN[t].tolist(), "is_prefill": t < 4} for t in range(T)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert phases(path) == "ppppdd"


def test_camel_case_is_read_of_arrays_and_requests_too(tmp_path: Path) -> None:
    path = tmp_path / "camel.json"
    path.write_text(json.dumps({"topkIds": CHOSEN.tolist(), "isPrefill": PROMPT}))
    assert phases(path) == "ppppdd"
    path.write_text(json.dumps({"requestId": "x", "promptLen": 4, "routedExperts": CHOSEN.tolist()}))
    assert phases(path) == "ppppdd"


@pytest.mark.parametrize("first", [{"num_experts": E}, {"model": "mine", "numExperts": E, "top_k": K}])
def test_experts_from_one_are_read_where_the_file_says_how_many(first: dict[str, Any], tmp_path: Path) -> None:
    path = lines(tmp_path, first, add=1)
    assert phases(path) == "d" * T
    assert "experts are numbered from 1 to 8 there: 1 is subtracted" in pregate.load_trace(path).provenance.note
    with pytest.raises(InvalidFile, match="expert 9 is not in"):
        pregate.load_trace(lines(tmp_path, first, add=2))
    assert pregate.load_trace(lines(tmp_path, {"num_experts": 16}, add=1)).experts.max() == E


def test_a_document_around_rows_says_how_many_experts_there_are(tmp_path: Path) -> None:
    path = tmp_path / "around.json"
    rows = [{"token": t, "layer": n, "experts": CHOSEN[t, n].tolist()} for t in range(T) for n in range(L)]
    path.write_text(json.dumps({"num_experts": 64, "rows": rows}, indent=1))
    assert pregate.load_trace(path).n_experts == 64


def test_a_recording_that_never_chooses_expert_0_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "many.npy"
    np.save(path, np.tile(CHOSEN + 1, (5, 1, 1)))
    assert "expert 0 is never chosen" in pregate.load_trace(path).provenance.note
    np.save(path, np.tile(CHOSEN, (5, 1, 1)))
    assert "never chosen" not in pregate.load_trace(path).provenance.note


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("INFO [layer.py:88] layer=0 token=0 topk_ids=[0, 7]\n", "lines of a log"),
        ("ffn_moe_topk-0 = (i32) VIEW(a{8, 1, 1, 1}, }) = {2, 1, 1, 1}\n [[0, 7]]\n", "values that llama.cpp printed"),
        ('INFO route {"layer": 0, "token": 0, "topk_ids": [0, 7]}\n', "JSON behind the words of a log"),
        ("tensor([[0, 7]], device='cuda:0')\n", "tensors as Python prints them"),
        ("| token | layer | experts |\n|---|---|---|\n| 0 | 0 | 0 7 |\n", "a table in Markdown"),
        ("- token: 0\n  layer: 0\n  experts: [0, 7]\n", "YAML"),
        ("token layer e0 e1\n0 0 0 7\n", "columns parted by blanks"),
    ],
)
def test_forms_that_are_not_read_have_a_way_out(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "routing.txt"
    path.write_text(text)
    with pytest.raises(InvalidFile, match=f"{what}.*: write its routing as CSV"):
        pregate.load_trace(path)


def test_a_matrix_of_one_object_is_neither_a_token_nor_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({"topk_ids": [[0, 1, 2, 3], [4, 5, 6, 7]]}))
    with pytest.raises(InvalidFile, match="topk_ids of one token, or of many in a row"):
        pregate.load_trace(path)
