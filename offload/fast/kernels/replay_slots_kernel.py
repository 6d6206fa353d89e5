"""Slot caches replayed as machine code: what `offload.caches.residency` decides, lookup for lookup.

`offload.caches.slot_replay` calls it.

The victim of a pool is its unprotected resident of the lowest rank, then of the lowest tie. An event is of one layer,
and changes what that layer's residents are worth: each layer's lowest is kept until something of the layer changes, so
that a pool of many layers looks through few residents.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from offload.fast.kernels.draws_kernel import drawn_below

LRU, FIFO, LIFO, LFU, LFU_DECAY, LFRU, LFRU_RELEASED, MRS, ACTIVATION, LEAST_STALE, BELADY, RANDOM, STATIC = range(13)

KINDS = {
    "lru": LRU, "hot_lru": LRU, "fifo": FIFO, "lifo": LIFO, "lfu": LFU, "lfu_decay": LFU_DECAY, "lfru": LFRU,
    "lfru_released": LFRU_RELEASED, "mrs": MRS, "activation": ACTIVATION, "least_stale": LEAST_STALE,
    "belady": BELADY, "random": RANDOM, "static": STATIC,
}  # fmt: skip
"""The evictions that the kernel knows, by name."""

_STALE, _FOR_GOOD = -1, 1 << 62
"""Until when a layer's lowest resident is known: no more, or until something of the layer changes."""

_EXACT = 1 << 26
"""Below so many lookups quotients of counts order as the fractions do: doubles tell them apart."""


def next_uses(ptr: Any, keys: Any, group: Any, following: Any, coming: Any) -> None:
    """Of every lookup the event that looks its key up again within its group, the number of events for none; `coming`
    (n_keys,): room.
    """
    n_events = len(ptr) - 1
    last = -1
    for event in range(n_events - 1, -1, -1):
        if group[event] != last:
            _fill(coming, n_events)
            last = group[event]
        for at in range(ptr[event], ptr[event + 1]):
            following[at] = coming[keys[at]]
            coming[keys[at]] = event


def _fill(array: Any, value: float) -> None:
    """`value` everywhere."""
    for i in range(array.size):
        array[i] = value


def _lowest(members: Any, first: int, n: int, mark: Any, event: int, rank: Any, tie: Any) -> Any:
    best, best_rank, best_tie = -1, np.inf, 0
    for i in range(first, first + n):
        key = members[i]
        if mark[key] == event:
            continue
        own = rank[key]
        if best < 0 or own < best_rank or (own == best_rank and tie[key] < best_tie):
            best, best_rank, best_tie = key, own, tie[key]
    return best


