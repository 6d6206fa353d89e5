"""Tables of other shapes: a column a metric, a column a flag, llama-bench's own; what a note says and no cell does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pregate.measured.rows.table import MeasuredRow, read_table
from traces.errors import InvalidFile, InvalidInput, UnknownName


def rows_of(folder: Path, *lines: str) -> list[MeasuredRow]:
    path = folder / "theirs.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_table(path)


def test_a_column_a_metric_is_a_row_a_metric(tmp_path: Path) -> None:
    wide = rows_of(
        tmp_path, "Model,GPU,Quant,pp512,tg128 @ d4096,TTFT (ms),input", "Qwen3-30B-A3B,RTX 4090,Q4_K_M,4100,190,-,",
        "Qwen3-30B-A3B,RTX 3090,Q4_K_M,n/a,,250,1024",
    )  # fmt: skip
    assert [(row.metric, row.value, row.input_tokens, row.context_tokens, row.routing) for row in wide] == [
        ("prefill_tokens_per_s", 4100, 512, 0, "random"), ("decode_tokens_per_s", 190, 1, 4096, "random"),
        ("ttft", 0.25, 1024, 0, ""),
    ]  # fmt: skip
    assert [row.hardware for row in wide] == ["rtx-4090", "rtx-4090", "rtx-3090"]


@pytest.mark.parametrize("header", ["t/s", "Result (tok/s)", "tok/s", "avg (t/s)"])
def test_values_may_stand_under_their_unit(header: str, tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, f"model,gpu,test,{header}", "Qwen3-30B-A3B,4090,tg128,180.5 ± 0.2")
    assert (row.metric, row.value, row.unit, row.output_tokens) == ("decode_tokens_per_s", 180.5, "tokens/s", 128)


BENCH = (
    "build_commit,cpu_info,gpu_info,backends,model_type,n_batch,n_ubatch,n_threads,type_k,type_v,n_gpu_layers,n_cpu_moe,"
    "split_mode,no_kv_offload,flash_attn,tensor_buft_overrides,use_mmap,no_op_offload,n_prompt,n_gen,n_depth,avg_ts"
)
MODEL = "qwen3moe 30B.A3B Q4_K - Medium"


def bench(cards: str, rest: str) -> str:
    return f'abc,AMD Ryzen 9 7950X 16-Core Processor,"{cards}",CUDA,{MODEL},2048,512,16,{rest}'


def test_what_llama_bench_writes_is_read(tmp_path: Path) -> None:
    one, two, both = rows_of(
        tmp_path, BENCH, bench("NVIDIA GeForce RTX 4090", "f16,f16,99,24,layer,0,1,none,1,0,512,0,0,700.1"),
        bench("NVIDIA GeForce RTX 4090", "q8_0,q8_0,99,0,layer,0,1,exps=CPU,0,1,0,128,4096,60.1"),
        bench("NVIDIA GeForce RTX 3090, NVIDIA GeForce RTX 3090", "f16,f16,99,0,layer,0,1,none,1,0,512,128,0,60.1"),
    )  # fmt: skip
    assert (one.model, one.hardware, one.host, one.stack, one.formats) == (
        "qwen3-30b-a3b", "rtx-4090", "ryzen-7950x", "llama-cpp", "all=Q4_K_M",
    )  # fmt: skip
    assert (one.policy, one.metric, one.input_tokens) == (
        "gpu_only@experts=cpu:24@ubatch=512", "prefill_tokens_per_s", 512,
    )  # fmt: skip
    assert (two.policy, two.metric, two.output_tokens, two.context_tokens) == (
        "gpu_only@experts=cpu@ubatch=512@stream=never", "decode_tokens_per_s", 128, 4096,
    )  # fmt: skip
    assert (two.formats, two.set) == ("all=Q4_K_M,kv=q8_0", "stack.host_memory=pinned")
    assert (both.metric, both.input_tokens, both.output_tokens) == ("total_tokens_per_s", 512, 128)
    assert f"accelerator.hbm_bytes={2 * 24 * 2**30}" in both.set


def test_a_table_that_llama_bench_printed_has_its_flags_in_columns(tmp_path: Path) -> None:
    (row,) = rows_of(
        tmp_path, "model,size,params,backend,ngl,n_cpu_moe,fa,test,t/s,gpu",
        f"{MODEL},17.28 GiB,30.53 B,CUDA,99,20,1,tg128,80,RTX 3060",
    )  # fmt: skip
    assert (row.stack, row.policy) == ("llama-cpp", "gpu_only@experts=cpu:20")
    assert "backend CUDA; size 17.28 GiB; params 30.53 B" in row.note


@pytest.mark.parametrize(
    ("hardware", "card", "host"),
    [
        ("RTX 3060 12GB + Ryzen 5 5600 32GB DDR4-3200", "rtx-3060-12gb", "ryzen-5600:3200"),
        ("RTX 4090, 7950X", "rtx-4090", "ryzen-7950x"),
        ("RTX 3090 with EPYC 7763 8ch DDR4-3200", "rtx-3090", "epyc-7763:8x3200"),
        ("RTX 3090 w/ EPYC 7763 (8ch, DDR4-3200)", "rtx-3090", "epyc-7763:8x3200"),
    ],
)
def test_a_host_may_stand_beside_the_card(hardware: str, card: str, host: str, tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "model,hardware,metric,value", f'Qwen3-30B-A3B,"{hardware}",tg,14')
    assert (row.hardware, row.host) == (card, host)


@pytest.mark.parametrize(
    "host", ["EPYC 7763 8ch DDR4-3200", "EPYC 7763 8x64GB DDR4-3200", "EPYC 7763 8-channel DDR4 3200"]
)
def test_memory_may_follow_its_host_without_a_mark(host: str, tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "model,hardware,host,metric,value", f"Qwen3-30B-A3B,4090,{host},tg,14")
    assert row.host == "epyc-7763:8x3200"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (
            ",throughput,concurrency 32",
            "the note says 'concurrency 32': put how many ran at once into the column batch",
        ),
        (",throughput,64 concurrent requests", "column batch"),
        (",tg128,4-bit bnb", "the note says '4-bit': put how weights are stored into the column formats"),
        (",tg128,AWQ", "column formats"),
        (",req/s,", "how many asked at once is not said"),
    ],
)
def test_what_a_note_alone_says_is_a_reason(cells: str, reason: str, tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "model,gpu,batch,metric,notes,value", f"Qwen3-30B-A3B,L40S,{cells},30")
    assert reason in row.reason
    assert not row.is_scored


@pytest.mark.parametrize(
    "cells", ["32,throughput,concurrency 32", ",tg128,batch 1", ",tg128,bs=1", ",tg128,24 GB of VRAM"]
)
def test_a_note_that_says_what_cells_say_is_none(cells: str, tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "model,gpu,batch,metric,notes,value", f"Qwen3-30B-A3B,L40S,{cells},30")
    assert not row.reason


def test_a_size_of_context_is_asked_after_and_an_unknown_column_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="column 'n_ctx': call tokens that were there before context_tokens"):
        rows_of(tmp_path, "model,gpu,n_ctx,metric,value", "Qwen3-30B-A3B,4090,4096,tg,1")
    with pytest.raises(UnknownName, match="unknown column 'colour'"):
        rows_of(tmp_path, "model,gpu,colour,tg128", "Qwen3-30B-A3B,4090,red,1")
    with pytest.raises(InvalidFile, match="missing or twice metric, value"):
        rows_of(tmp_path, "model,gpu", "Qwen3-30B-A3B,4090")


def flagged(folder: Path, hardware: str, engine: str, flags: str) -> MeasuredRow:
    cell = flags.replace('"', '""')
    (row,) = rows_of(folder, "model,gpu,engine,flags,metric,value", f'Qwen3-30B-A3B,{hardware},{engine},"{cell}",tg,9')
    return row


@pytest.mark.parametrize(
    ("flags", "both"),
    [
        ("-ngl 99 -sm none -mg 1", False),
        ("CUDA_VISIBLE_DEVICES=0 ./llama-bench -ngl 99", False),
        ("-ngl 99 -dev CUDA0", False),
        ("-ngl 99 -ts 0,1", False),
        ("CUDA_VISIBLE_DEVICES=0,1 ./llama-bench -ngl 99", True),
        ("-ngl 99 -dev CUDA0,CUDA1", True),
        ("-ngl 99 -ts 1,1", True),
        ("-ngl 99", True),
    ],
)
def test_cards_that_flags_leave_idle_lend_no_memory(flags: str, both: bool, tmp_path: Path) -> None:
    row = flagged(tmp_path, "2x RTX 3090", "llama.cpp", flags)
    assert (row.hardware, "accelerator.hbm_bytes" in row.set) == ("rtx-3090", both)


@pytest.mark.parametrize(
    ("engine", "flags", "reason"),
    [
        ("vllm", "--hf-overrides '{\"num_experts_per_tok\": 4}'", "top_k=6"),
        ("sglang", "--json-model-override-args '{\"num_experts_per_tok\": 4}'", "top_k=6"),
        ("sglang", "--nnodes 2 --tp 16", "cards of several machines cannot be said"),
        ("vllm", "--nnodes 2 -tp 16", "cards of several machines cannot be said"),
    ],
)
def test_a_model_that_flags_change_and_machines_together_are_told_of(
    engine: str, flags: str, reason: str, tmp_path: Path
) -> None:
    row = flagged(tmp_path, "H100", engine, flags)
    with pytest.raises(InvalidInput, match=reason):
        row.design()


@pytest.mark.parametrize(
    "flags",
    [
        "vllm serve Qwen/Qwen3-30B-A3B",
        "python -m sglang.launch_server",
        "--hf-overrides '{\"rope_scaling\": {}}'",
        "--nnodes 1 --node-rank 0",
    ],
)
def test_what_changes_nothing_is_passed_over(flags: str, tmp_path: Path) -> None:
    assert flagged(tmp_path, "H100", "sglang", flags).policy == "gpu_only"


@pytest.mark.parametrize(
    ("header", "cell", "metric", "value"),
    [
        ("ttft_s", "0.5", "ttft", 0.5), ("TPOT_ms", "20", "tpot", 0.02),
        ("Decode throughput", "30 t/s", "decode_tokens_per_s", 30.0),
        ("cache_hit_rate", "0.5", "hit_rate", 0.5), ("peak_gpu_memory", "5 GB", "peak_hbm_bytes", 5e9),
        ("moe_layer_latency_us", "900", "moe_layer_latency", 9e-4),
        ("decode_tokens_per_s", "30", "decode_tokens_per_s", 30.0),
    ],
)  # fmt: skip
def test_a_metric_has_the_same_names_in_a_header_as_in_a_cell(
    header: str, cell: str, metric: str, value: float, tmp_path: Path
) -> None:
    found = [
        rows_of(tmp_path, f"model,gpu,input,{header}", f"Qwen3-30B-A3B,4090,128,{cell}"),
        rows_of(tmp_path, "model,gpu,input,metric,value", f"Qwen3-30B-A3B,4090,128,{header},{cell}"),
    ]
    assert [(row.metric, row.value) for (row,) in found] == [(metric, pytest.approx(value))] * 2


def test_a_metric_that_names_another_unit_than_its_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="unit"):
        rows_of(tmp_path, "model,gpu,input,metric,value,unit", "Qwen3-30B-A3B,4090,128,ttft_s,500,ms")


def test_two_columns_of_one_metric_are_no_two_rows(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_text("model,hardware,stack,tok/s,tps\ngpt-oss-120b,h100-sxm,vllm,100,100\n")
    with pytest.raises(
        InvalidFile, match=r"line 2: two columns of one metric: keep one \(of values are 'tok/s', 'tps'; call"
    ):
        read_table(path)
