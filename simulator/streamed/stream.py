"""The recurrence on a schedule that arrives part by part: the metrics of the whole in memory bounded by a part.

Same contract, op by op, as `recurrence`. What later parts may still wait for is carried along; HBM levels and the time
in which experts move are settled up to the host's clock, before which nothing later can start.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.metrics.run_metrics import Totals
from offload.ops import MOST_LANES, Lane
from offload.recorder import Part
from simulator.explain.path_sum import PathSum
from simulator.streamed.settled import Settled
from simulator.streamed.stream_parts import CarriedOps, by_paths, walk_compiled, walk_small

_SMALL_OPS = 100_000
"""Ops of a stream that are walked in Python: more may come, and compiled code is loaded only once."""


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
        self._steps = np.ascontiguousarray(steps, np.int32)
        self._carried, self._settled = CarriedOps.nothing(), Settled(static_bytes)
        self.layers_s, self.n_layers = 0.0, 0
        self._ends: list[tuple[NDArray[np.int32], NDArray[np.float64]]] = []
        self.makespan_s = self.stall_s = self.critical_path_s = 0.0
        self.moved: dict[str, int] = {}  # as of `Totals`
        self.part_end_s = np.zeros(0)
        self.lane_s = np.zeros(MOST_LANES)

    def feed(self, part: Part, costs: Costs) -> None:
        """The next part; `costs`: (n_works,) of its works."""
        small, before = part.base + len(part) <= _SMALL_OPS, self._carried
        walk = walk_small if small else walk_compiled
        seen, n_live = walk(part, costs, before, self._settled.left, self._steps), len(before.live)
        self.part_end_s = seen.end_s[n_live:]
        self.stall_s += seen.stall_s
        self.makespan_s = max(self.makespan_s, float(self.part_end_s.max(initial=0.0)))
        self.critical_path_s = max(self.critical_path_s, float(seen.chain_s[n_live:].max(initial=0.0)))
        self.lane_s += seen.lane_s
        self.lane_s[Lane.HOST] += seen.issue_s
        for name, n_bytes in seen.moved.items():
            self.moved[name] = self.moved.get(name, 0) + n_bytes
        self.layers_s += seen.layers_s
        self.n_layers += len(seen.first)
        self._ends.append((seen.ended, seen.ended_s))
        if self.paths is not None and len(part):
            for path, gradient in zip(self.paths, by_paths(part, seen, small=small), strict=True):
                path.add(part.works, gradient)
        self._settled.add(seen.times, float(before.free_s[Lane.HOST]))
        self._carried = before.after(part, seen)

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
        return self._settled.transfer_s

    @property
    def exposed_s(self) -> float:
        """Of it, while the compute lane waited for a transfer."""
        return self._settled.exposed_s

    @property
    def peak_hbm_bytes(self) -> int:
        """Most HBM in use at any time."""
        return self._settled.peak_hbm_bytes

    @property
    def step_ends(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Steps that made tokens, in order, and when each ended, (n_steps,) both."""
        steps, ends = zip(*self._ends, strict=True) if self._ends else ((), ())
        return np.concatenate(steps or [np.zeros(0, np.int32)]), np.concatenate(ends or [np.zeros(0)])
