"""Which resident expert goes, as machine code: what `offload.caches.eviction` does, for `slots_kernel`.

Residents of a pool are one ring, in the order in which they would go: by age, or by how often they were looked up and
then by age. Arrays: `offload.fast.kernels.kernel_layout`.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.kernel_layout import (
    BY_RECENCY,
    COUNT,
    COUNTING,
    LAST_IN,
    MARK,
    N_ENCODER_KEYS,
    N_KEYS,
    NEWER,
    NEWEST_FIRST,
    NOBODY_GOES,
    OLDER,
    PINNED,
    RELEASED,
    SLOT_OF,
    SPARE,
    SPARE_FROM,
    SPARE_TOP,
    STAMP,
)


def unlink(x: Any, key: int) -> None:
    """Take a resident out of the ring."""
    newer, older = x[key, NEWER], x[key, OLDER]
    x[newer, OLDER], x[older, NEWER] = older, newer


def _link_before(x: Any, at: int, key: int) -> None:
    older = x[at, OLDER]
    x[at, OLDER], x[key, NEWER] = key, at
    x[key, OLDER], x[older, NEWER] = older, key


def _link_by_count(x: Any, n_keys: int, begin: int, key: int) -> None:
    """Behind the last that was looked up at most as often; those before `begin` were."""
    at = begin
    while at < n_keys and x[at, COUNT] <= x[key, COUNT]:
        at = x[at, NEWER]
    _link_before(x, at, key)


def _level_counts(x: Any, n_keys: int, sentinel: int) -> None:
    """Every count falls back to 1, in the order of a hash."""
    at = x[sentinel, NEWER]
    x[sentinel, NEWER], x[sentinel, OLDER] = sentinel, sentinel
    while at < n_keys:
        following, place = x[at, NEWER], sentinel
        x[at, COUNT] = 1
        while x[place, OLDER] < n_keys and scattered(x[place, OLDER]) > scattered(at):
            place = x[place, OLDER]
        _link_before(x, place, at)
        at = following


def scattered(key: int) -> int:
    """The order of `offload.caches.eviction_released`, which has no meaning."""
    return key * 2654435761 % (1 << 32)


def _enter(x: Any, w: Any, r: Any, sentinel: int, key: int) -> None:
    """A resident that has just been given its slot."""
    n_keys = w[N_KEYS]
    if not r[COUNTING]:
        _link_before(x, sentinel, key)
        return
    if r[RELEASED]:
        if key >= r[N_ENCODER_KEYS] and r[N_ENCODER_KEYS] > x[sentinel, LAST_IN] and x[sentinel, LAST_IN] >= 0:
            _level_counts(x, n_keys, sentinel)
        x[sentinel, LAST_IN], x[key, COUNT] = key, 0
    _link_by_count(x, n_keys, x[sentinel, NEWER], key)


def look_up(x: Any, w: Any, r: Any, sentinel: int, key: int) -> None:
    """One lookup of an expert, resident or not."""
    n_keys, is_resident = w[N_KEYS], x[key, SLOT_OF] >= 0 and x[key, NEWER] != key
    if r[COUNTING]:
        if is_resident or not r[RELEASED]:
            x[key, COUNT] += 1
        if is_resident:
            begin = x[key, NEWER]
            unlink(x, key)
            _link_by_count(x, n_keys, begin, key)
    elif r[BY_RECENCY] and is_resident:
        unlink(x, key)
        _link_before(x, sentinel, key)


def _victim(x: Any, w: Any, r: Any, sentinel: int) -> int:
    """The resident that goes; `sentinel` where all are protected."""
    n_keys, stamp = w[N_KEYS], w[STAMP]
    if r[NOBODY_GOES]:
        return sentinel
    oldest: int = sentinel
    if not r[NEWEST_FIRST] or r[RELEASED]:
        oldest = x[sentinel, NEWER]
        while oldest < n_keys and (x[oldest, MARK] == stamp or x[oldest, PINNED]):
            oldest = x[oldest, NEWER]
    if not r[NEWEST_FIRST]:
        return oldest
    newest: int = x[sentinel, OLDER]
    while newest < n_keys and (x[newest, MARK] == stamp or x[newest, PINNED]):
        newest = x[newest, OLDER]
    if r[RELEASED] and newest < n_keys and (oldest < r[N_ENCODER_KEYS]) != (newest < r[N_ENCODER_KEYS]):
        return oldest
    return newest


def cache_slot(x: Any, w: Any, r: Any, pool: int, key: int) -> int:
    """Make `key` resident; its slot, or -1 when everything is protected."""
    sentinel = w[N_KEYS] + pool
    if w[w[SPARE_TOP] + pool] > 0:
        w[w[SPARE_TOP] + pool] -= 1
        slot: int = w[w[SPARE] + w[w[SPARE_FROM] + pool] + w[w[SPARE_TOP] + pool]]
    else:
        at = _victim(x, w, r, sentinel)
        if at >= w[N_KEYS]:
            return -1
        slot = x[at, SLOT_OF]
        leave(x, at)
    x[key, SLOT_OF] = slot
    _enter(x, w, r, sentinel, key)
    return slot


def leave(x: Any, key: int) -> None:
    """A resident gives its slot up."""
    x[key, SLOT_OF] = -1
    unlink(x, key)
    x[key, NEWER], x[key, OLDER] = key, key
