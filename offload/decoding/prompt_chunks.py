"""The forward passes that one step of a trace takes: a long prompt, or part of one, in chunks, all else in one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offload.execution import Execution
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step


def passes_of(step: Step, model: ModelArchitecture, execution: Execution) -> list[tuple[Step, int]]:
    """The passes of `step`, the same step in each, and the tokens that each ends with a head for.

    A prompt without encoder passes `micro_batch` tokens at a time; only its last pass makes tokens, of the
    sequences that no later step goes on with. In decoding every token has a head: one of a draft's needs what the model
    says in its place.
    """
    encodes = model.encoder is not None and step.phase == Phase.PREFILL
    n, size = len(step.experts), execution.micro_batch
    if step.phase == Phase.DECODE:
        return [(step, n)]
    going = step.unfinished
    n_heads = 0 if encodes else _n_distinct(step.sequence if going is None else step.sequence[~going])
    if model.is_encoder_decoder or not size or n <= size:
        return [(step, n_heads)]
    weights, passes = step.gate_weights, []
    for low in range(0, n, size):
        part = slice(low, low + size)
        one = replace(
            step, experts=step.experts[part], sequence=step.sequence[part], position=step.position[part],
            gate_weights=None if weights is None else weights[part], unfinished=None if going is None else going[part],
        )  # fmt: skip
        passes.append((one, n_heads if low + size >= n else 0))
    return passes


def _n_distinct(sequence: NDArray[np.int32]) -> int:
    """How many sequences tokens are of; those of a prompt follow one another."""
    if not sequence.size:
        return 0
    steps = np.diff(sequence)
    return 1 + int(np.count_nonzero(steps)) if not steps.size or steps.min() >= 0 else len(np.unique(sequence))
