"""Run what was predicted, beside a watch on the machine, and collect what happened."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from offload.ops import Lane, OpKind
from offload.timeline import Timeline
from pregate.check.devices import Device, make_backend
from pregate.check.outcome import Measurement, OpTime
from pregate.check.predictions import PreparedCase, exact_counts, op_times
from pregate.check.running import execute_captured, initial_slots, measured_metrics
from runtime.model.weights import Experts
from runtime.run import MeasuredRun, OutputMismatch
from runtime.watch import LoadWatch, Seen, counting
from traces.routing import Phase

__all__ = ["Runner"]


@dataclass
class Runner:
    """Runs cases, those of one model with the same weights. `device`: what has a link of so many bytes/s.

    `repeats`: quiet runs of a case that are wanted; `tries`: runs more, at most, for those that were disturbed.
    """

    device: Callable[[float | None], Device]
    repeats: int
    tries: int
    _experts: Experts | None = field(default=None, init=False)

    def measure(self, group: Sequence[PreparedCase], drawn: Collection[str] = ()) -> list[Measurement]:
        """The cases of one group, in turn and again, so that what drifts hits all alike.

        Quiet runs count where there are any, the less disturbed half of them otherwise. `drawn`: names of cases whose
        timeline is kept. Raises `OutputMismatch` when two policies end in different states: nothing of such a group
        means anything.
        """
        found = [_Collected(prepared) for prepared in group]
        self._run(group[0])  # caches, kernels chosen, clocks: not kept
        for i in range(self.repeats + self.tries):
            if i == self.repeats and not any(one.n_quiet for one in found):
                break  # a machine that is never quiet will not be
            for one in found if i < self.repeats else [one for one in found if one.n_quiet < self.repeats]:
                gc.collect()
                with LoadWatch() as watch:
                    run = self._run(one.prepared)
                one.add(run, watch.seen)
        digests = {one.digest: one.prepared.case.policy for one in found if one.digest}
        if len(digests) > 1:
            raise OutputMismatch(
                f"{group[0].case.group}: {' and '.join(digests.values())} end in different hidden states"
            )
        return [one.measurement(one.prepared.case.name in drawn) for one in found]

    def _run(self, prepared: PreparedCase) -> MeasuredRun:
        captured, device = prepared.captured, self.device(prepared.link_bytes_per_s)
        model = captured.model
        if self._experts is None or self._experts.model != model:
            self._experts = None  # the old ones go before the new ones come
            self._experts = Experts(model, allocate=make_backend(device).allocate_host, keep_static=True)
        self._experts.keep(initial_slots(captured).values())
        return execute_captured(captured, device, self._experts, prove=False)


@dataclass
class _Collected:
    prepared: PreparedCase
    runs: list[MeasuredRun] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    digest: str = ""
    exact: dict[str, int] = field(default_factory=dict)

    @property
    def n_quiet(self) -> int:
        return sum(one.disturbance() is None for one in self.seen)

    def add(self, run: MeasuredRun, seen: Seen) -> None:
        if self.digest and run.digest != self.digest:
            raise OutputMismatch(f"{self.prepared.case.name}: two runs end in different hidden states")
        self.digest = run.digest  # load changes times, never this, nor what must be exact
        self.exact = exact_counts(run.moved_bytes, run.lookups[Phase.DECODE], run.lookups[Phase.PREFILL])
        self.runs.append(run)
        self.seen.append(seen)

    def measurement(self, drawn: bool) -> Measurement:
        counted = counting(self.seen)
        counted_runs = [self.runs[i] for i in counted]
        thrown = [one.disturbance() for i, one in enumerate(self.seen) if i not in counted]
        captured = self.prepared.captured
        by_makespan = sorted(counted_runs, key=lambda run: run.timeline.makespan_s)
        middle = by_makespan[(len(by_makespan) - 1) // 2]
        times = [op_times(run.timeline, captured.trace) for run in counted_runs]
        ops = {
            kind: OpTime(one.n, float(np.median([other[kind].total_s for other in times])))
            for kind, one in times[0].items()
        }
        return Measurement(
            runs=tuple(measured_metrics(captured, run) for run in counted_runs),
            ops=ops,
            exact=self.exact,
            bound_s=achieved_bound_s(middle.timeline),
            output_digest=self.digest,
            disturbances=tuple(line for line in thrown if line is not None),
            timeline=middle.timeline if drawn else None,
            load=max(self.seen[i].load() for i in counted),
        )


def achieved_bound_s(timeline: Timeline) -> float:
    """What no order of these very ops could beat, pass by pass, at the times they took.

    A pass fetches all it fetches. It waits for the first expert of its first MoE block, which nothing gates in advance,
    and computes the last of that block's experts when all have come, the others meanwhile. So it takes no less than
    max(fetches, compute + first fetch, compute - all but one of the block's experts + the block's fetches).
    """
    schedule = timeline.schedule
    took_s = timeline.end_s - timeline.start_s
    bound_s = 0.0
    for step in np.unique(schedule.step).tolist():
        mine = schedule.step == step
        compute_s = float(took_s[mine & (schedule.lane == Lane.COMPUTE)].sum())
        fetches = np.flatnonzero(mine & (schedule.kind == OpKind.FETCH))
        if not len(fetches):
            bound_s += compute_s
            continue
        in_block = mine & (schedule.layer == schedule.layer[fetches[0]])
        block_s = float(took_s[in_block & (schedule.kind == OpKind.FETCH)].sum())
        experts_s = took_s[in_block & (schedule.kind == OpKind.EXPERTS)]
        others_s = float(experts_s.sum() - experts_s.min(initial=np.inf)) if len(experts_s) else 0.0
        first_s = float(took_s[fetches[0]])
        bound_s += max(float(took_s[fetches].sum()), compute_s + first_s, compute_s - others_s + block_s)
    return bound_s
