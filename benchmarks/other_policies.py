"""Schedules and the simulator judged apart from what ops cost, on recorded runs of a CUDA device.

    python -m benchmarks.other_policies results/h200-sxm-2026-11-28

Of each group two policies say what ops cost: `prefetch_all`, under which the host is far ahead, what kernels take
(duration); `gpu_only`, under which the device waits for its host, what a launch takes (issue: from the end of one op to
the end of the next). The other policies of the group were run between them, and are predicted from those costs. Nothing
is fitted; what nobody told of (copies, waits) is as the fit beside the runs has it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs, price
from hwmodels.platform import Platform, load_platform
from offload.metrics import run_metrics
from offload.ops import Lane, OpKind
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.validation.cases import CaseGroup, suite_named
from pregate.validation.predictions import PreparedCase, prepare_cases
from pregate.validation.runs.recording import RecordedCase, Recording, load_recording
from pregate.validation.session import RUNS
from simulator import recurrence

TOLD = ("gpu_only", "prefetch_all")
"""Policies that say what ops cost."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpCosts:
    """Seconds of ops as two policies told them: `duration_s` by kind and GEMMs, `issue_s` by kind."""

    duration_s: Mapping[tuple[Any, ...], float]
    issue_s: Mapping[OpKind, float]


def main(folder: Path) -> None:
    """Print the error of the time per token, by policy."""
    recording = load_recording(folder / RUNS)
    hw = load_platform(str(next(folder.glob("*.yaml"))))
    errors: dict[str, list[float]] = defaultdict(list)
    for group in suite_named("gpu"):
        if recording.has(group) and set(TOLD) < set(group.policies):
            for policy, error in _errors(group, hw, recording).items():
                errors[policy].append(error)
    print(f"{'policy':14s} groups     bias     MAPE    worst")
    for policy, found in sorted(errors.items()):
        size = np.abs(found)
        print(f"{policy:14s} {len(found):6d} {np.mean(found):+8.1%} {size.mean():8.1%} {size.max():8.1%}")


def _errors(group: CaseGroup, hw: Platform, recording: Recording) -> dict[str, float]:
    """The relative error of the time per token of each policy of a group."""
    cases = {one.case.policy: one for one in prepare_cases(group, hw)}
    runs = {policy: recording.cases[one.case.name] for policy, one in cases.items()}
    told = _costs(cases, runs)
    found = {}
    for policy, prepared in cases.items():
        measured_s = float(np.median([_tpot_s(prepared, start, end) for start, end in _times(runs[policy])]))
        found[policy] = _predicted_s(prepared, told, hw) / measured_s - 1
    return found


def _times(run: RecordedCase) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return [(start * 1e-9, end * 1e-9) for start, end in zip(run.start_ns, run.end_ns, strict=True)]


def _tpot_s(prepared: PreparedCase, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> float:
    timeline = Timeline(prepared.captured.decoded.schedule, start_s, end_s, "recorded")
    return float(run_metrics.tpot_s(timeline, prepared.captured.trace)["mean"])


def _costs(cases: Mapping[str, PreparedCase], runs: Mapping[str, RecordedCase]) -> OpCosts:
    resident, fetching = (cases[policy].captured for policy in TOLD)
    duration: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    schedule = fetching.decoded.schedule
    decoding = np.isin(schedule.step, run_metrics.decode_steps(fetching.trace))
    for start_s, end_s in _times(runs["prefetch_all"]):
        for op in np.flatnonzero(decoding).tolist():
            for key in _keys(schedule, op):
                duration[key].append(float(end_s[op] - start_s[op]))
    issue: dict[OpKind, list[float]] = defaultdict(list)
    schedule = resident.decoded.schedule
    compute = np.flatnonzero(schedule.lane == Lane.COMPUTE)
    decoding = np.isin(schedule.step[compute], run_metrics.decode_steps(resident.trace))
    for _, end_s in _times(runs["gpu_only"]):
        apart = np.diff(end_s[compute])
        for op, seconds, counts in zip(compute[1:].tolist(), apart.tolist(), decoding[1:].tolist(), strict=True):
            if counts:
                issue[OpKind(schedule.kind[op])].append(seconds)
    return OpCosts(
        {key: float(np.mean(np.minimum(taken, 3 * np.median(taken)))) for key, taken in duration.items()},
        {kind: float(np.mean(taken)) for kind, taken in issue.items()},
    )


def _keys(schedule: Schedule, op: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """An op by its GEMMs, and by its kind alone."""
    work = schedule.works[schedule.cost[op]]
    return (work.kind, work.gemms), (work.kind,)


def _predicted_s(prepared: PreparedCase, told: OpCosts, hw: Platform) -> float:
    """The time per token with what was told of ops; what nobody told of, as the fit has it."""
    schedule = prepared.captured.decoded.schedule
    fitted = price(schedule.works, hw)
    issue_s, duration_s = fitted.issue_s.copy(), fitted.duration_s.copy()
    slower = told.issue_s[OpKind.SELF_ATTENTION] / _fitted_issue_s(hw)
    for i, work in enumerate(schedule.works):
        for key in ((work.kind,), (work.kind, work.gemms)):
            duration_s[i] = told.duration_s.get(key, duration_s[i])
        issue_s[i] = told.issue_s.get(work.kind, issue_s[i] * slower)
    timeline = recurrence.simulate(schedule, Costs(issue_s, duration_s))
    return float(run_metrics.tpot_s(timeline, prepared.captured.trace)["mean"])


def _fitted_issue_s(hw: Platform) -> float:
    """By which a session's host is compared with that of the fit."""
    assert hw.fit is not None
    return float(hw.fit.kernels["self_attention.issue_s"].value)


if __name__ == "__main__":
    from docs.script_arguments import given

    main(*map(Path, given(__doc__, "FOLDER")))
