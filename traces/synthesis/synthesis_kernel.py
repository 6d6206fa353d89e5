"""The loop that makes up a routing trace token by token, as it stands: what compiled loops do is defined by it."""

from __future__ import annotations

from typing import Any


def _drawn(edges: Any, guide: Any, taken: Any, ordered: Any, n_chosen: int, what: float) -> int:
    """One draw by popularity, cumulative in `edges`, of what is not `taken`: of the experts `ordered`."""
    left = 1.0
    for i in range(n_chosen):
        left -= edges[ordered[i] + 1] - edges[ordered[i]]
    at = what * left
    for i in range(n_chosen):
        if at >= edges[ordered[i]]:
            at += edges[ordered[i] + 1] - edges[ordered[i]]
    n_cells, last = guide.size - 1, edges.size - 2
    choice = int(guide[min(int(at * n_cells), n_cells)])
    while choice < last and edges[choice + 1] <= at:
        choice += 1
    while taken[choice]:  # rounding put it on the edge of a chosen expert
        choice = (choice + 1) % (edges.size - 1)
    return choice


def repeated(last: Any, taken: Any, slot: int) -> int:
    """The first of the `last` token's ranks, from `slot` on, that is not `taken`; the one before where all are."""
    top_k, at_slot, choice = last.size, slot, -1
    for _ in range(top_k):
        choice = last[at_slot]
        if not taken[choice]:
            break
        at_slot = at_slot + 1 if at_slot + 1 < top_k else 0
    return choice


def _put(ordered: Any, n: int, choice: int) -> None:
    """Into `n` numbers that ascend."""
    place = n
    while place > 0 and ordered[place - 1] > choice:
        ordered[place] = ordered[place - 1]
        place -= 1
    ordered[place] = choice


def fill(
    experts: Any,  # [T, L, k] int16, written; ranks while a token chooses
    draws: Any,  # [T, L, k, 2] float64 in [0, 1)
    popularity: Any,  # [L, n_active + 1] float64, cumulative by rank
    guides: Any,  # [L, n_cells + 1] int16: the rank that a draw of i / n_cells falls on, n_cells a power of 2
    by_rank: Any,  # [L, n_experts] int16: the expert of each popularity rank
    last: Any,  # [L, k] int16, updated: ranks of the token before
    taken: Any,  # [L, n_active] int8, of zeros, left so: experts that this token has chosen
    ordered: Any,  # [L, k] int64, for use here: those, ascending
    n_before: int,  # tokens that the sequence has had
    p_repeat: float,
    p_follow: float,
) -> None:
    """Choose experts of one sequence token by token. One uniform decides how a slot chooses, the other what it draws.

    A repeated token whose expert is already chosen gives another of its experts; a mapped expert already chosen is
    replaced by a draw. A draw by popularity is exact sampling without replacement: the
    intervals of experts already chosen are cut out of [0, 1) and the uniform falls on the rest.
    """
    n_tokens, n_layers, top_k = experts.shape
    for t in range(n_tokens):
        ranks = experts[t]
        until_repeat = p_repeat if n_before + t > 0 else 0.0
        for slot in range(top_k):  # slot by slot: no layer waits for what the one before draws
            until_follow = until_repeat
            for layer in range(n_layers):
                chosen = taken[layer]
                how, what = draws[t, layer, slot, 0], draws[t, layer, slot, 1]
                choice = -1
                if how < until_repeat:
                    choice = repeated(last[layer], chosen, slot)
                elif how < until_follow:
                    choice = ranks[layer - 1, slot]
                if choice < 0 or chosen[choice]:
                    choice = _drawn(popularity[layer], guides[layer], chosen, ordered[layer], slot, what)
                chosen[choice] = 1
                if slot + 1 < top_k:
                    _put(ordered[layer], slot, choice)
                ranks[layer, slot] = choice
                until_follow = until_repeat + (1.0 - until_repeat) * p_follow
        for layer in range(n_layers):
            for slot in range(top_k):
                taken[layer, ranks[layer, slot]] = 0
        for layer in range(n_layers):
            for slot in range(top_k):
                rank = ranks[layer, slot]
                last[layer, slot], ranks[layer, slot] = rank, by_rank[layer, rank]
