"""The loop of `fill` where there are many experts: slot by slot, `WIDTH` layers at once as far as no search goes.

What is cut out of [0, 1) for the experts chosen already is subtracted in vectors, one number a layer, of all layers
first: where a search branches otherwise than was guessed, no vector is computed in vain. The search for an expert, and
what repeats or follows, is done one layer after the other.
"""

from __future__ import annotations

from typing import Any

from compiled.vector import WIDTH, add, if_below, load, maximum, multiply, splat, store, subtract
from traces.synthesis.synthesis_kernel import repeated


def _cut(what: Any, lows: Any, highs: Any, first: int, n_chosen: int) -> Any:
    """Where draws fall when intervals in rows from `first` on, in order of rank, are cut out of [0, 1)."""
    left = splat(1.0)
    for i in range(first, first + n_chosen):
        left = subtract(left, subtract(load(highs, i), load(lows, i)))
    at = multiply(what, left)
    for i in range(first, first + n_chosen):
        low = load(lows, i)
        at = if_below(at, low, at, add(at, subtract(load(highs, i), low)))
    return at


def _put(low: Any, high: Any, lows: Any, highs: Any, first: int, n_chosen: int) -> None:
    """An interval among those in rows from `first` on, in order of rank."""
    for i in range(first, first + n_chosen):
        other_low, other_high = load(lows, i), load(highs, i)
        store(lows, i, if_below(low, other_low, low, other_low))
        store(highs, i, if_below(high, other_high, high, other_high))
        low, high = maximum(low, other_low), maximum(high, other_high)
    store(lows, first + n_chosen, low)
    store(highs, first + n_chosen, high)


def _found(ends: Any, guide: Any, taken: Any, at: float) -> int:
    """The rank that the number `at` falls on, or the next that is not `taken`."""
    choice = int(guide[int(at * (guide.size - 1))])
    while ends[choice] <= at:
        choice += 1
    while taken[choice]:  # rounding put it on the edge of a chosen expert
        choice = choice + 1 if choice + 1 < taken.size else 0
    return choice


def fill_many(
    experts: Any,  # [T, L, k] int16, written; ranks while a token chooses
    draws: Any,  # [T, L, k, 2] float64 in [0, 1)
    popularity: Any,  # [L, n_active + 1] float64, cumulative by rank
    ends: Any,  # [L, n_active] float64: where each rank ends, the last never
    guides: Any,  # [L, n_cells + 1] int16: the rank that a draw of i / n_cells falls on, n_cells a power of 2
    by_rank: Any,  # [L, n_experts] int16: the expert of each popularity rank
    last: Any,  # [L, k] int16, updated: ranks of the token before
    taken: Any,  # [L, n_active] int8, of zeros, left so: experts that this token has chosen
    places: Any,  # [G * k, WIDTH] float64, for use here, of G groups of layers: draws, then where they fall
    lows: Any,  # [G * k, WIDTH] float64, for use here: of what is chosen, in order of rank, where its interval begins
    highs: Any,  # [G * k, WIDTH] float64: and ends
    chosen: Any,  # [2 * G, WIDTH] float64, for use here: the intervals of what is chosen now
    n_before: int,  # tokens that the sequence has had
    p_repeat: float,
    p_follow: float,
) -> None:
    """As `fill`, bit for bit."""
    n_tokens, n_layers, top_k = experts.shape
    n_groups = places.shape[0] // top_k
    for t in range(n_tokens):
        ranks = experts[t]
        until_repeat = p_repeat if n_before + t > 0 else 0.0
        for group in range(n_groups):
            for lane in range(min(WIDTH, n_layers - group * WIDTH)):
                for slot in range(top_k):
                    places[group * top_k + slot, lane] = draws[t, group * WIDTH + lane, slot, 1]
        for slot in range(top_k):
            until_follow = until_repeat
            for group in range(n_groups):
                first = group * top_k
                row = first + slot
                store(places, row, _cut(load(places, row), lows, highs, first, slot))
            for layer in range(n_layers):
                group, lane = layer // WIDTH, layer % WIDTH
                how, mine, choice = draws[t, layer, slot, 0], taken[layer], -1
                if how < until_repeat:
                    choice = repeated(last[layer], mine, slot)
                elif how < until_follow:
                    choice = ranks[layer - 1, slot]
                if choice < 0 or mine[choice]:
                    choice = _found(ends[layer], guides[layer], mine, places[group * top_k + slot, lane])
                mine[choice] = 1
                ranks[layer, slot] = choice
                chosen[2 * group, lane] = popularity[layer, choice]
                chosen[2 * group + 1, lane] = popularity[layer, choice + 1]
                until_follow = until_repeat + (1.0 - until_repeat) * p_follow
            if slot + 1 < top_k:
                for group in range(n_groups):
                    _put(load(chosen, 2 * group), load(chosen, 2 * group + 1), lows, highs, group * top_k, slot)
        for layer in range(n_layers):
            for slot in range(top_k):
                rank = ranks[layer, slot]
                taken[layer, rank] = 0
                last[layer, slot], ranks[layer, slot] = rank, by_rank[layer, rank]
