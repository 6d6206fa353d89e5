"""Commands as people post them: what stands before the program, limits of power, launches without graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pregate.engines.command_lines import flags_of_command
from pregate.measured.row_prediction import RowBench
from pregate.spellings.machine_names import machine_and_numbers
from pregate.spellings.unknown_names import unknown
from tests.unit.pregate.measured.flag_rows import row
from traces.errors import InvalidInput

COMMANDS = [
    "./build/bin/llama-server -m a.gguf -ngl 99 -ncmoe 12",
    "cd llama.cpp && ./llama-server -m a.gguf -ngl 99 -ncmoe 12",
    "sudo nvidia-smi -pm 1; sudo sync; llama-server -m a.gguf -ngl 99 -ncmoe 12",
    "export CUDA_VISIBLE_DEVICES=0 && nohup llama-server -m a.gguf -ngl 99 -ncmoe 12",
    "docker run --gpus all -v ~/m:/m ghcr.io/ggml-org/llama.cpp:server-cuda -m /m/a.gguf -ngl 99 -ncmoe 12",
    "LLAMA_SET_ROWS=1 GGML_CUDA_FORCE_MMQ=1 time ./llama-bench -m a.gguf -ngl 99 -ncmoe 12 -embd 0 -nopo 0 -nkvo 0",
    "llama-server \\\n  -m a.gguf \\\n  -ngl 99 \\\n  -ncmoe 12",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_stands_before_a_program_is_passed_over(command: str, tmp_path: Path) -> None:
    assert row(tmp_path, command).policy == "gpu_only@experts=cpu:12"


def test_marks_within_quotes_part_no_commands(tmp_path: Path) -> None:
    flags = r"llama-server -m 'a && b.gguf' -ot 'blk\.[0-9]\.ffn_.*_exps=CPU; blk\.4[0-7]\.ffn=CUDA0' -ngl 99"
    assert row(tmp_path, flags).policy == "gpu_only@experts=cpu:10"
    assert flags_of_command("gpu_only@experts=cpu:12") == flags_of_command("on_demand+lru:0.3") == ""


@pytest.mark.parametrize(
    ("stack", "command"),
    [
        ("vllm", "vllm serve Qwen/Qwen3-30B-A3B --max_num_seqs 1 --enforce-eager"),
        ("vllm", "uv run vllm serve m -O0"),
        ("vllm", "vllm serve m -cc.cudagraph_mode=NONE"),
        ("vllm", "vllm serve m --compilation-config.cudagraph_mode NONE"),
        ("vllm", """vllm serve m --compilation-config '{"mode": 0}'"""),
        ("vllm", "vllm serve m --optimization-level 0"),
        ("sglang", "python -m sglang.launch_server --model m --disable-cuda-graph"),
        ("sglang", "sglang serve --model-path m --disable-cuda-graph --hicache-ratio 2"),
        ("ktransformers", "--kt-num-gpu-experts 8 --disable-cuda-graph"),
    ],
)
def test_passes_without_graphs_are_launched_by_the_host(stack: str, command: str, tmp_path: Path) -> None:
    assert row(tmp_path, command, stack=stack, hardware="h100-sxm").overrides["stack.launch_s"] == "35us"


@pytest.mark.parametrize(
    ("stack", "command"),
    [
        ("vllm", "vllm serve Qwen/Qwen3-30B-A3B --no-async-scheduling"),
        ("sglang", "sglang serve --model-path m --disable-overlap-schedule"),
    ],
)
def test_steps_that_are_not_scheduled_ahead_have_the_host_between_them(
    stack: str, command: str, tmp_path: Path
) -> None:
    assert row(tmp_path, command, stack=stack, hardware="h100-sxm").overrides["stack.step_s"] == "1ms"
    ahead = command.rsplit(" ", 1)[0] + (" --async-scheduling" if stack == "vllm" else "")
    assert "stack.step_s" not in row(tmp_path, ahead, stack=stack, hardware="h100-sxm").overrides


def test_graphs_stay_where_nothing_turns_them_off(tmp_path: Path) -> None:
    for flags in ("-O3", "--compilation-config 3", """--compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}'"""):
        assert "stack.launch_s" not in row(tmp_path, f"vllm serve m {flags}", stack="vllm").overrides
    bench, plain = RowBench(), row(tmp_path, "--max-num-seqs 1", stack="vllm", hardware="h100-sxm")
    eager = row(tmp_path, "--enforce-eager", stack="vllm", hardware="h100-sxm")
    assert bench.predict(eager) > 2 * bench.predict(plain)
    host_bound = row(tmp_path, "GGML_CUDA_DISABLE_GRAPHS=1 llama-bench -ngl 99", "q4_k_m")
    assert host_bound.overrides["stack.launch_s"] == "3.8us"
    assert bench.predict(host_bound) > bench.predict(row(tmp_path, "-ngl 99", "q4_k_m"))


