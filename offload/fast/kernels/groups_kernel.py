"""Unions of experts that serve alike, as machine code: so many experts so many tokens each, whichever these are."""

from __future__ import annotations

from typing import Any

_FACTOR, _BITS = 0x5BD1E995, 0x7FFFFFFF

_SCANNED = 16
"""Numbers of tokens an expert that are gone through to bring them in order: an insertion moves half of them."""


def groups(
    ptr: Any,
    tokens: Any,
    n_parts: Any,
    n_shared: Any,
    shares: Any,
    place: Any,
    begins: Any,
    runs: Any,
    table: Any,
    serving: Any,
) -> int:
    """The distinct groups of every pass, block and micro-batch, numbered as they come; returns how many they are.

    `ptr`, `tokens`, `n_parts` and `n_shared` as of `BlockUnions`; `shares` (n_entries,): 0 leaves an expert out.
    `place`: the group of each. `runs` from `begins[i]` to `begins[i + 1]` is group i: tokens of shared experts, then
    pairs that ascend, of tokens and how many experts serve so many. `table`: -1, a power of 2 of them, twice as many as
    there may be groups at least. `serving`: zeros, for use here: how many experts serve so many tokens.
    """
    n_blocks = (len(ptr) - 1) // len(n_parts)
    at = n_found = first_part = i_place = 0
    for i_pass in range(len(n_parts)):
        n = n_parts[i_pass]
        for block in range(i_pass * n_blocks, (i_pass + 1) * n_blocks):
            for part in range(n):
                begin = begins[n_found]
                runs[begin] = n_shared[first_part + part]
                most = 0
                for entry in range(ptr[block], ptr[block + 1]):
                    count = tokens[at + (entry - ptr[block]) * n + part]
                    if shares[entry] and count > most:
                        most = count
                scans = most < min(len(serving), _SCANNED * (ptr[block + 1] - ptr[block]))
                end = begin + 1
                for entry in range(ptr[block], ptr[block + 1]):
                    count = tokens[at + (entry - ptr[block]) * n + part]
                    if shares[entry] and count > 0:
                        if scans:
                            serving[count] += 1
                        else:
                            end = _counted(runs, begin + 1, end, count)
                if scans:
                    end = _scanned(runs, end, serving, most)
                cell = _mixed(runs, begin, end) & (len(table) - 1)
                while table[cell] >= 0 and not _same(runs, begins, table[cell], begin, end):
                    cell = (cell + 1) & (len(table) - 1)
                if table[cell] < 0:
                    table[cell] = n_found
                    n_found += 1
                    begins[n_found] = end
                place[i_place] = table[cell]
                i_place += 1
            at += (ptr[block + 1] - ptr[block]) * n
        first_part += n
    return n_found


def _scanned(runs: Any, end: int, serving: Any, most: int) -> int:
    """Pairs of up to `most` tokens and how many experts are `serving` so many, which are 0 again; returns their end."""
    for count in range(1, most + 1):
        if serving[count] > 0:
            runs[end], runs[end + 1] = count, serving[count]
            serving[count] = 0
            end += 2
    return end


def _counted(runs: Any, begin: int, end: int, count: int) -> int:
    """One more expert that serves `count` tokens, among pairs from `begin` to `end`; returns where these end now."""
    place = end
    while place > begin and runs[place - 2] > count:
        place -= 2
    if place > begin and runs[place - 2] == count:
        runs[place - 1] += 1
        return end
    for i in range(end - 1, place - 1, -1):
        runs[i + 2] = runs[i]
    runs[place], runs[place + 1] = count, 1
    return end + 2


def _mixed(runs: Any, begin: int, end: int) -> int:
    """A hash of some numbers."""
    found = 0
    for i in range(begin, end):
        found = (((found ^ runs[i]) & _BITS) * _FACTOR) & _BITS
        found ^= found >> 15
    return found


def _same(runs: Any, begins: Any, group: int, begin: int, end: int) -> bool:
    """Whether the numbers from `begin` to `end` are those of a group."""
    first, i = begins[group], begin
    if begins[group + 1] - first != end - begin:
        return False
    while i < end and runs[first + i - begin] == runs[i]:
        i += 1
    return i == end
