"""Whether two traces route alike: a distance between their loads, and how often chance alone gives one as large.

What can be exchanged is a whole sequence, since its tokens route alike. Where a trace has too few of them it is cut
into blocks, whose tokens are no less alike: the p-value is then too small, and `DriftTest.by_sequence` is False.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.foundation.type_checks import check_value
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.locality import decode_layers
from traces.statistics.permutation import (
    BLOCK_TOKENS,
    LEAST_SEQUENCES,
    decoding_sequences,
    drawn_units,
    exchanged,
    exchanged_by_sequence,
    p_value,
    unit_counts,
)

MOST_PERMUTATIONS = 100_000

_CELLS = 1 << 22
"""Array cells worked on at a time."""


@dataclass(frozen=True, slots=True)
class ExpertShift:
    """An expert whose share of its layer's choices moved further than chance moves any of them."""

    layer: int
    expert: int
    reference_share: float
    observed_share: float


@dataclass(frozen=True, slots=True)
class DriftTest:
    """How far `observed` lies from `reference`, and whether that is chance.

    `distance`: mean over layers of the Hellinger distance of their experts' shares, 0 alike to 1 disjoint; `by_layer`
    of each MoE layer, NaN where none decodes. `by_chance`: the median distance of parts as large, drawn at random of
    both. `p_value`: the share of such draws that lie as far apart, (1 + n_as_far) / (1 + n_permutations) (Phipson and
    Smyth, Stat. Appl. Genet. Mol. Biol. 9(1), 2010), by the energy distance of the sequences (Szekely and Rizzo, J.
    Stat. Plan. Inference 143(8), 2013), which a single long sequence does not decide. `colder`, `hotter`: experts whose
    share fell or rose by more than the largest change of any expert in all but `alpha` of the draws.
    """

    distance: float
    by_layer: tuple[float, ...]
    by_chance: float
    p_value: float
    n_permutations: int
    n_reference: int
    n_observed: int
    by_sequence: bool
    colder: tuple[ExpertShift, ...]
    hotter: tuple[ExpertShift, ...]


@dataclass(frozen=True, slots=True)
class MeanShift:
    """The mean of a figure of decode tokens in two traces, and how often chance parts them as far, either way."""

    reference: float
    observed: float
    p_value: float


def drift_between(
    reference: RoutingTrace, observed: RoutingTrace, *, n_permutations: int = 999, alpha: float = 0.01, seed: int = 0
) -> DriftTest:
    """Compare the experts that decode tokens choose. Deterministic in `seed`.

    Raises `InvalidInput` for traces of other shapes, too few decode tokens, or numbers that make no test.
    """
    check_value("drift: n_permutations", n_permutations, int)
    check_value("drift: seed", seed, int)
    if not 1 <= n_permutations <= MOST_PERMUTATIONS:
        raise InvalidInput(f"n_permutations = {n_permutations}: 1 to {MOST_PERMUTATIONS:,}")
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha = {alpha:g}: a probability between 0 and 1, such as 0.01")
    _check_alike(reference, observed)
    by_sequence = exchanged_by_sequence(reference, observed)
    layers = decode_layers(reference)
    ours, theirs = (unit_counts(trace, layers, by_sequence=by_sequence) for trace in (reference, observed))
    drawn = drawn_units(len(ours), len(theirs), n_permutations, seed)
    return _tested(ours, theirs, drawn, layers, reference.n_moe_layers, alpha, by_sequence)


def mean_shift(
    reference: RoutingTrace,
    observed: RoutingTrace,
    of_reference: NDArray[np.float64],
    of_observed: NDArray[np.float64],
    *,
    n_permutations: int = 999,
    seed: int = 0,
) -> MeanShift:
    """Compare a figure of every decode token, (n_decode_tokens,) in the order of the trace, NaN where it has none.

    The traces are exchanged as in `drift_between`.
    """
    by_sequence = exchanged_by_sequence(reference, observed)
    ours, theirs = (
        _sums(trace, values, by_sequence=by_sequence)
        for trace, values in ((reference, of_reference), (observed, of_observed))
    )
    pooled = np.concatenate([ours, theirs])
    taken = drawn_units(len(ours), len(theirs), n_permutations, seed) @ pooled
    by_chance = np.abs(_mean(taken) - _mean(pooled.sum(axis=0) - taken))
    before, now = float(_mean(ours.sum(axis=0))), float(_mean(theirs.sum(axis=0)))
    return MeanShift(before, now, p_value(abs(now - before), by_chance))


