"""The recurrence on a schedule that arrives part by part: the metrics of the whole in memory bounded by a part.

Same contract, op by op, as `recurrence`. What later parts may still wait for is carried along; HBM levels and the time
in which experts move are settled up to the host's clock, before which nothing later can start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.metrics.run_metrics import Totals, moe_layers, moved_bytes, overlap_s, union_s
from offload.ops import MOST_LANES, TRANSFERS, Lane, OpKind
from offload.recorder import Part
from simulator.explain.bounds import chains_s
from simulator.explain.critical_path import pulled_back
from simulator.explain.path_sum import PathSum
from simulator.recurrence import walk_on

__all__ = ["Stream"]

_SMALL_OPS = 100_000
"""Ops of a stream that are walked in Python: more may come, and compiled code is loaded only once."""

_NOWHERE = np.zeros(0, dtype=np.int64)

_MOVES = np.isin(list(OpKind), TRANSFERS)
"""By kind of op whether it moves experts."""


class Stream:
    """Feed it every part of a schedule in order, then read the metrics; definitions as in `offload.metrics`.

    `steps`: the forward passes whose MoE layers count. `static_bytes`: HBM in use throughout. After the last `feed`:
    `totals`, `critical_path_s`, `lane_s` (n_lanes,) work of each lane, and `step_ends`: step and end of each forward
    pass that made tokens.
    `n_layers`, `layers_s`: MoE layers counted, and their sum. `part_end_s`: when the ops of
    the last part ended. `paths`, if asked for: the makespan, and the sum over MoE
    layers, along their critical paths, as if none crossed from a part to the next but on the host.
    """

    def __init__(self, steps: NDArray[np.int32], static_bytes: int, *, with_paths: bool = False) -> None:
        self.paths = (PathSum(), PathSum()) if with_paths else None
        self._steps, self._small = steps, True
        self._free = np.zeros(MOST_LANES)
        self._live, self._live_end, self._live_chain = _NOWHERE, np.zeros(0), np.zeros(0)
        self._live_moves = np.zeros(0, dtype=np.bool_)
        self._hbm = _Levels(static_bytes)
        self._moving = _Covered()
        self.layers_s, self.n_layers = 0.0, 0
        self._ends: list[tuple[NDArray[np.int32], NDArray[np.float64]]] = []
        self.makespan_s = self.stall_s = self.critical_path_s = 0.0
        self.moved: dict[str, int] = {}  # as of `Totals`
        self.part_end_s = np.zeros(0)
        self.lane_s = np.zeros(MOST_LANES)

    def feed(self, part: Part, costs: Costs) -> None:
        """The next part; `costs`: (n_works,) of its works."""
        self._small = part.base + len(part) <= _SMALL_OPS
        columns, n_live = {**part.columns, "dep": self._places(part)}, len(self._live)
        duration_s = costs.duration_s[columns["cost"]]
        moves = np.concatenate([self._live_moves, _MOVES[columns["kind"]]])
        compute_free_s = float(self._free[Lane.COMPUTE])
        start, end, bound_by, _ = walk_on(columns, costs, self._free, self._live_end, small=self._small)
        chain = chains_s(columns["dep_ptr"], columns["dep"], duration_s, self._live_chain, small=self._small)
        self.part_end_s = mine = end[n_live:]
        stalls = _stalls(columns, start, end, moves, compute_free_s)
        self.stall_s += float((stalls[1] - stalls[0]).sum())
        self.makespan_s = max(self.makespan_s, float(mine.max(initial=0.0)))
        self.critical_path_s = max(self.critical_path_s, float(chain[n_live:].max(initial=0.0)))
        self._count(part, costs, start, mine, np.where(bound_by >= 0, np.maximum(bound_by - n_live, -1), bound_by))
        settled_s = float(self._free[Lane.HOST])
        self._hbm.add(start, mine, columns["hbm_acquired"], columns["hbm_released"], settled_s)
        self._moving.add((start[moves[n_live:]], mine[moves[n_live:]]), stalls, settled_s)
        self._carry(part, end, chain, moves)

    def _places(self, part: Part) -> NDArray[np.int64]:
        """Dependencies as places: what is carried first, then the ops of this part."""
        dep = part.columns["dep"].astype(np.int64)
        later = dep >= part.base
        places = dep - part.base + len(self._live)
        places[~later] = np.searchsorted(self._live, dep[~later])
        return places

    def _count(
        self,
        part: Part,
        costs: Costs,
        start: NDArray[np.float64],
        end: NDArray[np.float64],
        bound_by: NDArray[np.int64],
    ) -> None:
        """Sums over this part's ops."""
        columns = part.columns
        lane, kind, cost = columns["lane"], columns["kind"], columns["cost"]
        self.lane_s += np.bincount(lane, costs.duration_s[cost], MOST_LANES)
        self.lane_s[Lane.HOST] += float(costs.issue_s[cost][lane != Lane.HOST].sum())
        for name, n_bytes in moved_bytes(kind, columns["bytes"]).items():
            self.moved[name] = self.moved.get(name, 0) + n_bytes
        first, last = moe_layers(lane, kind, columns["step"], columns["layer"], self._steps)
        self.layers_s += float((end[last] - start[first]).sum())
        self.n_layers += len(first)
        ends = kind == OpKind.STEP
        self._ends.append((columns["step"][ends], end[ends]))
        if self.paths is not None and len(part):
            layers, until = np.zeros((2, len(part))), np.zeros((2, len(part)))
            layers[0, first], layers[1, last] = -1.0, 1.0
            # One part ends and the next begins where its last op on the host ends.
            until[1, np.flatnonzero(lane == Lane.HOST)[-1:]] = 1.0
            for path, weights in zip(self.paths, (until, layers), strict=True):
                path.add(
                    part.works,
                    pulled_back(lane, cost, bound_by, weights[0], weights[1], len(part.works), small=self._small),
                )

    def _carry(
        self, part: Part, end: NDArray[np.float64], chain: NDArray[np.float64], moves: NDArray[np.bool_]
    ) -> None:
        places = part.live - part.base + len(self._live)
        older = part.live < part.base
        places[older] = np.searchsorted(self._live, part.live[older])
        self._live, self._live_end, self._live_chain = part.live, end[places], chain[places]
        self._live_moves = moves[places]

    @property
    def totals(self) -> Totals:
        """What was seen of the whole."""
        return Totals(
            self.makespan_s, self.moe_layer_latency_s, self.stall_s, self.exposed_s, self.transfer_s,
            self.peak_hbm_bytes, self.moved,
        )  # fmt: skip

    @property
    def moe_layer_latency_s(self) -> float:
        """Mean over MoE layers of the chosen steps."""
        return self.layers_s / self.n_layers if self.n_layers else 0.0

    @property
    def transfer_s(self) -> float:
        """Time in which experts were moving."""
        return self._moving.total_s()

    @property
    def exposed_s(self) -> float:
        """Of it, while the compute lane waited for a transfer."""
        return self._moving.exposed_s()

    @property
    def peak_hbm_bytes(self) -> int:
        """Most HBM in use at any time."""
        return self._hbm.peak()

    @property
    def step_ends(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Steps that made tokens, in order, and when each ended, (n_steps,) both."""
        steps, ends = zip(*self._ends, strict=True) if self._ends else ((), ())
        return np.concatenate(steps or [np.zeros(0, np.int32)]), np.concatenate(ends or [np.zeros(0)])


class _Levels:
    """HBM in use, settled in order of time; at one instant what is given back comes before what is taken."""

    def __init__(self, static_bytes: int) -> None:
        self._level = self._peak = static_bytes
        self._times, self._deltas = np.zeros(0), _NOWHERE

    def add(
        self, start: NDArray[np.float64], end: NDArray[np.float64], taken: NDArray[np.int64],
        given: NDArray[np.int64], settled_s: float,
    ) -> None:  # fmt: skip
        """Events of the next ops; nothing after them can happen before `settled_s`."""
        takes, gives = taken > 0, given > 0
        times = np.concatenate([self._times, end[gives], start[takes]])
        deltas = np.concatenate([self._deltas, -given[gives], taken[takes]])
        order = np.lexsort((deltas, times))
        times, deltas = times[order], deltas[order]
        n_settled = int(np.searchsorted(times, settled_s))
        self._settle(deltas[:n_settled])
        self._times, self._deltas = times[n_settled:], deltas[n_settled:]

    def _settle(self, deltas: NDArray[np.int64]) -> None:
        if deltas.size:
            levels = self._level + np.cumsum(deltas)
            self._level, self._peak = int(levels[-1]), max(self._peak, int(levels.max()))

    def peak(self) -> int:
        """The highest level, all events counted."""
        self._settle(self._deltas)
        self._times, self._deltas = np.zeros(0), _NOWHERE
        return self._peak


_Intervals = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Starts and ends, (n,)."""


class _Covered:
    """The length of a union of intervals, and of it within others, that come nearly in order of time."""

    def __init__(self) -> None:
        self._total_s = self._exposed_s = 0.0
        self._moving: _Intervals = (np.zeros(0), np.zeros(0))
        self._stalls: _Intervals = (np.zeros(0), np.zeros(0))

    def add(self, moving: _Intervals, stalls: _Intervals, settled_s: float) -> None:
        """More intervals; nothing after them can start before `settled_s`."""
        done, self._moving = _cut(_joined(self._moving, moving), settled_s)
        waited, self._stalls = _cut(_joined(self._stalls, stalls), settled_s)
        self._total_s += union_s(*done)
        self._exposed_s += overlap_s(done, waited)

    def total_s(self) -> float:
        """The length, all intervals counted."""
        return self._total_s + union_s(*self._moving)

    def exposed_s(self) -> float:
        """The length within stalls, all intervals counted."""
        return self._exposed_s + overlap_s(self._moving, self._stalls)


def _joined(one: _Intervals, other: _Intervals) -> _Intervals:
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


def _cut(intervals: _Intervals, at_s: float) -> tuple[_Intervals, _Intervals]:
    """What lies before `at_s`, and what after."""
    start, end = intervals
    before, left = start < at_s, end > at_s
    return (start[before], np.minimum(end[before], at_s)), (np.maximum(start[left], at_s), end[left])


def _stalls(
    columns: Mapping[str, NDArray[Any]],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    moves: NDArray[np.bool_],
    compute_free_s: float,
) -> _Intervals:
    """The waits of the compute lane for transfers; `end`, `moves` and `dep` of all places, `start` of this part."""
    owner = np.repeat(np.arange(len(start)), np.diff(columns["dep_ptr"]))
    transfers = moves[columns["dep"]]
    arrivals = np.zeros(len(start))
    np.maximum.at(arrivals, owner[transfers], end[columns["dep"][transfers]])
    compute = np.flatnonzero(columns["lane"] == Lane.COMPUTE)
    free = np.concatenate([[compute_free_s], end[len(end) - len(start) + compute]])[:-1]
    until = np.minimum(start[compute], arrivals[compute])
    waits = until > free
    return free[waits], until[waits]
