"""Prompts as forward passes whose routing nobody knows yet: what is read, what is made, and where that goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace, Step

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class UnroutedRun:
    """Forward passes in order. `ids`: the tokens that each reads, None of what the pass before has made.

    `experts` and `gate_weights` of `steps` hold -1 and 0 and are written to as gates run.
    """

    steps: tuple[Step, ...]
    ids: tuple[Tokens | None, ...]


def unrouted(model: ModelArchitecture, prompts: Sequence[Tokens], n_new: int, batch: int = 1) -> UnroutedRun:
    """The passes that make `n_new` tokens after each of `prompts`, `batch` of them at a time.

    A decoder alone reads the prompt; with an encoder, that reads all but its last token, where the decoder begins.
    Raises `InvalidInput` for an empty prompt or one of tokens that the model has not, and counts below 1 (`n_new` 2).
    """
    if not prompts or batch < 1 or n_new < 2:
        raise InvalidInput(f"{len(prompts)} prompts, {batch} at a time, {n_new} new tokens: at least 1, 1 and 2")
    least = 2 if model.is_encoder_decoder else 1
    for i, prompt in enumerate(prompts):
        if len(prompt) < least:
            raise InvalidInput(f"prompt {i} has {len(prompt)} tokens, {model.name} reads at least {least}: write more")
        if prompt.min() < 0 or prompt.max() >= model.vocab_size:
            raise InvalidInput(f"prompt {i} has token {prompt.max()}, {model.name} knows {model.vocab_size}")
    passes = [one for at in range(0, len(prompts), batch) for one in _passes(model, prompts, at, batch, n_new)]
    steps = tuple(
        _step(i, model, phase, sequences, positions) for i, (phase, sequences, positions, _) in enumerate(passes)
    )
    return UnroutedRun(steps, tuple(ids for *_, ids in passes))


def _passes(
    model: ModelArchitecture, prompts: Sequence[Tokens], at: int, batch: int, n_new: int
) -> Iterator[tuple[Phase, list[int], list[int], Tokens | None]]:
    """Phase, sequences, positions and tokens of each pass of one batch."""
    batched = list(enumerate(prompts))[at : at + batch]
    encoded = model.is_encoder_decoder
    read = [(i, prompt[:-1] if encoded else prompt) for i, prompt in batched]
    sequences = [i for i, prompt in read for _ in prompt]
    yield Phase.PREFILL, sequences, [p for _, prompt in read for p in range(len(prompt))], np.concatenate(
        [prompt for _, prompt in read]
    )  # fmt: skip
    starts = [0 if encoded else len(prompt) for _, prompt in read]
    for n in range(n_new if encoded else n_new - 1):
        begins = np.array([prompt[-1] for _, prompt in batched]) if encoded and n == 0 else None
        yield Phase.DECODE, [i for i, _ in batched], [start + n for start in starts], begins


def _step(i_step: int, model: ModelArchitecture, phase: Phase, sequences: list[int], positions: list[int]) -> Step:
    shape = len(sequences), model.n_moe_layers, model.top_k
    return Step(
        i_step, phase, np.full(shape, -1, dtype=np.int16), np.array(sequences, dtype=np.int32),
        np.array(positions, dtype=np.int32), np.zeros(shape, dtype=np.float32),
    )  # fmt: skip


def trace_of(model: ModelArchitecture, run: UnroutedRun, recorder: str) -> RoutingTrace:
    """What the gates of a finished run have chosen."""
    steps = run.steps
    columns = {
        name: np.concatenate([getattr(step, name) for step in steps])
        for name in ("experts", "sequence", "position", "gate_weights")
    }
    of_token = np.repeat(np.arange(len(steps)), [len(step.experts) for step in steps])
    return RoutingTrace(
        phase=np.array([step.phase for step in steps], dtype=np.int8)[of_token],
        step=of_token.astype(np.int32), n_experts=model.n_experts,
        provenance=Provenance(model=model.name, source="recorded", recorder=recorder), **columns,
    )  # fmt: skip


def placeholder(model: ModelArchitecture, run: UnroutedRun) -> RoutingTrace:
    """A trace of the same passes in which every token chooses the first experts: for what only sizes matter to."""
    n_encoder = model.n_encoder_moe_layers
    for step in run.steps:
        encoding = model.is_encoder_decoder and step.phase == Phase.PREFILL
        step.experts[:, :n_encoder] = np.arange(model.top_k) if encoding else -1
        step.experts[:, n_encoder:] = -1 if encoding else np.arange(model.top_k)
    return trace_of(model, run, "not recorded")
