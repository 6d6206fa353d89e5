"""Predictors judged on sequences side by side: what a batch would bring is the union of its guesses.

`batch` judged sequences begin together; a step is the next token of each that has not ended. Of a step and layer the
union of the experts chosen is held against the union of the k + m that were guessed for each token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.predictors.guesser import Guesser, ranked
from offload.predictors.histories import Tokens, tokens_of_sequences
from traces.errors import InvalidInput

_MOST_CELLS = 1 << 30
"""Cells of guesses (step x layer x expert x lookahead x m) that are kept of one batch: a byte each."""


class SideBySide(NamedTuple):
    """Tokens of some sequences: where they are, (n_tokens,), and the step of the batch that each runs in."""

    at: NDArray[np.intp]
    step: NDArray[np.int64]


def batches_of(sequence: NDArray[np.int32], judged: NDArray[np.bool_], batch: int) -> list[SideBySide]:
    """The `judged` sequences, `batch` at a time in their order; `sequence` (n_tokens,) sorted by it and position.

    Raises `InvalidInput` where there are fewer.
    """
    named, first, rank = np.unique(sequence[judged], return_index=True, return_inverse=True)
    if not 1 <= batch <= len(named):
        raise InvalidInput(f"batch = {batch}: {len(named)} sequences are judged, 1 to {len(named)} run side by side")
    at, age = np.flatnonzero(judged), np.arange(len(rank)) - first[rank]
    groups = [rank // batch == i for i in range(-(-len(named) // batch))]
    return [SideBySide(at[mine], age[mine]) for mine in groups]


def chosen_unions(chosen: NDArray[np.int16], batch: SideBySide, n_experts: int) -> NDArray[np.bool_]:
    """(n_layers, n_steps, n_experts): what a batch chose, `chosen` (n_tokens, n_layers, top_k) being all tokens."""
    mine = chosen[batch.at]
    found = np.zeros((chosen.shape[1], int(batch.step.max()) + 1, n_experts), np.bool_)
    token, layer, slot = np.nonzero(mine >= 0)
    found[layer, batch.step[token], mine[token, layer, slot]] = True
    return found


class GuessedUnions(NamedTuple):
    """(n_lookaheads, n_more, n_layers, n_steps, n_experts) bool: what a batch would bring, and by others' guesses."""

    own: NDArray[np.bool_]
    shuffled: NDArray[np.bool_]


def guessed_unions(
    guesser: Guesser,
    chosen: NDArray[np.int16],
    sequence: NDArray[np.int32],
    batch: SideBySide,
    n_experts: int,
    lookaheads: tuple[int, ...],
    widths: list[int],
    rng: np.random.Generator,
) -> GuessedUnions:
    """The guesses of `widths` experts a token, `lookaheads` layers ahead. Raises `InvalidInput` for too many.

    `chosen`: (n_tokens, n_layers, top_k), -1 none; `sequence`: (n_tokens,).
    """
    n_layers = chosen.shape[1]
    shape = len(lookaheads), len(widths), n_layers, int(batch.step.max()) + 1, n_experts
    if np.prod(shape, dtype=np.float64) > _MOST_CELLS:
        raise InvalidInput(
            f"{shape[3]} steps of {len(np.unique(sequence[batch.at]))} sequences, {shape[0]} lookaheads and {shape[1]} "
            f"numbers of guesses are more than is kept at once: ask for fewer of them"
        )
    found = GuessedUnions(np.zeros(shape, np.bool_), np.zeros(shape, np.bool_))
    mine = np.ones(len(batch.at), np.bool_)
    for tokens in tokens_of_sequences(sequence[batch.at], chosen[batch.at], n_experts, mine):
        _mark(guesser, chosen[batch.at], batch.step, tokens, lookaheads, widths, rng.permutation(len(tokens.at)), found)
    return found


def _mark(
    guesser: Guesser,
    chosen: NDArray[np.int16],
    step: NDArray[np.int64],
    tokens: Tokens,
    lookaheads: tuple[int, ...],
    widths: list[int],
    order: NDArray[np.int64],
    found: GuessedUnions,
) -> None:
    """Add the guesses of some tokens; `order` hands each those of another one."""
    n_layers, rows = chosen.shape[1], step[tokens.at][:, None]
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    guesser.begin(tokens.before)
    for last in range(n_layers):
        guesser.saw(last, chosen[tokens.at, last])
        for i, ahead in enumerate(lookaheads):
            if last + ahead >= n_layers:
                continue
            guesses = ranked(guesser.scores(last + ahead), max(widths))
            for j, width in enumerate(widths):
                found.own[i, j, last + ahead, rows, guesses[:, :width]] = True
                found.shuffled[i, j, last + ahead, rows, guesses[others, :width]] = True
