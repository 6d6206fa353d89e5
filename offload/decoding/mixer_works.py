"""The token mixers of a stack whose layers differ: sliding windows, indexers, linear attention, state spaces.

One op a layer, of the kind of self-attention whatever mixes. A stack whose layers are alike has one attention for all,
and `offload.decode` asks for that directly. Nothing here may know time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.execution import Indexed
from offload.ops import Work
from offload.work import mixer_work
from traces.model.architecture import Attention, LayerStack, LinearMixer, ModelArchitecture
from traces.model.attention import MAX_WIDTH
from traces.routing import Step

_CELLS = 256
"""An engine with a mask looks at whole blocks of so many cells of a cache (llama.cpp: `get_n_kv`, `get_padding`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Contexts:
    """What the tokens of `n_passes` causal forward passes see.

    Of each token, (n_tokens,), the pass that it is `of` and its `context`: itself and what came before. Of each
    sequence in each pass, (n_pairs,), by pass and sequence: its `of_pair` and `sequence`, its `longest` context, and
    its `counts` of tokens.
    """

    n_passes: int
    of: NDArray[np.int64]
    context: NDArray[np.int64]
    of_pair: NDArray[np.int64]
    sequence: NDArray[np.int32]
    longest: NDArray[np.int64]
    counts: NDArray[np.int64]

    def by_token(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum over the tokens of each pass, (n_passes,): exact below 2**53."""
        return _sums(self.of, values, self.n_passes)

    def by_pair(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum over the sequences of each pass, (n_passes,): exact below 2**53."""
        return _sums(self.of_pair, values, self.n_passes)

    @property
    def mask_entries(self) -> NDArray[np.int64]:
        """Of a mask over each pass, (n_passes,): a row a token, as long as the cells of its sequence in whole blocks; 0
        for a token alone.
        """
        entries = self.by_pair(self.counts * (-(-self.longest // _CELLS) * _CELLS))
        return np.where(self.by_pair(self.counts) > 1, entries, 0)

    @property
    def n_sequences(self) -> NDArray[np.int64]:
        """How many sequences each pass has, (n_passes,)."""
        return np.bincount(self.of_pair, minlength=self.n_passes)


def _sums(of: NDArray[np.int64], values: NDArray[np.int64], n_passes: int) -> NDArray[np.int64]:
    if n_passes == 1:
        return np.array([values.sum()], np.int64)
    return np.bincount(of, values, n_passes).astype(np.int64)


def contexts_of(steps: Sequence[Step]) -> Contexts:
    """The contexts of forward passes, in order."""
    of = np.repeat(np.arange(len(steps)), [len(step.sequence) for step in steps])
    sequence = np.concatenate([step.sequence for step in steps])
    context = np.concatenate([step.position for step in steps]).astype(np.int64) + 1
    follow = np.all((np.diff(of) > 0) | (np.diff(sequence) >= 0))  # the tokens of a sequence, in every pass
    order = np.arange(len(of)) if follow else np.lexsort((sequence, of))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(of[order]) != 0) | (np.diff(sequence[order]) != 0)
    edge = np.flatnonzero(new)
    longest = np.maximum.reduceat(context[order], edge) if len(edge) else np.zeros(0, np.int64)
    first, counts = order[edge], np.diff(np.append(edge, len(order)))
    if len(edge) and any(step.rejected is not None for step in steps):  # of a tree of drafts several are at one place
        longest = np.minimum.reduceat(context[order], edge) + counts - 1
    return Contexts(len(steps), of, context, of[first], sequence[first], longest, counts)


def mixing_works(
    model: ModelArchitecture,
    stack: LayerStack,
    seen: Contexts,
    made_moves: Sequence[float],
    indexed: Indexed = "gathered",
) -> dict[Attention | LinearMixer, list[Work]]:
    """By mixer of `stack` the work of a layer that has it, of each pass.

    `made_moves`: of each pass, as of `mixer_work`; `indexed`: as of `Execution`.
    """
    mixers = [mixer for mixer in dict.fromkeys(stack.all_mixers) if mixer is not None]
    return {mixer: _works(model, _as_run(mixer, indexed), seen, made_moves) for mixer in mixers}


def _as_run(mixer: Attention | LinearMixer, indexed: Indexed) -> Attention | LinearMixer:
    """`mixer` as an engine has it: its indexer picks, masks what is read all the same, or is left out."""
    if isinstance(mixer, LinearMixer) or not mixer.index_topk or mixer.compression or indexed == "gathered":
        return mixer
    if indexed == "masked":
        return dataclasses.replace(mixer, index_topk=MAX_WIDTH)
    return dataclasses.replace(mixer, index_heads=0, index_dim=0, index_topk=0)


def _works(
    model: ModelArchitecture,
    mixer: Attention | LinearMixer,
    seen: Contexts,
    made_moves: Sequence[float],
) -> list[Work]:
    n_tokens = np.bincount(seen.of, minlength=seen.n_passes)
    none = np.zeros(seen.n_passes, np.int64)
    read = (none,) * 4 if isinstance(mixer, LinearMixer) else _attended(mixer, seen)
    columns = (n_tokens, seen.n_sequences, *read)
    keys = list(zip(*(column.tolist() for column in columns), made_moves, strict=True))
    made = {key: _work(model, mixer, *key) for key in dict.fromkeys(keys)}
    return [made[key] for key in keys]


def _work(
    model: ModelArchitecture, mixer: Attention | LinearMixer, n_tokens: int, n_sequences: int, span: int, pairs: int,
    index_span: int, scored: int, made_moves: float,
) -> Work:  # fmt: skip
    return mixer_work(
        model, mixer, n_tokens, span, pairs, n_sequences=n_sequences, index_tokens=index_span, context_pairs=scored,
        made_moves=made_moves,
    )  # fmt: skip


def _attended(mixer: Attention, seen: Contexts) -> tuple[NDArray[np.int64], ...]:
    """Of each pass: cached tokens read, query-key pairs scored, tokens whose keys an indexer reads, pairs that it
    scores.

    Of an attention that compresses: a window, and of what lies before each token whole entries, all of them or those
    that an indexer picks.
    """
    context, longest, counts, topk = seen.context, seen.longest, seen.counts, mixer.index_topk
    if mixer.compression:
        entries, keys = context // mixer.compression, longest // mixer.compression
        pairs = np.minimum(context, mixer.window) + (np.minimum(entries, topk) if topk else entries)
        picked = np.minimum(keys, topk * counts) if topk else keys  # of each token its own
        spans = np.minimum(longest, mixer.window + counts - 1) + picked
    else:
        entries, keys, limit = context, longest, mixer.most_attended
        pairs = np.minimum(context, limit) if limit else context
        # Tokens of a pass see overlapping windows: what is read is the context, or the first window and what follows.
        most = topk * counts if topk else limit + counts - 1
        spans = np.minimum(longest, most) if limit else longest
    none = np.zeros(seen.n_passes, np.int64)
    scored = (seen.by_pair(keys), seen.by_token(entries)) if mixer.index_heads else (none, none)
    return seen.by_pair(spans), seen.by_token(pairs), *scored
