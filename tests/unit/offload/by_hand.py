"""Schedules of a few tokens, and their ops as text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind, Work
from offload.policies import policy_named
from offload.policy import Policy
from tests.small_models import MODELS
from traces.model.architecture import LayerStack, ModelArchitecture
from traces.model.linear_mixer import LinearMixer
from traces.phase import Phase
from traces.routing import Step

DECODER, SHARED, SWITCH = MODELS.values()
WORDS = {OpKind.SELF_ATTENTION: "attention", OpKind.CROSS_ATTENTION: "cross", OpKind.DENSE_FFN: "ffn"}


def step(i: int, phase: Phase, rows: list[tuple[int, int]], experts: object) -> Step:
    """A forward pass of tokens (sequence, position) that choose `experts`, (n_tokens, n_layers, top_k)."""
    sequence, position = np.array(rows, np.int32).T
    return Step(i, phase, np.array(experts, np.int16), sequence, position)


PROMPT = step(0, Phase.PREFILL, [(4, 0), (4, 1)], [[[0, 5], [0, 1], [2, 3]], [[0, 1], [0, 1], [2, 4]]])
NEXT = step(1, Phase.DECODE, [(4, 2)], [[[1, 2], [0, 5], [4, 3]]])


def ops(decoded: Decoded, i_step: int) -> list[str]:
    """The ops of a step: kind, layer, expert, slot and what it waits for, itself counting from the step's first op."""
    schedule, found = decoded.schedule, []
    first = int(np.flatnonzero(schedule.step == i_step)[0])
    for i in np.flatnonzero(schedule.step == i_step).tolist():
        kind = OpKind(schedule.kind[i])
        words = [WORDS.get(kind, kind.name.lower())]
        for letter, column in (("", schedule.layer), ("e", schedule.expert), ("s", schedule.slot)):
            if column[i] >= 0:
                words.append(f"{letter}{column[i]}")
        waits = [str(dep - first) for dep in schedule.deps(i).tolist()]
        found.append(" ".join([*words, *(["after", *waits] if waits else [])]))
    return found


def asked(decoded: Decoded, kind: OpKind, i_step: int) -> list[Work]:
    """The works of a kind in a step, in order."""
    schedule = decoded.schedule
    rows = schedule.cost[(schedule.kind == kind) & (schedule.step == i_step)]
    return [schedule.works[row] for row in rows.tolist()]


def written(
    model: ModelArchitecture, steps: list[Step], policy: str | Policy, stack: str = "streams", **more: Any
) -> Decoded:
    chosen = policy_named(policy) if isinstance(policy, str) else policy
    return decode(model, steps, chosen, EXECUTIONS[stack], **({"n_buffers": 8} | more))


def hybrid() -> ModelArchitecture:
    """Layer 0 as usual, layer 1 with a state of 30 numbers, layer 2 mixes nothing, layer 3 as usual and no FFN."""
    mixer = LinearMixer("gated_delta_net", ((12, 32), (32, 4)), vectors=0, state_elements=30, flop_per_token=70)
    stack = LayerStack(
        4, (1, 2), DECODER.decoder.attention, False, d_ff_dense=64, n_dense_matrices=2,
        mixers=(mixer,), mixer_of=(0, 1, -1, 0), bare_layers=(3,),
    )  # fmt: skip
    return dataclasses.replace(DECODER, decoder=stack)
