"""Commands as people post them: every flag is read, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pregate.engines.flag_table import NOTHING, engines
from tests.unit.pregate.measured.test_engine_flags import row
from traces.errors import InvalidInput

LLAMA, IK, KT = "llama.cpp", "ik_llama.cpp", "KTransformers"

POSTED = [
    (
        LLAMA,
        "gpt-oss-120b",
        "llama-server -hf ggml-org/gpt-oss-120b-GGUF --ctx-size 0 --jinja -ub 4096 -b 4096 --n-cpu-moe 20 --swa-full "
        "-np 1 --no-warmup --threads -1",
        "gpu_only@experts=cpu:20@ubatch=4096",
    ),
    (
        IK,
        "deepseek-r1",
        "./build/bin/llama-server --model r1.gguf --alias r1 --ctx-size 32768 -ctk q8_0 -mla 3 -fa -amb 512 -fmoe "
        r'--n-gpu-layers 63 -ot "blk\.(3|4|5|6)\.ffn_.*=CUDA0" --override-tensor exps=CPU --parallel 1 --threads 24',
        "gpu_only@experts=cpu:7-60",
    ),
    (
        IK,
        "qwen3-235b-a22b",
        r'./llama-sweep-bench -m q.gguf -fa -rtr -fmoe -ngl 99 -ot "blk\.(?:[0-9]|1[0-9])\.ffn.*=CUDA0" '
        "-ot exps=CPU --threads 16 --warmup-batch -ger --merge-qkv",
        "gpu_only@experts=cpu:20-93@stream=never",
    ),
    (
        LLAMA,
        "qwen3-235b-a22b",
        r'llama-server -m q.gguf -ngl 99 -ot "blk\.(1[6-9]|[2-9][0-9])\.ffn_(gate|up|down)_exps\.weight=CPU" '
        "--flash-attn on --split-mode none --main-gpu 0 --slots --no-webui --device CUDA0 -nocb --reasoning on",
        "gpu_only@experts=cpu:16-93",
    ),
    (
        LLAMA,
        "glm-4.5-air",
        "-ngl 99 -ncmoe 33 --cache-reuse 256 --kv-unified --samplers 'top_k;top_p'",
        "gpu_only@experts=cpu:33",
    ),
    (
        LLAMA,
        "qwen3-30b-a3b",
        "llama-server --fit on --fit-ctx 32768 --fit-target 1024 -m x.gguf",
        "gpu_only@experts=cpu:fit",
    ),
    (LLAMA, "qwen3-30b-a3b", "llama-cli.exe -m q.gguf -dev none --poll 100 --cpu-strict 1", "gpu_only@layers=cpu"),
    (LLAMA, "qwen3-30b-a3b", "-ngl 99 -b 256 -ub 2048", "gpu_only@ubatch=256"),
    (LLAMA, "qwen3-30b-a3b", "-ngl 99 -b 256", "gpu_only@ubatch=256"),
    (LLAMA, "qwen3-30b-a3b", "-ngl 99 --override-kv tokenizer.ggml.add_bos_token=bool:false", "gpu_only"),
    (
        "koboldcpp",
        "qwen3-30b-a3b",
        "koboldcpp.exe --model q.gguf --usecublas --gpulayers 99 --moecpu 20 --contextsize 16384 --blasbatchsize 2048",
        "gpu_only@experts=cpu:20@ubatch=2048",
    ),
    ("LM Studio", "gpt-oss-20b", "GPU offload 24/24, Force Model Expert Weights onto CPU", "gpu_only@experts=cpu"),
    (
        "LM Studio",
        "gpt-oss-20b",
        "GPU Offload: 24/24; Number of layers for which to force MoE weights onto CPU: 12",
        "gpu_only@experts=cpu:12",
    ),
    ("LM Studio", "gpt-oss-20b", "GPU offload 10/24", "gpu_only@layers=cpu:15"),
    ("ollama", "gpt-oss-20b", "LLAMA_ARG_CPU_MOE=1 num_gpu 99", "gpu_only@experts=cpu"),
    ("ollama", "gpt-oss-20b", "LLAMA_ARG_CPU_MOE=0 num_gpu 99", "gpu_only"),
    (
        LLAMA,
        "gpt-oss-20b",
        "LLAMA_ARG_N_CPU_MOE=7 LLAMA_SET_ROWS=1 ./llama-server -m g.gguf -ngl 99",
        "gpu_only@experts=cpu:7",
    ),
    ("ollama", "gpt-oss-20b", "OLLAMA_FLASH_ATTENTION=1 ollama run gpt-oss:20b --verbose", "gpu_only"),
    (
        KT,
        "deepseek-v3",
        "python ktransformers/local_chat.py --model_path d --gguf_path g --cpu_infer 33",
        "gpu_only@experts=cpu",
    ),
    (
        "vllm",
        "qwen3-30b-a3b",
        "vllm serve Qwen/Qwen3-30B-A3B --offload-backend uva --cpu-offload-gb 45 --cpu-offload-params "
        "experts.w13_weight experts.w2_weight -O3 --trust-remote-code --max-num-batched-tokens 2048",
        "gpu_only@experts=zerocopy:40@ubatch=2048",
    ),
    (
        "sglang",
        "qwen3-30b-a3b",
        "python3 -m sglang.launch_server --model-path Q --cpu-offload-gb 40 --port 30000 --mem-fraction-static 0.8",
        "gpu_only@experts=stream:35:share=0.990476@weights=stream:35@ahead=0",
    ),
    (
        "SGLang",
        "deepseek-v2-lite",
        "--offload-group-size 4 --offload-num-in-group 2 --offload-mode cpu",
        "gpu_only@experts=stream:2/4@ahead=1",
    ),
    (
        "SGLang",
        "qwen3-30b-a3b",
        "--kt-num-gpu-experts 40 --kt-weight-path w --watchdog-timeout 3000",
        "gpu_only@experts=cpu:keep=40",
    ),
]


@pytest.mark.parametrize(("engine", "model", "command", "policy"), POSTED)
def test_a_command_is_the_design_that_it_runs(
    engine: str, model: str, command: str, policy: str, tmp_path: Path
) -> None:
    found = row(tmp_path, command, model=model, stack=engine)
    assert sorted(found.policy.split("@")) == sorted(policy.split("@"))
    found.design()


@pytest.mark.parametrize(
    ("engine", "command", "told"),
    [
        (LLAMA, "llama-server -m q.gguf -md draft.gguf --draft-max 16", "-md: tokens that are drafted"),
        (LLAMA, "llama-bench -m q.gguf -ub 512,2048", "-ub '512,2048' is not a whole number"),
        (LLAMA, "-ngl 99 --override-kv qwen3moe.expert_used_count=int:6", "top_k=6"),
        (LLAMA, "-ngl 99 --rpc 10.0.0.2:50052", "cards of other machines"),
        (IK, "-ngl 99 -no-fmoe", "not fused"),
        (IK, "-ngl 99 --model-draft d.gguf", "tokens that are drafted"),
        (KT, "--kt-num-gpu-experts 4 --kt-max-deferred-experts-per-token 2", "put off to the next layer"),
        ("vllm", "--speculative-config {}", "tokens that are drafted"),
        ("vllm", "--quantization exl3", "a format of weights is said in formats"),
        ("vllm", "-dp 2", "a row is of one card"),
        ("SGLang", "--offload-group-size 2 --offload-mode sharded_gpu", "only those of the host"),
    ],
)
def test_what_a_command_says_that_cannot_be_said_is_named(engine: str, command: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=told):
        row(tmp_path, command, stack=engine).design()


def test_formats_that_vllm_quantises_to_are_those_of_a_row_that_states_none(tmp_path: Path) -> None:
    assert row(tmp_path, "--quantization fp8 --cpu-offload-gb 4", stack="vllm").formats == "all=fp8"
    assert row(tmp_path, "--quantization awq", stack="vllm").formats == "all=int4"
    assert row(tmp_path, "--quantization fp8", formats="bf16", stack="vllm").formats == "all=bf16"


@pytest.mark.parametrize("name", list(engines()))
def test_what_is_ignored_is_not_said_elsewhere_and_what_is_refused_not_read(name: str) -> None:
    engine = engines()[name]
    assert not engine.refused.keys() & engine.read.keys()
    placing = {flag.name for flag in engine.read.values() if flag.says != NOTHING}
    ignored = {spelling for spelling, flag in engine.read.items() if flag.says == NOTHING}
    assert placing
    assert not placing & ignored
    assert all(spelling.startswith("-") for spelling in ignored)
