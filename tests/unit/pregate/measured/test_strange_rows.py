"""Rows of tables as their authors write them: what each cell means, and the reason of a row that cannot be said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import read_table
from traces.errors import InvalidFile, PregateError

LLAMA = "model,hardware,host,formats,stack,policy,metric,value,note"


def read(folder: Path, header: str, line: str) -> MeasuredRow:
    path = folder / "mine.csv"
    path.write_text(f"{header}\n{line}\n")
    return read_table(path)[0]


@pytest.mark.parametrize(
    ("line", "policy", "reason"),
    [
        ("-ngl 99 --n-cpu-moe 24 -c 8192", "gpu_only@experts=cpu:24", ""),
        ("Q4_K_M by unsloth; -ngl 99 -ot exps=CPU", "gpu_only@experts=cpu", ""),
        ("./llama-server -m q.gguf -ngl 20", "gpu_only@layers=cpu:29", ""),
        ("all experts offloaded to CPU", "gpu_only@experts=cpu", ""),
        ("ran with --cpu-moe", "gpu_only", "'--cpu-moe': put how it ran into the column policy"),
        ("24 of 48 layers on GPU, rest of the layers in RAM", "gpu_only", "layers in RAM': put how it ran"),
        ("partial offload, 8k context", "gpu_only", "'partial offload': put how it ran"),
        ("ngl 20", "gpu_only", "'ngl 20': put how it ran"),
        ("power limited to 300 W", "gpu_only", "'power limited to 300 W': put it beside the card"),
        ("-ngl 99; undervolted, 280 W limit", "gpu_only", "'280 W limit': put it beside the card"),
        ("two GPUs", "gpu_only", "'two GPUs': say how many in hardware"),
        ("tensor parallel over both", "gpu_only", "'tensor parallel': say how many"),
        ("with speculative decoding", "gpu_only", "'speculative decoding': drafted tokens cannot be said"),
        ("with ngram speculation", "gpu_only", "'ngram speculation': drafted tokens cannot be said"),
        ("two parallel slots", "gpu_only", "'two parallel': put how many ran at once into the column batch"),
        ("decode, after 8k of context", "gpu_only", "'after 8k of context': put it into context_tokens"),
        ("at a depth of 16384", "gpu_only", "depth of 16384': put it into context_tokens"),
        ("single channel memory", "gpu_only", "'single channel': put it beside the host, 1x32GB DDR5-5600"),
        ("not single-channel, no speculation, depth 0", "gpu_only", ""),
        ("full GPU offload, no CPU offload", "gpu_only", ""),
        ("no speculative decoding, not power limited to 300 W", "gpu_only", ""),
        ("-ngl 99 -fa on", "gpu_only", ""),
        ("b6123, Windows 11, driver 581.2", "gpu_only", ""),
    ],
)
def test_the_note_of_a_row_without_a_design_is_read_or_told_of(
    line: str, policy: str, reason: str, tmp_path: Path
) -> None:
    row = read(tmp_path, LLAMA, f'Qwen3-30B-A3B,RTX 4090,7950X,Q4_K_M,llama.cpp,,tg128,30,"{line}"')
    assert ("@".join(filter(None, (row.policy, row.placement))), bool(row.reason)) == (policy, bool(reason))
    assert reason in row.reason


def test_the_note_of_a_row_with_a_policy_of_ours_says_nothing(tmp_path: Path) -> None:
    note = "-ngl 99 -ot exps=CPU, two GPUs, power limited to 300 W"
    row = read(tmp_path, LLAMA, f'Qwen3-30B-A3B,RTX 4090,7950X,Q4_K_M,llama.cpp,gpu_only@experts=cpu,tg128,30,"{note}"')
    assert (row.policy, row.reason) == ("gpu_only@experts=cpu", "")


def test_a_note_beside_flags_may_say_more_than_they_do(tmp_path: Path) -> None:
    row = read(tmp_path, LLAMA, "Qwen3-30B-A3B,RTX 4090,7950X,Q4_K_M,llama.cpp,-ngl 99,tg128,30,power limit 300 W")
    assert "put it beside the card" in row.reason
    said = read(
        tmp_path, LLAMA, "Qwen3-30B-A3B,RTX 4090 (300 W),7950X,Q4_K_M,llama.cpp,-ngl 99,tg128,30,power limit 300 W"
    )
    assert said.reason == ""


@pytest.mark.parametrize(
    ("line", "context_tokens", "host"),
    [
        ("7950X,Q4_K_M,llama.cpp,-ngl 99,tg128 @ d8192,30,after 8k of context", 8192, "ryzen-7950x"),
        ("7950X 1x32GB DDR5-5600,Q4_K_M,llama.cpp,-ngl 99,tg128,30,single channel", 0, "ryzen-7950x:1x5600"),
    ],
)
def test_what_a_note_says_again_is_no_reason(line: str, context_tokens: int, host: str, tmp_path: Path) -> None:
    row = read(tmp_path, LLAMA, f"Qwen3-30B-A3B,RTX 4090,{line}")
    assert (row.reason, row.context_tokens, row.host) == ("", context_tokens, host)


LENGTHS = "model,hardware,formats,stack,lengths,batch,metric,value"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512+128", (512, 128)),
        ("pp512+tg128", (512, 128)),
        ("tg128+pp512", (512, 128)),
        ("1024/256", (1024, 256)),
        ("1k in / 1k out", (1024, 1024)),
        ("ISL 1024 OSL 256", (1024, 256)),
        ("osl=256; isl=1024", (1024, 256)),
        ('"1,024 prompt tokens, 256 generated"', None),
        ('"1,024 input, 256 output"', (1024, 256)),
        ("2048x512", (2048, 512)),
    ],
)
def test_lengths_are_tokens_of_a_prompt_and_an_answer(
    text: str, expected: tuple[int, int] | None, tmp_path: Path
) -> None:
    row = read(tmp_path, LENGTHS, f"Qwen3-30B-A3B,H100,bf16,vllm,{text},8,tokens_per_s,900")
    if expected is None:
        assert "512+128" in row.reason
    else:
        assert (row.input_tokens, row.output_tokens, row.reason) == (*expected, "")


@pytest.mark.parametrize("text", ["512", "128-512", "lots", "pp512+pp1024", "0.5-1.5"])
def test_lengths_that_are_no_pair_are_never_passed_over(text: str, tmp_path: Path) -> None:
    row = read(tmp_path, LENGTHS, f"Qwen3-30B-A3B,H100,bf16,vllm,{text},8,tokens_per_s,900")
    assert "lengths" in row.reason


def test_lengths_that_differ_from_a_column_are_a_reason(tmp_path: Path) -> None:
    header = "model,hardware,formats,stack,lengths,input_tokens,metric,value"
    row = read(tmp_path, header, "Qwen3-30B-A3B,H100,bf16,vllm,512+128,1024,tokens_per_s,900")
    assert row.reason == "input_tokens is 1024, and lengths say '512+128': leave one out"
    assert read(tmp_path, header, "Qwen3-30B-A3B,H100,bf16,vllm,512+128,512,tokens_per_s,900").reason == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"7,9 t/s"', 7.9),
        ('"1.204,6 t/s"', 1204.6),
        ('"1,204.6"', 1204.6),
        ('"1,204"', 1204.0),
        ('"0,345"', 0.345),
        ('"1234,567"', 1234.567),
        ("1 204 t/s", 1204.0),
        ("1\u202f204.5 t/s", 1204.5),
        ("1'204", 1204.0),
        ("~21 t/s", 21.0),
    ],
)
def test_marks_of_decimals_and_thousands(text: str, value: float, tmp_path: Path) -> None:
    assert read(tmp_path, "model,hardware,stack,metric,value", f"qwen3-30b-a3b,rtx-4090,,tg128,{text}").value == value


@pytest.mark.parametrize("text", ["18-22 t/s", ">30 t/s", "18 to 22"])
def test_a_range_is_told_to_be_one(text: str, tmp_path: Path) -> None:
    found = read(tmp_path, "model,hardware,stack,metric,value", f"qwen3-30b-a3b,rtx-4090,,tg128,{text}")
    assert "is a range or a bound: state the mean" in found.reason


def test_cells_may_be_parted_by_semicolons_or_tabs(tmp_path: Path) -> None:
    header, line = (
        "model;GPU;engine;flags;test;t/s",
        "qwen3-30b-a3b;RTX 4070;llama.cpp;-ngl 99 -ot a=CPU,b=CPU;tg128;1.034,5",
    )
    assert read(tmp_path, header, line).value == 1034.5
    line = "qwen3-30b-a3b;RTX 4070;llama.cpp;-ngl 99;pp512;1,034\nqwen3-30b-a3b;RTX 4070;llama.cpp;-ngl 99;tg128;34.5"
    assert read(tmp_path, header, line).value == 1034.0  # another row has a decimal point
    tabs = read(tmp_path, header.replace(";", "\t"), "qwen3-30b-a3b\tRTX 4070\tllama.cpp\t-ts 1,0\ttg128\t34.5")
    assert (tabs.hardware, tabs.value) == ("rtx-4070", 34.5)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("~500", 500),
        ("512 tokens", 512),
        ("8,192", 8192),
        ("8k", 8192),
        ("bs=4", 4),
        ("pp512", 512),
        ("about 1k", 1024),
    ],
)
def test_counts_as_people_write_them(written: str, count: int, tmp_path: Path) -> None:
    row = read(
        tmp_path, "model,hardware,input_tokens,metric,value,unit", f'qwen3-30b-a3b,rtx-4090,"{written}",ttft,1,s'
    )
    assert row.input_tokens == count


@pytest.mark.parametrize("written", ["128-512", "512 or 1024", "1.5k tokens", "tok", "-5"])
def test_a_count_that_is_none_is_refused(written: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"input_tokens .* is not a whole number"):
        read(tmp_path, "model,hardware,input_tokens,metric,value,unit", f"qwen3-30b-a3b,rtx-4090,{written},ttft,1,s")


@pytest.mark.parametrize(
    ("written", "stack"),
    [
        ("ik_llama.cpp (main)", "ik-llama"),
        ("ik_llama.cpp @ 8337e4cd", "ik-llama"),
        ("llama.cpp b6100 (CUDA)", "llama-cpp-2025"),
        ("llama.cpp (CUDA 12.8)", "llama-cpp"),
        ("llama.cpp CUDA b7100", "llama-cpp-late-2025"),
        ("llama.cpp master", "llama-cpp"),
        ("llama.cpp llama-server", "llama-cpp"),
        ("vLLM nightly", "vllm"),
        ("KTransformers v0.2.4post1", "ktransformers"),
        ("DeepSpeed ZeRO-Inference", "pytorch-eager"),
        ("llama.cpp (Vulkan)", "llama.cpp (Vulkan)"),
        ("ik_llama.cpp fork", "ik_llama.cpp fork"),
    ],
)
def test_an_engine_may_say_its_version_branch_or_back_end(written: str, stack: str, tmp_path: Path) -> None:
    line = f'qwen3-30b-a3b,rtx-4090,"{written}",tg128,30'
    assert read(tmp_path, "model,hardware,stack,metric,value", line).stack == stack


@pytest.mark.parametrize(
    ("stack", "settings", "policy"),
    [
        ("Ollama 0.12", "num_gpu=24", "gpu_only@layers=cpu:25"),
        ("Ollama", "num_gpu: 24", "gpu_only@layers=cpu:25"),
        ("LM Studio 0.3.30", "GPU offload 36/48", "gpu_only@layers=cpu:13"),
        ("llama.cpp", "-ngl 99 -ncmoe 4", "gpu_only@experts=cpu:4"),
        ("SGLang v0.5.3", "--tp 1", "gpu_only"),
    ],
)
def test_settings_may_be_what_an_engine_is_told(stack: str, settings: str, policy: str, tmp_path: Path) -> None:
    row = read(tmp_path, "model,gpu,engine,settings,test,t/s", f"qwen3-30b-a3b,RTX 4090,{stack},{settings},tg128,30")
    assert (row.policy, row.set, row.reason) == (policy, "", "")


@pytest.mark.parametrize(
    ("stack", "policy", "reason"),
    [
        ("FlexGen", "gpu_only", "policy is empty, and flexgen moves weights: say which design ran"),
        ("mixtral-offloading", "gpu_only", "policy is empty, and mixtral-offloading moves weights"),
        ("ZeRO-Inference", "prefetch_all@weights=stream", ""),
        ("DeepSpeed ZeRO-Inference", "prefetch_all@weights=stream", ""),
        ("transformers", "gpu_only", ""),
    ],
)
def test_an_engine_that_moves_weights_is_no_resident_run(stack: str, policy: str, reason: str, tmp_path: Path) -> None:
    row = read(tmp_path, "model,gpu,engine,metric,value", f"mixtral-8x7b,H200,{stack},decode,30")
    assert (row.policy, row.reason[: len(reason)], bool(row.reason)) == (policy, reason, bool(reason))


@pytest.mark.parametrize(
    ("hardware", "flags", "cards", "reason"),
    [
        ("RTX 3090", "-ngl 99 -ts 1,1", 1, "'-ts 1,1' is of 2 cards, hardware 'rtx-3090' of 1: name 2x rtx-3090"),
        ("RTX 3090", "CUDA_VISIBLE_DEVICES=0,1 ./llama-server -ngl 99", 1, "is of 2 cards, hardware 'rtx-3090' of 1"),
        ("RTX 3090", "CUDA_VISIBLE_DEVICES=1 ./llama-server -ngl 99", 1, ""),
        ("RTX 3090", "-ngl 99 -ts 1,0", 1, ""),
        ("2x RTX 3090", "-ngl 99 -ts 3,2", 2, ""),
        ("2x RTX 3090", "-ngl 99 -ts 1,1,1", 2, "is of 3 cards, hardware '2x rtx-3090' of 2: name 3x rtx-3090"),
        ("4x RTX 3090", "CUDA_VISIBLE_DEVICES=0,1 ./llama-server -ngl 99 -ts 1,1", 2, ""),
        ("4x RTX 3090", "-ngl 99 -dev CUDA0,CUDA1,CUDA2", 3, ""),
    ],
)
def test_cards_that_flags_name_are_those_of_the_row(
    hardware: str, flags: str, cards: int, reason: str, tmp_path: Path
) -> None:
    row = read(
        tmp_path, "model,gpu,engine,quant,flags,test,t/s", f'qwen3-30b-a3b,{hardware},llama.cpp,q4_0,"{flags}",tg128,9'
    )
    assert reason in row.reason
    assert bool(row.reason) == bool(reason)
    if not reason:
        memory = re.search(r"hbm_bytes=(\d+)", row.set)
        assert (int(memory[1]) if memory else 24 << 30) == cards * (24 << 30)
        RowBench().platform(row)


@pytest.mark.parametrize(
    ("hardware", "vram", "means"),
    [
        ("RTX 4060 Ti", "16 GB", ("rtx-4060-ti-16gb", 1)),
        ("RTX 4060 Ti", "8", ("rtx-4060-ti-8gb", 1)),
        ("RTX 4090", "24GB", ("rtx-4090", 1)),
        ("2x RTX 3090", "48 GB", ("rtx-3090", 1)),
        ("RTX 4090", "21.3 GB", ("rtx-4090", 2)),
    ],
)
def test_a_column_of_the_cards_memory_is_its_size_or_what_a_run_took(
    hardware: str, vram: str, means: tuple[str, int], tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"model,GPU,VRAM,engine,flags,tg128\nqwen3-30b-a3b,{hardware},{vram},llama.cpp,-ncmoe 9,30\n")
    rows = read_table(path)
    assert ({row.hardware for row in rows}, len(rows)) == ({means[0]}, means[1])
    if means[1] == 2:
        assert {row.metric: row.value for row in rows}["peak_hbm_bytes"] == 21.3e9


@pytest.mark.parametrize(("stack", "nearest"), [("FloE", "lru_next_gate"), ("Pre-gated MoE", "fastertransformer")])
def test_designs_of_papers_are_told_what_comes_nearest(stack: str, nearest: str, tmp_path: Path) -> None:
    row = read(tmp_path, "model,gpu,engine,metric,value", f"mixtral-8x7b,RTX 3090,{stack},decode,3")
    with pytest.raises(PregateError, match=f"no constants of this engine are known here; nearest: .*{nearest}"):
        RowBench().platform(row)


@pytest.mark.parametrize(
    ("hardware", "link", "means", "reason"),
    [
        ("RTX 4090 PCIe 3.0 x8", "", ("rtx-4090", "pcie3-x8"), ""),
        ("RTX 3090 (PCIe 4.0 x4) + EPYC 7763", "", ("rtx-3090", "pcie4-x4"), ""),
        ("RTX 3090 PCIe 4.0 x8", "pcie4-x8", ("rtx-3090", "pcie4-x8"), ""),
        ("RTX 3090 PCIe 4.0 x8", "PCIe 3.0 x16", ("rtx-3090", "pcie3-x16"), "link is pcie3-x16, and hardware"),
        ("A100 80GB PCIe 4.0 x16", "", ("a100-pcie-80gb", "pcie4-x16"), ""),
        ("RTX 3090 eGPU", "PCIe 3.0 x4", ("rtx-3090", "pcie3-x4"), ""),
        ("RTX 3090 PCIe 3.0 x1", "", ("rtx-3090", ""), "no link pcie3-x1 is described"),
        ("dual EPYC 9355 + RTX PRO 6000 (PCIe 5.0 x16)", "", ("rtx-pro-6000", "pcie5-x16"), ""),
        ("g6e.xlarge", "", ("l40s", ""), ""),
        ("AWS g6e.2xlarge (L40S)", "", ("l40s", ""), ""),
    ],
)
def test_a_machine_in_one_cell(hardware: str, link: str, means: tuple[str, str], reason: str, tmp_path: Path) -> None:
    row = read(
        tmp_path, "model,gpu,pcie,engine,quant,test,t/s", f'qwen3-30b-a3b,"{hardware}",{link},llama.cpp,q4_0,tg128,9'
    )
    assert (row.hardware, row.link, bool(row.reason)) == (*means, bool(reason))
    assert reason in row.reason
    if not reason:
        RowBench().platform(row)


def test_an_instance_whose_host_computes_needs_its_processor(tmp_path: Path) -> None:
    header = "model,gpu,host,engine,quant,flags,test,t/s"
    alone = read(tmp_path, header, "qwen3-30b-a3b,g6e.xlarge,,llama.cpp,q4_0,-cmoe,tg128,9")
    assert (
        alone.reason == "g6e.xlarge has a share of a processor, which decides where weights are on the host: state host"
    )
    assert read(tmp_path, header, "qwen3-30b-a3b,g6e.xlarge,EPYC 7R13,llama.cpp,q4_0,-cmoe,tg128,9").reason == ""
    several = read(tmp_path, header, "mixtral-8x7b,p4d.24xlarge,,vllm,bf16,-tp 8,decode,9")
    assert (several.hardware, several.set, several.reason) == ("a100-sxm4-40gb", "accelerator.n_cards=8", "")


@pytest.mark.parametrize(
    ("stack", "typed", "policy"),
    [
        ("ktransformers", "kt run m2 --gpu-experts 40 --numa-nodes 1 --port 30000", "gpu_only@experts=cpu:keep=40"),
        ("ramalama", "ramalama serve --ngl 20 qwen3:30b", "gpu_only@layers=cpu:29"),
        ("ramalama", "ramalama --debug bench --runtime-args='-ngl 99 --n-cpu-moe 8' qwen3", "gpu_only@experts=cpu:8"),
        (
            "llama-swap",
            "cmd: |\n  llama-server --port ${PORT}\n  -m /q.gguf\n  -ngl 99 --n-cpu-moe 8",
            "gpu_only@experts=cpu:8",
        ),
        ("llama-swap", "cmd: llama-server -ngl 99 -cmoe", "gpu_only@experts=cpu"),
        ("llama-swap", "cmd: 'llama-server -ngl 99 -cmoe'", "gpu_only@experts=cpu"),
        ("llama-swap", "cmd: llama-server -ngl 99 -cmoe\nttl: 300\naliases:\n  - q", "gpu_only@experts=cpu"),
        ("llama-swap", "cmd: |\n  llama-server -cmoe\n  -ngl 99\nproxy: http://127.0.0.1:99", "gpu_only@experts=cpu"),
    ],
)
def test_commands_of_programs_around_an_engine(stack: str, typed: str, policy: str, tmp_path: Path) -> None:
    row = read(
        tmp_path, "model,gpu,engine,quant,flags,test,t/s", f'qwen3-30b-a3b,RTX 4090,{stack},q4_0,"{typed}",tg128,9'
    )
    assert (row.policy, row.reason) == (policy, "")


def test_a_share_of_layers_is_told_to_be_one(tmp_path: Path) -> None:
    typed = "lms load qwen3-30b-a3b --gpu 0.5"
    row = read(
        tmp_path, "model,gpu,engine,quant,flags,test,t/s", f"qwen3-30b-a3b,RTX 4090,LM Studio,q4_0,{typed},tg128,9"
    )
    assert row.reason == "lms --gpu 0.5: how many layers that is was not said: GPU offload 24/48 is read"


@pytest.mark.parametrize(
    ("hardware", "stack", "told", "reason"),
    [
        (
            "2x RTX 3090 NVLink",
            "vllm",
            "-tp 2",
            "NVLink of rtx-3090 is an option that is not described: set accelerator",
        ),
        ("2x RTX 3090 (NVLink)", "vllm", "-tp 2", "NVLink of rtx-3090"),
        ("2x RTX 3090 with NVLink bridge", "llama.cpp", "-ngl 99", ""),
        ("2x RTX 3090 NVLink", "ik_llama.cpp", "-ngl 99 -sm graph", "NVLink of rtx-3090"),
        ("8x A100 80GB (NVLink)", "vllm", "-tp 8", ""),
    ],
)
def test_a_bridge_between_cards_is_read_where_it_is_known(
    hardware: str, stack: str, told: str, reason: str, tmp_path: Path
) -> None:
    row = read(tmp_path, "model,gpu,engine,flags,test,t/s", f"qwen3-30b-a3b,{hardware},{stack},{told},decode,9")
    assert row.hardware in ("rtx-3090", "a100-sxm4-80gb")
    assert row.reason.startswith(reason)
    assert bool(row.reason) == bool(reason)


def test_a_table_may_have_a_column_a_test_and_depth(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "model,gpu,engine,cmd,pp512,tg128,pp512 @ d8192,tg128 @ d8192\n"
        "qwen3-30b-a3b,RTX 4090,llama.cpp,-ngl 99,9,8,7,6\n"
    )
    rows = read_table(path)
    assert [(row.value, row.context_tokens) for row in rows] == [(9, 0), (8, 0), (7, 8192), (6, 8192)]


@pytest.mark.parametrize(
    ("written", "model", "formats"),
    [
        ("ERNIE-4.5-21B-A3B-PT-Q4_K_M.gguf", "ernie-4.5-21b-a3b", "all=Q4_K_M"),
        ("Moonlight-16B-A3B-Instruct-Q4_K_M.gguf", "moonlight-16b-a3b", "all=Q4_K_M"),
        ("dots.llm1.inst-Q4_K_M.gguf", "dots.llm1", "all=Q4_K_M"),
        ("Qwen3-Coder-30B-A3B-Instruct-1M-Q6_K.gguf", "qwen3-coder-30b-a3b-instruct", "all=Q6_K"),
        ("DeepSeek-V3.1-Terminus-smol-IQ2_KS.gguf", "deepseek-v3.1-terminus", "all=IQ2_KS"),
        ("DeepSeek-R1-671B", "deepseek-r1", ""),
        ("Qwen3-30B-A3B-Base", "qwen3-30b-a3b", ""),
        ("Qwen3-30B-A3B-Reranker", "Qwen3-30B-A3B-Reranker", ""),
    ],
)
def test_a_models_name_may_say_how_it_was_trained(written: str, model: str, formats: str, tmp_path: Path) -> None:
    row = read(tmp_path, "model,gpu,engine,flags,test,t/s", f"{written},RTX 4090,llama.cpp,-cmoe,tg128,9")
    assert (row.model, row.formats) == (model, formats)


def test_a_batch_of_tokens_is_no_batch_of_sequences(tmp_path: Path) -> None:
    flagged = read(
        tmp_path, "model,gpu,engine,batch,ubatch,test,t/s", "qwen3-30b-a3b,RTX 4090,llama.cpp,2048,1024,pp2048,9"
    )
    assert (flagged.batch, flagged.policy, flagged.reason) == (1, "gpu_only@ubatch=1024", "")
    header = "model,gpu,engine,batch,test,t/s"
    asked = read(tmp_path, header, "qwen3-30b-a3b,RTX 4090,llama.cpp,2048,pp2048,9")
    assert asked.reason.startswith(
        "batch 2048: as many sequences at once, or tokens that llama-cpp is handed together?"
    )
    assert read(tmp_path, header, "qwen3-30b-a3b,RTX 4090,llama.cpp,64,tg128,9").batch == 64
    assert read(tmp_path, header, "qwen3-30b-a3b,H100,vllm,512,decode,9").batch == 512


@pytest.mark.parametrize(
    ("metric", "means"),
    [
        ("tg128 @ d8192", ("decode_tokens_per_s", 1, 8192)),
        ("tg128 @ 8k", ("decode_tokens_per_s", 1, 8192)),
        ("tg128 (depth 8k)", ("decode_tokens_per_s", 1, 8192)),
        ("tg 128 at 8192 tokens", ("decode_tokens_per_s", 1, 8192)),
        ("pp512 @ 4k", ("prefill_tokens_per_s", 512, 4096)),
        ("decode @ 32k", ("decode_tokens_per_s", 1, 32768)),
        ("decode t/s @ 32k", ("decode_tokens_per_s", 1, 32768)),
        ("decode @ 32k context", ("decode_tokens_per_s", 1, 32768)),
        ("TPOT at 8k (ms)", ("tpot", 1, 8192)),
        ("TTFT @ 8k (ms)", ("ttft", 8192, 0)),
    ],
)
def test_a_metric_may_say_at_how_many_tokens(metric: str, means: tuple[str, int, int], tmp_path: Path) -> None:
    long = read(tmp_path, "model,gpu,engine,metric,value", f"qwen3-30b-a3b,RTX 4090,llama.cpp,{metric},9")
    assert (long.metric, long.input_tokens, long.context_tokens) == means
    wide = read(tmp_path, f"model,gpu,engine,{metric}", "qwen3-30b-a3b,RTX 4090,llama.cpp,9")
    assert (wide.metric, wide.input_tokens, wide.context_tokens) == means


@pytest.mark.parametrize("metric", ["prefill @ 8k", "throughput @ 8k", "decode @ home"])
def test_tokens_that_may_be_two_things_are_told_of(metric: str, tmp_path: Path) -> None:
    with pytest.raises(PregateError, match="unknown metric"):
        read(tmp_path, "model,gpu,engine,metric,value", f"qwen3-30b-a3b,RTX 4090,llama.cpp,{metric},9")


@pytest.mark.parametrize(
    ("policy", "note", "design"),
    [
        ("-ot exps=CPU", "ub 4096", "gpu_only@experts=cpu@ubatch=4096"),
        ("experts on CPU", "high (log); ub 2048", "gpu_only@experts=cpu@ubatch=2048"),
        ("-ot exps=CPU -ub 1024", "ub 4096", "gpu_only@experts=cpu@ubatch=1024"),
        ("-ot exps=CPU", "used 4096 sub-blocks", "gpu_only@experts=cpu@ubatch=512"),
    ],
)
def test_the_pass_that_a_note_alone_says_is_the_row_s(policy: str, note: str, design: str, tmp_path: Path) -> None:
    found = read(
        tmp_path, "model,hardware,host,engine,policy,metric,input_tokens,value,note",
        f"qwen3-30b-a3b,rtx-4090,ryzen-7950x,ik_llama.cpp,{policy},prefill t/s,4096,287,{note}",
    )  # fmt: skip
    assert found.design().name == design


def test_a_chunk_after_the_length_of_a_prompt_has_that_before_it(tmp_path: Path) -> None:
    found = read(
        tmp_path, "model,hardware,host,engine,policy,metric,in_len,value,note",
        "qwen3-30b-a3b,rtx-4090,ryzen-7950x,ik_llama.cpp,-ot exps=CPU,prefill t/s,16384,287,"
        "ub 4096; prompt chunk 4096 after in_len tokens of context",
    )  # fmt: skip
    assert (found.input_tokens, found.context_tokens) == (4096, 16384)
