"""What the arrays of a routing trace must hold: shapes and kinds, ids within limits, one token a place, no holes."""

from __future__ import annotations

import sys
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.phase import Phase

MAX_POSITION = (1 << 24) - 1
"""Longest context of a trace: 16.8 million tokens, above any published model's."""

_CHECK_CELLS = 1 << 22
"""Cells checked at a time, so that validation needs a bounded amount of memory beside the trace."""

_MIXED = "phase unlike the rest of its step: prompts and answers have steps of their own"

_FEW_CHOICES = 16
"""Experts of a token up to which pairs of them are compared, which is quicker than sorting."""


def frozen_column(name: str, values: object, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """`values` as a read-only array of `dtype`. Raises `InvalidInput` for another shape or kind, and for numbers that
    `dtype` does not hold.
    """
    array = np.asarray(values)
    if array.shape != shape:
        raise InvalidInput(f"{name} has shape {array.shape}, experts calls for {shape}")
    kinds = {"f": "f", "b": "b"}.get(np.dtype(dtype).kind, "iu")
    if array.dtype.kind not in kinds:
        raise InvalidInput(f"{name} is {array.dtype}: it must be {np.dtype(dtype)}")
    if kinds == "f":
        if not np.isfinite(array).all():
            raise InvalidInput(f"{name} holds values that are not finite: 0 pads")
    elif (
        kinds == "iu"
        and array.dtype != dtype
        and not (
            np.iinfo(dtype).min <= int(array.min()) and int(array.max()) <= np.iinfo(dtype).max  # type: ignore[type-var]
        )
    ):
        raise InvalidInput(f"{name} holds {array.min()} to {array.max()}: it does not fit {np.dtype(dtype)}")
    frozen = array.astype(dtype, copy=False).view()
    frozen.flags.writeable = False
    return frozen


def refuse_masked(name: str, array: object) -> None:
    """Raise `InvalidInput` for a masked array, of a module that takes its time to load: who has one has loaded it."""
    if "numpy.ma" in sys.modules and isinstance(array, np.ma.MaskedArray):
        raise InvalidInput(f"{name} is a masked array, which hides values: fill it, with -1 where experts pad")


def check_tokens(
    experts: NDArray[np.int16],
    sequence: NDArray[np.int32],
    position: NDArray[np.int32],
    phase: NDArray[np.int8],
    step: NDArray[np.int32],
    n_experts: int,
    first_token: int = 0,
) -> None:
    """Check the contents of token arrays (a whole trace, or a chunk that starts at `first_token`).

    Raises `InvalidInput` naming the first token, layer and value outside its limits.
    """
    for name, column in (("sequence", sequence), ("position", position), ("step", step)):
        _refuse(column < 0, first_token, f"{name} below 0", column)
    _refuse(position > MAX_POSITION, first_token, f"position above {MAX_POSITION}", position)
    _refuse((phase != Phase.PREFILL) & (phase != Phase.DECODE), first_token, "phase not 0 or 1", phase)
    _refuse(np.diff(step, prepend=step[:1]) < 0, first_token, "step below the one before: sort by step", step)
    mixed = (np.diff(step, prepend=step[:1] - 1) == 0) & (np.diff(phase, prepend=phase[:1]) != 0)
    _refuse(mixed, first_token, _MIXED, phase)
    rows = max(1, _CHECK_CELLS // max(1, experts[0].size))
    for start in range(0, len(experts), rows):
        part = experts[start : start + rows]
        if part.min() < -1 or part.max() >= n_experts:
            _refuse_expert((part < -1) | (part >= n_experts), part, first_token + start, f"is not in [-1, {n_experts})")
        nowhere = ~(part >= 0).any(axis=(1, 2)) if part.min() < 0 else np.zeros(1, np.bool_)
        if nowhere.any():
            raise InvalidInput(f"token {first_token + start + int(nowhere.argmax())}: no expert at any MoE layer")
        if not _may_repeat(part):
            continue
        ranked = np.sort(part, axis=2)
        twice = (ranked[:, :, 1:] == ranked[:, :, :-1]) & (ranked[:, :, 1:] >= 0)
        if twice.any():
            _refuse_expert(twice, ranked, first_token + start, "is chosen twice by one token")


def _may_repeat(experts: NDArray[np.int16]) -> bool:
    """Whether two choices of a token at a layer are alike, pads not counted; with many choices it is not told."""
    top_k = experts.shape[2]
    if top_k > _FEW_CHOICES:
        return True
    choices = np.ascontiguousarray(experts.reshape(-1, top_k).T)
    pairs = combinations(choices, 2)
    if choices.min() >= 0:
        return any((one == other).any() for one, other in pairs)
    return any(((one == other) & (one >= 0)).any() for one, other in pairs)


def _refuse(bad: NDArray[np.bool_], first_token: int, problem: str, column: NDArray[Any]) -> None:
    if bad.any():
        i = int(bad.argmax())
        raise InvalidInput(f"token {first_token + i}: {problem} ({int(column[i])})")


def _refuse_expert(bad: NDArray[np.bool_], part: NDArray[np.int16], first_token: int, problem: str) -> None:
    token, layer, slot = np.unravel_index(int(bad.argmax()), bad.shape)
    value = int(part[token, layer, slot])
    raise InvalidInput(f"token {first_token + int(token)}, MoE layer {int(layer)}: expert {value} {problem}")


def refuse_repeated_positions(
    sequence: NDArray[np.int32], position: NDArray[np.int32], phase: NDArray[np.int8]
) -> None:
    """An encoder and its decoder both begin at 0; else raise `InvalidInput` for a place in a sequence with two tokens.

    All arrays are (n_tokens,).
    """
    place = (sequence.astype(np.int64) * 2 + phase) * (MAX_POSITION + 1) + position
    if np.all(np.diff(place) > 0):
        return
    order = np.argsort(place, kind="stable")
    again = np.flatnonzero(np.diff(place[order]) == 0)
    if again.size:
        token = int(order[again[0] + 1])
        raise InvalidInput(
            f"token {token}: position {position[token]} of sequence {sequence[token]} was there before "
            f"(token {int(order[again[0]])})"
        )


def refuse_rejected_prompts(rejected: NDArray[np.bool_], phase: NDArray[np.int8]) -> None:
    """Raise `InvalidInput` for a rejected draft in a prompt: nobody drafts one. Both arrays are (n_tokens,)."""
    _refuse(rejected & (phase == Phase.PREFILL), 0, "rejected in a prompt, which no draft proposes", phase)


def layers_visited(experts: NDArray[np.int16]) -> NDArray[np.bool_]:
    """(n_tokens, n_layers): whether the token has an expert there."""
    if not len(experts) or experts.min() >= 0:
        return np.ones(experts.shape[:2], np.bool_)
    rows = max(1, _CHECK_CELLS // experts[0].size)
    parts = [(experts[start : start + rows] >= 0).any(axis=2) for start in range(0, len(experts), rows)]
    return np.concatenate(parts)


def refuse_jumps(sequence: NDArray[np.int32], position: NDArray[np.int32]) -> None:
    """Tokens that are not there have no experts and are attended to all the same: raise `InvalidInput` for a gap.

    Both arrays are (n_tokens,).
    """
    jump = _first_jump(sequence, position)
    if jump is not None:
        number, before, after = jump
        raise InvalidInput(
            f"sequence {number} jumps from position {before} to {after}: {after - before - 1} tokens between them were "
            f"not recorded: record it whole, or number its tokens one after the other"
        )


def refuse_several_turns(sequence: NDArray[np.int32], position: NDArray[np.int32], phase: Phase) -> None:
    """Of several turns the tokens of one phase are no sequence: raise `InvalidInput` where others are in between.

    Both arrays are (n_tokens,), of the tokens of `phase` alone.
    """
    jump = _first_jump(sequence, position)
    if jump is not None:
        number, before, after = jump
        raise InvalidInput(
            f"sequence {number} has {phase.name.lower()} tokens up to position {before} and from {after} on, of "
            f"another turn: to take one phase alone, give each turn the number of a sequence of its own"
        )


def _first_jump(sequence: NDArray[np.int32], position: NDArray[np.int32]) -> tuple[int, int, int] | None:
    """The sequence, and the positions before and behind, of the first gap; None where there is none."""
    place = np.sort(sequence.astype(np.int64) * (MAX_POSITION + 1) + position)
    gaps = np.flatnonzero((np.diff(place) > 1) & (np.diff(place // (MAX_POSITION + 1)) == 0))
    if not gaps.size:
        return None
    (number, before), (_, after) = (divmod(int(place[at]), MAX_POSITION + 1) for at in (gaps[0], gaps[0] + 1))
    return number, before, after


def refuse_holes(experts: NDArray[np.int16], phase: NDArray[np.int8]) -> None:
    """Tokens of one phase visit the same layers; a prompt's may leave out the last. Those of both are one stack of
    layers, or an encoder's and a decoder's with none in common. Raises `InvalidInput` for any other hole.

    `experts`: (n_tokens, n_layers, top_k), -1 none; `phase`: (n_tokens,).
    """
    if experts[:, :, 0].min() >= 0:
        return
    visited = layers_visited(experts)
    last = experts.shape[1] - 1
    layers_of: dict[Phase, NDArray[np.bool_]] = {}
    for kind in Phase:
        tokens = np.flatnonzero(phase == kind)
        if not tokens.size:
            continue
        visits = visited[tokens]
        n_visits = visits.sum(axis=0)
        uneven = (n_visits > 0) & (n_visits < tokens.size)
        uneven[last] &= kind != Phase.PREFILL
        if uneven.any():
            layer = int(uneven.argmax())
            few = visits[:, layer] == (n_visits[layer] * 2 < tokens.size)
            token, has = int(tokens[few.argmax()]), "an" if visits[few.argmax(), layer] else "no"
            raise InvalidInput(
                f"token {token}, MoE layer {layer}: {has} expert, unlike other {kind.name.lower()} tokens: the trace "
                "has a hole, or mixes two stacks of layers"
            )
        layers_of[kind] = n_visits > 0
    if len(layers_of) == 2:
        prompt, decoded = layers_of[Phase.PREFILL], layers_of[Phase.DECODE]
        differ = prompt ^ decoded
        differ[last] &= prompt[last]
        if differ.any() and (prompt & decoded).any():
            layer = int(differ.argmax())
            here, there = ("prefill", "decode") if prompt[layer] else ("decode", "prefill")
            raise InvalidInput(
                f"MoE layer {layer}: {here} tokens have experts, {there} tokens none, though they share other layers"
            )
