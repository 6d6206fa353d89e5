"""Decode steps as speculative decoding runs them: a draft's tokens and the one before them, verified in one pass.

A pass takes the last token of a sequence and `gamma` that a draft proposes after it. It keeps the proposals before the
first that the model does not take, and makes one token more than it keeps (Leviathan, Kalman and Matias, 2023). Text
and routing stay those of the recording: what changes is how many of its tokens share a pass.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput, unknown_name
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.transforms.rejected_routes import ROUTES

__all__ = ["expected_tokens", "verified"]


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


def expected_tokens(gamma: int, acceptance: float) -> float:
    """Tokens that a pass makes on average where each proposal is taken with probability `acceptance`.

    (1 - a ** (gamma + 1)) / (1 - a): Leviathan, Kalman and Matias, "Fast Inference from Transformers via Speculative
    Decoding", ICML 2023, equation 1.
    """
    return float(sum(acceptance**i for i in range(gamma + 1)))


def verified(
    trace: RoutingTrace,
    gamma: int,
    acceptance: float | Sequence[int],
    *,
    seed: int = 0,
    rejected_route: str = "recorded",
) -> RoutingTrace:
    """The decode steps of `trace` as passes of at most `gamma` + 1 consecutive tokens of a sequence.

    `acceptance`: of each position, drawn once with `seed`, so that more of it, or a longer draft, never keeps less of
    the same position; or how many proposals each pass took, dealt in order, sequence by sequence, from the start again
    when all are dealt. `rejected_route`: of `traces.transforms.rejected_routes.ROUTES`. The last pass of a sequence is
    as long as what is left. Prompts stay as they are; sequences run side by side as many as did, each starting when a
    place is free. Raises `InvalidInput` for a trace that is verified already, or numbers out of range.
    """
    if trace.rejected is not None:
        raise InvalidInput(f"the trace of {trace.provenance.model} is verified already: give the one it was made of")
    if gamma < 1:
        raise InvalidInput(f"gamma = {gamma}: a draft proposes at least 1 token")
    if rejected_route not in ROUTES:
        raise unknown_name("route of rejected tokens", rejected_route, ROUTES)
    if isinstance(acceptance, int | float) and not 0 <= acceptance <= 1:
        raise InvalidInput(f"acceptance = {acceptance:g}: the share of proposals that are taken, from 0 to 1")
    taken = None if isinstance(acceptance, int | float) else _dealt(acceptance, gamma)
    _, first, member = np.unique(trace.sequence, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(first.size)
    member = rank[member]
    decoding = trace.phase == Phase.DECODE
    by_sequence = np.flatnonzero(decoding)[np.lexsort((trace.position[decoding], member[decoding]))]
    edges = np.searchsorted(member[by_sequence], np.arange(first.size + 1))
    passes = []
    for i in range(first.size):
        tokens, rng = by_sequence[edges[i] : edges[i + 1]], np.random.default_rng((seed, i))
        kept = rng.random(len(tokens)) < acceptance if taken is None else taken
        passes.append(_passes_of(tokens, gamma, kept, rng, rejected_route))
    return _assembled(trace, member, passes, _side_by_side(trace, member))


def _dealt(accepted: Sequence[int], gamma: int) -> Iterator[int]:
    """How many proposals each pass takes, without end. Raises `InvalidInput` for more than are proposed, or none."""
    if not accepted:
        raise InvalidInput("no accepted tokens: give at least one number, of the proposals that a pass took")
    for i, n in enumerate(accepted):
        if not 0 <= n <= gamma:
            raise InvalidInput(f"accepted tokens: pass {i} took {n} of {gamma} proposals: 0 to {gamma} are possible")
    return cycle(accepted)


def _passes_of(
    tokens: NDArray[np.intp],
    gamma: int,
    kept: NDArray[np.bool_] | Iterator[int],
    rng: np.random.Generator,
    rejected_route: str,
) -> _Passes:
    """The passes over the decode `tokens` of one sequence, which are in order.

    `kept` (n_tokens,): whether each would be taken if it were proposed; or how many proposals each pass takes.
    """
    at: list[int] = []
    rejected: list[bool] = []
    turn: list[int] = []
    start = i_pass = 0
    while start < len(tokens):
        n = min(gamma + 1, len(tokens) - start)
        if isinstance(kept, np.ndarray):
            proposed = kept[start + 1 : start + n]
            n_taken = n - 1 if proposed.all() else int(np.argmin(proposed))
        else:
            n_taken = min(next(kept), n - 1)
        at += range(start, start + n)
        rejected += [j > n_taken for j in range(n)]
        turn += [i_pass] * n
        start, i_pass = start + n_taken + 1, i_pass + 1
    places, lost = np.array(at, np.intp), np.array(rejected, np.bool_)
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
