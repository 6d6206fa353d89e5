"""What a policy made of a user's own code has to keep to, found out by writing its schedule again.

Twice on one trace it decides the same. On a trace that differs from some gate on, it decides the same until that gate
has run: else it knows what nobody can know there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from offload.decode import Decoded
from offload.own_policies.policy_calls import is_foreign
from offload.policy import Decisions, Policy, RunFacts, fetch_misses, no_prefetch
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

N_STEPS = 4
"""Decode steps in which a policy is watched for what it may not know."""


class Gate(NamedTuple):
    """MoE block `block` of forward pass `i_step`: the first whose routing is another one."""

    i_step: int
    block: int


class Decided(NamedTuple):
    """One answer of a policy: where it was asked, for what, and what it said, as text."""

    i_step: int
    block: int
    what: str
    answer: str


Decode = Callable[[Policy, Iterator[Step]], Decoded]


def is_own(policy: Policy) -> bool:
    """Whether any part of a policy was written outside of this project."""
    values = (getattr(policy, field.name) for field in fields(policy))
    return any(callable(value) and is_foreign(value) for value in values)


def check_deterministic(policy: Policy, first: Decoded, again: Decoded) -> None:
    """Raise `InvalidInput` unless a policy has written the same schedule twice."""
    one, other = first.schedule, again.schedule
    if one.digest != other.digest:
        shorter = min(len(one), len(other))
        differ = np.flatnonzero(
            (one.kind[:shorter] != other.kind[:shorter]) | (one.expert[:shorter] != other.expert[:shorter])
        )
        step = int(one.step[differ[0]]) if differ.size else int(one.step[shorter - 1])
        raise InvalidInput(
            f"policy {policy.name} decides otherwise when it is asked again, first in step {step}: what it "
            f"remembers, and the generator it draws from, are made anew in start(facts)"
        )


def check_sees_no_future(
    model: ModelArchitecture, policy: Policy, steps: Callable[[], Iterator[Step]], decode: Decode
) -> None:
    """Raise `InvalidInput` where `policy` decides by the routing of a gate that has not run.

    `decode` writes a schedule of some steps under a policy. A predictor is told what a gate will choose, so that under
    one only later forward passes are others.
    """
    watched, ids = _first_steps(steps())
    cache = policy.cache
    if not ids or (cache is not None and cache.eviction == "belady"):  # which is told the future of this trace
        return
    real = _decisions(policy, watched, decode)
    n_blocks = model.n_moe_layers - model.n_encoder_moe_layers
    for gate in _gates(ids, n_blocks, whole=policy.predictor is not None):
        other = [_changed(step, gate, model) for step in watched]
        revealed = gate.i_step, max(gate.block - policy.lookahead, 0)
        known = [one for one in real if (one.i_step, one.block) < revealed]
        found = _decisions(policy, other, decode)[: len(known)]
        for mine, its in zip(known, found, strict=False):
            if mine != its:
                raise InvalidInput(
                    f"policy {policy.name} in block {mine.block} of step {mine.i_step}: {mine.what} knows what the "
                    f"gate of block {gate.block} of step {gate.i_step} will choose: it may know what the view reveals"
                )


def _first_steps(steps: Iterator[Step]) -> tuple[list[Step], list[int]]:
    """Steps up to the last that is watched, and which of them decode."""
    watched: list[Step] = []
    ids: list[int] = []
    for step in islice(steps, 64):
        watched.append(step)
        if step.phase == Phase.DECODE:
            ids.append(step.i_step)
        if len(ids) == N_STEPS:
            break
    return watched, ids


def _gates(ids: Sequence[int], n_blocks: int, *, whole: bool) -> list[Gate]:
    """Where the routing is made another one: early, in the middle and last in a step; with `whole`, at its start."""
    if whole:
        return [Gate(i_step, 0) for i_step in ids[1:2]]
    blocks = dict.fromkeys((1, n_blocks // 2, n_blocks - 1))
    return [Gate(ids[min(i + 1, len(ids) - 1)], min(block, n_blocks - 1)) for i, block in enumerate(blocks)]


def _changed(step: Step, gate: Gate, model: ModelArchitecture) -> Step:
    """The step with all that `gate`, and every gate after it, chooses moved on by some experts."""
    if step.i_step < gate.i_step:
        return step
    first = model.n_encoder_moe_layers + (gate.block if step.i_step == gate.i_step else 0)
    experts = step.experts.copy()
    rest = experts[:, first:]
    rest[...] = np.where(rest >= 0, (rest + max(model.n_experts // 3, 1)) % model.n_experts, rest)
    experts.flags.writeable = False
    return replace(step, experts=experts)


def _decisions(policy: Policy, steps: Sequence[Step], decode: Decode) -> list[Decided]:
    """What a policy decides on `steps`, in order."""
    log: list[Decided] = []

    def start(facts: RunFacts) -> Decisions:
        made = policy.decisions(facts)
        return Decisions(
            made.prefetch if made.prefetch is no_prefetch else _logged(made.prefetch, "prefetch", log),
            made.on_miss if made.on_miss is fetch_misses else _logged(made.on_miss, "on_miss", log),
        )

    decode(replace(policy, prefetch=no_prefetch, on_miss=fetch_misses, start=start), iter(steps))
    return log


def _logged(function: Callable[..., Any], what: str, log: list[Decided]) -> Callable[..., Any]:
    """`function`, each of its answers kept."""

    def asked(view: Any, *arguments: Any) -> Any:
        answer = function(view, *arguments)
        log.append(Decided(view.i_step, view.block, what, repr(answer)))
        return answer

    asked.__module__ = getattr(function, "__module__", "")
    return asked
