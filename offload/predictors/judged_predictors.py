"""Predictors judged on a recorded trace: learnt on some of its sequences, asked about the others.

Of every judged decode token, layer and lookahead: how many of the chosen experts are among the k + m ranked highest.
Beside each stand the guesses of the same predictor for other tokens (shuffled): what is not lost by that is no
knowledge of the token. Of sequences side by side the unions are judged (`judged_unions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.predictors.catalogue import guesser_named
from offload.predictors.guesser import Guesser, ranked
from offload.predictors.histories import Tokens, tokens_of_sequences
from offload.predictors.judged_unions import SideBySide, batches_of, chosen_unions, guessed_unions
from offload.predictors.learnt import teach
from traces.errors import InvalidInput
from traces.routing import RoutingTrace
from traces.statistics.locality import decode_layers
from traces.transforms.splits import Split, split_tokens


@dataclass(frozen=True, slots=True, eq=False)
class GuessCounts:
    """What a predictor got right, counted: float64, the first axis being the judged sequences, or batches of them.

    right, shuffled, whole  (n_sequences, n_lookaheads, n_more, n_layers): chosen experts found, the same by the guesses
                            for other tokens, and tokens (of batches: steps) all of whose experts were found
    guessed                 of the same shape: experts that were guessed
    first                   (n_sequences, n_lookaheads, n_layers): tokens whose best guess was chosen; 0 of batches
    """

    name: str
    right: NDArray[np.float64]
    shuffled: NDArray[np.float64]
    whole: NDArray[np.float64]
    guessed: NDArray[np.float64]
    first: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """All predictors on one trace. `layers`: the MoE layers judged; a lookahead of d says nothing of the first d.

    n_chosen, n_tokens  (n_sequences, n_lookaheads, n_layers) float64: what `GuessCounts` counts shares of
    """

    judged: tuple[GuessCounts, ...]
    split: Split
    lookaheads: tuple[int, ...]
    more: tuple[int, ...]
    layers: tuple[int, ...]
    n_experts: int
    top_k: int
    n_chosen: NDArray[np.float64]
    n_tokens: NDArray[np.float64]


def judge_predictors(
    trace: RoutingTrace,
    names: Sequence[str],
    lookaheads: Sequence[int],
    more: Sequence[int],
    *,
    split: str = "alternate",
    seed: int = 0,
    batch: int = 1,
) -> Judgement:
    """Judge the predictors called `names` on the decode tokens of `trace`, guessing `more` experts than are chosen.

    `batch`: judged sequences side by side, whose unions are judged. Raises `InvalidInput` for a lookahead that no layer
    has, for more guesses than there are experts, for more sequences than are judged, or a trace without decode tokens
    to judge on.
    """
    decoded = trace.decode_only()
    layers = decode_layers(decoded)
    if max(lookaheads) >= len(layers):
        raise InvalidInput(
            f"lookahead = {max(lookaheads)}: the trace has {len(layers)} MoE layers, so at most {len(layers) - 1}"
        )
    if max(more) > trace.n_experts - trace.top_k:
        raise InvalidInput(
            f"more = {max(more)}: a token chooses {trace.top_k} of {trace.n_experts} experts, so at most "
            f"{trace.n_experts - trace.top_k} more can be guessed"
        )
    order = np.lexsort((decoded.position, decoded.sequence))
    chosen, sequence = np.ascontiguousarray(decoded.experts[order][:, layers]), decoded.sequence[order]
    if len(sequence) < 2:
        raise InvalidInput("the trace has one decode token: there is nothing to learn from and to judge on")
    parts = split_tokens(sequence, split)
    batches = () if batch == 1 else tuple(batches_of(sequence, ~parts.learns, batch))
    asked = _Asked(chosen, sequence, trace.n_experts, parts, tuple(lookaheads), tuple(more), batches)
    n_chosen, n_tokens = asked.totals()
    return Judgement(
        tuple(_judged(name, asked, np.random.default_rng(seed)) for name in names),
        parts, asked.lookaheads, asked.more, tuple(layers), trace.n_experts, trace.top_k, n_chosen, n_tokens,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """The decode tokens of a trace, sorted by sequence and position, and what is asked of them.

    `batches`: of judged sequences side by side; none where each is judged by itself.
    """

    chosen: NDArray[np.int16]
    sequence: NDArray[np.int32]
    n_experts: int
    split: Split
    lookaheads: tuple[int, ...]
    more: tuple[int, ...]
    batches: tuple[SideBySide, ...] = ()

    @property
    def widths(self) -> list[int]:
        """Experts guessed a token, by `more`."""
        return [min(self.chosen.shape[2] + more, self.n_experts) for more in self.more]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """GuessCounts sequences, lookaheads, guesses beyond k, layers."""
        n = len(self.batches) or len(np.unique(self.sequence[~self.split.learns]))
        return n, len(self.lookaheads), len(self.more), self.chosen.shape[1]

    def tokens(self, learns: bool) -> Iterator[Tokens]:
        """The tokens of one side, some at a time."""
        wanted = self.split.learns == learns
        return tokens_of_sequences(self.sequence, self.chosen, self.n_experts, wanted)

    def member(self) -> NDArray[np.int64]:
        """(n_tokens,): which of the judged sequences each token is of; of the others anything."""
        found: NDArray[np.int64] = np.searchsorted(np.unique(self.sequence[~self.split.learns]), self.sequence)
        return found

    def totals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What there is to find, (n, n_lookaheads, n_layers) each: chosen experts, and tokens or steps."""
        n, n_lookaheads, _, n_layers = self.shape
        if self.batches:
            unions = [chosen_unions(self.chosen, one, self.n_experts).sum(axis=2) for one in self.batches]
            each = np.stack([[of.sum(axis=1), (of > 0).sum(axis=1)] for of in unions]).astype(np.float64)
            asked = np.arange(n_layers) >= np.array(self.lookaheads)[:, None]  # [lookaheads, layers]
            return each[:, 0, None] * asked, each[:, 1, None] * asked
        judged, member = ~self.split.learns, self.member()
        each = (self.chosen >= 0).sum(axis=2)  # [tokens, layers]
        found = []
        for counted in (each, each > 0):
            total = np.zeros((n, n_lookaheads, n_layers))
            for i, ahead in enumerate(self.lookaheads):
                np.add.at(total[:, i, ahead:], member[judged], counted[judged][:, ahead:])
            found.append(total)
        return found[0], found[1]