def _overtaken(members: Any, first: int, n: int, mark: Any, event: int, uses: Any, last: Any, best: int) -> Any:
    """The clock from which another resident may be worth less than `best`, by uses for their age.

    `u / (t - a) < v / (t - b)`, with fewer uses u < v, from `t = (v a - u b) / (v - u)` on; with as many never.
    """
    until, v, b = _FOR_GOOD, int(uses[best]), last[best] - 1
    for i in range(first, first + n):
        key = members[i]
        u = int(uses[key])
        if u < v and mark[key] != event:
            until = min(until, -((u * b - v * (last[key] - 1)) // (v - u)))
    return until


def _drawn(members: Any, first: int, n: int, mark: Any, event: int, bits: Any, n_used: Any) -> Any:
    if n == 0:
        return -1
    key = members[first + drawn_below(bits, n_used, n)]
    if mark[key] != event:
        return key
    n_free = 0
    for i in range(first, first + n):
        n_free += mark[members[i]] != event
    if n_free == 0:
        return -1
    skip = drawn_below(bits, n_used, n_free)
    for i in range(first, first + n):
        if mark[members[i]] != event:
            if skip == 0:
                return members[i]
            skip -= 1
    return -1


def _score(keys: Any, scores: Any, begin: int, end: int, n_tokens: float, base: int, n_experts: int, top_k: int,
           alpha: float, rank: Any, taken: Any, event: int) -> None:  # fmt: skip
    """Minus recent score: those of a layer decay, and the 2 k highest of the event count."""
    for key in range(base, base + n_experts):
        rank[key] *= 1 - alpha
    if end - begin <= 2 * top_k:
        for at in range(begin, end):
            rank[keys[at]] += alpha * (scores[at] / n_tokens)
        return
    for _ in range(2 * top_k):
        best = -1
        for at in range(begin, end):
            better = best < 0 or scores[at] > scores[best]
            better = better or (scores[at] == scores[best] and keys[at] < keys[best])
            if taken[keys[at]] != event and better:
                best = at
        taken[keys[best]] = event
        rank[keys[best]] += alpha * (scores[best] / n_tokens)


def _activate(keys: Any, tokens: Any, begin: int, end: int, base: int, n_experts: int, of_layer: float,
              epsilon: float, rank: Any, uses: Any) -> None:  # fmt: skip
    """The share of a layer's tokens of this request that chose each of its experts, worth less the deeper it lies."""
    for at in range(begin, end):
        uses[keys[at]] += tokens[at]
    total = 0.0
    for key in range(base, base + n_experts):
        total += uses[key]
    for key in range(base, base + n_experts):
        rank[key] = (uses[key] / total + epsilon) * of_layer


def _victim(first_group: int, end_group: int, now: int, by_age: bool, may_stay: bool, members: Any, first: Any,
            n_of: Any, lowest: Any, until: Any, mark: Any, event: int, rank: Any, tie: Any, uses: Any,
            last: Any) -> Any:  # fmt: skip
    """The unprotected resident of the lowest worth of several groups, -1 none; each group's lowest is looked for
    where something has changed. `may_stay`: whether the lowest by age is known for longer than this lookup.
    """
    victim, lowest_rank, lowest_tie = -1, np.inf, 0
    for of in range(first_group, end_group):
        if now >= until[of]:
            if by_age:
                for i in range(first[of], first[of] + n_of[of]):
                    one = members[i]
                    rank[one] = uses[one] / (now - last[one] + 1)
            one = _lowest(members, first[of], n_of[of], mark, event, rank, tie)
            lowest[of], until[of] = one, _FOR_GOOD
            if by_age and one >= 0:
                if may_stay:
                    until[of] = _overtaken(members, first[of], n_of[of], mark, event, uses, last, one)
                else:
                    until[of] = _STALE
        one = lowest[of]
        if one < 0:
            continue
        worth = uses[one] / (now - last[one] + 1) if by_age else rank[one]
        if victim < 0 or worth < lowest_rank or (worth == lowest_rank and tie[one] < lowest_tie):
            victim, lowest_rank, lowest_tie = one, worth, tie[one]
    return victim


def _enter(kind: int, key: Any, clock: Any, now: Any, rank: Any, tie: Any, uses: Any, last: Any) -> None:
    """What a key is worth when it becomes resident."""
    if kind == LIFO:
        rank[key] = -clock
    elif kind in (FIFO, LRU):
        rank[key] = clock
    elif kind == LFRU:
        tie[key], last[key] = key, now
    elif kind == LFRU_RELEASED:
        tie[key], uses[key], last[key] = clock, 0, now
    else:
        tie[key] = clock


def _halve(low: int, high: int, rank: Any, until: Any) -> None:
    """Counts of uses decay."""
    for one in range(low, high):
        rank[one] = int(rank[one] / 2)  # of counts, none below 0
    _fill(until, _STALE)


def _leave(victim: Any, of: Any, first: Any, n_of: Any, members: Any, place: Any) -> None:
    """A resident of the group `of` gives its place to the last one."""
    n_of[of] -= 1
    moved = members[first[of] + n_of[of]]
    members[place[victim]] = moved
    place[moved] = place[victim]
    place[victim] = -1


def _look_up(kind: int, key: Any, next_use: Any, clock: Any, pool: Any, low: Any, high: Any, halves_after: Any,
             place: Any, rank: Any, tie: Any, uses: Any, last: Any, now: Any, since: Any,
             until: Any) -> None:  # fmt: skip
    """What a key is worth once it was looked up, resident or not; counts of keys `low` to `high` decay together."""
    if kind == LRU:
        rank[key] = clock
    elif kind == LFU:
        rank[key] += 1
        if place[key] >= 0:
            tie[key] = clock
    elif kind == LFU_DECAY:
        rank[key] += 1
        tie[key] = clock
        since[pool] += 1
        if since[pool] == halves_after:
            since[pool] = 0
            _halve(low, high, rank, until)
    elif kind == LFRU:
        uses[key] += 1
        last[key] = now[pool]
    elif kind == LFRU_RELEASED:
        if place[key] >= 0:
            now[pool] += 1
            uses[key] += 1
            last[key] = now[pool]
    elif kind == LEAST_STALE:
        rank[key] = 1
    elif kind == BELADY:
        rank[key] = -next_use
    else:
        tie[key] = clock


def _forget(place: Any, rank: Any, tie: Any, uses: Any, last: Any, n_in: Any, n_of: Any, until: Any, now: Any,
            since: Any) -> None:  # fmt: skip
    """A request that finds nothing of the one before."""
    _fill(place, -1)
    _fill(rank, 0)
    _fill(tie, 0)
    _fill(uses, 0)
    _fill(last, 0)
    _fill(n_in, 0)
    _fill(n_of, 0)
    _fill(until, _STALE)
    _fill(now, 0)
    _fill(since, 0)


def replay_slots(
    ptr: Any, keys: Any, tokens: Any, scores: Any, following: Any, layer_of: Any, step_of: Any, n_tokens: Any,
    begins: Any, group: Any, slots: Any, held: Any, n_experts: int, top_k: int, kind: int, cold: int, budget: int,
    alpha: float, epsilon: float, a_slot: int, bits: Any, n_used: Any, first: Any, members: Any, place: Any, n_of: Any,
    lowest: Any, until: Any, rank: Any, tie: Any, uses: Any, last: Any, mark: Any, n_in: Any, n_held: Any, now: Any,
    since: Any, taken: Any, hits: Any,
) -> None:  # fmt: skip
    """Fill `hits` by lookup. `slots` of each pool, one or one a layer; `held`: (n_keys,) residents that never go.

    Residents lie by layer, those of a lottery by pool: `members` from `first` on, `n_of` each. Of keys: `place` in it,
    `mark`, `taken` (-1 so far), `rank`, `tie`, `uses`, `last`; of groups: `lowest`, `until`; of pools: `n_in`,
    `n_held`, `now`, `since`.
    """
    n_layers, n_pools = len(held) // n_experts, len(slots)
    n_keys, per_layer = len(held), n_pools > 1
    n_groups, by_age = (n_pools if kind == RANDOM else n_layers), kind in (LFRU, LFRU_RELEASED)
    may_stay = not per_layer and len(keys) < _EXACT
    for group_at in range(n_groups):
        first[group_at + 1] = first[group_at] + (slots[group_at] if kind == RANDOM else n_experts)
    _fill(until, _STALE)
    for key in range(n_keys):
        if held[key]:
            n_held[key // n_experts if per_layer else 0] += 1
    clock = begun_in = -1
    previous, step = -1, -1
    for event in range(len(ptr) - 1):
        begin, end, layer = ptr[event], ptr[event + 1], layer_of[event]
        pool, base = (layer if per_layer else 0), layer * n_experts
        if cold and group[event] != previous:
            _forget(place, rank, tie, uses, last, n_in, n_of, until, now, since)
            begun_in = -1
            step = -1
        previous = group[event]
        # what the gate says
        now[pool] += kind == LFRU
        if kind == LEAST_STALE and step_of[event] != step:
            _fill(rank, 0)
            _fill(until, _STALE)
        step = step_of[event]
        if kind == MRS:
            _score(keys, scores, begin, end, n_tokens[event], base, n_experts, top_k, alpha, rank, taken, event)
        if kind == ACTIVATION:
            if begins[event] and step != begun_in:
                _fill(uses, 0)
                begun_in = step
                _fill(until, _STALE)
                for key in range(n_keys):
                    rank[key] = epsilon * (1 - (key // n_experts) / n_layers)
            of_layer = 1 - layer / n_layers
            _activate(keys, tokens, begin, end, base, n_experts, of_layer, epsilon, rank, uses)
        # lookups
        own = layer if n_groups > 1 else 0
        until[own] = _STALE
        for at in range(begin, end):
            mark[keys[at]] = event
            hits[at] = held[keys[at]] or place[keys[at]] >= 0
        left = budget
        for at in range(begin, end):
            key = keys[at]
            if hits[at] or left == 0:
                continue
            if n_in[pool] + n_held[pool] == slots[pool]:
                victim = -1
                if kind == RANDOM:
                    victim = _drawn(members, first[pool], n_in[pool], mark, event, bits, n_used)
                elif kind != STATIC:
                    victim = _victim(
                        own if per_layer else 0, own + 1 if per_layer else n_groups, now[pool], by_age, may_stay,
                        members, first, n_of, lowest, until, mark, event, rank, tie, uses, last,
                    )  # fmt: skip
                if victim < 0:
                    continue
                n_in[pool] -= 1
                left_by = own if kind == RANDOM else victim // n_experts
                until[left_by] = _STALE
                _leave(victim, left_by, first, n_of, members, place)
            left -= 1
            members[first[own] + n_of[own]] = key
            place[key] = first[own] + n_of[own]
            n_of[own] += 1
            n_in[pool] += 1
            clock += 1
            _enter(kind, key, clock, now[pool], rank, tie, uses, last)
        until[own] = _STALE
        low, high = (base, base + n_experts) if per_layer else (0, n_keys)
        halves_after = max(a_slot * slots[pool], 1)
        for at in range(begin, end):
            clock += 1
            _look_up(
                kind, keys[at], following[at] if kind == BELADY else 0, clock, pool, low, high, halves_after, place,
                rank, tie, uses, last, now, since, until,
            )  # fmt: skip
        until[own] = _STALE
