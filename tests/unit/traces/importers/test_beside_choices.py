"""What stands beside chosen experts is read or refused, never passed over: sequences, places, phases, counts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pregate
from traces.errors import InvalidFile

T, L, K, E = 6, 3, 2, 8
RNG = np.random.default_rng(5)
CHOSEN = np.stack([np.stack([RNG.choice(E, K, replace=False) for _ in range(L)]) for _ in range(2 * T)]).astype(
    np.int16
)


def read(path: Path) -> tuple[NDArray[np.int16], list[int], list[int], str]:
    """Experts, sequences, positions and phases of a trace."""
    trace = pregate.load_trace(path)
    phases = "".join("pd"[int(phase)] for phase in trace.phase)
    return trace.experts, trace.sequence.tolist(), trace.position.tolist(), phases


BOTH = [0] * T + [1] * T
PLACES = [*range(T)] * 2


@pytest.mark.parametrize(
    ("beside", "sequence", "phase"),
    [
        ({}, [0] * 2 * T, "d" * 12),
        ({"sequence": BOTH, "position": PLACES, "phase": [0, 0, 0, 0, 1, 1] * 2}, BOTH, "ppppdd" * 2),
        ({"request_id": ["b"] * T + ["a"] * T, "is_prefill": [True] * 4 + [False] * 8}, BOTH, "ppppdddddddd"),
        ({"seq_lens": [T, T], "prompt_lens": [4, 2]}, BOTH, "ppppddppdddd"),
        ({"cu_seqlens": [0, T, 2 * T]}, BOTH, "d" * 12),
        ({"cu_seqlens": [0, T], "is_decode": [0, 0, 1, 1, 1, 1] * 2}, BOTH, "ppdddd" * 2),
        ({"prompt_len": 10}, [0] * 2 * T, "p" * 10 + "dd"),
        ({"phases": ["prefill"] * 8 + ["decode"] * 4}, [0] * 2 * T, "p" * 8 + "dddd"),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "json"])
def test_arrays_beside_choices_say_whose_tokens_they_are(
    kind: str, beside: dict[str, Any], sequence: list[int], phase: str, tmp_path: Path
) -> None:
    path = tmp_path / f"chosen.{kind}"
    if kind == "npz":
        np.savez(path, topk_ids=CHOSEN, **{name: np.array(value) for name, value in beside.items()})
    else:
        path.write_text(json.dumps({"topk_ids": CHOSEN.tolist(), **beside}))
    experts, sequences, positions, phases = read(path)
    assert (sequences, phases) == (sequence, phase)
    assert positions == (PLACES if sequence == BOTH else [*range(2 * T)])
    assert (np.sort(experts) == np.sort(CHOSEN)).all()


def test_tokens_of_sequences_that_alternate_are_put_in_their_order(tmp_path: Path) -> None:
    turns = np.arange(2 * T).reshape(2, T).T.ravel()
    np.savez(tmp_path / "t.npz", experts=CHOSEN[turns], seq_id=np.array(BOTH)[turns])
    experts, sequences, positions, _ = read(tmp_path / "t.npz")
    assert (sequences, positions) == (BOTH, PLACES)
    assert (np.sort(experts) == np.sort(CHOSEN)).all()


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"sequence": [0, 1]}, "sequence has 2 values, the array 12 tokens"),
        ({"seq_lens": [T, T + 1]}, "lengths of sequences are 13 together, the array has 12 tokens"),
        ({"phase": [2] * 12}, "phase '2' is neither prefill .0. nor decode .1."),
        ({"prompt_lens": [1, 2, 3]}, "3 lengths of prompts, and 1 sequences"),
        ({"position": [0.5] * 12}, "position holds values that are no whole numbers"),
        ({"position": [-1] * 12}, "positions are below 0"),
        ({"is_prefill": ["x"] * 12}, "is_prefill is of <U1, no numbers"),
    ],
)
def test_arrays_beside_choices_that_do_not_fit_are_refused(beside: dict[str, Any], told: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", topk_ids=CHOSEN, **{name: np.array(value) for name, value in beside.items()})
    with pytest.raises(InvalidFile, match=told):
        pregate.load_trace(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("cu_seqlens", [], "lengths of sequences are 0 together, the array has 12 tokens"),
        ("prompt_len", [-1], "lengths of prompts are below 0"),
        ("position", [[0], [1, 2]], "position has lists of different lengths: give one list of numbers"),
    ],
)
def test_lists_that_are_empty_ragged_or_below_0_are_told(
    name: str, values: list[Any], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "chosen.json"
    path.write_text(json.dumps({"topk_ids": CHOSEN.tolist(), "seq_lens": [2 * T], name: values}))
    with pytest.raises(InvalidFile, match=why):
        pregate.load_trace(path)


def lines(folder: Path, *more: dict[str, Any], **stated: Any) -> Path:
    path = folder / "rows.jsonl"
    rows = [
        {"token": t, "layer": layer, "experts": CHOSEN[t, layer].tolist()}
        | {name: value(t) for name, value in stated.items()}
        for t in range(T)
        for layer in range(L)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in (*more, *rows)))
    return path


def test_lines_may_say_of_each_whether_it_is_of_a_prompt(tmp_path: Path) -> None:
    assert read(lines(tmp_path, is_prefill=lambda t: t < 4))[3] == "ppppdd"
    assert read(lines(tmp_path, is_decode=lambda t: int(t >= 2)))[3] == "ppdddd"
    with pytest.raises(InvalidFile, match="is_prefill 'maybe' is neither true nor false"):
        pregate.load_trace(lines(tmp_path, is_prefill=lambda t: "maybe"))


@pytest.mark.parametrize("none", [None, []])
def test_a_layer_without_experts_is_dense_and_one_that_lacks_them_once_is_not(none: Any, tmp_path: Path) -> None:
    dense = [{"token": t, "layer": L, "experts": none} for t in range(T)]
    experts, *_ = read(lines(tmp_path, *dense))
    assert (np.sort(experts) == np.sort(CHOSEN[:T])).all()
    path = lines(tmp_path)
    rows = path.read_text().splitlines()
    rows[4] = json.dumps({"token": 1, "layer": 1, "experts": none})
    path.write_text("\n".join(rows))
    with pytest.raises(InvalidFile, match="layer 1"):
        pregate.load_trace(path)


def test_counts_of_each_step_are_no_choices(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    rows = [f"{s},{layer},{e},{s + e}" for s in range(2) for layer in range(L) for e in range(E)]
    path.write_text("step,layer,expert,count\n" + "\n".join(rows))
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace"):
        pregate.load_trace(path)


def test_an_archive_of_several_files_is_told_to_be_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a.jsonl", "b.jsonl"):
            archive.writestr(name, lines(tmp_path).read_text())
    with pytest.raises(InvalidFile, match="an archive of files: take the trace out of it"):
        pregate.load_trace(tmp_path / "two.zip")
