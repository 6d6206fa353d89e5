"""One part of a schedule walked and counted: in NumPy, which says what is counted, or by machine code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import loaded
from hwmodels.cost import Costs
from offload.metrics.run_metrics import moe_layers, moved_bytes
from offload.ops import MOST_LANES, TRANSFERS, Lane, OpKind
from offload.recorder import Part
from offload.schedule import COLUMNS
from simulator.explain.bounds import chains_s
from simulator.explain.critical_path import Gradient, pulled_back
from simulator.recurrence import walk_on
from simulator.streamed import stream_kernel as kernel
from simulator.streamed.settled import Intervals, PartTimes

_MOVES = np.isin(list(OpKind), TRANSFERS)
"""By kind of op whether it moves experts."""

_ABOUT = (
    _MOVES * kernel.MOVES
    + np.isin(list(OpKind), [OpKind.RETURN]) * kernel.OF_LAYER
    + np.isin(list(OpKind), [OpKind.GATE, OpKind.CPU_EXPERT]) * kernel.OF_BLOCK
    + np.isin(list(OpKind), [OpKind.STEP]) * kernel.ENDS
).astype(np.int8)
"""By kind of op what the kernel asks of it."""

_WALKED = "lane", "kind", "cost", "dep_ptr", "dep", "step", "layer", "bytes", "hbm_acquired", "hbm_released"
_NO_STEP = np.iinfo(np.int32).max
_EACH_KIND = np.array(list(OpKind), np.int8)


@dataclass(slots=True, eq=False)
class CarriedOps:
    """What later parts begin with: ops `live` (n,) ascending, their ends and longest chains, and whether each moves
    experts. `free_s`: by lane, when it is free.
    """

    live: NDArray[np.int64]
    end_s: NDArray[np.float64]
    chain_s: NDArray[np.float64]
    moves: NDArray[np.bool_]
    free_s: NDArray[np.float64]

    @classmethod
    def nothing(cls) -> CarriedOps:
        """Before the first part."""
        none = np.zeros(0)
        return cls(none.astype(np.int64), none, none, none.astype(np.bool_), np.zeros(MOST_LANES))

    def after(self, part: Part, seen: WalkedPart) -> CarriedOps:
        """What is carried on from a part."""
        places = part.live - part.base + len(self.live)
        older = part.live < part.base
        places[older] = np.searchsorted(self.live, part.live[older])
        return CarriedOps(part.live, seen.end_s[places], seen.chain_s[places], seen.moves[places], self.free_s)


@dataclass(frozen=True, slots=True, eq=False)
class WalkedPart:
    """What was found of a part.

    `end_s`, `chain_s`, `moves`: of the ops carried over and those of the part, when each ended, the longest chain to
    that and whether it moves experts; `bound_by` (n_ops,) as of `recurrence.walked`, -1 for what is of a part before.
    `lane_s`: work of each lane, (MOST_LANES,), issue costs not counted; `issue_s` their sum. `moved` as of `Totals`.
    `first`, `last`: of every MoE layer counted its first op and its last; `layers_s` the sum of their lengths. `ended`,
    `ended_s`: steps that ended, and when. `times` go on where those of the parts before were left.
    """

    end_s: NDArray[np.float64]
    chain_s: NDArray[np.float64]
    moves: NDArray[np.bool_]
    bound_by: NDArray[np.int64]
    lane_s: NDArray[np.float64]
    issue_s: float
    stall_s: float
    moved: dict[str, int]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    layers_s: float
    ended: NDArray[np.int32]
    ended_s: NDArray[np.float64]
    times: PartTimes


def walk_small(part: Part, costs: Costs, before: CarriedOps, left: PartTimes, steps: NDArray[np.int32]) -> WalkedPart:
    """A part from where parts `before` were left, in NumPy; `steps`: those whose MoE layers count."""
    columns, n_live = {**part.columns, "dep": _places(part, before.live)}, len(before.live)
    lane, kind, cost = columns["lane"], columns["kind"], columns["cost"]
    duration_s, compute_free_s = costs.duration_s[cost], float(before.free_s[Lane.COMPUTE])
    moves = np.concatenate([before.moves, _MOVES[kind]])
    start, end, bound_by, _ = walk_on(columns, costs, before.free_s, before.end_s, small=True)
    chain = chains_s(columns["dep_ptr"], columns["dep"], duration_s, before.chain_s, small=True)
    mine, taken, given = end[n_live:], columns["hbm_acquired"], columns["hbm_released"]
    stalls = _stalls(columns, start, end, moves, compute_free_s)
    first, last = moe_layers(lane, kind, columns["step"], columns["layer"], steps)
    ends, moving, lane_s = kind == OpKind.STEP, moves[n_live:], np.bincount(lane, duration_s, MOST_LANES)
    times = PartTimes(
        _joined(left.taken, (start[taken > 0], taken[taken > 0])),
        _joined(left.given, (mine[given > 0], given[given > 0])),
        _joined(left.moving, (start[moving], mine[moving])),
        _joined(left.stalls, stalls),
    )
    return WalkedPart(
        end, chain, moves, np.where(bound_by >= 0, np.maximum(bound_by - n_live, -1), bound_by),
        lane_s.astype(np.float64), float(costs.issue_s[cost][lane != Lane.HOST].sum()),
        float((stalls[1] - stalls[0]).sum()), moved_bytes(kind, columns["bytes"]), first, last,
        float((mine[last] - start[first]).sum()), columns["step"][ends], mine[ends], times,
    )  # fmt: skip


def _places(part: Part, live: NDArray[np.int64]) -> NDArray[np.int64]:
    """Dependencies as places: what is carried first, then the ops of this part."""
    dep = part.columns["dep"].astype(np.int64)
    later = dep >= part.base
    places = dep - part.base + len(live)
    places[~later] = np.searchsorted(live, dep[~later])
    return places


def _joined(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


def _stalls(
    columns: Mapping[str, NDArray[Any]],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    moves: NDArray[np.bool_],
    compute_free_s: float,
) -> Intervals:
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


def walk_compiled(
    part: Part, costs: Costs, before: CarriedOps, left: PartTimes, steps: NDArray[np.int32]
) -> WalkedPart:
    """The same by machine code, bit for bit."""
    columns, n, n_live = part.columns, len(part), len(before.live)
    step, layer = columns["step"], columns["layer"]
    from_step, to_step = np.searchsorted(steps, [step.min(initial=_NO_STEP), int(step.max(initial=-1)) + 1]).tolist()
    n_layers, here = int(layer.max(initial=-1)) + 1, steps[from_step:to_step].copy()
    tally = np.zeros(kernel.BYTES + len(OpKind), np.int64)
    lists = left.taken, left.given, left.moving, left.stalls
    tally[:4] = [len(left.stalls[0]), len(left.moving[0]), len(left.taken[0]), len(left.given[0])]
    room = n + int(tally[:4].max())
    seconds, numbers = np.empty((kernel.N_SECONDS, room)), np.empty((kernel.N_NUMBERS, room), np.int64)
    tables = [
        (seconds[kernel.TAKEN_AT], numbers[kernel.TAKEN]), (seconds[kernel.GIVEN_AT], numbers[kernel.GIVEN]),
        (seconds[kernel.MOVING_FROM], seconds[kernel.MOVING_UNTIL]),
        (seconds[kernel.STALL_FROM], seconds[kernel.STALL_UNTIL]),
    ]  # fmt: skip
    for rows, given in zip(tables, lists, strict=True):
        for row, values in zip(rows, given, strict=True):
            row[: len(values)] = values
    end, chain, moves = np.empty(n_live + n), np.empty(n_live + n), np.empty(n_live + n, np.bool_)
    end[:n_live], chain[:n_live], moves[:n_live] = before.end_s, before.chain_s, before.moves
    bound_by, lane_s = np.empty(n, np.int64), np.zeros(MOST_LANES)
    layer_s, layer_at = np.empty((2, len(here) * n_layers)), np.full((3, len(here) * n_layers), -1, np.int64)
    loaded(kernel.WALK_PART)(
        *(np.ascontiguousarray(columns[name], COLUMNS[name]) for name in _WALKED), part.base, before.live,
        *(np.ascontiguousarray(values, np.float64) for values in (costs.issue_s, costs.duration_s)), _ABOUT, here,
        n_layers, before.free_s, np.full(MOST_LANES, -1, np.int64), end, chain, moves, bound_by, seconds, numbers,
        layer_s, layer_at, tally, lane_s,
    )  # fmt: skip
    n_stalls, n_moving, n_taken, n_given, n_ended, n_issued, n_found = tally[: kernel.BYTES].tolist()
    sizes = n_taken, n_given, n_moving, n_stalls
    cut: Any = [tuple(row[:size] for row in rows) for rows, size in zip(tables, sizes, strict=True)]
    levels, moving = _in_order(cut[0][0]) and _in_order(cut[1][0]), _in_order(cut[2][0])
    times = PartTimes(*cut)._replace(levels_in_order=levels, moving_in_order=moving)
    stalled = slice(len(left.stalls[0]), n_stalls)
    stall_s = seconds[kernel.STALL_UNTIL, stalled] - seconds[kernel.STALL_FROM, stalled]
    return WalkedPart(
        end, chain, moves, bound_by, lane_s, float(seconds[kernel.ISSUED, :n_issued].sum()),
        float(stall_s.sum()), moved_bytes(_EACH_KIND, tally[kernel.BYTES :]), layer_at[kernel.FIRST, :n_found],
        layer_at[kernel.LAST, :n_found], float(layer_s[kernel.BEGAN_S, :n_found].sum()),
        numbers[kernel.ENDED, :n_ended].astype(np.int32), seconds[kernel.ENDED_AT, :n_ended].copy(), times,
    )  # fmt: skip


def _in_order(times_s: NDArray[np.float64]) -> bool:
    """Whether times ascend; those of lanes that move beside one another may not."""
    return bool(np.all(times_s[1:] >= times_s[:-1]))


def by_paths(part: Part, seen: WalkedPart, *, small: bool) -> tuple[Gradient, Gradient]:
    """The derivatives, by the costs of the works of a part, of when the host is free and of `layers_s`.

    One part ends and the next begins where its last op on the host ends.
    """
    columns, n_works = part.columns, len(part.works)
    lane, cost, bound_by = columns["lane"], columns["cost"], seen.bound_by
    last_on_host = np.flatnonzero(lane == Lane.HOST)[-1:]
    if small:
        starts, ends = np.zeros((2, len(part))), np.zeros((2, len(part)))
        ends[0, last_on_host], starts[1, seen.first], ends[1, seen.last] = 1.0, -1.0, 1.0
        one, other = (pulled_back(lane, cost, bound_by, starts[i], ends[i], n_works, small=True) for i in range(2))
        return one, other
    begins, at_end, by_cost = np.zeros(len(part), np.int8), np.zeros((2, len(part))), np.zeros((4, n_works))
    last = int(last_on_host[0]) if last_on_host.size else -1
    loaded(kernel.PULL)(lane, cost, bound_by, last, seen.first, seen.last, begins, at_end, by_cost)
    return Gradient(by_cost[0], by_cost[1]), Gradient(by_cost[2], by_cost[3])
