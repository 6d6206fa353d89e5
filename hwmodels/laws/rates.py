"""What a law asks of a machine, and the few functions that laws are written in.

Only `+ - * /`, square roots, roundings and choices: one machine and many get the same seconds to the last bit, and a
complex step takes derivatives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Number = Any
"""A float, or an array: over shapes where laws are fitted, over machines where they price."""


class CardRates(NamedTuple):
    """A machine as its makers describe it: arithmetic in the law's format, memory, multiprocessors, last cache."""

    flop_per_s: Number
    bytes_per_s: Number
    n_sm: Number
    l2_bytes: Number


class KernelTime(NamedTuple):
    """Seconds of a kernel by what it is spent on: the sum of all three is its time."""

    fixed_s: Number
    compute_s: Number
    hbm_s: Number

    @property
    def total_s(self) -> Number:
        """The time of the kernel."""
        return self.fixed_s + self.compute_s + self.hbm_s

    def times(self, n: Number) -> KernelTime:
        """So many of it, one after the other."""
        return KernelTime(self.fixed_s * n, self.compute_s * n, self.hbm_s * n)

    def plus(self, other: KernelTime) -> KernelTime:
        """This one, then another."""
        return KernelTime(self.fixed_s + other.fixed_s, self.compute_s + other.compute_s, self.hbm_s + other.hbm_s)


def overlapped(fixed_s: Number, tiles_s: Number, traffic_s: Number, claimed: tuple[Number, Number]) -> KernelTime:
    """A kernel whose tiles and traffic overlap: the smooth maximum of both.

    It is counted as what the roofline says binds it, `claimed` seconds of (arithmetic, traffic): tiles of few rows are
    short of arithmetic, however long they take.
    """
    both = smooth_maximum(tiles_s, traffic_s)
    bound = np.real(claimed[0]) >= np.real(claimed[1])
    return KernelTime(fixed_s, np.where(bound, both, 0.0), np.where(bound, 0.0, both))


def smooth_maximum(a: Number, b: Number) -> Number:
    """The 4-norm: the larger of two where they differ, 19 % above them where they are equal."""
    a, b = a * a, b * b
    return np.sqrt(np.sqrt(a * a + b * b))


def smaller_of(a: Number, b: Number) -> Number:
    """Element by element, by the real part."""
    return np.where(np.real(a) <= np.real(b), a, b)


def larger_of(a: Number, b: Number) -> Number:
    """Element by element, by the real part."""
    return np.where(np.real(a) >= np.real(b), a, b)


def rounded_up(a: Number) -> Number:
    """To whole numbers: what is counted has no derivative."""
    return np.ceil(np.real(a) - 1e-9)


def share_within(amount: Number, limit: Number) -> Number:
    """How much of something a limit lets pass: of bytes read round and round what a cache answers, say.

    Nearly all up to the limit and nearly nothing beyond, as tables of kernels show: the twelfth power of the turns.
    """
    turns = amount / limit
    fourth = turns * turns * turns * turns
    return 1 / (1 + fourth * fourth * fourth)
