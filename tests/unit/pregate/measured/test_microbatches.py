"""Prompts that are read some tokens at a time, as rows of small passes are."""

import dataclasses

import numpy as np
import pytest

from hwmodels.platform import load_platform
from offload.ops import OpKind
from pregate.ask.capturing.capture import capture
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.microbatches import as_microbatches, without_outputs
from pregate.measured.rows.table import RESIDENT_TABLE, read_table
from pregate.named import load_policy
from pregate.routing_traces import synthesize
from traces.model.architecture import load_architecture

MINI = load_architecture("mixtral-mini-8")


def test_sequences_in_step_become_consecutive_tokens_of_one() -> None:
    trace = synthesize(MINI, 1, 4, 3, 0)
    prompt = as_microbatches(trace, 100)
    assert prompt.n_steps == trace.n_steps
    assert set(prompt.sequence.tolist()) == {0}
    assert np.diff(prompt.position).tolist() == [1] * (trace.n_tokens - 1)
    before = prompt.position[:: trace.n_tokens // trace.n_steps]
    assert before.mean() == pytest.approx(100, abs=1.5)
    assert np.array_equal(prompt.experts, trace.experts)


def test_passes_without_outputs_run_no_head_and_no_last_ffn() -> None:
    trace = as_microbatches(synthesize(MINI, 1, 4, 2, 0), 64)
    whole = capture(MINI, load_platform("rtx-3090", "llama-cpp"), trace, load_policy("gpu_only")).decoded.schedule
    spared = without_outputs(whole)
    gone = np.array([whole.works[a] != spared.works[b] for a, b in zip(whole.cost, spared.cost, strict=True)])
    kinds = {OpKind(kind) for kind in whole.kind[gone]}
    assert OpKind.HEAD in kinds
    assert OpKind.SELF_ATTENTION not in kinds
    assert set(whole.layer[gone & (whole.kind != OpKind.HEAD)].tolist()) == {int(whole.layer.max())}
    assert all(spared.works[cost].n_copies == 0 for cost in spared.cost[gone])


def test_a_row_of_small_passes_is_faster_than_decoding_and_reads_one_context() -> None:
    row = next(one for one in read_table(RESIDENT_TABLE) if one.batch == 4 and one.metric == "microbatch_tokens_per_s")
    bench = RowBench()
    decoding = dataclasses.replace(row, metric="decode_tokens_per_s")
    assert bench.predict(row) > bench.predict(decoding)
