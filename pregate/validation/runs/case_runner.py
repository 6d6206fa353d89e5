"""Run what was predicted, beside a watch on the machine, and collect what happened."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from pregate.running.devices import Device, make_backend
from pregate.running.measured_run import execute_captured, initial_slots
from pregate.validation.outcome import Measurement
from pregate.validation.predictions import PreparedCase, exact_counts
from pregate.validation.runs.recording import RecordedCase, measurement_of
from runtime.machine.watch import Clock, LoadWatch, Seen, counting
from runtime.model.weights import Experts
from runtime.run import MeasuredRun, OutputMismatch, counted_timelines
from traces.phase import Phase


@dataclass
class Runner:
    """Runs cases, those of one model with the same weights. `device`: what has a link of so many bytes/s.

    `repeats`: quiet runs of a case that are wanted; `tries`: runs more, at most, for those that were disturbed.
    `recorded`: the runs of every case so far, by name.
    """

    device: Callable[[float | None], Device]
    repeats: int
    tries: int
    recorded: dict[str, RecordedCase] = field(default_factory=dict, init=False)
    _experts: Experts | None = field(default=None, init=False)
    _clock: Clock = field(default_factory=Clock, init=False)

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
                here = self.device(one.prepared.link_bytes_per_s)
                self._clock.any_core = here.backend == "cuda"
                with LoadWatch(self._clock) as watch:
                    run = self._run(one.prepared)
                one.add(run, watch.seen)
        digests = {one.digest: one.prepared.case.policy for one in found if one.digest}
        if len(digests) > 1:
            raise OutputMismatch(
                f"{group[0].case.group}: {' and '.join(digests.values())} end in different hidden states"
            )
        measured = []
        for one in found:
            name, recorded = one.prepared.case.name, one.recorded()
            self.recorded[name] = recorded
            measured.append(measurement_of(recorded, one.prepared.captured, name in drawn))
        return measured

    def _run(self, prepared: PreparedCase) -> MeasuredRun:
        captured, device = prepared.captured, self.device(prepared.link_bytes_per_s)
        model = captured.model
        if self._experts is None or self._experts.model != model:
            self._experts = None  # the old ones go before the new ones come
            self._experts = Experts(model, allocate=make_backend(device).allocate_host, keep_static=True)
        self._experts.keep(initial_slots(captured.request).values())
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

    def recorded(self) -> RecordedCase:
        """The runs that count."""
        counted = counting(self.seen)
        thrown = [one.disturbance() for i, one in enumerate(self.seen) if i not in counted]
        kept = counted_timelines(self.runs, self.seen)
        timelines = [timeline for _, timeline in kept]
        start_ns, end_ns = (
            np.array([np.rint(getattr(one, name) * 1e9) for one in timelines], dtype=np.int64)
            for name in ("start_s", "end_s")
        )
        captured = self.prepared.captured
        return RecordedCase(
            schedule_digest=captured.decoded.schedule.digest,
            n_buffers=captured.plan.n_buffers,
            n_cache_slots=captured.plan.n_cache_slots,
            source=timelines[0].source,
            link_bytes_per_s=self.prepared.link_bytes_per_s,
            start_ns=start_ns,
            end_ns=end_ns,
            exact=self.exact,
            output_digest=self.digest,
            disturbances=tuple(line for line in thrown if line is not None),
            load=max(self.seen[i].load() for i in counted),
            interrupted=max(0.0, *(1 - timeline.makespan_s / run.timeline.makespan_s for run, timeline in kept)),
        )
