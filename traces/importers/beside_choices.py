"""What stands beside an array of choices: whose tokens they are, their places, their phase, how long a sequence is.

A value a token (`sequence`, `position`, `phase`, `is_prefill`), or one a sequence (`seq_lens`, `prompt_len`), or where
sequences begin (`cu_seqlens`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.recording import refused
from traces.importers.tables import PHASES
from traces.phase import Phase
from traces.token_checks import MAX_POSITION

_NAMES = {
    "sequence": (
        "sequence", "sequences", "sequence_id", "sequence_ids", "seq_id", "seq_ids", "request", "request_id",
        "request_ids", "req_id", "req_ids", "sample_id", "sample_ids", "prompt_id", "prompt_ids",
    ),
    "position": ("position", "positions", "pos", "token_pos", "token_positions", "position_ids"),
    "phase": ("phase", "phases", "stage", "stages"),
    "is_prefill": ("is_prefill", "is_prompt", "prefill_mask", "prompt_mask"),
    "is_decode": ("is_decode", "is_generated", "decode_mask"),
    "lengths": ("seq_lens", "seq_len", "seqlens", "sequence_lengths", "lengths"),
    "starts": ("cu_seqlens", "cu_seq_lens", "seq_offsets", "indptr"),
    "prompts": (
        "prompt_len", "prompt_lens", "prompt_length", "prompt_lengths", "n_prompt", "n_prompt_tokens",
        "num_prompt_tokens", "input_len", "input_lens", "prefill_len", "prefill_lens",
    ),
}  # fmt: skip
"""What recorders call each, the plainest first."""
_Part = tuple[int, Phase, NDArray[np.int64]]
_OF_TOKENS = ("sequence", "position", "phase", "is_prefill", "is_decode")


def beside_in(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside the choices of a document, a list each; {} of an answer of an engine, whose `request_id` is
    one word.
    """
    known = {key for name, keys in _NAMES.items() if name != "prompts" for key in keys}
    found = {key: value for key, value in answer.items() if key in known and isinstance(value, list)}
    return found | {key: answer[key] for key in _NAMES["prompts"] if found and key in answer}


def sequences_beside(path: Path, arrays: Mapping[str, Any], array: NDArray[np.int64]) -> tuple[list[list[_Part]], bool]:
    """The parts of each sequence of `array` [tokens, layers, k], by what stands beside it: place of the first, phase,
    experts; and whether phases are stated, all are decode otherwise. Raises `InvalidFile`.
    """
    told = {name: found for name in _NAMES if (found := _stated(path, name, arrays, len(array))) is not None}
    sequence = _sequences(path, told, len(array))
    order = np.argsort(sequence, kind="stable")
    rank = np.empty(len(array), np.int64)
    begins = np.flatnonzero(np.diff(sequence[order], prepend=-1))
    rank[order] = np.arange(len(array)) - np.repeat(begins, np.diff([*begins, len(array)]))
    position = _positions(path, told, rank)
    phase = _phases(path, told, sequence, position)
    rows = np.lexsort((position, sequence))
    whose, at, of = sequence[rows], position[rows], phase[rows]
    cuts = np.flatnonzero((np.diff(whose) != 0) | (np.diff(at) != 1) | (np.diff(of) != 0)) + 1
    parts: dict[int, list[_Part]] = {}
    for run in np.split(np.arange(len(rows)), cuts):
        part = int(at[run[0]]), Phase(int(of[run[0]])), array[rows[run]]
        parts.setdefault(int(whose[run[0]]), []).append(part)
    return [*parts.values()], bool({"phase", "is_prefill", "is_decode", "prompts"} & set(told))


def _stated(path: Path, name: str, arrays: Mapping[str, Any], n_tokens: int) -> NDArray[Any] | None:
    """What is stated under one of the names of `name`, as a vector. Raises `InvalidFile` for another length than that
    of the tokens, where it is a value a token.
    """
    key = next((key for key in _NAMES[name] if key in arrays), None)
    if key is None:
        return None
    try:
        found = np.atleast_1d(np.asarray(arrays[key])).ravel()
    except ValueError:
        raise refused(path, f"{key} has lists of different lengths: give one list of numbers") from None
    if name in _OF_TOKENS and len(found) != n_tokens:
        raise refused(path, f"{key} has {len(found)} values, the array {n_tokens} tokens")
    if found.dtype.kind not in ("biufU" if name in ("sequence", "phase") else "biuf"):
        raise refused(path, f"{key} is of {found.dtype}, no numbers")
    if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found == np.floor(found)).all()):
        raise refused(path, f"{key} holds values that are no whole numbers")
    return found


