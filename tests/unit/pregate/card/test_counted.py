"""What a card knows of experts beforehand, and the limit of a machine whose HBM does not hold them all."""

from __future__ import annotations

import numpy as np
import pytest

import pregate
from pregate.card.job import RequestLoad, workpiece
from pregate.card.speed_limit import speed_limit
from traces.phase import Phase
from traces.statistics.popularity import popularity_of


@pytest.mark.parametrize("name", ["mixtral-8x7b", "switch-base-16", "qwen3-30b-a3b"])
@pytest.mark.parametrize(("input_tokens", "batch"), [(8, 1), (300, 1), (100, 4)])
def test_popularity_is_that_of_the_traffic_and_not_of_what_is_timed(name: str, input_tokens: int, batch: int) -> None:
    model = pregate.load_model(name)
    found = workpiece(model, RequestLoad(input_tokens, 40, batch)).popularity
    other = workpiece(model, RequestLoad(32, 2)).popularity
    np.testing.assert_array_equal(found.counts, other.counts)
    assert found.counts.sum(axis=1) == pytest.approx(1.0)
    given = popularity_of(pregate.synthesize(model, 64, 2, seed=3))
    assert workpiece(model, RequestLoad(input_tokens, 40, batch), popularity=given).popularity is given


def test_both_phases_of_a_trace_are_counted() -> None:
    trace = pregate.synthesize(pregate.load_model("mixtral-mini-8"), 50, 3)
    both = popularity_of(trace).counts
    parts = sum(popularity_of(trace.select(phase=phase)).counts for phase in (Phase.PREFILL, Phase.DECODE))
    np.testing.assert_array_equal(both, parts)
    assert both.sum(axis=1).tolist() == [52 * trace.top_k] * trace.n_moe_layers


def test_what_hbm_has_no_room_for_is_read_from_dram_in_the_limit() -> None:
    model = pregate.load_model("qwen3-235b-a22b", formats={"all": "q4_k_m"})
    hw = pregate.load_hardware("rtx-4090", "llama-cpp")
    experts = model.n_moe_layers * model.n_experts * model.expert_bytes
    machine = hw.machine
    outside = experts - machine.accelerator.hbm_bytes
    found = speed_limit(model, hw, workpiece(model, RequestLoad(2048, 64)))
    assert found.prompt_binds == "DRAM"  # a long prompt asks for every expert
    assert found.ttft_s >= outside / machine.host.dram_bytes_per_s
    assert found.token_binds == "DRAM"
