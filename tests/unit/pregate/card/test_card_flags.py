"""A design in the flags of its engine, each of which the engine documents."""

from __future__ import annotations

import shlex
from datetime import date
from pathlib import Path

import pytest
import yaml

import pregate
from hwmodels.stacks.stack import VENDORS
from hwmodels.stacks.stack_files import load_stack
from pregate.card.designs import EngineDesign, designs_of
from pregate.card.job import RequestLoad
from pregate.engines.writing import benchmark_of, flags_of, timed_with

ROOT = Path(__file__).parents[4]
LOAD = RequestLoad(24, 40, 1)


@pytest.mark.parametrize(
    ("stack", "design", "flags"),
    [
        ("llama-cpp", "gpu_only", "-ngl 999"),
        ("llama-cpp", "gpu_only@experts=cpu", "-ngl 999 --cpu-moe"),
        ("llama-cpp", "gpu_only@experts=cpu:26", "-ngl 999 --n-cpu-moe 26"),
        ("llama-cpp", "gpu_only@experts=cpu:46-", '-ot "blk\\.(46|47)\\.ffn_.*_exps\\.=CPU"'),
        ("llama-cpp", "gpu_only@layers=cpu:20", "-ngl 29 "),
        ("llama-cpp", "gpu_only@layers=cpu", "-ngl 0 "),
        ("llama-cpp", "gpu_only@kv=cpu", "--no-kv-offload"),
        ("llama-cpp", "gpu_only@experts=cpu@ubatch=2048@stream=never", "-ub 2048 --no-op-offload"),
        ("llama-cpp", "gpu_only@experts=cpu:26", "-fit off"),
        ("llama-cpp", "on_demand+lru:0.1", "--cpu-moe --moe-cache-mib 5526 "),
        ("ik-llama", "gpu_only@experts=cpu@ubatch=2048@stream=never", "-ub 2048 -op -1,0 -np"),
        ("ik-llama", "gpu_only@layers=cpu:20", "-ngl 28 "),
        ("ik-llama", "gpu_only@layers=cpu", "-ngl 0 "),
        ("ktransformers", "gpu_only@experts=cpu:keep=28", "--kt-num-gpu-experts 28"),
        ("ktransformers", "gpu_only@experts=cpu:keep=28", "frequency --init-expert-location COUNTS.pt"),
        ("ktransformers", "gpu_only@experts=cpu:keep=28", "--kt-cpuinfer 16"),
    ],
)
def test_a_design_is_said_in_the_flags_of_its_engine(stack: str, design: str, flags: str) -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", stack)
    assert flags in flags_of(EngineDesign(design, stack), model, hw, LOAD).command + " "


@pytest.mark.parametrize(
    ("stack", "model", "kept", "flags"),
    [
        ("llama-cpp", "qwen3-30b-a3b", "q8_0", " -ctk q8_0 -ctv q8_0"),
        ("llama-cpp", "qwen3-30b-a3b", "fp32", " -ctk f32 -ctv f32"),
        ("llama-cpp", "deepseek-v2-lite", "q8_0", " -ctk q8_0"),
        ("ik-llama", "qwen3-30b-a3b", "q8_kv", " -ctk q8_KV -ctv q8_KV"),
        ("vllm", "qwen3-30b-a3b", "fp8", " --kv-cache-dtype fp8"),
        ("vllm", "qwen3-30b-a3b", "int8", " --kv-cache-dtype int8_per_token_head"),
        ("llama-cpp", "qwen3-30b-a3b", "fp16", ""),
        ("vllm", "qwen3-30b-a3b", "bf16", ""),
    ],
)
def test_the_format_of_keys_and_values_is_said_where_it_is_asked_for(
    stack: str, model: str, kept: str, flags: str
) -> None:
    hw, design = pregate.load_hardware("rtx-4090", stack), EngineDesign("gpu_only", stack)
    plain = flags_of(design, pregate.load_model(model), hw, LOAD).command
    assert flags_of(design, pregate.load_model(model, formats={"kv": kept}), hw, LOAD).command == plain + flags


def test_ktransformers_is_told_the_format_of_keys_as_sglang_calls_it() -> None:
    hw = pregate.load_hardware("rtx-4090", "ktransformers")
    model = pregate.load_model("qwen3-30b-a3b", formats={"kv": "fp8"})
    command = flags_of(EngineDesign("gpu_only@experts=cpu:keep=28", "ktransformers"), model, hw, LOAD).command
    assert command.endswith("--kv-cache-dtype fp8_e4m3")


@pytest.mark.parametrize("stack", ["llama-cpp", "vllm"])
def test_a_mean_of_keys_and_values_is_told_to_be_open(stack: str) -> None:
    hw, model = pregate.load_hardware("rtx-4090", stack), pregate.load_model("qwen3-30b-a3b", formats={"kv": "w6.5"})
    flags = flags_of(EngineDesign("gpu_only", stack), model, hw, LOAD)
    assert "w6.5" not in flags.command
    assert "what keys and values are in" in flags.left_out


@pytest.mark.parametrize(
    ("stack", "design", "words"),
    [
        ("llama-cpp", "on_demand+lru", "what HBM is left"),
        ("llama-cpp", "on_demand+lfu", "only into an LRU"),
        ("llama-cpp", "pregate+lru", "only into an LRU"),
        ("ik-llama", "gpu_only@layers=cpu:20", "the output layer stays on the host"),
        ("ik-llama", "on_demand+lru", "moves no experts"),
        ("streams", "on_demand+lru", "--moe-cache-mib"),
        ("llama-cpp", "gpu_only@experts=cpu:keep=28", "28 of them cannot stay"),
        ("llama-cpp", "gpu_only@weights=stream", "cannot be said"),
        ("ktransformers", "pregate", "cannot be said"),
        ("ktransformers", "gpu_only@experts=cpu:10", "all layers"),
        ("streams", "on_demand+lru", "no engine serves"),
        ("streams", "pregate+lru", "trained to choose ahead"),
        ("streams", "pregate/next_token", "trained to choose a token ahead"),
    ],
)
def test_what_an_engine_cannot_be_told_is_said(stack: str, design: str, words: str) -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", stack)
    assert words in flags_of(EngineDesign(design, stack), model, hw, LOAD).left_out


