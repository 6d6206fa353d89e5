"""The loop of `fill` where the layers of a token know nothing of one another: slot by slot, `WIDTH` layers at once.

A vector holds one number a layer. Ranks are whole numbers in float64, and are counted: the rank of a draw is how many
edges lie at or below it, without a branch.
"""

from __future__ import annotations

import math
from typing import Any

from compiled.machine_code import Kernel
from compiled.vector import (
    ALL,
    WIDTH,
    add,
    below,
    if_below,
    if_equal,
    load,
    maximum,
    multiply,
    splat,
    store,
    subtract,
    where_below,
)

FILL_LAYERS = Kernel(
    __name__,
    "fill_layers",
    (
        "int16[3]", "float64[4]", "float64[2]", "int16[2]", "float64[2]", "float64[2]", "float64[2]", "float64[2]",
        "float64[2]", "int64", "float64",
    ),
    unrolls=False,
)  # fmt: skip

_FEW_VECTORS = 3
"""Up to so many comparisons of a draw, it is the quicker loop."""


def pays(n_layers: int, top_k: int, n_active: int, width: int = WIDTH) -> bool:
    """Whether this loop is quicker than `fill`, which searches, for such a model: it compares a draw with every expert,
    `width` layers at a time.
    """
    n_compared = n_active * width * math.ceil(n_layers / width)
    return top_k > 1 and n_compared <= _FEW_VECTORS * width * n_layers


def _drawn(what: Any, edges: Any, first: int, n_active: int, lows: Any, highs: Any, n_chosen: int) -> Any:
    """Ranks that draws of what is not chosen fall on: edges from row `first` on, intervals chosen in order of rank."""
    left = splat(1.0)
    for i in range(n_chosen):
        left = subtract(left, subtract(load(highs, i), load(lows, i)))
    at = multiply(what, left)
    for i in range(n_chosen):
        low = load(lows, i)
        at = if_below(at, low, at, add(at, subtract(load(highs, i), low)))
    beyond = splat(0.0)
    for i in range(1, n_active):
        beyond = add(beyond, where_below(at, load(edges, first + i), 1.0))
    return subtract(splat(n_active - 1.0), beyond)


def _is_chosen(rank: Any, chosen: Any, n_chosen: int) -> Any:
    """1 where a rank is among those chosen."""
    found, no = splat(0.0), splat(0.0)
    for i in range(n_chosen):
        found = add(found, if_equal(rank, load(chosen, i), splat(1.0), no))
    return found


def _repeated(last: Any, first: int, n_groups: int, top_k: int, slot: int, chosen: Any) -> Any:
    """The first of the last token's ranks, from `slot` on, that is not chosen yet: rows from `first` on."""
    again, half = splat(0.0), splat(0.5)
    for step in range(slot, -1, -1):
        at = slot + step
        if at >= top_k:
            at -= top_k
        before = load(last, first + at * n_groups)
        again = if_below(_is_chosen(before, chosen, slot), half, before, again)
    return again


def _put(rank: Any, edges: Any, first: int, n_active: int, lows: Any, highs: Any, n_chosen: int) -> None:
    """The interval of a rank among those chosen, in order of rank."""
    low, high, at, one = load(edges, first), load(edges, first + 1), splat(0.0), splat(1.0)
    for i in range(1, n_active):
        at = add(at, one)
        low = if_below(rank, at, low, load(edges, first + i))
        high = if_below(rank, at, high, load(edges, first + i + 1))
    for i in range(n_chosen):
        other_low, other_high = load(lows, i), load(highs, i)
        store(lows, i, if_below(low, other_low, low, other_low))
        store(highs, i, if_below(high, other_high, high, other_high))
        low, high = maximum(low, other_low), maximum(high, other_high)
    store(lows, n_chosen, low)
    store(highs, n_chosen, high)


def _off_edges(chosen: Any, slot: int, n_active: int) -> None:
    """The next rank that is not chosen, where rounding put the one of `slot` on the edge of a chosen expert."""
    for lane in range(WIDTH):
        clashes = True
        while clashes:
            clashes = False
            for i in range(slot):
                if chosen[i, lane] == chosen[slot, lane]:
                    clashes = True
            if clashes:
                following = chosen[slot, lane] + 1.0
                chosen[slot, lane] = following if following < n_active else 0.0


def fill_layers(
    experts: Any,  # [T, L, k] int16, written
    draws: Any,  # [T, L, k, 2] float64 in [0, 1)
    edges: Any,  # [G * (n_active + 1), WIDTH] float64, cumulative by rank; of G groups of layers, the last filled up
    by_rank: Any,  # [L, n_experts] int16: the expert of each popularity rank
    last: Any,  # [k * G, WIDTH] float64, updated: ranks of the token before
    drawn: Any,  # [2 * k * G, WIDTH] float64, for use here: the draws of a token, layers side by side
    chosen: Any,  # [k, WIDTH] float64, for use here: ranks by slot
    lows: Any,  # [k, WIDTH] float64, for use here: of what is chosen, in order of rank, where its interval begins
    highs: Any,  # [k, WIDTH] float64: and ends
    n_before: int,  # tokens that the sequence has had
    p_repeat: float,
) -> None:
    """As `fill`, bit for bit, without correlation of layers."""
    n_tokens, n_layers, top_k = experts.shape
    n_groups = drawn.shape[0] // (2 * top_k)
    n_edges = edges.shape[0] // n_groups
    half, chance = splat(0.5), splat(p_repeat)
    for t in range(n_tokens):
        repeats = n_before + t > 0 and p_repeat > 0.0
        for group in range(n_groups):
            n_lanes, layers = min(WIDTH, n_layers - group * WIDTH), draws[t]
            for slot in range(top_k):
                how, what = drawn[2 * slot * n_groups + group], drawn[(2 * slot + 1) * n_groups + group]
                for lane in range(n_lanes):
                    how[lane] = layers[group * WIDTH + lane, slot, 0]
                    what[lane] = layers[group * WIDTH + lane, slot, 1]
        for group in range(n_groups):
            first, past = group * n_edges, group
            for slot in range(top_k):
                row = 2 * slot * n_groups + group
                rank = _drawn(load(drawn, row + n_groups), edges, first, n_edges - 1, lows, highs, slot)
                if repeats:
                    again = _repeated(last, past, n_groups, top_k, slot, chosen)
                    rank = if_below(load(drawn, row), chance, again, rank)
                store(chosen, slot, rank)
                if below(_is_chosen(rank, chosen, slot), half) != ALL:
                    _off_edges(chosen, slot, n_edges - 1)
                if slot + 1 < top_k:
                    _put(load(chosen, slot), edges, first, n_edges - 1, lows, highs, slot)
            for slot in range(top_k):
                store(last, past + slot * n_groups, load(chosen, slot))
        for group in range(n_groups):
            n_lanes, token = min(WIDTH, n_layers - group * WIDTH), experts[t]
            for slot in range(top_k):
                ranks = last[slot * n_groups + group]
                for lane in range(n_lanes):
                    token[group * WIDTH + lane, slot] = by_rank[group * WIDTH + lane, int(ranks[lane])]
