"""What a machine makes of a run whose host decided and issued op by op, where its fit says what deciding costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import price
from hwmodels.figures import Figures, figures_of
from hwmodels.platform import Platform
from offload.ops import Lane, OpKind
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.draw.perfetto import simulated_again
from runtime.backends.pacing import CHUNK_BYTES
from simulator.live_issue import Deciding, issued_live

_PROCESSORS = (Lane.HOST, Lane.COMPUTE, Lane.CPU)
"""Lanes whose time is a processor's, where the device is one too."""


def knows_deciding(machine: Platform) -> bool:
    """Whether the fit of a machine says what a host takes that decides as it goes."""
    return figures_of(machine).kernel(OpKind.SELF_ATTENTION, "decide_s") is not None


def predicted_live(real: Timeline, asked: Mapping[int, int], machine: Platform, pace: float = 1.0) -> Timeline:
    """The ops of a run as `machine` would run them; as if issued from a schedule where its fit knows no deciding.

    `asked`: as of `simulator.live_issue.Deciding`. `pace`: how many times as long as fitted whatever a processor does
    takes, decisions included; what links and storage take stays, and so does a schedule's without deciding.
    """
    if not knows_deciding(machine):
        return simulated_again(real, machine)
    schedule = real.schedule
    figures, costs = figures_of(machine), price(schedule.works, machine)
    names = ("live", "live_offloaded")[:: -1 if np.any(schedule.kind == OpKind.FETCH) else 1]
    live = np.array([next(filter(None, (figures.kernel(kind, name) for name in names)), 1.0) for kind in OpKind])
    duration_s = costs.duration_s[schedule.cost] * live[schedule.kind]
    duration_s *= np.where(np.isin(schedule.lane, _PROCESSORS), pace, 1.0)
    deciding = deciding_of(schedule, figures, costs.issue_s[schedule.cost], asked)
    return issued_live(schedule, duration_s, replace(deciding, host_s=pace * deciding.host_s))


def deciding_of(
    schedule: Schedule, figures: Figures, issue_s: NDArray[np.float64], asked: Mapping[int, int]
) -> Deciding:
    """What the host takes before each op: to decide, by its kind and that before it, and to issue it (`issue_s`).

    A kind that was not measured, such as what the host computes, takes the median of those that were.
    """
    decide_s = {kind: figures.kernel(kind, "decide_s") for kind in OpKind}
    measured = [seconds for seconds in decide_s.values() if seconds is not None]
    usual_s = float(np.median(measured)) if measured else 0.0
    kinds = [OpKind(kind) for kind in schedule.kind.tolist()]
    host_s = np.where(schedule.lane == Lane.HOST, 0.0, issue_s)
    for op in range(1, len(kinds)):
        after = "asked" if op in asked else kinds[op - 1].name.lower()
        seconds = figures.kernel(kinds[op], f"decide_after_{after}_s")
        seconds = decide_s[kinds[op]] if seconds is None else seconds
        host_s[op] += usual_s if seconds is None else seconds
    kernels, host = (figures.kernel(OpKind.WAIT, name) or 1.0 for name in ("slows_kernels", "beside_kernels"))
    slowed = np.where(schedule.lane == Lane.COMPUTE, kernels, 1.0)
    core_s = np.array([figures.kernel(kind, "core_s") or 0.0 for kind in OpKind])[schedule.kind]
    core_s *= np.maximum(1, -(-schedule.bytes // CHUNK_BYTES))
    woken_s = figures.stack_constant("sync_s") * (figures.kernel(OpKind.WAIT, "live_offloaded") or 1.0)
    return Deciding(host_s, slowed, host, asked, woken_s, core_s)
