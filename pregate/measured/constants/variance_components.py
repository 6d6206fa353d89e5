"""Variance components: how far numbers lie from source to source, behind what rows of several sources are off by.

A row is off by the sum of what its source's numbers are off by, times how much it depends on each, and by itself. What
each source has of each number, and each row by itself, follows a t law about 0 of its own (`TAIL` degrees of freedom),
so that one that is far off says little of the scale. Scales are found by expectation maximisation, each t law being a
normal one of unknown precision (Lange, Little and Taylor 1989, "Robust statistical modeling using the t distribution").
Where several numbers share a row, precisions stand at their means in place of being integrated over, so that scales are
near the most likely ones and not at them: of sources of one row each they are shared out wrongly, of several within a
fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.specs.spread import TAIL

_NO_MORE = 1e-5
"""Scales are found when no logarithm of one moves further."""

_MOST_ROUNDS = 5000
_NEWTON_STEPS = 6

_EVEN = 1 / 12
"""The variance of what lies anywhere between -1/2 and 1/2."""


class Source(NamedTuple):
    """Rows of one source: ln(measured / predicted); what each depends on, by number; and how far apart the ends are
    between which it lies by something that the source leaves open, and that is the same in all of its rows.
    """

    off: NDArray[np.float64]  # [rows]
    depends: NDArray[np.float64]  # [rows, numbers]
    unstated: NDArray[np.float64]  # [rows]


def likely_scales(
    sources: Sequence[Source], prior: NDArray[np.float64], width: NDArray[np.float64], bears: float
) -> NDArray[np.float64]:
    """The scale of each number and, last, of rows by themselves, near the most likely; their logarithms are about
    those of `prior`, by `width`. A source says something of a number that a row of it depends on by more than `bears`.
    """
    n_rows, n_numbers = max(len(one.off) for one in sources), len(prior) - 1
    off, is_row = np.zeros((2, len(sources), n_rows))
    depends = np.zeros((len(sources), n_rows, n_numbers + 1))  # the last of what is left open
    for i, one in enumerate(sources):
        rows = slice(len(one.off))
        off[i, rows], is_row[i, rows] = one.off, 1.0
        depends[i, rows] = np.column_stack([one.depends, one.unstated])
    says = np.abs(depends[:, :, :-1]).max(axis=1) > bears  # [sources, numbers]
    of_numbers, of_rows = np.ones((len(sources), n_numbers)), np.ones_like(off)  # precisions beside the scale's
    logs, start = np.log(prior), np.log(prior)
    n = np.append(says.sum(axis=0), is_row.sum())
    for _ in range(_MOST_ROUNDS):
        scales = np.exp(logs)
        effects = np.column_stack([scales[:-1] ** 2 / of_numbers, np.full(len(sources), _EVEN)])
        effect_2, own_2 = _squares(off, depends, effects, scales[-1] ** 2 / of_rows)
        of_numbers = (TAIL + 1) / (TAIL + effect_2[:, :-1] / scales[:-1] ** 2)
        of_rows = np.where(is_row > 0, (TAIL + 1) / (TAIL + own_2 / scales[-1] ** 2), 1.0)
        squares = np.append((of_numbers * effect_2[:, :-1] * says).sum(axis=0), (of_rows * own_2 * is_row).sum())
        last, logs = logs, _likely_logs(logs, n, squares, start, width)
        if np.abs(logs - last).max() < _NO_MORE:
            break
    return np.exp(logs)


def _squares(
    off: NDArray[np.float64], depends: NDArray[np.float64], effects: NDArray[np.float64], own: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected squares of effects [sources, effects] and of what rows are off by themselves [sources, rows], both of
    these variances before `off` was seen.
    """
    spread = depends * effects[:, None, :]
    shared = spread @ depends.transpose(0, 2, 1)
    whole = shared + own[:, :, None] * np.eye(off.shape[1])
    solved = np.linalg.solve(whole, np.concatenate([spread, shared, off[:, :, None]], axis=2))
    of_effects, of_rows, weights = np.split(solved, [effects.shape[1], solved.shape[2] - 1], axis=2)
    effect = (spread * weights).sum(axis=1)
    left = effects - (spread * of_effects).sum(axis=1)
    own_off = own * weights[:, :, 0]
    own_left = np.einsum("sii->si", shared) - (shared * of_rows.transpose(0, 2, 1)).sum(axis=2)
    return effect**2 + left, own_off**2 + own_left


def _likely_logs(
    logs: NDArray[np.float64], n: NDArray[np.float64], squares: NDArray[np.float64], start: NDArray[np.float64],
    width: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """Logarithms of scales behind `squares`, sums over `n`, that are about `start`; by Newton's method from `logs`."""
    for _ in range(_NEWTON_STEPS):
        expected = squares * np.exp(-2 * logs)
        step = (n - expected + (logs - start) / width**2) / (2 * expected + 1 / width**2)
        logs = logs - np.clip(step, -1.0, 1.0)
    return logs
