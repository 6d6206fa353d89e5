"""Matrix products against rows and shape, each on weights that no cache has kept since they were read last.

An expert on one token is a GEMV that waits for memory, on many tokens a GEMM that waits for arithmetic: both and all
between, over sizes and aspects of a weight.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hwmodels.calibrate.measurements import Sample, sample_of
from offload.ops import Lane
from runtime.backends.backend import Action, Backend
from runtime.memory import TYPES
from runtime.microbench.lanes import timed

ROWS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 1024)
PARAMS = (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24)
ASPECTS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
"""The grid: rows of the activation, weights of the matrix, its inner over its outer dimension. Sides are powers of two,
as those of models are multiples of large ones: libraries are slower on odd sizes."""

_POOL_BYTES = 384 << 20
"""Weights read in turn: far more than a last-level cache keeps for one reader."""

_HELD = 100
"""Actions issued while a device is held up once."""

_LONG_S = 20e-3
"""A product that takes so long and is timed once is timed at once: what getting going adds is not to be seen."""

_ACTION_S = 200e-6
"""Products are timed several at a time where one would be over before a thread has got going."""


@dataclass(frozen=True, slots=True)
class _Point:
    m: int
    params: int
    aspect: float
    n: int
    k: int
    n_products: int
    n_actions: int
    n_warm: int


def gemm_samples(
    make: Callable[[], Backend],
    dtype: str,
    *,
    rows: Sequence[int] = ROWS,
    params: Sequence[int] = PARAMS,
    aspects: Sequence[float] = ASPECTS,
    point_s: float = 0.03,
    least: int = 4,
    hold: Action | None = None,
) -> list[Sample]:
    """Samples "gemm", seconds of one product on every point of the grid: m, n, k, dtype, and where on the grid it is.

    `point_s`: about so long a point is timed, and `least` times. `hold`: run on the compute lane now and then, so that
    a device that runs ahead of its host finds its queue full.
    """
    points = [_point(m, p, aspect, dtype, point_s, least) for p in params for aspect in aspects for m in rows]
    backend = make()
    pool = backend.allocate(_POOL_BYTES, "weights to multiply by").view(TYPES[dtype])
    pool.uniform_(-0.1, 0.1)
    most_in = max(point.m * point.k for point in points)
    most_out = max(point.m * point.n for point in points)
    inputs = backend.allocate(most_in * pool.itemsize, "inputs").view(TYPES[dtype]).uniform_(-1, 1)
    outputs = backend.allocate(most_out * pool.itemsize, "outputs").view(TYPES[dtype])
    actions, of_point = _shuffled(points, [list(_actions(point, pool, inputs, outputs)) for point in points], hold)
    times = timed(backend, [Lane.COMPUTE] * len(actions), actions).times
    durations: list[list[float]] = [[] for _ in points]
    for i, seconds in zip(of_point, times.ran_s.tolist(), strict=True):
        if i >= 0:
            durations[i].append(seconds / points[i].n_products)
    return [
        sample_of(
            "gemm",
            taken[point.n_warm :],
            m=point.m,
            n=point.n,
            k=point.k,
            dtype=dtype,
            params=point.params,
            aspect=point.aspect,
        )
        for point, taken in zip(points, durations, strict=True)
    ]


def _shuffled(
    points: Sequence[_Point], of_points: Sequence[Sequence[Action]], hold: Action | None
) -> tuple[list[Action], list[int]]:
    """All actions, and of which point each is (-1: of none), as a pass has them: products of one number of rows after
    another, of all shapes in an order of chance, so that each finds caches and translation buffers as another shape has
    left them. The first of every point comes first.
    """
    by_rows: dict[int, list[int]] = {}
    for i, point in enumerate(points):
        by_rows.setdefault(point.m, []).append(i)
    ordered: list[tuple[int, Action]] = []
    for alike in by_rows.values():
        later = [(i, action) for i in alike for action in of_points[i][1:]]
        random.Random(0).shuffle(later)
        ordered += [*((i, of_points[i][0]) for i in alike), *later]
    if hold is not None:
        held = [((-1, hold), *ordered[at : at + _HELD]) for at in range(0, len(ordered), _HELD)]
        ordered = [pair for group in held for pair in group]
    return [action for _, action in ordered], [i for i, _ in ordered]


def _point(m: int, n_params: int, aspect: float, dtype: str, point_s: float, least: int) -> _Point:
    """A shape of about so many weights, and how often it is worth multiplying by."""
    n = max(8, round(math.sqrt(n_params / aspect) / 8) * 8)
    k = max(8, round(n_params / n / 8) * 8)
    guess_s = 5e-6 + n * k * TYPES[dtype].itemsize / 15e9 + 2 * m * n * k / 150e9
    n_products = max(1, min(16, round(_ACTION_S / guess_s)))
    n_warm = int(guess_s < _LONG_S or least > 1)
    n_timed = max(least, min(40, round(point_s / (n_products * guess_s))))
    return _Point(m, n_params, aspect, n, k, n_products, n_warm + n_timed, n_warm)


def _actions(point: _Point, pool: Tensor, inputs: Tensor, outputs: Tensor) -> Iterator[Action]:
    """Each on weights of its own, from all over the pool."""
    x = inputs[: point.m * point.k].view(point.m, point.k)
    out = outputs[: point.m * point.n].view(point.m, point.n)
    places = pool[: len(pool) // (point.n * point.k) * point.n * point.k].view(-1, point.n, point.k)
    step = max(1, len(places) // (point.n_actions * point.n_products))
    place = 0
    for _ in range(point.n_actions):
        matrices = []
        for _ in range(point.n_products):
            matrices.append(places[place].t())
            place = (place + step) % len(places)
        yield partial(_multiply, x, matrices, out)


def _multiply(x: Tensor, matrices: list[Tensor], out: Tensor) -> None:
    for matrix in matrices:
        torch.mm(x, matrix, out=out)