def _positions(path: Path, told: Mapping[str, NDArray[Any]], rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each token in its sequence, as stated, else its `rank`."""
    found = told.get("position", rank)
    if (found < 0).any():
        raise refused(path, "positions are below 0")
    if (found > MAX_POSITION).any():
        raise refused(path, f"a token at position {found.max():.15g}: positions are at most {MAX_POSITION}")
    return found.astype(np.int64)


def _sequences(path: Path, told: Mapping[str, NDArray[Any]], n_tokens: int) -> NDArray[np.int64]:
    """The sequence of each token, from 0 in the order in which they begin."""
    found = {}
    if "sequence" in told:
        _, first, inverse = np.unique(told["sequence"], return_index=True, return_inverse=True)
        found["sequence"] = np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)
    if "starts" in told:
        ends = told["starts"][-1:].tolist()
        lengths = np.diff(told["starts"], append=[] if ends == [n_tokens] else [n_tokens])
        found["starts"] = _of_lengths(path, lengths, n_tokens)
    if "lengths" in told:
        found["lengths"] = _of_lengths(path, told["lengths"], n_tokens)
    if "sequence" in found:  # which has no empty ones
        found = {name: np.unique(values, return_inverse=True)[1] for name, values in found.items()}
    return _agreed(path, found, np.zeros(n_tokens, np.int64))


def _of_lengths(path: Path, lengths: NDArray[Any], n_tokens: int) -> NDArray[np.int64]:
    if (lengths < 0).any() or int(lengths.sum()) != n_tokens:
        raise refused(path, f"lengths of sequences are {int(lengths.sum())} together, the array has {n_tokens} tokens")
    return np.repeat(np.arange(len(lengths)), lengths.astype(np.int64))


def _agreed(path: Path, found: Mapping[str, NDArray[Any]], otherwise: NDArray[Any]) -> NDArray[Any]:
    """What all of `found` say alike; `otherwise` of none. Raises `InvalidFile` for two that differ, by their names."""
    told = list(found.items())
    for name, values in told[1:]:
        if (at := np.flatnonzero(values != told[0][1])).size:
            one, other = (" or ".join(_NAMES[each][:2]) for each in (told[0][0], name))
            raise refused(path, f"{one}, and {other}, differ at token {at[0]}: keep the one that is right")
    return told[0][1] if told else otherwise


def _phases(
    path: Path, told: Mapping[str, NDArray[Any]], sequence: NDArray[np.int64], position: NDArray[np.int64]
) -> NDArray[np.int8]:
    """The phase of each token; all are decode where nothing says."""
    found = {}
    if "phase" in told:
        words = [str(word).lower() for word in told["phase"].tolist()]
        strange = next((word for word in words if word not in PHASES), None)
        if strange is not None:
            raise refused(path, f"phase {strange[:20]!r} is neither prefill (0) nor decode (1)")
        found["phase"] = np.array([PHASES[word] for word in words], np.int8)
    for name, true in (("is_prefill", Phase.PREFILL), ("is_decode", Phase.DECODE)):
        if name in told:
            found[name] = np.where(told[name].astype(bool), true, 1 - true).astype(np.int8)
    if "prompts" in told:
        found["prompts"] = _of_prompts(path, told["prompts"], sequence, position)
    return _agreed(path, found, np.full(len(sequence), Phase.DECODE, np.int8))


def _of_prompts(
    path: Path, prompts: NDArray[Any], sequence: NDArray[np.int64], position: NDArray[np.int64]
) -> NDArray[np.int8]:
    """The phase of each token by how long its sequence's prompt is."""
    n_sequences = int(sequence.max(initial=-1)) + 1
    if (prompts < 0).any():
        raise refused(path, "lengths of prompts are below 0")
    if len(prompts) not in (1, n_sequences):
        raise refused(path, f"{len(prompts)} lengths of prompts, and {n_sequences} sequences")
    n_prompt = np.broadcast_to(prompts, n_sequences)[sequence]
    return np.where(position < n_prompt, Phase.PREFILL, Phase.DECODE).astype(np.int8)
