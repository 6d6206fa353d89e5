"""What a trace asks of memory: the tokens that are cached and pass at once, the experts of a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.decoding.mixer_works import contexts_of
from offload.decoding.unions import most_distinct
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

_TOGETHER = 1 << 12
"""Tokens of decode steps that are looked at together, or one step."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a trace asks of memory."""

    n_cached_tokens: int
    """Entries of the KV cache of self-attention that are alive at once, at most."""
    n_memory_tokens: int
    """Encoder outputs that are alive at once, at most."""
    n_tokens: int
    """Most tokens in one forward pass."""
    n_context: int
    """Most tokens that one of them attends to."""
    n_active: int
    """Most experts in the union of one step and layer of the decoder."""
    n_decode_active: int
    """The same of decode steps alone."""
    n_encoder_active: int
    """The same of the encoder."""
    n_output_tokens: int
    """Made by decode steps, and one a prompt by a prefill without encoder."""
    n_sequences: int
    """Sequences that these tokens are of."""
    n_running: int
    """Most sequences that have a KV cache or a state at once."""


def measure_workload(model: ModelArchitecture, steps: Iterable[Step]) -> Workload:
    """Walk the steps once."""
    n_tokens = n_active = n_decode_active = n_encoder_active = n_output = 0
    first = model.n_encoder_moe_layers
    memory: dict[int, int] = {}
    context: set[int] = set()
    n_memory = n_cached = n_context = n_running = 0
    for passes in _alike(steps):
        step, sizes = passes[0], np.array([len(step.experts) for step in passes])
        seen = contexts_of(passes)
        n_tokens, n_context = max(n_tokens, int(sizes.max())), max(n_context, int(seen.context.max()))
        if step.phase == Phase.PREFILL and model.is_encoder_decoder:
            counts = dict(zip(seen.sequence.tolist(), seen.counts.tolist(), strict=True))
            memory |= {sequence: memory.get(sequence, 0) + n for sequence, n in counts.items()}
            n_encoder_active = _largest_union(step.experts[:, :first], model.n_experts, n_encoder_active)
            n_memory = max(n_memory, sum(memory[s] for s in counts))
            continue
        running = set(seen.sequence.tolist())
        if step.phase == Phase.DECODE:
            for i in np.flatnonzero(sizes * step.experts.shape[2] > n_decode_active).tolist():
                n_decode_active = _largest_union(passes[i].experts[:, first:], model.n_experts, n_decode_active)
            n_output += int(sizes.sum()) - sum(int(one.rejected.sum()) for one in passes if one.rejected is not None)
        else:
            n_active = _largest_union(step.experts[:, first:], model.n_experts, n_active)
            going = set() if step.unfinished is None else set(step.sequence[step.unfinished].tolist())
            n_output += len(running - going)
        context |= running
        if memory:
            left = np.array([memory.get(sequence, 0) for sequence in seen.sequence.tolist()], np.int64)
            n_memory = max(n_memory, int(seen.by_pair(left).max()))
        n_cached = max(n_cached, int(seen.by_pair(seen.longest).max()))
        n_running = max(n_running, int(seen.n_sequences.max()))
    n_sequences = len(memory.keys() | context)
    n_active = max(n_active, n_decode_active)
    return Workload(
        n_cached, n_memory, n_tokens, n_context, n_active, n_decode_active, n_encoder_active, n_output, n_sequences,
        n_running,
    )  # fmt: skip


def _alike(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Each prefill by itself, and decode steps that follow one another together, up to some thousand tokens."""
    run: list[Step] = []
    n = 0
    prefill = Phase.PREFILL  # an attribute of an enumeration takes longer than all else of a step
    for step in steps:
        if run and (n > _TOGETHER or step.phase == prefill):
            yield run
            run, n = [], 0
        if step.phase == prefill:
            yield [step]
            continue
        run.append(step)
        n += len(step.experts)
    if run:
        yield run


def _largest_union(experts: NDArray[np.int16], n_experts: int, at_least: int) -> int:
    """Most distinct experts at one layer of a step, or `at_least`; `experts` (n_tokens, n_layers, top_k)."""
    n_tokens, n_layers, top_k = experts.shape
    if not n_layers or n_tokens * top_k <= at_least:
        return at_least
    return max(most_distinct(experts, n_experts), at_least)
