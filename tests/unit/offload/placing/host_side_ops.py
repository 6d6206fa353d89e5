"""The host's side of a run that has only begun, and its ops as text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from offload.caches.residency import ResidentSet
from offload.decoding.work_rows import Works
from offload.execution import EXECUTIONS, Execution
from offload.ops import Lane, OpKind, Work
from offload.placing.host_side import HostSide
from offload.placing.placed import place
from offload.placing.placement_clauses import placement_named
from offload.placing.tiers import Reads
from offload.recorder import Recorder
from offload.slots.host_tier import HostEvents, HostTier, ReadThrough
from tests.small_models import MODELS
from traces.model.architecture import ModelArchitecture

MODEL = MODELS["decoder-only"]
"""Layers 0 (dense), 1, 2 and 3; 128 bytes of activations a token, and of keys and values a token and layer."""

STEP = 7
EXPERT = MODEL.expert_bytes


@dataclass
class Loop:
    """A loop that is in pass `STEP`, over three tokens."""

    execution: Execution
    model: ModelArchitecture = MODEL
    recorder: Recorder = field(default_factory=Recorder)
    works: Works = field(default_factory=lambda: Works(MODEL, 0))
    host_tier: HostTier | None = None
    i_step: int = STEP
    n_tokens: int = 3
    log: HostEvents = field(default_factory=list)

    def computes(self, layer: int, *after: int) -> int:
        """An op of the accelerator."""
        return self.recorder.issue(Lane.COMPUTE, self.works.gate(3), after, step=STEP, layer=layer)


def begun(text: str, *, reads: bool = False, n_slots: int = 0, **changes: Any) -> tuple[HostSide, Loop]:
    """The host's side of a run under a placement, `reads`: with experts on storage, `n_slots` of them kept above it."""
    placement = placement_named(text)
    loop = Loop(dataclasses.replace(placement.execution(EXECUTIONS["streams"]), **changes))
    if reads:
        cache = ResidentSet(n_slots, "lru", n_layers=3, n_experts=6) if n_slots else None
        loop.host_tier = ReadThrough(Reads(), cache, loop.log).tier(MODEL, loop.recorder, (1, 2, 3), 2)
    return HostSide(loop, place(MODEL, placement)), loop


def written(loop: Loop) -> list[str]:
    """The ops since the last time: lane, kind, layer, expert, what each copies, and the ops that it waits for."""
    part, found = loop.recorder.take(), []
    rows = part.columns
    assert set(rows["step"].tolist()) <= {STEP}
    for i in range(len(part)):
        words = [Lane(rows["lane"][i]).name.lower(), OpKind(rows["kind"][i]).name.lower(), str(rows["layer"][i])]
        words += [f"e{rows['expert'][i]}"] if rows["expert"][i] >= 0 else []
        words += [f"{rows['bytes'][i]}B"] if rows["bytes"][i] else []
        waits = rows["dep"][rows["dep_ptr"][i] : rows["dep_ptr"][i + 1]].tolist()
        found.append(" ".join([*words, *(["after", *map(str, waits)] if waits else [])]))
    return found


def works_of(loop: Loop, kind: OpKind) -> list[Work]:
    """The works of the ops of a kind, all that were recorded being taken."""
    part = loop.recorder.take()
    return [part.works[row] for row in part.columns["cost"][part.columns["kind"] == kind].tolist()]