@pytest.mark.parametrize(
    ("policy", "set", "hardware"),
    [
        ("sudo nvidia-smi -i 0 -pl 300 && llama-bench -ngl 99", "", "rtx-4090"),
        ("-ngl 99", "power limit 300 W", "rtx-4090"),
        ("-ngl 99", "power_limit=300W", "rtx-4090"),
        ("-ngl 99", "-pl 300", "rtx-4090"),
        ("gpu_only", "", "RTX 4090 (300W)"),
        ("-ngl 99", "", "RTX 4090 @ 300 W"),
        ("gpu_only", "", "RTX 4090 power limited to 300W"),
    ],
)
def test_a_power_limit_slows_prompts_and_hardly_decoding(policy: str, set: str, hardware: str, tmp_path: Path) -> None:
    said: dict[str, dict[str, str]] = {}
    for metric in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        found = row(tmp_path, policy, "q4_k_m", set=set, hardware=hardware, metric=metric)
        assert (found.hardware, found.policy) == ("rtx-4090", "gpu_only")
        said[metric] = found.overrides
    share = np.interp(300 / 450, (0.571, 0.714), (0.601, 0.853))
    assert float(said["prefill_tokens_per_s"]["accelerator.clock_hz"][:-2]) == pytest.approx(share * 2520e6, rel=1e-5)
    assert "accelerator.hbm_bytes_per_s" not in said["prefill_tokens_per_s"]
    share = np.interp(300 / 450, (0.571, 0.714), (0.941, 0.974))
    rate = said["decode_tokens_per_s"]["accelerator.hbm_bytes_per_s"]
    assert float(rate[:-3]) == pytest.approx(share * 1008e9, rel=1e-5)


def test_a_power_limit_is_predicted(tmp_path: Path) -> None:
    bench = RowBench()
    for metric, least, most in (("prefill_tokens_per_s", 0.6, 0.95), ("decode_tokens_per_s", 0.94, 0.98)):
        both = [row(tmp_path, policy, "q4_k_m", metric=metric) for policy in ("-pl 300 -ngl 99", "-ngl 99")]
        limited, free = map(bench.predict, both)
        assert least < limited / free < most


def test_limits_that_hold_nothing_back_change_nothing(tmp_path: Path) -> None:
    assert not row(tmp_path, "-ngl 99 -pl 450").set
    assert not row(tmp_path, "gpu_only", hardware="RTX 4090 (450 W)").set
    assert not row(tmp_path, "-ngl 99 -lgc 210,3000").set
    locked = row(tmp_path, "nvidia-smi -lgc 1260 && llama-bench -ngl 99").overrides
    assert locked["accelerator.clock_hz"] == "1.26e+09Hz"
    assert locked["accelerator.peak_flop_per_s.fp32"] == "4.13e+13FLOP/s"
    with pytest.raises(InvalidInput, match="of a10g is not known: lock its clock, -lgc MHZ"):
        row(tmp_path, "-ngl 99 -pl 100", hardware="a10g").design()


def test_of_a_limit_of_power_and_one_of_the_clock_the_lower_holds(tmp_path: Path) -> None:
    for clock, power in ((2500, 200), (600, 300)):
        both, locked, held = (
            row(tmp_path, f"-ngl 99 {flags}", metric="prefill_tokens_per_s").overrides
            for flags in (f"-pl {power} -lgc {clock}", f"-lgc {clock}", f"-pl {power}")
        )
        rates = [float(one["accelerator.clock_hz"][:-2]) for one in (both, locked, held)]
        assert rates[0] == min(rates[1:])
        assert rates[1] != rates[2]


def test_keys_and_values_may_have_formats_of_their_own(tmp_path: Path) -> None:
    for flags, kept in (("-ctk q8_0", "w12.25"), ("-ctk q8_0 -ctv q4_0", "w6.5"), ("-ctk q8_0 -ctv q8_0", "q8_0")):
        assert row(tmp_path, flags).formats == f"kv={kept}"
    assert row(tmp_path, "-ctk f16 -ctv f16").formats == "kv=fp16"
    assert row(tmp_path, "-ctk q8_0", model="deepseek-v3").formats == "kv=q8_0"  # latents are keys
    assert row(tmp_path, "OLLAMA_KV_CACHE_TYPE=q8_0 ollama run x num_gpu 99").formats == "kv=q8_0"


