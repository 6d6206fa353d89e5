"""What two traces exchange to learn what chance does: whole sequences, or blocks where these are too few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.phase import Phase
from traces.routing import RoutingTrace

LEAST_SEQUENCES = 5
"""Sequences a trace needs to be exchanged by sequence: of ten, 252 halves can be taken."""

BLOCK_TOKENS = 64
"""Decode tokens of a block, where there are too few sequences."""

MOST_UNITS = 250
"""Sequences or blocks that are told apart, of each trace: of more, neighbours are counted together."""


def exchanged_by_sequence(reference: RoutingTrace, observed: RoutingTrace) -> bool:
    """Whether both traces have sequences enough to exchange whole ones."""
    return min(decoding_sequences(reference), decoding_sequences(observed)) >= LEAST_SEQUENCES


def unit_counts(trace: RoutingTrace, layers: list[int], *, by_sequence: bool) -> NDArray[np.float64]:
    """Choices of decode tokens by what is exchanged, (n_units, n_layers, n_experts): sequences, or blocks of them."""
    unit, n_units = exchanged(trace, by_sequence=by_sequence)
    tokens = np.flatnonzero(trace.phase == Phase.DECODE)
    counts = np.empty((n_units, len(layers), trace.n_experts))
    for i, layer in enumerate(layers):
        chosen = trace.experts[tokens, layer].astype(np.int64)
        places = (unit[:, None] * trace.n_experts + chosen)[chosen >= 0]
        counts[:, i] = np.bincount(places, minlength=n_units * trace.n_experts).reshape(n_units, -1)
    return counts


def exchanged(trace: RoutingTrace, *, by_sequence: bool) -> tuple[NDArray[np.int64], int]:
    """The unit of every decode token, (n_decode_tokens,), in the order of the trace, and how many units there are."""
    tokens = np.flatnonzero(trace.phase == Phase.DECODE)
    if by_sequence:
        _, unit = np.unique(trace.sequence[tokens], return_inverse=True)
    else:
        order = np.lexsort((trace.position[tokens], trace.sequence[tokens]))
        unit = np.empty(tokens.size, dtype=np.int64)
        unit[order] = np.arange(tokens.size) // BLOCK_TOKENS
    n = int(unit.max()) + 1
    if n > MOST_UNITS:
        unit, n = unit * MOST_UNITS // n, MOST_UNITS
    return unit.astype(np.int64), n


def decoding_sequences(trace: RoutingTrace) -> int:
    """Sequences that decode."""
    return int(np.unique(trace.sequence[trace.phase == Phase.DECODE]).size)


def drawn_units(n_reference: int, n_observed: int, n_permutations: int, seed: int) -> NDArray[np.float64]:
    """(n_permutations, n_units) 1 where a unit is drawn as observed."""
    rng = np.random.default_rng(seed)
    ranks = rng.random((n_permutations, n_reference + n_observed)).argsort(axis=1).argsort(axis=1)
    return (ranks < n_observed).astype(np.float64)


def p_value(found: float, by_chance: NDArray[np.float64]) -> float:
    """The share of draws, (n_draws,), as large as what was found, itself among them: never 0 (Phipson, Smyth 2010)."""
    as_far = np.count_nonzero(by_chance >= found - 1e-12)  # sums taken in another order are not larger
    return float((1 + as_far) / (1 + by_chance.size))
