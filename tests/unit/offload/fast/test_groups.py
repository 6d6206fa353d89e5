"""Unions of experts that serve alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compiled.machine_code import loaded
from offload.fast.block_unions import GROUPS
from offload.fast.kernels.groups_kernel import groups

N_BLOCKS = 3


@pytest.mark.parametrize("run", [groups, loaded(GROUPS)], ids=["plain", "compiled"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_counted", [1, 3, 50], ids=["inserted", "some counted", "counted"])
def test_groups_are_the_distinct_runs_of_counts_as_they_come(
    run: Callable[..., int], seed: int, n_counted: int
) -> None:
    rng = np.random.default_rng(seed)
    n_parts = rng.integers(1, 5, 6)
    sizes = rng.integers(0, 7, 6 * N_BLOCKS)
    ptr, shares = np.append(0, np.cumsum(sizes)), rng.random(sizes.sum()) < 0.8
    tokens = [rng.integers(0, 4, (size, n_parts[i // N_BLOCKS])) for i, size in enumerate(sizes)]
    n_shared = rng.integers(0, 2, n_parts.sum())
    expected, first = list[tuple[Any, ...]](), 0
    for i_pass, n in enumerate(n_parts):
        for block in range(i_pass * N_BLOCKS, (i_pass + 1) * N_BLOCKS):
            for part in range(n):
                here = tokens[block][shares[ptr[block] : ptr[block + 1]], part]
                counts = sorted(Counter(here[here > 0].tolist()).items())
                expected.append((int(n_shared[first + part]), *(number for run in counts for number in run)))
        first += n
    n_groups, flat = len(expected), np.concatenate([one.ravel() for one in tokens])
    place, begins = np.empty(n_groups, np.int64), np.zeros(n_groups + 1, np.int64)
    numbers = np.empty(n_groups + 2 * len(flat) + 2, np.int64)
    table = np.full(1 << (2 * n_groups).bit_length(), -1, np.int64)
    serving = np.zeros(n_counted, np.int64)
    n_found = run(ptr, flat, n_parts, n_shared, shares.view(np.int8), place, begins, numbers, table, serving)
    assert not serving.any()
    found = [tuple(numbers[begins[i] : begins[i + 1]].tolist()) for i in range(n_found)]
    assert found == list(dict.fromkeys(expected))
    assert [found[i] for i in place] == expected
    assert 1 < n_found < n_groups