def _judged(name: str, asked: _Asked, rng: np.random.Generator) -> GuessCounts:
    """Learn, then guess; nothing is learnt of what is judged."""
    n_layers = asked.chosen.shape[1]
    guesser = guesser_named(name, n_layers, asked.n_experts, asked.lookaheads)
    teach(guesser, asked.chosen, asked.tokens(learns=True))
    n, n_lookaheads, _, _ = asked.shape
    right, shuffled, whole, guessed = (np.zeros(asked.shape) for _ in range(4))
    first = np.zeros((n, n_lookaheads, n_layers))
    for i, batch in enumerate(asked.batches):
        chosen = chosen_unions(asked.chosen, batch, asked.n_experts)
        found = guessed_unions(
            guesser, asked.chosen, asked.sequence, batch, asked.n_experts, asked.lookaheads, asked.widths, rng
        )
        n_right = (found.own & chosen).sum(axis=4)  # [lookaheads, more, layers, steps]
        right[i], guessed[i] = n_right.sum(axis=3), found.own.sum(axis=(3, 4))
        shuffled[i] = (found.shuffled & chosen).sum(axis=(3, 4))
        whole[i] = ((n_right == chosen.sum(axis=2)) & (n_right > 0)).sum(axis=3)
    if not asked.batches:
        for tokens in asked.tokens(learns=False):
            _count(guesser, asked, tokens, rng, (right, shuffled, whole, first))
        guessed = asked.totals()[1][:, :, None] * np.array(asked.widths)[:, None]
    return GuessCounts(name, right, shuffled, whole, guessed, first)


def _count(
    guesser: Guesser, asked: _Asked, tokens: Tokens, rng: np.random.Generator, counts: tuple[NDArray[np.float64], ...]
) -> None:
    """Count what is right of some tokens, at every layer and lookahead."""
    right, shuffled, whole, first = counts
    n_layers = asked.chosen.shape[1]
    member, others = asked.member()[tokens.at], _derangement(len(tokens.at), rng)
    widths = asked.widths
    guesser.begin(tokens.before)
    for last in range(n_layers):
        guesser.saw(last, asked.chosen[tokens.at, last])
        for i, ahead in enumerate(asked.lookaheads):
            layer = last + ahead
            if layer >= n_layers:
                continue
            chosen = asked.chosen[tokens.at, layer]
            guesses = ranked(guesser.scores(layer), max(widths))
            found = _found(guesses, chosen)
            np.add.at(first[:, i, layer], member, found[:, 0])
            by_others = _found(guesses[others], chosen)
            for j, width in enumerate(widths):
                n_right = found[:, :width].sum(axis=1)
                np.add.at(right[:, i, j, layer], member, n_right)
                np.add.at(shuffled[:, i, j, layer], member, by_others[:, :width].sum(axis=1))
                all_right = (n_right == (chosen >= 0).sum(axis=1)) & (chosen[:, 0] >= 0)
                np.add.at(whole[:, i, j, layer], member, all_right)


def _found(guesses: NDArray[np.int16], chosen: NDArray[np.int16]) -> NDArray[np.bool_]:
    """(n_tokens, n_guesses): whether each guess was chosen."""
    found = np.zeros(guesses.shape, np.bool_)
    for slot in range(chosen.shape[1]):
        found |= guesses == chosen[:, slot, None]
    return found


def _derangement(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,): for each token another one; itself only where there is no other."""
    order = rng.permutation(n)
    other = np.empty(n, np.int64)
    other[order] = np.roll(order, 1)
    return other
