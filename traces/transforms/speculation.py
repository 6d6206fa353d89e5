"""Decode steps as speculative decoding runs them: a draft's tokens and the one before them, verified in one pass.

A pass takes the last token of a sequence and what a draft proposes after it, a chain or a tree. It keeps the path of
proposals that are the model's own tokens, and makes one token more than it keeps (Leviathan, Kalman and Matias, 2023;
Miao et al., SpecInfer, 2024). Text and routing stay those of the recording: what changes is how many of its tokens
share a pass, and what else is in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput, unknown_name
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.transforms.draft_trees import Acceptance, DraftTree, branching
from traces.transforms.grown_trees import GrownTrees
from traces.transforms.rejected_routes import ROUTES
from traces.transforms.tree_growth import Growth

Takes = Callable[[int, int], list[int]]

Drafts = Callable[[int, int], tuple[Sequence[int], list[int]]]
"""Of a pass by its first token and the tokens left after it: depths of its nodes, level by level, and those kept."""


class _Passes(NamedTuple):
    """The verified tokens of one sequence, in order.

    `source`: whose experts each has; `at`: whose position; `rejected`; `turn`: its pass, from 0.
    """

    source: NDArray[np.intp]
    at: NDArray[np.intp]
    rejected: NDArray[np.bool_]
    turn: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Passes."""
        return int(self.turn[-1]) + 1 if self.turn.size else 0


