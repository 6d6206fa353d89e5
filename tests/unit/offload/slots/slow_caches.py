"""Caches in a few lines, with nothing clever, that others have to agree with."""

from __future__ import annotations

from offload.slots.host_tier import HostEvents


def slow_lru(n_slots: int, events: HostEvents) -> list[set[int]]:
    """By event the experts that an atomic LRU of `n_slots` has not; one list, nothing clever."""
    held: list[tuple[int, int]] = []  # the oldest first
    missed = []
    for layer, experts in events:
        event = [(layer, expert) for expert in experts]
        absent = [key for key in event if key not in held]
        for key in absent:
            spare = [one for one in held if one not in event]
            if len(held) < n_slots:
                held.append(key)
            elif spare:
                held.remove(spare[0])
                held.append(key)
        for key in event:
            if key in held:
                held.remove(key)
                held.append(key)
        assert len(held) <= n_slots
        missed.append({expert for _, expert in absent})
    return missed
