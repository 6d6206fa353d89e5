"""How many forward passes the compiled loop prepares at a time, and that nobody sees it."""

from __future__ import annotations

import numpy as np
import pytest

import pregate
from hwmodels.platform import load_platform
from offload.decoding.decode_job import DecodeJob
from offload.fast import decode_compiled
from offload.fast.decode_compiled import CompiledLoop
from offload.recorder import assemble
from pregate.ask.capturing.request import request
from traces.phase import Phase
from traces.routing import RoutingTrace

MODEL = pregate.load_model("qwen3-30b-a3b")
HARDWARE = load_platform("rtx-4090", "llama-cpp")


def made(n_prompt: int, n_output: int) -> tuple[DecodeJob, RoutingTrace]:
    trace = pregate.synthesize(MODEL, n_prompt, n_output)
    asked = request(MODEL, HARDWARE, trace, "gpu_only@experts=cpu")
    return DecodeJob(MODEL, asked.policy, asked.execution, asked.plan.n_buffers, None, False, asked.placed), trace


def test_passes_of_a_prompt_are_prepared_together_as_far_as_their_unions_go() -> None:
    job, trace = made(4096, 2)
    batches = [[len(step.experts) for step, _ in batch] for batch in CompiledLoop(job)._batches(trace.steps())]
    assert batches == [[512] * 8 + [1]]
    assert trace.experts[trace.phase == Phase.PREFILL].size > 8 * decode_compiled._PART_CELLS


@pytest.mark.parametrize("n_cells", [1, 1 << 15])
def test_a_schedule_is_the_same_however_many_passes_are_prepared_at_a_time(
    n_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, trace = made(2100, 9)
    whole = assemble(CompiledLoop(job).parts(trace.steps()))
    monkeypatch.setattr(decode_compiled, "_PART_CELLS", n_cells)
    parts = list(CompiledLoop(job).parts(trace.steps()))
    assert len(parts) > 1
    assert assemble(parts).digest == whole.digest
    assert np.array_equal(assemble(parts).cost, whole.cost)
    works = assemble(parts).works
    assert len(set(works)) == len(works)