def verified(
    trace: RoutingTrace,
    draft: int | DraftTree | GrownTrees,
    acceptance: float | Acceptance | Sequence[int],
    *,
    seed: int = 0,
    rejected_route: str = "recorded",
) -> RoutingTrace:
    """The decode steps of `trace` as passes of a token of a sequence and what a `draft` proposes after it.

    `draft`: so many tokens one after the other, a tree, or trees grown anew for each pass. `acceptance`: of each
    proposal when those of lower rank are wrong, or by depth and rank, drawn once a position with `seed`, so that more
    of it, or a longer draft, never keeps less of the same position; or, where no tree grows, how many proposals each
    pass took, first guesses, dealt in order, sequence by sequence, from the start again when all are dealt.
    `rejected_route`: of `ROUTES`. The last pass of a sequence is as deep as what is left. Prompts stay as they are;
    sequences run side by side as many as did, each starting when a place is free. Raises `InvalidInput` for a trace
    that is verified already or has a prompt behind an answer, counts of trees that grow, or numbers out of range.
    """
    if trace.rejected is not None:
        raise InvalidInput(f"the trace of {trace.provenance.model} is verified already: give the one it was made of")
    if isinstance(draft, int) and draft < 1:
        raise InvalidInput(f"gamma = {draft}: a draft proposes at least 1 token")
    if rejected_route not in ROUTES:
        raise unknown_name("route of rejected tokens", rejected_route, ROUTES)
    tree = branching((1,) * draft) if isinstance(draft, int) else draft
    if isinstance(acceptance, int | float):
        acceptance = Acceptance(each=acceptance)
    dealt = None if isinstance(acceptance, Acceptance) else _dealt(acceptance, tree)
    _, first, member = np.unique(trace.sequence, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(first.size)
    member = rank[member]
    decoding = trace.phase == Phase.DECODE
    _refuse_turns(trace, member)
    by_sequence = np.flatnonzero(decoding)[np.lexsort((trace.position[decoding], member[decoding]))]
    edges = np.searchsorted(member[by_sequence], np.arange(first.size + 1))
    passes = []
    for i in range(first.size):
        tokens, rng = by_sequence[edges[i] : edges[i + 1]], np.random.default_rng((seed, i))
        if isinstance(acceptance, Acceptance):
            drafts = _drawn(tree, acceptance, rng.random(len(tokens)), (seed, i))
        else:
            assert dealt is not None
            assert isinstance(tree, DraftTree)
            drafts = _same_each_pass(tree, _first_guesses(tree, dealt))
        passes.append(_passes_of(tokens, drafts, rng, rejected_route))
    return _assembled(trace, member, passes, _side_by_side(trace, member))


def _refuse_turns(trace: RoutingTrace, member: NDArray[np.int64]) -> None:
    """Raise `InvalidInput` for a prompt behind an answer of its sequence: prompts come first here."""
    decoding = trace.phase == Phase.DECODE
    begun = np.full(int(member.max()) + 1, trace.n_tokens)  # where in the trace each sequence decodes first
    np.minimum.at(begun, member[decoding], np.flatnonzero(decoding))
    behind = np.flatnonzero(~decoding & (np.arange(trace.n_tokens) > begun[member]))
    if behind.size:
        raise InvalidInput(
            f"sequence {trace.sequence[behind[0]]}: step {trace.step[behind[0]]} reads a prompt behind an answer, and "
            f"drafts are of one answer a sequence: give each turn as a sequence of its own"
        )


def _dealt(accepted: Sequence[int], tree: DraftTree | GrownTrees) -> Iterator[int]:
    """How many proposals each pass takes, without end. Raises `InvalidInput` for more than are proposed, or none."""
    if isinstance(tree, GrownTrees):
        raise InvalidInput("accepted tokens: trees grow by the rates of what is taken, not by counts")
    if not accepted:
        raise InvalidInput("no accepted tokens: give at least one number, of the proposals that a pass took")
    most = tree.depth[-1]
    for i, n in enumerate(accepted):
        if not 0 <= n <= most:
            raise InvalidInput(f"accepted tokens: pass {i} took {n} of {most} proposals: 0 to {most} are possible")
    return cycle(accepted)


def _drawn(
    tree: DraftTree | GrownTrees, acceptance: Acceptance, drawn: NDArray[np.float64], seed: tuple[int, int]
) -> Drafts:
    """Passes whose guesses are right as `drawn` of each position, in [0, 1); `seed` is of confidences."""
    if isinstance(tree, GrownTrees):
        growth = Growth(tree, acceptance, drawn, seed)

        def grows(start: int, left: int) -> tuple[Sequence[int], list[int]]:
            if left == 0:
                return (0,), [0]
            grown, path = growth.grown(start, left)
            return grown.depth, path

        return grows
    numbers = drawn.tolist()

    def takes(start: int, most: int) -> list[int]:
        path = [0]
        for depth in range(1, most + 1):
            children = tree.children[path[-1]]
            rank = acceptance.rank(depth, numbers[start + depth], len(children))
            if rank is None:
                break
            path.append(children[rank])
        return path

    return _same_each_pass(tree, takes)


def _same_each_pass(tree: DraftTree, takes: Takes) -> Drafts:
    """Passes of one tree, cut where the sequence ends."""

    def drafts(start: int, left: int) -> tuple[Sequence[int], list[int]]:
        most = min(tree.depth[-1], left)
        return tree.depth[: tree.n_to(most)], takes(start, most)

    return drafts


def _first_guesses(tree: DraftTree, dealt: Iterator[int]) -> Takes:
    """What each pass takes: as many first guesses as are dealt to it."""

    def takes(start: int, most: int) -> list[int]:
        path = [0]
        for _ in range(min(next(dealt), most)):
            children = tree.children[path[-1]]
            if not children:
                break
            path.append(children[0])
        return path

    return takes


def _passes_of(tokens: NDArray[np.intp], drafts: Drafts, rng: np.random.Generator, rejected_route: str) -> _Passes:
    """The passes over the decode `tokens` of one sequence, which are in order."""
    at: list[int] = []
    kept: list[int] = []  # places in `at`
    turn: list[int] = []
    start = i_pass = 0
    while start < len(tokens):
        depths, path = drafts(start, len(tokens) - 1 - start)
        kept += [len(at) + node for node in path]
        at += [start + depth for depth in depths]
        turn += [i_pass] * len(depths)
        start, i_pass = start + len(path), i_pass + 1
    places, lost = np.array(at, np.intp), np.ones(len(at), np.bool_)
    lost[kept] = False
    source = places.copy()
    if rejected_route == "elsewhere" and len(tokens) > 1:  # any other token of the sequence
        source[lost] = (places[lost] + rng.integers(1, len(tokens), int(lost.sum()))) % len(tokens)
    return _Passes(tokens[source], tokens[places], lost, np.array(turn, np.int64))


def _side_by_side(trace: RoutingTrace, member: NDArray[np.int64]) -> int:
    """The most sequences that decode in one step."""
    decoding = trace.phase == Phase.DECODE
    pairs = np.unique(trace.step[decoding].astype(np.int64) * (int(member.max()) + 1) + member[decoding])
    steps = pairs // (int(member.max()) + 1)
    return int(np.unique(steps, return_counts=True)[1].max()) if steps.size else 1


def _assembled(trace: RoutingTrace, member: NDArray[np.int64], passes: Sequence[_Passes], batch: int) -> RoutingTrace:
    """The trace of prompts and passes, each sequence starting when one of `batch` places is free."""
    start, places = np.empty(len(passes), np.int64), [0] * batch
    for i, one in enumerate(passes):
        start[i] = heapq.heappop(places)
        heapq.heappush(places, int(start[i]) + max(one.n, 1))
    prompt = np.flatnonzero(trace.phase == Phase.PREFILL)
    of = np.repeat(np.arange(len(passes)), [len(one.turn) for one in passes])
    source, at = (np.concatenate([prompt, *(one[i] for one in passes)]) for i in (0, 1))
    rejected = np.concatenate([np.zeros(len(prompt), np.bool_), *(one.rejected for one in passes)])
    turn = np.concatenate([np.zeros(len(prompt), np.int64), *(one.turn for one in passes)])
    owner = np.concatenate([member[prompt], of])
    decoding = np.arange(len(at)) >= len(prompt)
    tick = 2 * (start[owner] + turn) + decoding
    own_step = np.where(decoding, 0, trace.step[at])  # prompts that were read apart stay apart
    order = np.lexsort((np.arange(len(at)), owner, own_step, tick))
    changes = (np.diff(tick[order], prepend=-1) != 0) | (np.diff(own_step[order], prepend=-1) != 0)
    source, at = source[order], at[order]
    return replace(
        trace,
        experts=trace.experts[source],
        gate_weights=None if trace.gate_weights is None else trace.gate_weights[source],
        sequence=trace.sequence[at],
        position=trace.position[at],
        phase=trace.phase[at],
        step=np.cumsum(changes, dtype=np.int32) - np.int32(1),
        rejected=rejected[order],
    )
