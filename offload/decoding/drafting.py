"""The ops of a draft: a model on the device that proposes tokens one after the other, or a time that was stated.

The proposals of one place are one forward pass of the draft over the tokens before them: one, or the nodes of a level
of a tree that have others after them; where a tree grows, as many as its draft expands, whether they are verified or
not. It runs on the compute lane before the pass that verifies, whose first op waits
for it there; prompts it reads whole, after the model. Its own KV cache keeps what was
proposed and not taken until that is written over. Of a draft with experts every one is on the device, and a pass asks
for as many as its tokens may choose, evenly. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from offload.decoding.mixer_works import contexts_of, mixing_works
from offload.decoding.work_rows import Works
from offload.ops import OpKind, Work
from offload.policy_parts.speculation import Speculation
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step


class Draft:
    """What a design drafts with, in one run; `issue` writes an op of the compute lane."""

    def __init__(self, speculation: Speculation, issue: Callable[[Work], int]) -> None:
        self._speculation, self._issue = speculation, issue
        self._n_read, self._passes_of = speculation.n_read, _proposing if speculation.grown is None else _expanding
        self._works = None if speculation.draft is None else Works(speculation.draft, 0)

    def propose(self, step: Step) -> None:
        """The ops before a pass that verifies."""
        if step.phase == Phase.PREFILL:
            return
        proposing = list(self._passes_of(step, self._n_read))
        if self._speculation.is_timed and proposing:
            self._issue(Work(OpKind.DRAFT, n_entries=len(proposing)))
        if self._speculation.draft is not None:
            for one in proposing:
                self._pass(self._speculation.draft, one, n_heads=len(one.sequence))

    def read(self, step: Step) -> None:
        """The ops after a pass over a prompt."""
        if step.phase == Phase.PREFILL and self._speculation.draft is not None:
            self._pass(self._speculation.draft, step, n_heads=0)

    def _pass(self, draft: ModelArchitecture, step: Step, n_heads: int) -> None:
        """One forward pass of the draft."""
        assert self._works is not None
        works, stack, n = self._works, draft.decoder, len(step.sequence)
        works_of, moe = mixing_works(draft, stack, contexts_of([step]), [False]), frozenset(stack.moe_layers)
        experts = works.grouped(n if draft.n_shared_experts else 0, _evenly(n * draft.top_k, draft.n_experts))
        for layer, mixer in enumerate(stack.all_mixers):
            if mixer is not None:
                self._issue(works_of[mixer][0])
            if layer in moe:
                if draft.n_experts > 1:
                    self._issue(works.gate(n))
                self._issue(experts)
            elif layer not in stack.bare_layers:
                self._issue(works.dense(stack, n))
        if n_heads:
            self._issue(works.head(n_heads))


def _proposing(step: Step, n_read: Sequence[int]) -> Iterator[Step]:
    """The passes of a draft before a verifying `step`: of every sequence that goes further down, as many tokens as are
    read at that depth, `n_read` by depth (one below that).
    """
    order = np.lexsort((step.position, step.sequence))
    sequence, position = step.sequence[order], step.position[order].astype(np.int64)
    first = np.flatnonzero(np.diff(sequence, prepend=sequence[:1] - 1))
    of = np.cumsum(np.diff(sequence, prepend=sequence[:1] - 1) != 0) - 1
    depth = position - position[first][of]
    deepest = np.maximum.reduceat(depth, first)
    level = np.flatnonzero((np.diff(of, prepend=-1) != 0) | (np.diff(depth, prepend=-1) != 0))
    within = np.arange(len(order)) - np.repeat(level, np.diff(np.append(level, len(order))))
    for i in range(int(deepest.max())):
        most = n_read[i] if i < len(n_read) else 1
        at = order[(depth == i) & (deepest[of] > i) & (within < most)]
        yield replace(
            step, experts=step.experts[at], sequence=step.sequence[at], position=step.position[at], gate_weights=None,
            rejected=None,
        )  # fmt: skip


def _expanding(step: Step, n_read: Sequence[int]) -> Iterator[Step]:
    """The passes of a draft before a `step` whose trees it grew: of every sequence that has proposals, `n_read` nodes
    by depth.
    """
    order = np.lexsort((step.position, step.sequence))
    _, first, n_tokens = np.unique(step.sequence[order], return_index=True, return_counts=True)
    root = order[first[n_tokens > 1]]
    for depth, n in enumerate(n_read if root.size else ()):
        at = np.repeat(root, n)
        yield replace(
            step, experts=step.experts[at], sequence=step.sequence[at], position=step.position[at] + np.int32(depth),
            gate_weights=None, rejected=None,
        )  # fmt: skip


def _evenly(n_rows: int, n_experts: int) -> tuple[int, ...]:
    """Tokens of each expert where `n_rows` choices fall on as many as they can."""
    n_active = min(n_rows, n_experts)
    each, more = divmod(n_rows, n_active)
    return (each + 1,) * more + (each,) * (n_active - more)
