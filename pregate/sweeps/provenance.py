"""Where the numbers of a sweep come from, as attributes of its dataset: all text, what is structured as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import pregate
from pregate.ask.ranked_designs import standing_of
from pregate.sweeps.axes import LatinHypercube
from pregate.sweeps.planning import Subject
from pregate.sweeps.sweep_work import SweepWork
from pregate.sweeps.tasks import TaskOutcome
from pregate.sweeps.workloads import TraceRecipe
from simulator.modes import Modes
from traces.routing import RoutingTrace

_MAX_LISTED = 256
"""Digests spelled out in one attribute: HDF5 takes 64 KiB for all attributes of a file."""

_MOST_TIERS = 2000
"""Characters of tiers that are spelled out: an axis of their sizes has many."""


def describe(
    subject: Subject, sample: LatinHypercube | None, work: SweepWork, outcomes: Sequence[TaskOutcome | None]
) -> dict[str, str]:
    """What was swept and on what, by which versions, from which seeds, with which engine and why."""
    groups, pricing, source = work.plan.groups, work.pricing, subject.trace
    names = [design.policy.name for design in subject.designs]
    found: dict[str, list[str]] = {name: [] for name in names}
    of_task = (name for name, n in zip(names, work.n_tasks, strict=True) for _ in range(n))
    for name, outcome in zip(of_task, outcomes, strict=True):
        if outcome is not None and outcome.schedule_digest:
            found[name].append(outcome.schedule_digest)
    traces = {id(group.request.trace): group.request.trace for group in groups}
    seeds = {
        "trace": source.seed if isinstance(source, TraceRecipe) else None,
        "sample": sample.seed if sample is not None else None,
        "draws": pricing.seed if pricing.draws else None,
    }
    return {
        "model": subject.model.name,
        "hardware": _joined(group.hw.hardware for group in groups),
        "stack": _joined(group.hw.stack.name for group in groups),
        "expert_tier": _joined(group.request.expert_tier for group in groups)[:_MOST_TIERS],
        "workload": repr(source) if isinstance(source, TraceRecipe) else _recorded(source),
        "calibration": _joined(_calibration(outcome) for outcome in outcomes if outcome is not None),
        "engine": engine_used(pricing.modes),
        "schedule_digests": json.dumps({name: _listed(values) for name, values in found.items()}),
        "trace_digests": json.dumps(_listed([trace.digest for trace in traces.values()])),
        "standings": json.dumps({d.policy.name: standing_of(d.policy.with_cache(d.cache)) for d in subject.designs}),
        "sweep_digest": work.digest,
        "seeds": json.dumps(seeds),
        "pregate_version": pregate.__version__,
        "numpy_version": np.__version__,
    }


def engine_used(modes: Modes) -> str:
    """The engine that runs under `modes`, and why, in plain words."""
    if modes.is_fifo:
        return "recurrence: lanes are first in, first out"
    return f"event: {modes.describe()}, which the recurrence cannot say"


def _recorded(trace: RoutingTrace) -> str:
    origin = trace.provenance
    return f"{trace.n_tokens} tokens of {origin.model}, {origin.source}, recorded by {origin.recorder}"


def _calibration(outcome: TaskOutcome) -> str:
    found = outcome.fields.get("calibration")
    return str(found[0]) if found is not None and found.size else ""


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(text for text in texts if text))


def _listed(found: Sequence[str]) -> Any:
    """Distinct digests, sorted; beyond some hundred how many, and the digest of all."""
    distinct = sorted(set(found))
    if len(distinct) <= _MAX_LISTED:
        return distinct
    return {"n": len(distinct), "sha256": hashlib.sha256(json.dumps(distinct).encode()).hexdigest()}