def hellinger_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of counts (..., n_experts) along the last axis, 0 to 1; 1 where only one has counts."""
    overlap = (np.sqrt(_shares(one)) * np.sqrt(_shares(other))).sum(axis=-1)
    found: NDArray[np.float64] = np.sqrt(np.clip(1.0 - overlap, 0.0, 1.0))
    return found


def energy_distances(units: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the mean distance across, less those within, for each row of `drawn` (n, n_units), 0 and 1 for the sides.

    `units` (n_units, n_layers, n_experts): counts. Distances are Hellinger's, mean over layers.
    """
    apart = np.zeros((len(units), len(units)))
    for layer in range(units.shape[1]):
        roots = np.sqrt(_shares(units[:, layer]))
        apart += np.sqrt(np.clip(1.0 - roots @ roots.T, 0.0, 1.0)) / units.shape[1]
    np.fill_diagonal(apart, 0.0)
    here = drawn / drawn.sum(axis=1, keepdims=True)
    there = (1 - drawn) / (1 - drawn).sum(axis=1, keepdims=True)
    across, within = ((here @ apart) * there).sum(axis=1), ((here @ apart) * here).sum(axis=1)
    found: NDArray[np.float64] = 2 * across - within - ((there @ apart) * there).sum(axis=1)
    return found


def _sums(trace: RoutingTrace, values: NDArray[np.float64], *, by_sequence: bool) -> NDArray[np.float64]:
    """(n_units, 2): the sum of the values of each unit, and how many there are."""
    unit, n_units = exchanged(trace, by_sequence=by_sequence)
    known = ~np.isnan(values)
    columns = [np.bincount(unit[known], weights, n_units) for weights in (values[known], None)]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _mean(sums: NDArray[np.float64]) -> Any:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _check_alike(reference: RoutingTrace, observed: RoutingTrace) -> None:
    here, there = ((t.n_moe_layers, t.n_experts) for t in (reference, observed))
    if here != there:
        raise InvalidInput(
            f"the reference is of {here[0]} MoE layers x {here[1]} experts, the trace of {there[0]} x {there[1]}: "
            "compare traces of one model"
        )
    for name, trace in (("reference", reference), ("trace", observed)):
        n_tokens = int(np.count_nonzero(trace.phase == Phase.DECODE))
        if decoding_sequences(trace) < LEAST_SEQUENCES and n_tokens < LEAST_SEQUENCES * BLOCK_TOKENS:
            raise InvalidInput(
                f"the {name} has {n_tokens} decode tokens of {decoding_sequences(trace)} sequences: record "
                f"{LEAST_SEQUENCES} sequences, or {LEAST_SEQUENCES * BLOCK_TOKENS} tokens"
            )
    if decode_layers(reference) != decode_layers(observed):
        raise InvalidInput("the traces decode in different MoE layers: compare traces of one model")


def _tested(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], drawn: NDArray[np.float64], layers: list[int],
    n_moe_layers: int, alpha: float, by_sequence: bool,
) -> DriftTest:  # fmt: skip
    shape = ours.shape[1:]
    pooled = np.concatenate([ours, theirs]).reshape(len(ours) + len(theirs), -1)
    together = pooled.sum(axis=0)
    by_layer = hellinger_distance(ours.sum(axis=0), theirs.sum(axis=0))
    change = _shares(theirs.sum(axis=0)) - _shares(ours.sum(axis=0))
    distances, least, most = [], [], []
    rows = max(1, _CELLS // pooled.shape[1])
    for start in range(0, len(drawn), rows):
        taken = drawn[start : start + rows] @ pooled
        left = (together - taken).reshape(-1, *shape)
        taken = taken.reshape(-1, *shape)
        distances.append(hellinger_distance(left, taken).mean(axis=1))
        moved = _shares(taken) - _shares(left)
        least.append(moved.min(axis=(1, 2)))
        most.append(moved.max(axis=(1, 2)))
    units, as_found = np.concatenate([ours, theirs]), np.repeat([0.0, 1.0], [len(ours), len(theirs)])
    energies = energy_distances(units, np.concatenate([as_found[None], drawn]))
    everywhere = np.full(n_moe_layers, np.nan)
    everywhere[layers] = by_layer
    reference, observed = _shares(ours.sum(axis=0)), _shares(theirs.sum(axis=0))
    colder = np.argwhere(change < np.quantile(np.concatenate(least), alpha, method="lower"))
    hotter = np.argwhere(change > np.quantile(np.concatenate(most), 1 - alpha, method="higher"))

    return DriftTest(
        distance=float(by_layer.mean()),
        by_layer=tuple(everywhere.tolist()),
        by_chance=float(np.median(np.concatenate(distances))),
        p_value=p_value(float(energies[0]), energies[1:]),
        n_permutations=len(drawn),
        n_reference=len(ours),
        n_observed=len(theirs),
        by_sequence=by_sequence,
        colder=_shifts(colder, layers, reference, observed),
        hotter=_shifts(hotter, layers, reference, observed),
    )


def _shifts(
    places: NDArray[np.int64], layers: list[int], reference: NDArray[np.float64], observed: NDArray[np.float64]
) -> tuple[ExpertShift, ...]:
    """The experts at `places` (n, 2), layer and expert, the largest change first."""
    found = [ExpertShift(layers[i], e, float(reference[i, e]), float(observed[i, e])) for i, e in places.tolist()]
    return tuple(sorted(found, key=lambda one: -abs(one.observed_share - one.reference_share)))


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    total = counts.sum(axis=-1, keepdims=True)
    shares: NDArray[np.float64] = counts / np.where(total == 0, 1.0, total)
    return shares
