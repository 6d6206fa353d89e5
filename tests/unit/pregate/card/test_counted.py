"""What a card knows of experts beforehand, the limit of a machine whose HBM does not hold them all, long prompts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import pregate
from pregate.card.designs import designs_of
from pregate.card.job import RequestLoad, workpiece
from pregate.card.plan import NothingFits, plan
from pregate.card.speed_limit import speed_limit
from pregate.engines.writing import flags_of
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


@pytest.mark.parametrize(
    ("stack", "named", "least", "flags"),
    [
        ("llama-cpp", "ubatch=2048", 1025, ("-b 2048", "-ub 2048")),
        ("llama-cpp", "stream=never", 32, ("--no-op-offload",)),
        ("ik-llama", "stream=never", 32 * 8 // 2, ("-op -1,0",)),  # 32 tokens of each of eight experts, two a token
        ("ktransformers", "stream=1024", 1024, ("--kt-gpu-prefill-token-threshold 1024",)),
    ],
)
def test_long_prompts_have_the_designs_that_engines_have_for_them(
    stack: str, named: str, least: int, flags: tuple[str, ...]
) -> None:
    model = pregate.load_model("mixtral-mini-8", formats={"experts": "bf16"})
    assert not any(named in name for name in designs_of(model, stack, least - 1))
    assert any(named in name for name in designs_of(model, stack, least))
    job = RequestLoad(1500, 8)
    asked: dict[str, Any] = {"stacks": [stack], "overrides": {"hbm_bytes": 1.3e9}}
    found = plan(model, "rtx-4090", job, **asked)
    told = [one for one in found.choice.ranked if named in one.design.policy]
    assert len(told) == 1
    again = plan(model, "rtx-4090", job, **asked, now=str(told[0].design))
    assert again.choice.now.ttft.value == told[0].ttft.value
    written = flags_of(told[0].design, model, told[0].planned.hw, job)
    assert all(flag in written.command for flag in flags)
    assert "cannot" not in written.left_out


def test_a_pass_that_brings_no_experts_is_offered_no_other_way() -> None:
    model = pregate.load_model("qwen3-next-80b-a3b", formats="q4_k_m")  # 32 of each of 512: more than a pass has
    assert not any("stream=never" in name for name in designs_of(model, "ik-llama", 4096))


def test_a_host_that_computes_a_prompt_sooner_than_a_link_brings_experts_is_told_to() -> None:
    model = pregate.load_model("qwen3-30b-a3b", formats="q4_k_m")
    asked = {"hbm_bytes": 8e9, "host": "epyc-9355-2s"}
    found = plan(model, "rtx-3060-12gb", RequestLoad(96, 8), stacks=["llama-cpp"], overrides=asked, objective="ttft")
    assert found.best.design.policy.endswith("@stream=never")


def test_experts_of_a_gguf_file_are_not_brought_by_ktransformers() -> None:
    model = pregate.load_model("mixtral-mini-8", formats={"experts": "q4_k"})
    assert not any("stream" in name for name in designs_of(model, "ktransformers", 4096))


def test_what_does_not_fit_says_how_much_host_memory_would_do() -> None:
    """The design that keeps most in HBM needs least of the host."""
    model = pregate.load_model("qwen3-235b-a22b", formats={"all": "q4_k_m"})
    with pytest.raises(NothingFits) as refused:
        plan(model, "rtx-4090", overrides={"host.dram_bytes": 64e9})
    needed = re.search(r"takes ([0-9.]+) GB of host memory", str(refused.value))
    sold = re.search(r"--dram ([0-9]+)GB", str(refused.value))
    assert needed is not None
    assert sold is not None
    assert float(needed[1]) < float(sold[1]) == 128
    assert plan(model, "rtx-4090", overrides={"host.dram_bytes": 128e9}).choice.ranked
    fewer = re.search(r"--formats all=(\w+)", str(refused.value))
    assert fewer is not None
    smaller = pregate.load_model("qwen3-235b-a22b", formats={"all": fewer[1]})
    assert plan(smaller, "rtx-4090", overrides={"host.dram_bytes": 64e9}).choice.ranked


def test_nobody_is_told_to_leave_as_it_is_what_nobody_runs() -> None:
    model = pregate.load_model("mixtral-mini-8")
    overrides = {"hbm_bytes": 1.1e9}
    load = RequestLoad(24, 40, 1)
    said = plan(model, "rtx-4090", load, overrides=overrides)
    assert "as it is" not in said.text(details=True) + said.verdict()
    assert "now (*)" not in said.text()
    asked = plan(model, "rtx-4090", load, overrides=overrides, now=str(said.choice.now.design))
    wanted = "as it is" if said.choice.abstains or said.best is said.choice.now else "Change to"
    assert wanted in asked.verdict()


def test_the_rate_of_one_request_is_the_same_in_the_table_and_above_it() -> None:
    said = plan("mixtral-mini-8", "rtx-4090", RequestLoad(24, 40, 1), overrides={"hbm_bytes": 1.1e9})
    told = re.search(r"then\s+([0-9.,]+)\s+tokens/s", said.text())
    assert told is not None
    assert re.search(rf"^1[ *].* {re.escape(told[1])} ", said.text(), re.MULTILINE)


def test_vllm_is_asked_for_wider_passes_than_a_card_s_own_where_these_read_the_host_again() -> None:
    """2,048 tokens on an RTX 4090 and 8,192 on an H100, by vllm/engine/arg_utils.py: get_batch_defaults."""
    model = pregate.load_model("qwen3-30b-a3b")
    small, large = (pregate.load_hardware(name, "vllm") for name in ("rtx-4090", "h100-sxm"))
    assert (small.execution.micro_batch, large.execution.micro_batch) == (2048, 8192)

    def wide(hw: pregate.Platform, n_prompt: int) -> list[str]:
        return [one for one in designs_of(model, "vllm", n_prompt, execution=hw.execution) if "ubatch" in one]

    assert wide(small, 4000) == ["gpu_only@experts=zerocopy:{fewest}@ubatch=4096"]
    assert not wide(small, 2000)
    assert not wide(large, 4000)
    found = plan(model, small, RequestLoad(8192, 8), objective="ttft")
    assert found.best.design.policy.endswith("@ubatch=4096")
    flags = flags_of(found.best.design, model, small, RequestLoad(8192, 8))
    assert "--max-num-batched-tokens 4096 --max-num-seqs 1" in str(flags)
