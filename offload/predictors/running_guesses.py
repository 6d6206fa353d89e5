"""A predictor inside a run: at every gate it is told what was chosen, guesses a later block, and learns pass by pass.

It starts knowing nothing, or what it has learnt of another trace, and learns as it serves, so that every guess is made
of what came before it. In a decoder alone; nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offload.policy import BlockView, Fetch, RunFacts
from offload.predictors.catalogue import guesser_named
from offload.predictors.guesser import Chosen, Guesser, Scores, ranked
from offload.predictors.histories import Histories
from offload.predictors.learnt import Lessons

_REMEMBERED = 64
"""Guesses a layer that a shuffled predictor draws from, the newest."""


class _Watcher:
    """Tells a predictor of every pass as its gates run, each part of a prompt being one."""

    def __init__(self, guesser: Guesser, facts: RunFacts) -> None:
        self.guesser, self._top_k = guesser, facts.top_k
        self._histories = Histories(facts.n_blocks, facts.n_experts)
        self._i_step = self._block = -1
        self._sequences: NDArray[np.int32] | None = None
        self._chosen: list[Chosen | None] = [None] * facts.n_blocks

    def watch(self, view: BlockView) -> bool:
        """What the gate of a block has chosen; False where that is not known."""
        chosen, sequences = view.chosen(view.block), view.sequences
        if chosen is None or sequences is None:
            return False
        if view.i_step != self._i_step or view.block <= self._block or self._sequences is None:
            self._close()
            self._i_step, self._sequences = view.i_step, sequences
            self.guesser.begin(self._histories.before(sequences, chosen.shape[1]))
        self._block = view.block
        self._chosen[view.block] = chosen
        self.guesser.saw(view.block, chosen)
        return True

    def _close(self) -> None:
        """The pass is over: learn from it."""
        if self._sequences is not None:
            self.guesser.learn()
            none = np.full((len(self._sequences), self._top_k), -1, np.int16)
            whole = np.stack([none if one is None else one for one in self._chosen], axis=1)
            self._histories.after(self._sequences, whole)
        self._chosen = [None] * len(self._chosen)


class RunningGuesses:
    """Brings the k + `more` experts ranked highest for each token `ahead` blocks on, and at first those between.

    What has no score above 0 is not brought: nothing is known of it. All go beside the cache. Those of the block `dram`
    on, and at first of all before that, are read from storage into host memory; 0: nothing is.
    """

    def __init__(
        self,
        name: str,
        facts: RunFacts,
        ahead: int,
        more: int,
        shuffled: bool,
        lessons: Lessons | None = None,
        dram: int = 0,
    ) -> None:
        guesser = guesser_named(name, facts.n_blocks, facts.n_experts, tuple(range(1, max(ahead, dram) + 1)))
        if lessons is not None:
            lessons.give(guesser, facts)
        self._watcher = _Watcher(ShuffledGuesser(guesser) if shuffled else guesser, facts)
        self._ahead, self._dram, self._n_each = ahead, dram, min(facts.top_k + more, facts.n_experts)

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """A fetch a block that is guessed."""
        if not self._watcher.watch(view):
            return []
        near, far, at_first = view.block + self._ahead, view.block + self._dram, view.block == 0
        brought = _blocks(view, 1 if at_first else near, near)
        read = _blocks(view, near + 1 if at_first else far, far) if self._dram else ()
        found = [Fetch(block, self._missing(view, block), aside=True) for block in brought]
        found += [Fetch(block, self._missing(view, block), to_host=True) for block in read]
        return [fetch for fetch in found if fetch.experts]

    def _missing(self, view: BlockView, block: int) -> tuple[int, ...]:
        """The experts guessed of a block that are not on the device."""
        named = self._named(self._watcher.guesser.scores(block))
        return tuple(expert for expert in named if not view.resident(block, expert))

    def _named(self, scores: Scores) -> list[int]:
        """The experts that any token is expected to choose, the likeliest of all first."""
        guesses = ranked(scores, self._n_each)
        value = np.take_along_axis(scores, guesses.astype(np.int64), axis=1)
        total = np.zeros(scores.shape[1])
        np.add.at(total, guesses[value > 0], value[value > 0])
        order = np.argsort(-total, kind="stable")
        found: list[int] = order[total[order] > 0].tolist()
        return found


def _blocks(view: BlockView, first: int, last: int) -> range:
    """The blocks `first` to `last` that there are."""
    return range(first, min(last, view.n_blocks - 1) + 1)


class ByPriority:
    """Brings the `n` experts of the highest p x (1 - (i - l) / L), of all blocks up to `horizon` on (MoE-Infinity).

    p: how likely an expert is, a share of its layer; i: its block, l: the one that runs, L: blocks in all. As many of
    the blocks beyond, up to `dram` on, are read from storage into host memory; 0: none.
    """

    def __init__(self, name: str, facts: RunFacts, horizon: int, n: int, dram: int = 0) -> None:
        ahead = tuple(range(1, max(horizon, dram) + 1))
        self._watcher = _Watcher(guesser_named(name, facts.n_blocks, facts.n_experts, ahead), facts)
        self._horizon, self._dram, self._n = horizon, dram, n

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """A fetch an expert, the most urgent first."""
        if not self._watcher.watch(view):
            return []
        near = view.block + self._horizon
        found = [Fetch(block, (expert,), aside=True) for block, expert in self._urgent(view, view.block + 1, near)]
        beyond = self._urgent(view, near + 1, view.block + self._dram)
        return [*found, *(Fetch(block, (expert,), to_host=True) for block, expert in beyond)]

    def _urgent(self, view: BlockView, first: int, last: int) -> list[tuple[int, int]]:
        """Block and expert of the most urgent `n` of the blocks from `first` to `last`, the most urgent first."""
        candidates = []
        for block in _blocks(view, first, last):
            share = np.maximum(self._watcher.guesser.scores(block), 0).sum(axis=0)
            p = share / max(float(share.sum()), 1e-9)
            near = 1 - (block - view.block) / view.n_blocks
            best = np.argsort(-p, kind="stable")[: self._n].tolist()
            candidates += [(-float(p[e]) * near, block, e) for e in best if p[e] > 0 and not view.resident(block, e)]
        return [(block, expert) for _, block, expert in sorted(candidates)[: self._n]]


class ShuffledGuesser:
    """The guesses that `inner` made for other passes, drawn among the last `_REMEMBERED` of the layer: a control.

    It knows what `inner` knows of a layer, and nothing of the token. It guesses nothing before there is another pass.
    """

    def __init__(self, inner: Guesser, seed: int = 0) -> None:
        self._inner, self._rng = inner, np.random.default_rng(seed)
        self._past: dict[int, list[NDArray[np.float32]]] = {}
        self.begin, self.saw, self.learn = inner.begin, inner.saw, inner.learn

    def scores(self, layer: int) -> Scores:
        """Of each token the scores of another of an earlier pass."""
        now, past = self._inner.scores(layer), self._past.setdefault(layer, [])
        rows = [past[i] for i in self._rng.integers(0, len(past), len(now)).tolist()] if past else []
        past += list(now[-_REMEMBERED:])
        del past[:-_REMEMBERED]
        return np.stack(rows) if rows else np.zeros_like(now)