def test_threads_of_prompts_are_theirs(tmp_path: Path) -> None:
    flags = "-ot exps=CPU -t 12 -tb 4"
    assert row(tmp_path, flags).overrides["host.n_cores"] == "12"
    assert row(tmp_path, flags, metric="ttft").overrides["host.n_cores"] == "4"


@pytest.mark.parametrize(
    ("flags", "noted"),
    [("-fa 0", "-fa: attention that is not fused"), ("--flash-attn off", "--flash-attn: attention"),
     ("--numa distribute", "spread over nodes is not predicted"), ("-fa 1", ""), ("-fa", "")],
)  # fmt: skip
def test_what_is_predicted_without_a_flag_is_noted(flags: str, noted: str, tmp_path: Path) -> None:
    found = row(tmp_path, f"-ngl 99 {flags}")
    assert noted in found.note
    assert bool(found.note) == bool(noted)


@pytest.mark.parametrize(
    ("quantised", "format"),
    [("awq", "int4-g128-zp"), ("gptq_marlin", "int4-g128"), ("bitsandbytes", "nf4"), ("mxfp4", "mxfp4")],
)
def test_formats_of_serving_engines_are_ours(quantised: str, format: str, tmp_path: Path) -> None:
    for command in (f"vllm serve m -q {quantised}", f"sglang serve --model-path m --quantization {quantised}"):
        found = row(tmp_path, command, stack="vllm", hardware="h100-sxm")
        assert found.formats == f"all={format}"
        assert RowBench().predict(found) > 0


def test_an_engine_that_fits_by_itself_places_what_does_not(tmp_path: Path) -> None:
    assert row(tmp_path, "-ngl auto").policy == "gpu_only@experts=cpu:fit"
    assert row(tmp_path, "-ngl auto -ncmoe 4").policy == "gpu_only@experts=cpu:4"


def test_variables_that_move_the_host_are_read(tmp_path: Path) -> None:
    assert row(tmp_path, "GGML_OP_OFFLOAD_MIN_BATCH=64 llama-bench -cmoe").policy == "gpu_only@experts=cpu@stream=64"
    assert "stack.host_memory" not in row(tmp_path, "GGML_CUDA_NO_PINNED=1 llama-bench -cmoe -mmp 0").overrides
    assert "stack.host_memory" not in row(tmp_path, "-cmoe --no-mmap --no-host").overrides


@pytest.mark.parametrize("name", ["rtx 3090 @ 250W", "RTX 3090 (250W)", "RTX 3090 power limited to 250W"])
def test_a_limit_that_nothing_reads_is_no_part_of_a_name(name: str) -> None:
    assert machine_and_numbers(name) == (name, {})
    assert "of this card no clock by its power is known" in str(unknown("hardware", name))


@pytest.mark.parametrize(
    ("stack", "command", "policy"),
    [
        ("koboldcpp", "koboldcpp --model q.gguf --gpulayers 99 --moecpu", "gpu_only@experts=cpu"),
        ("koboldcpp", "koboldcpp --moecpu --gpulayers 99", "gpu_only@experts=cpu"),
        ("koboldcpp", "koboldcpp --gpulayers 99 --moecpu 20", "gpu_only@experts=cpu:20"),
        ("llamafile", "llamafile -m q.gguf -ngl 999", "gpu_only"),
        ("Jan", "-ngl 999 -ncmoe 4", "gpu_only@experts=cpu:4"),
        ("llama-cpp-python", "-ngl 999", "gpu_only"),
        ("LM Studio", "GPU offload max", "gpu_only"),
    ],
)
def test_words_of_programs_around_llama_cpp_are_read(stack: str, command: str, policy: str, tmp_path: Path) -> None:
    found = row(tmp_path, command, stack=stack)
    assert (found.stack, found.policy) == ("llama-cpp", policy)


@pytest.mark.parametrize("words", ["Force Model Expert Weights onto CPU", "all layers on GPU, MoE on CPU"])
def test_experts_on_the_processor_in_the_words_of_a_program(words: str, tmp_path: Path) -> None:
    assert row(tmp_path, words, stack="LM Studio").placement == "experts=cpu"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("koboldcpp --gpulayers -1", "koboldcpp chooses how many: give those that it printed, or 999 for all"),
        ("koboldcpp --gpulayers 99 --quantkv 9", "--quantkv 9: 0 .fp16., 1 .q8_0. or 2 .q4_0."),
    ],
)
def test_what_koboldcpp_chooses_itself_is_no_placement(command: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=told):
        row(tmp_path, command, stack="koboldcpp").design()
