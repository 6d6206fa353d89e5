"""What laws of kernels in longhand have in common: drawn constants and cards, powers, and what a cache has kept."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pytest

from hwmodels.laws.law_forms import FORMS
from hwmodels.laws.rates import (
    CardRates,
    KernelTime,
)

Constants = dict[str, float]
SEEDS = range(6)
"""Of cards and constants."""


def a_third(seed: int, *axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Every third of all combinations, each of them with two of the seeds."""
    return list(product(*axes))[seed % 3 :: 3]


def drawn(form: str, seed: int) -> tuple[Constants, CardRates]:
    """Constants of a law, each up to three times more or less than where a fit starts, and a card."""
    rng = np.random.default_rng([seed, len(form)])
    constants = {name: at * float(np.exp(rng.uniform(-1.1, 1.1))) for name, (_, at) in FORMS[form].constants.items()}
    card = CardRates(
        float(rng.uniform(1e14, 1e15)),
        float(rng.uniform(3e11, 4e12)),
        float(rng.integers(20, 160)),
        rng.uniform(4e6, 6e7),
    )
    return constants, card


def either(a: float, b: float) -> float:
    """The fourth root of the sum of fourth powers."""
    return float((a**4 + b**4) ** 0.25)


def passes(amount: float, limit: float) -> float:
    return float(1 / (1 + (amount / limit) ** 12))


def of_memory(c: Constants, card: CardRates, n_bytes: float, warm: float | None) -> float:
    """Seconds of bytes from memory; of `warm` bytes that were just read the cache has kept a share."""
    kept = 0.0 if warm is None else passes(warm, c["kept"] * card.l2_bytes)
    return n_bytes / card.bytes_per_s * ((1 - kept) / c["memory"] + kept / c["cache"])


def alike(found: KernelTime, fixed_s: float, compute_s: float, hbm_s: float) -> None:
    parts = [float(part) for part in found]
    assert parts == pytest.approx([fixed_s, compute_s, hbm_s], rel=1e-12, abs=0)
    assert float(found.total_s) == pytest.approx(fixed_s + compute_s + hbm_s, rel=1e-12)
