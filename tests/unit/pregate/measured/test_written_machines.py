"""Machines and engines in the words of strangers: memory beside a processor, numactl, Ollama, unpriced engines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pregate
from pregate.engines.unpriced import check_engine
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.engine_words import in_flags
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.row_names import with_our_names
from pregate.measured.rows.table import read_table
from pregate.spellings.host_memory import _with_memory
from traces.errors import InvalidInput
from traces.model.formats_by_part import parse_formats

HEADER = "id,GPU,CPU,RAM,Model,Quant,Engine,Flags,Batch,Test,Result,Unit\n"


def row(folder: Path, text: str) -> MeasuredRow:
    (folder / "mine.csv").write_text(f"{HEADER}a1,{text},1,tg32,9,t/s\n")
    (found,) = read_table(folder / "mine.csv")
    return found


@pytest.mark.parametrize(
    ("memory", "n_channels", "n_sockets", "expected"),
    [
        ("64GB DDR5-5600", 2, 1, "x:5600"),
        ("DDR4-2400, 7 DIMMs", 16, 2, "x:7x2400"),
        ("8x32GB DDR4-3200", 8, 1, "x:8x3200"),
        ("16x64GB 3200MT/s", 8, 1, "x:8x3200"),
        ("DDR4-2933 8ch", 16, 2, "x:16x2933"),
        ("quad channel DDR4 @ 2666", 8, 1, "x:4x2666"),
        ("DDR5 6000 MHz dual-channel", 2, 1, "x:2x6000"),
        ("LPDDR5X-8000", 2, 1, "x:8000"),
        ("4x 4800", 8, 1, "x:4x4800"),
        ("4x16 3200", 8, 1, "x:4x3200"),
        ("2x DDR4-3200", 8, 1, "x:2x3200"),
        ("2048GB 5600", 8, 1, "x:5600"),
        ("2x64GB", 8, 1, "x:2x4800"),  # no speed: the maker's
        ("quad channel", 8, 1, "x:4x4800"),
        ("2x32GB", 2, 1, "x"),
        ("128 GB", 2, 1, "x"),
        ("2048 GB", 2, 1, "x"),
        ("DDR5", 2, 1, "x"),
    ],
)
def test_memory_is_a_part_of_a_hosts_name(memory: str, n_channels: int, n_sockets: int, expected: str) -> None:
    assert _with_memory("x", memory, n_channels, n_sockets, 4800, "") == expected


def test_memory_of_a_row_is_that_of_its_host(tmp_path: Path) -> None:
    said = "RTX 3090,2x EPYC 7302,DDR4-2400 7 DIMMs,Qwen3-30B-A3B,Q4_K_M,llama.cpp,-ngl 99 --cpu-moe"
    found = row(tmp_path, said)
    assert (found.name, found.host) == ("a1", "epyc-7302-2s:7x2400")
    assert RowBench().platform(found).machine.host.dram_bytes_per_s == 7 * 2400 * 8e6
    assert row(tmp_path, said.replace("DDR4-2400 7 DIMMs", "512GB")).host == "epyc-7302-2s"
    assert row(tmp_path, said.replace("2x EPYC 7302", "")).host == ""


@pytest.mark.parametrize(
    ("policy", "flags", "host"),
    [
        ("numactl --interleave=all -ngl 99 -ot exps=CPU", "-ngl 99 -ot exps=CPU", "e-2s:16x4800"),
        ("numactl -N 0 -m 0 -ngl 99 --cpu-moe", "-ngl 99 --cpu-moe", "e:8x4800"),
        ("numactl --cpunodebind=0 --membind=0 -ngl 99", "-ngl 99", "e:8x4800"),
        ("numactl -N 0-1 -ngl 99", "-ngl 99", "e-2s:16x4800"),
        ("numactl --cpunodebind=0,1 -ngl 99", "-ngl 99", "e-2s:16x4800"),
        ("taskset -c 0-15 -ngl 99", "-ngl 99", "e-2s:16x4800"),
        ("num_gpu 12 num_ctx 4096", "-ngl 12", "e-2s:16x4800"),
        ("num_gpu=12", "-ngl 12", "e-2s:16x4800"),
        ("GPU offload 32/48", "-ngl 32", "e-2s:16x4800"),
        ("gpu_only@experts=cpu", "gpu_only@experts=cpu", "e-2s:16x4800"),
    ],
)
def test_what_stands_around_flags_becomes_flags_and_a_host(policy: str, flags: str, host: str) -> None:
    assert in_flags({"policy": policy, "host": "e-2s:16x4800"}) == {"policy": flags, "host": host}


def test_one_node_of_two_sockets_reads_half_of_their_memory(tmp_path: Path) -> None:
    """R11 of the public reports: with a copy of the weights on each node, every node reads its own."""
    said = "RTX 3090,2x Xeon Gold 6248,DDR4-2933,Qwen3-30B-A3B,Q4_K_M,llama.cpp,{}-ngl 99 --cpu-moe"
    both = RowBench().platform(row(tmp_path, said.format(""))).machine.host
    one = RowBench().platform(row(tmp_path, said.format("numactl -N 0 -m 0 "))).machine.host
    assert (one.dram_bytes_per_s, one.n_cores) == (both.dram_bytes_per_s / 2, both.n_cores / 2)


@pytest.mark.parametrize(
    "engine", ["llama.cpp Vulkan", "Fiddler", "HybriMoE", "MoE-Infinity",
               "exllamav3", "MLX", "PowerInfer", "TensorRT-LLM", "DeepSpeed-MII", "AirLLM",
               "Accelerate device_map=auto", "HF transformers offload_folder=./off"],
)  # fmt: skip
def test_an_engine_without_constants_is_told_what_comes_nearest(engine: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no constants of this engine are known here; nearest: "):
        check_engine(engine)
    for flags in ("", "-ngl 99"):
        with pytest.raises(InvalidInput, match="nearest: "):
            RowBench().predict(row(tmp_path, f"RTX 3090,,,Mixtral-8x7B,fp16,{engine},{flags}"))
    with pytest.raises(InvalidInput, match="nearest: "):
        RowBench().predict(row(tmp_path, f"RTX 3090,,,Mixtral-8x7B,fp16,{engine},"))


@pytest.mark.parametrize("engine", ["Fiddler", "HybriMoE", "MoE-Infinity", "accelerate", "DeepSpeed", "AirLLM"])
def test_the_design_that_comes_nearest_to_an_engine_can_be_asked(engine: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as error:
        check_engine(engine)
    found = re.search(r"nearest: (?P<stack>\S+), with policy (?P<policy>\S+)", str(error.value))
    assert found is not None
    header = "model,hardware,host,formats,stack,policy,metric,value\n"
    asked = f"olmoe-1b-7b,rtx-3060-12gb,epyc-7543,all=bf16,{found['stack']},{found['policy']},decode_tokens_per_s,9\n"
    (tmp_path / "mine.csv").write_text(header + asked)
    assert RowBench().predict(read_table(tmp_path / "mine.csv")[0]) > 0


@pytest.mark.parametrize(
    ("host", "ours"),
    [("AMD Ryzen AI Max+ 395", "strix-halo-cpu"), ("NVIDIA Grace", "grace-480gb"), ("GB10", "dgx-spark-cpu")],
)
def test_processors_that_come_with_their_card_are_hosts_too(host: str, ours: str, tmp_path: Path) -> None:
    assert row(tmp_path, f"none,{host},,Qwen3-30B-A3B,Q4_K_M,llama.cpp,").host == ours


def test_ktransformers_computes_experts_on_the_host_unless_told(tmp_path: Path) -> None:
    said = "H100 PCIe,Xeon 8480+,,DeepSeek-V3,fp8,KTransformers,"
    assert row(tmp_path, f"{said}--cpu_infer 65").policy == "gpu_only@experts=cpu"
    assert row(tmp_path, said).policy == "gpu_only@experts=cpu"
    assert row(tmp_path, f"{said}--kt-num-gpu-experts 8").policy == "gpu_only@experts=cpu:keep=8"


def test_mixes_of_unsloth_are_known_without_their_prefix(tmp_path: Path) -> None:
    said = "RTX 4090,,,Llama-4-Scout-17B-16E,{},llama.cpp,-ngl 99 --cpu-moe"
    assert row(tmp_path, said.format("Q3_K_XL")).formats == row(tmp_path, said.format("UD-Q3_K_XL")).formats


@pytest.mark.parametrize(
    ("column", "text", "ours"),
    [
        ("hardware", "4090", "rtx-4090"), ("hardware", "RTX4090", "rtx-4090"), ("hardware", "3080Ti", "rtx-3080-ti"),
        ("hardware", "4070S", "rtx-4070-super"), ("hardware", "A5000", "rtx-a5000"),
        ("hardware", "W7900", "radeon-pro-w7900"), ("hardware", "B580", "arc-b580"),
        ("hardware", "1x RTX 3090", "rtx-3090"),
        ("hardware", "RTX 4090 24 GB GDDR6X", "rtx-4090"), ("hardware", "RTX 3090 (PCIe 4.0 x16)", "rtx-3090"),
        ("hardware", "Ryzen AI Max+ 395 128GB", "strix-halo"), ("hardware", "Framework Desktop", "strix-halo"),
        ("hardware", "ASUS Ascent GX10", "dgx-spark"), ("hardware", "RTX 4060 Laptop", "rtx-4060-mobile"),
        ("hardware", "5000", "5000"), ("hardware", "RTX 4060 Ti", "RTX 4060 Ti"), ("hardware", "4090x", "4090x"),
        ("host", "13700KF", "core-13700k"), ("host", "Xeon E5-2680v4", "xeon-e5-2680-v4"),
        ("host", "(2) EPYC 7763", "epyc-7763-2s"), ("host", "2S EPYC 9654", "epyc-9654-2s"),
        ("host", "EPYC Rome 7742", "epyc-7742"), ("host", "TR PRO 7965WX", "threadripper-pro-7965wx"),
    ],
)  # fmt: skip
def test_cards_and_processors_are_found_as_people_shorten_them(column: str, text: str, ours: str) -> None:
    assert with_our_names({"hardware": "rtx-4090", "formats": "", column: text})[column] == ours


@pytest.mark.parametrize(
    ("card", "ours", "numbers"),
    [
        ("RTX 4090 48GB", "rtx-4090", "accelerator.hbm_bytes=48GiB"),
        ("2080 Ti 22GB", "rtx-2080-ti", "accelerator.hbm_bytes=22GiB"),
        ("RTX 4090 24GB", "rtx-4090", ""),
        ("GH200 480GB", "gh200", ""),
        ("M3 Ultra 96GB", "apple-m3-ultra", "accelerator.hbm_bytes=72GiB;host.dram_bytes=96GiB"),
        ("RTX 4090 12GB", "RTX 4090 12GB", ""),
        ("RTX 6090 48GB", "RTX 6090 48GB", ""),
    ],
)
def test_a_card_with_more_memory_than_it_is_sold_with_is_that_card(card: str, ours: str, numbers: str) -> None:
    found = with_our_names({"hardware": card, "formats": "", "set": ""})
    assert (found["hardware"], found["set"]) == (ours, numbers)


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ("RTX 3080 + 16GB", {"hardware": "rtx-3080", "host": "desktop-ddr4"}),
        ("RTX 4090 (48GB)", {"hardware": "rtx-4090", "set": "accelerator.hbm_bytes=48GiB"}),
        ("RTX 4090, 24GB", {"hardware": "rtx-4090"}),
        (
            "RTX 4090 64GB DDR5-6000",
            {"hardware": "rtx-4090", "host": "desktop-ddr5", "set": "host.dram_bytes_per_s=96000MB/s"},
        ),
        ("RTX 4090 + 9950X, 2TB NVMe", {"hardware": "rtx-4090", "host": "ryzen-9950x"}),
        ("RTX 4090 (24GB, PCIe 4.0) + 9950X", {"hardware": "rtx-4090", "host": "ryzen-9950x"}),
        ("2x RTX 4090, 64GB", {"hardware": "2x rtx-4090", "host": "desktop-ddr5"}),
        ("2x RTX 4090 48GB", {"hardware": "2x RTX 4090 48GB"}),
        ("4x RTX 3090 96GB", {"hardware": "4x rtx-3090"}),
        ("M4 Max 256GB", {"hardware": "M4 Max 256GB"}),
        ("M4 Max 9950X 64GB", {"hardware": "M4 Max 9950X 64GB"}),
    ],
)
def test_memory_alone_beside_the_card_of_a_row_is_read_as_in_a_question(card: str, named: dict[str, str]) -> None:
    found = with_our_names({"hardware": card})
    assert {key: found[key] for key in ("hardware", "host", "set") if found.get(key)} == named


def test_a_card_of_no_constants_is_predicted_with_those_that_the_row_states(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    columns = "hardware,model,formats,stack,policy,set,metric,value,unit\n"
    for stated, says in (("", "no constants of SYCL"), ("stack.launch_s=20us", "")):
        path.write_text(f"{columns}arc-b580,qwen3-30b-a3b,all=q4_k,llama-cpp,gpu_only@experts=cpu,{stated},tpot,1,s\n")
        (found,) = read_table(path)
        if says:
            with pytest.raises(InvalidInput, match=says):
                RowBench().platform(found)
        else:
            assert RowBench().platform(found).machine.accelerator.name == "arc-b580"


@pytest.mark.parametrize(
    ("engine", "flags", "stack", "policy"),
    [
        ("llama.cpp (ROCm)", "-ngl 99 --cpu-moe", "llama-cpp", "gpu_only@experts=cpu"),
        ("SGLang", "--kt-method RAWINT4 --kt-num-gpu-experts 8", "ktransformers", "gpu_only@experts=cpu:keep=8"),
        (
            "KTransformers",
            "--cpu_infer 47 --max_new_tokens 9 --cache_lens 2048",
            "ktransformers-llamafile",
            "gpu_only@experts=cpu",
        ),
        ("koboldcpp", "--gpulayers 99 --usecublas --contextsize 4096", "llama-cpp", "gpu_only"),
        ("llama.cpp", "-hf a/b --numa distribute -ncmoe 2 -v", "llama-cpp", "gpu_only@experts=cpu:2"),
    ],
)
def test_flags_that_say_nothing_of_speed_are_passed_over(
    engine: str, flags: str, stack: str, policy: str, tmp_path: Path
) -> None:
    found = row(tmp_path, f"RTX 3090,EPYC 9454P,,Qwen3-30B-A3B,Q4_K_M,{engine},{flags}")
    assert (found.stack, found.policy) == (stack, policy)


@pytest.mark.parametrize(("quant", "gib"), [("F16", 60.87), ("Q8_0", 59.03), ("Q4_K_M", 58.46), ("UD-Q4_K_XL", 58.69)])
def test_files_of_gpt_oss_keep_their_experts_whatever_they_are_called(quant: str, gib: float, tmp_path: Path) -> None:
    """Sizes of unsloth/gpt-oss-120b-GGUF, GiB, as its listing and llama-bench have them."""
    found = row(tmp_path, f"RTX 5090,,,gpt-oss-120b,{quant},llama.cpp,--cpu-moe")
    model = pregate.load_model("gpt-oss-120b", formats=parse_formats(found.formats))
    assert model.total_bytes / 2**30 == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize(
    ("text", "model", "formats"),
    [
        ("qwen3:30b-a3b", "qwen3-30b-a3b", "all=Q4_K_M"), ("gpt-oss:20b", "gpt-oss-20b", ""),
        ("qwen3:30b-a3b-q8_0", "qwen3-30b-a3b", "all=q8_0"), ("mixtral:8x7b", "mixtral-8x7b", "all=Q4_0"),
        ("deepseek-r1:671b", "deepseek-r1", "all=Q4_K_M"), ("deepseek-r1:8b", "deepseek-r1:8b", ""),
        ("mixtral:8x7b-instruct-v0.1-q4_K_M", "mixtral-8x7b-instruct-v0.1", "all=q4_K_M"),
        ("bartowski/zai-org_GLM-4.5-Air-GGUF", "glm-4.5-air", ""),
        ("bartowski/Qwen_Qwen3-30B-A3B-GGUF:Q5_K_M", "qwen3-30b-a3b", "all=Q5_K_M"),
        ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", "qwen3-30b-a3b", "all=int4-g128"),
        ("stelterlab/Qwen3-30B-A3B-Instruct-2507-AWQ", "qwen3-30b-a3b-instruct-2507", "all=int4-g128-zp"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "all=fp8-b128"),
        ("Qwen3-30B-A3B-FP8", "qwen3-30b-a3b", "all=fp8-b128"),
        ("RedHatAI/Qwen3-30B-A3B-FP8-dynamic", "qwen3-30b-a3b", "all=FP8"),
        ("RedHatAI/Qwen3-30B-A3B-quantized.w4a16", "qwen3-30b-a3b", "all=int4-g128"),
        ("MiniMax-M2.5-FP8", "minimax-m2.5", ""), ("deepseek-ai/DeepSeek-R1-FP8", "deepseek-r1", ""),
        ("DeepSeek-R1-Distill-Llama-70B", "DeepSeek-R1-Distill-Llama-70B", ""),
        ("qwen3:8b", "qwen3:8b", ""),
    ],
)  # fmt: skip
def test_models_are_found_by_their_repository_file_or_tag(text: str, model: str, formats: str) -> None:
    found = with_our_names({"model": text, "hardware": "rtx-4090", "formats": "", "stack": "vllm"})
    assert (found["model"], found["formats"]) == (model, formats)


@pytest.mark.parametrize(
    ("model", "stack", "quant", "formats"),
    [
        ("glm-4.7-flash", "ollama 0.12", "", "all=Q4_K_M"),
        ("Mixtral-8x7B", "Ollama", "", "all=Q4_0"),
        ("gpt-oss-120b", "ollama", "", ""),
        ("glm-4.7-flash", "ollama", "Q8_0", "all=Q8_0"),
        ("glm-4.7-flash", "llama.cpp", "", ""),
        ("Qwen3-30B-A3B-FP8", "vllm", "fp8", "all=fp8-b128"),
        ("Qwen3-30B-A3B", "vllm", "fp8", "all=fp8"),
    ],
)
def test_an_engines_file_without_a_format_is_what_its_library_has(
    model: str, stack: str, quant: str, formats: str
) -> None:
    found = with_our_names({"model": model, "hardware": "rtx-4090", "formats": quant, "stack": stack})
    assert found["formats"] == formats


def test_columns_and_metrics_of_ollama_are_known(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "Model,GPU,Backend,Prompt,Generated,Metric,Speed\nqwen3:30b-a3b,RTX 3060,ollama,8,16,eval rate,9 t/s\n"
    )
    (found,) = read_table(path)
    assert (found.metric, found.input_tokens, found.output_tokens) == ("decode_tokens_per_s", 8, 16)