def test_a_model_of_gates_that_look_ahead_needs_no_training() -> None:
    model, hw = pregate.load_model("edge0-8b-a1b"), pregate.load_hardware("rtx-4090", "streams")
    assert (
        "the model was trained so" in flags_of(EngineDesign("pregate/next_token", "streams"), model, hw, LOAD).left_out
    )
    designs = designs_of(model, "streams")
    assert "pregate/next_token+lru" in designs
    assert not {"pregate", "pregate+lru", "pregate(2)"} & set(designs)


SAID = {
    "llama-cpp": [
        "gpu_only", "gpu_only@experts=cpu", "gpu_only@experts=cpu:26", "gpu_only@experts=cpu:46-", "on_demand+lru:0.1",
        "gpu_only@layers=cpu:20@kv=cpu", "gpu_only@experts=cpu@ubatch=2048@stream=never",
    ],
    "ik-llama": ["gpu_only@experts=cpu@ubatch=2048@stream=never", "gpu_only@layers=cpu:20", "gpu_only@kv=cpu"],
    "ktransformers": [
        "gpu_only@experts=cpu", "gpu_only@experts=cpu:keep=28", "gpu_only@experts=cpu:keep=28:uniform@stream=512"
    ],
    "vllm": [
        "gpu_only",
        "prefetch_all",
        "gpu_only@experts=zerocopy:20",
        "gpu_only@experts=zerocopy:20@weights=zerocopy:20",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("stack", "design"), [(stack, design) for stack in SAID for design in SAID[stack]])
def test_every_flag_is_one_that_the_engine_documents(stack: str, design: str) -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", "streams")
    words = shlex.split(flags_of(EngineDesign(design, stack), model, hw, LOAD).command)
    written = {word for word in words[3 if "-m sglang.launch_server" in " ".join(words) else 1 :] if word[0] == "-"}
    documented = yaml.safe_load((ROOT / "pregate" / "engines" / "flags.yaml").read_text())[stack]
    assert documented["document"].startswith("https://github.com/")
    assert documented["read"] >= date(2026, 11, 28)
    assert written - {"-1,0"} <= set(documented["flags"])
    assert written


@pytest.mark.parametrize("stack", ["llama-cpp", "ik-llama", "ktransformers", "vllm"])
def test_a_benchmark_is_one_that_the_engine_documents(stack: str) -> None:
    words = shlex.split(benchmark_of(stack, RequestLoad(24, 40, 2)))
    documented = yaml.safe_load((ROOT / "pregate" / "engines" / "flags.yaml").read_text())[stack]
    assert documented["benchmark"]["document"].startswith("https://github.com/")
    assert {word for word in words if word[0] == "-"} - {"-m"} == set(documented["benchmark"]["flags"]) - {"-m"}
    assert {"24", "40", "2"} <= set(words)
    told = [vendor for vendor in VENDORS if load_stack(stack).runs_on(vendor)]
    assert told == documented.get("vendors", list(VENDORS))


def test_a_benchmark_times_the_design_that_is_run() -> None:
    """llama.cpp fits layers by itself where nothing is said: another placement, and keys in 16 bits."""
    model = pregate.load_model("qwen3-30b-a3b", formats={"all": "q4_k_m", "kv": "q8_0"})
    design = EngineDesign("gpu_only@experts=cpu:18", "llama-cpp")
    flags = flags_of(design, model, pregate.load_hardware("rtx-3060", "llama-cpp"), LOAD)
    timed = timed_with(benchmark_of("llama-cpp", LOAD), flags.command)
    assert timed.startswith("llama-batched-bench -m MODEL.gguf -c ")
    assert timed.endswith(" -ngl 999 --n-cpu-moe 18 -fit off -ctk q8_0 -ctv q8_0")
    assert timed.count(" -c ") == 1
    assert " -np " not in timed
    assert timed_with(benchmark_of("vllm", LOAD), flags.command) == benchmark_of("vllm", LOAD)
    assert timed_with(benchmark_of("llama-cpp", LOAD), "") == benchmark_of("llama-cpp", LOAD)


def test_vllm_offloads_tensors_and_knows_no_experts() -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090", "streams")
    said = {
        name: flags_of(EngineDesign(name, "vllm"), model, hw, LOAD)
        for name in ("gpu_only", "prefetch_all", "on_demand")
    }
    assert said["gpu_only"].command.startswith("vllm serve MODEL")
    assert "--offload-prefetch-step 2 --offload-params experts" in said["prefetch_all"].command
    for layers in ("experts=stream:1/4", "experts=stream:1-3@ahead=1", "weights=stream@ahead=1", "weights=stream"):
        assert not flags_of(EngineDesign(f"gpu_only@{layers}", "vllm"), model, hw, LOAD).command
    assert not said["on_demand"].command
    assert "the nearest is gpu_only@experts=zerocopy" in said["on_demand"].left_out
    assert "cannot be said" in flags_of(EngineDesign("gpu_only@weights=zerocopy:3", "vllm"), model, hw, LOAD).left_out
    assert "cannot be said" in flags_of(EngineDesign("gpu_only@experts=cpu", "vllm"), model, hw, LOAD).left_out
