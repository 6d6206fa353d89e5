"""Answers to misses as machine code, for `decode_kernel`: `offload.answers`, of those that fetch an expert or leave it
to the host whole, and what the host computes then (`offload.placing.host_side`).

Arrays: `offload.fast.kernels.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.host_kernel import experts_on_host, hand_over
from offload.fast.kernels.kernel_layout import (
    ANSWER,
    ARRIVALS,
    BESIDE,
    BY_BANDWIDTH,
    CHEAPER_EACH,
    COST_CPU,
    COST_SINGLE,
    DEVICE,
    DEVICE_TOKEN,
    HANDOVER,
    HELD_SLOT,
    HOST,
    HOST_COST,
    HOST_EXPERT,
    HOST_TOKEN,
    LIST_SCHEDULED,
    MISSES,
    N_ON_HOST,
    NONE,
    ON_HOST,
    SHORTER_LANE,
    SLOT_OF,
    UNION_EXPERT,
    UNION_TOKENS,
    WAITING,
)

_ONE = 1


def _on_host_s(c: Any, n_tokens: int) -> Any:
    """One expert for `n_tokens` by the host, in copies of an expert."""
    return max(c[HOST], n_tokens * c[HOST_TOKEN])


def _on_device_s(c: Any, n_tokens: int) -> Any:
    """The same by the device, its weights being there."""
    return max(c[DEVICE], n_tokens * c[DEVICE_TOKEN])


def _tokens(w: Any, r: Any, low: int, i: int) -> Any:
    """The tokens that the `i`-th miss serves."""
    return r[r[UNION_TOKENS] + low + w[w[MISSES] + i]]


def _most_tokens_first(w: Any, r: Any, low: int, n: int) -> None:
    """Put `MISSES` in the order of the tokens that they serve, of equal ones in that of experts."""
    for i in range(1, n):
        one, place = w[w[MISSES] + i], i
        n_tokens = r[r[UNION_TOKENS] + low + one]
        while place > 0 and _tokens(w, r, low, place - 1) < n_tokens:
            w[w[MISSES] + place] = w[w[MISSES] + place - 1]
            place -= 1
        w[w[MISSES] + place] = one


def _shorter_lane(w: Any, r: Any, c: Any, low: int, n: int) -> int:
    """How many of the misses are fetched so that the longer of host and link is shortest; of equal ones the fewest."""
    n_fetched, host_s = n, 0.0
    shortest = float(n)
    for i in range(n - 1, -1, -1):
        host_s += _on_host_s(c, _tokens(w, r, low, i))
        longer = max(float(i), host_s)
        if longer <= shortest:
            n_fetched, shortest = i, longer
    return n_fetched


def _list_scheduled(w: Any, r: Any, c: Any, low: int, high: int, n: int) -> int:
    """How many of the misses are fetched where host and link take one in turn, whichever is done first."""
    device_s = 0.0
    for i in range(high - low):
        if w[w[ON_HOST] + i] == 0:
            device_s += _on_device_s(c, r[r[UNION_TOKENS] + low + i])
    host_s, link_s = c[HANDOVER], 0.0
    first, last = 0, n - 1
    while first <= last:
        host_ends = host_s + _on_host_s(c, _tokens(w, r, low, last))
        device_ends = max(device_s, link_s + 1.0) + _on_device_s(c, _tokens(w, r, low, first))
        if host_ends <= device_ends:
            host_s = host_ends
            last -= 1
        else:
            link_s, device_s = link_s + 1.0, device_ends
            first += 1
    return first


def answer_misses(x: Any, w: Any, r: Any, c: Any, low: int, high: int, first_key: int) -> int:
    """Leave to the host what of entries `low` to `high` of the unions it computes, in `HOST_EXPERT`; the others move
    together. Returns where these end.
    """
    w[N_ON_HOST], n = 0, 0
    if r[ANSWER] == 0:
        return high
    for at in range(low, high):
        key = first_key + r[r[UNION_EXPERT] + at]
        w[w[ON_HOST] + at - low] = False
        if x[key, HELD_SLOT] == -2 and not x[key, WAITING] and x[key, SLOT_OF] < 0:
            w[w[MISSES] + n], w[w[ON_HOST] + at - low] = at - low, True
            n += 1
    if r[ANSWER] == CHEAPER_EACH:
        one_s = _on_host_s(c, _ONE)
        for i in range(n):
            w[w[ON_HOST] + w[w[MISSES] + i]] = _tokens(w, r, low, i) * one_s < 1.0
    elif r[ANSWER] >= SHORTER_LANE:
        n_fetched = 0
        _most_tokens_first(w, r, low, n)
        if r[ANSWER] == SHORTER_LANE:
            n_fetched = _shorter_lane(w, r, c, low, n)
        elif r[ANSWER] == BY_BANDWIDTH:
            host_s = c[HOST] * c[BESIDE]
            n_fetched = int(n * (host_s / (1.0 + host_s)) + 0.5)
        elif r[ANSWER] == LIST_SCHEDULED:
            n_fetched = _list_scheduled(w, r, c, low, high, n)
        for i in range(n_fetched):
            w[w[ON_HOST] + w[w[MISSES] + i]] = False
    to = low
    for at in range(low, high):
        if w[w[ON_HOST] + at - low]:
            w[w[HOST_EXPERT] + w[N_ON_HOST]] = r[r[UNION_EXPERT] + at]
            w[w[HOST_COST] + w[N_ON_HOST]] = r[r[COST_CPU] + at]
            w[N_ON_HOST] += 1
        else:
            r[r[UNION_EXPERT] + to], r[r[COST_SINGLE] + to] = r[r[UNION_EXPERT] + at], r[r[COST_SINGLE] + at]
            to += 1
    return to


def run_on_host(o: Any, d: Any, w: Any, r: Any, t: int, gate: int, layer: int) -> int:
    """What the host computes of a block, its activations there and back; returns the way back, -1 where it computes
    nothing.
    """
    if w[N_ON_HOST] == 0:
        return NONE
    return experts_on_host(o, d, w, r, t, layer, hand_over(o, d, w, r, t, gate, layer))


def waits_for_host(w: Any, n: int, back: int) -> int:
    """Put `back`, the way back from the host, in its place among `n` arrivals; how many there are then."""
    if back < 0:
        return n
    place = n
    while place > 0 and w[w[ARRIVALS] + place - 1] > back:
        w[w[ARRIVALS] + place] = w[w[ARRIVALS] + place - 1]
        place -= 1
    w[w[ARRIVALS] + place] = back
    return n + 1
