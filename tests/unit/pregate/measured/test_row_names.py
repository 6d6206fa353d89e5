"""Rows as others write them: names in other letters, several cards, flags of engines."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from pregate.engines.reading import told_of_flags
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.row_names import with_our_names
from pregate.measured.rows.table import read_table
from pregate.named import load_model
from pregate.spellings import names
from tests.command_line import Run, runner
from traces.errors import InvalidInput
from traces.model.architecture import architecture_names, load_architecture
from traces.model.formats_by_part import parse_formats
from traces.model.same_models import SAME_AS

HEADER = "model,hardware,host,formats,policy,stack,batch,input_tokens,output_tokens,metric,value,unit,set\n"


def table(folder: Path, *rows: str) -> Path:
    path = folder / "mine.csv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def test_names_in_other_letters_are_ours(tmp_path: Path) -> None:
    design = "all=q4_k_m,gpu_only@experts=cpu"
    mine, ours = read_table(
        table(
            tmp_path,
            f"Qwen3-30B-A3B,NVIDIA GeForce RTX 4090,EPYC 9355,{design},llama.cpp,1,1,8,Decode throughput,40,Tok/s,",
            f"qwen3-30b-a3b,rtx-4090,epyc-9355,{design},llama-cpp,1,1,8,decode_tokens_per_s,40,tokens/s,",
        )
    )
    for name in ("model", "hardware", "host", "stack", "metric", "value", "unit"):
        assert getattr(mine, name) == getattr(ours, name)
    bench = RowBench()
    assert bench.predict(mine) == bench.predict(ours)


def test_a_name_is_looked_up_among_those_that_are_known_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was found before is of that column, of the names that were known, and of what is no file."""
    written = "Mixtral 8x7B"
    assert names.our_name("model", written) == "mixtral-8x7b"
    assert names.our_name("stack", written) == names.our_name("host", written) == written
    with monkeypatch.context() as patch:
        patch.setattr(names, "KNOWN", {**names.KNOWN, "model": lambda: ("mixtral-8x22b",)})
        assert names.our_name("model", written) == written
    assert names.our_name("model", written) == "mixtral-8x7b"
    (tmp_path / written).touch()
    monkeypatch.chdir(tmp_path)
    assert names.our_name("model", written) == written


def test_what_is_no_name_of_ours_stays_and_is_told_of(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, "qwen3-30b-a3b,RTX 6090,,,gpu_only,,1,1,8,tpot,9,milliseconds,"))
    assert (row.hardware, row.value) == ("RTX 6090", pytest.approx(9e-3))
    with pytest.raises(InvalidInput, match="unknown hardware 'RTX 6090'"):
        RowBench().predict(row)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("qwen3-30b-a3b,2x RTX 3090,,,gpu_only,,1,1,8,tpot,9,ms,", "a row is of one card.*rtx-3090, and set accel"),
        (
            "qwen3-30b-a3b,RTX 3090 \u00d7 4,,,gpu_only,streams,1,1,8,tpot,9,ms,",
            "a row is of one card.*rtx-3090, and set accel",
        ),
        ("qwen3-30b-a3b,RTX 3090 + RTX 3060,,,gpu_only,llama.cpp,1,1,8,tpot,9,ms,", "that differ"),
        (
            "qwen3-30b-a3b,2x RTX 3090,,,-ngl 99 -sm row,llama.cpp,1,1,8,tpot,9,ms,",
            "cards that share dense matrices by rows",
        ),
        (
            "qwen3-30b-a3b,Intel Arc B580,,,gpu_only,llama.cpp,1,1,8,tpot,9,ms,",
            "no constants of SYCL or Vulkan are known here",
        ),
        ("mixtral-8x7b; qwen3-30b-a3b,rtx-3090,,,gpu_only,,1,1,8,tpot,9,ms,", "a row is of one model"),
        ("qwen3-30b-a3b,CPU,,,gpu_only,,1,1,8,tpot,9,ms,", "a row is of a card.*gpu_only@layers=cpu"),
        ("qwen3-30b-a3b,rtx-3090,,,gpu_only,,1,1,8,tpot,9,ms,expert_tier=ssd", "is a column of its own"),
    ],
)
def test_what_is_said_in_the_wrong_place_names_the_right_one(
    row: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path, row, "qwen3-30b-a3b,rtx-4090,,all=q4_k_m,gpu_only,,1,1,8,tpot,9,ms,link=pcie4-x8")
    command: Run = runner(monkeypatch, capsys)
    status, shown, _ = command("reproduce", str(path), "--format", "json")
    assert status == 0
    left_out, predicted = json.loads(shown)["rows"]
    assert left_out["predicted"] is None
    assert predicted["predicted"] is not None
    assert re.search(told, left_out["reason"])


@pytest.mark.parametrize(
    "machine",
    [
        "none,EPYC 9654",
        "CPU only,epyc-9654",
        "EPYC 9654,",
        "no GPU,EPYC 9654 12ch DDR5-4800",
        "EPYC 9654 12ch DDR5-4800,",
    ],
)
@pytest.mark.parametrize("policy", ["", "gpu_only", "-ngl 99 -fa 1 -ot exps=CPU"])
@pytest.mark.parametrize("stack", ["llama.cpp", "ik_llama.cpp"])
def test_a_row_of_no_card_is_computed_by_its_processor(machine: str, policy: str, stack: str, tmp_path: Path) -> None:
    asked = f"qwen3-30b-a3b,{machine},all=q4_k_m,{policy},{stack},1,512,8"
    rows = read_table(table(tmp_path, f"{asked},tg128,9,,", f"{asked},pp512,9,,"))
    for row in rows:
        assert (row.policy, row.host.partition(":")[0], row.set) == (
            "gpu_only@layers=cpu@stream=never",
            "epyc-9654",
            "",
        )
    decode, prompt = rows
    bench = RowBench()
    hw, model = bench.platform(decode), bench.model(decode)
    n_bytes = model.non_expert_bytes + model.top_k * len(model.decoder.moe_layers) * model.expert_bytes
    read_s = n_bytes / (hw.machine.host.dram_bytes_per_s * hw.constant("cpu_efficiency"))
    assert 0.9 * read_s < 1 / bench.predict(decode) < 2.5 * read_s
    if stack == "llama.cpp":  # a prompt beside a card is streamed to it
        beside = f"qwen3-30b-a3b,rtx-4090,EPYC 9654,all=q4_k_m,gpu_only@layers=cpu,{stack},1,512,8,pp512,9,,"
        (streamed,) = read_table(table(tmp_path, beside))
        assert bench.predict(streamed) != pytest.approx(bench.predict(prompt), rel=0.1)


@pytest.mark.parametrize(
    "row",
    [
        "qwen3-30b-a3b,none,,,gpu_only,llama.cpp,1,1,8,tpot,9,ms,",
        "qwen3-30b-a3b,none,epyc-9654,,,vllm,1,1,8,tpot,9,ms,",
    ],
)
def test_no_card_and_no_processor_or_an_engine_that_needs_a_card_is_told(row: str, tmp_path: Path) -> None:
    (read,) = read_table(table(tmp_path, row))
    with pytest.raises(InvalidInput, match="hardware is none and the processor host, of stacks llama-cpp and ik-llama"):
        RowBench().predict(read)


def test_a_model_by_another_name_has_the_architecture_that_it_shares() -> None:
    assert set(SAME_AS.values()) <= set(architecture_names())
    assert not set(SAME_AS) & set(architecture_names())
    shared = dataclasses.replace(load_architecture("deepseek-v3"), trained_context=0)  # not known to be its own
    assert load_architecture("deepseek-r1-zero") == shared


@pytest.mark.parametrize(
    ("column", "written", "ours"),
    [
        ("hardware", "GeForce RTX 3060", "rtx-3060-12gb"),
        ("hardware", "RTX 4090 24GB", "rtx-4090"),
        ("hardware", "RTX 4090 48GB", "rtx-4090"),
        ("hardware", "Tesla T4", "t4"),
        ("hardware", "AMD Radeon RX 9070 XT", "rx-9070-xt"),
        ("hardware", "Tesla P40", "p40"),
        ("hardware", "Radeon 8060S", "strix-halo"),
        ("hardware", "Ryzen AI Max+ 395", "strix-halo"),
        ("hardware", "NVIDIA RTX PRO 6000 Blackwell", "rtx-pro-6000"),
        ("host", "AMD Ryzen 9 5900X", "ryzen-5900x"),
        ("host", "Ryzen Threadripper PRO 7975WX", "threadripper-pro-7975wx"),
        ("host", "Intel Core i9-13900K", "core-13900k"),
        ("host", "Core i9-13900KF", "core-13900k"),
        ("host", "12th Gen Intel(R) Core(TM) i7-12700H", "core-12700h"),
        ("host", "i9-14900HX", "core-14900hx"),
        ("host", "Core Ultra 9 275HX", "core-275hx"),
        ("host", "Ryzen 7 7840HS w/ Radeon 780M Graphics", "ryzen-7840hs"),
        ("host", "5950X", "ryzen-5950x"),
        ("host", "EPYC 7B13", "epyc-7b13"),
        ("host", "Core Ultra 9 285K", "core-285k"),
        ("host", "Intel(R) Xeon(R) Gold 6330", "xeon-6330"),
        ("host", "2x EPYC 7763", "epyc-7763-2s"),
        ("host", "EPYC 9654 x 2", "epyc-9654-2s"),
        ("host", "dual Xeon Platinum 8480+", "xeon-8480+-2s"),
        ("host", "Xeon w9-3495X", "xeon-w9-3495x"),
        ("host", "Xeon E5-2680 v4", "xeon-e5-2680-v4"),
        ("host", "EPYC 7762", "EPYC 7762"),
        ("host", "AMD Ryzen 9 7950X 16-Core Processor", "ryzen-7950x"),
        ("host", "AMD EPYC 7763 64-Core Processor", "epyc-7763"),
        ("host", "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", "xeon-6330"),
        ("host", "Intel(R) Xeon(R) CPU E5-2697A v4 @ 2.60GHz", "xeon-e5-2697a-v4"),
        ("stack", "llama.cpp b6100", "llama-cpp-2025"),
        ("stack", "llama.cpp (b4567)", "llama-cpp-2023"),
        ("stack", "vLLM v0.11.0", "vllm"),
        ("stack", "llama-cpp-2025", "llama-cpp-2025"),
        ("host", "w9-3495X", "xeon-w9-3495x"),
        ("host", "W-2295", "xeon-w-2295"),
        ("host", "Core i9-10980XE", "core-10980xe"),
        ("host", "2x EPYC 7551", "epyc-7551-2s"),
        ("host", "AMD Ryzen 7 5700G with Radeon Graphics", "ryzen-5700g"),
        ("host", "EPYC 7402P", "epyc-7402"),
        ("hardware", "NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("hardware", "NVIDIA H100 PCIe", "h100-pcie"),
        ("hardware", "NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("hardware", "NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("hardware", "RTX 5060 Ti 16 GB", "rtx-5060-ti-16gb"),
        ("hardware", "Mac Studio M3 Ultra 512GB", "apple-m3-ultra"),
        ("hardware", "NVIDIA GB10", "dgx-spark"),
        ("hardware", "NVIDIA A100", "NVIDIA A100"),
        ("model", "Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("model", "unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M", "qwen3-30b-a3b"),
        ("model", "GLM-4.5-Air-UD-Q4_K_XL-00001-of-00002.gguf", "glm-4.5-air"),
        ("model", "nosuch/Model-7B-Q4_K_M.gguf", "nosuch/Model-7B-Q4_K_M.gguf"),
        ("formats", "UD-Q4_K_XL (17.7 GB)", "all=17.7GB"),
        ("formats", "UD-Q4_K_XL", "all=q4_k_s"),
        ("formats", "ud-iq2_m", "all=iq2_m"),
        ("formats", "17.28 GiB", "all=17.28GiB"),
        ("formats", "F16", "all=fp16"),
        ("formats", "AWQ", "all=int4-g128-zp"),
        ("stack", "LM Studio", "llama-cpp"),
        ("link", "PCIe 3.0 x4", "pcie3-x4"),
        ("link", "pcie5", "pcie5-x16"),
        ("link", "Gen4 x8", "pcie4-x8"),
        ("stack", "ik_llama.cpp", "ik-llama"),
        ("stack", "KTransformers + SGLang", "ktransformers"),
        ("stack", "kt-kernel", "ktransformers"),
        ("stack", "SGLang", "vllm"),
        ("stack", "exllama", "exllama"),
        ("formats", "Q4_K_M", "all=Q4_K_M"),
        ("formats", "experts=q4_k", "experts=q4_k"),
    ],
)
def test_names_that_people_write_are_ours(column: str, written: str, ours: str) -> None:
    assert with_our_names({column: written})[column] == ours


@pytest.mark.parametrize(
    ("model", "mix", "n_bytes", "off"),
    [
        ("qwen3-30b-a3b", "UD-Q4_K_XL", 17.7e9, 0.02),
        ("minimax-m2", "UD-Q4_K_XL", 131e9, 0.02),
        ("deepseek-v3", "UD-Q2_K_XL", 212 * 2**30, 0.02),
        ("deepseek-v3.1", "UD-Q2_K_XL", 256e9, 0.13),
        ("qwen3-30b-a3b", "UD-IQ1_S", 9_043_300_928, 0.01),
        ("qwen3-30b-a3b", "UD-IQ1_M", 9_666_859_584, 0.05),
        ("qwen3-30b-a3b", "UD-IQ2_XXS", 10_362_262_080, 0.02),
        ("deepseek-r1-0528", "UD-TQ1_0", 162e9, 0.10),
    ],
)
def test_mixes_of_unsloth_without_a_size_come_near_their_files(
    model: str, mix: str, n_bytes: float, off: float, tmp_path: Path
) -> None:
    (one,) = read_table(table(tmp_path, f"{model},rtx-4090,epyc-7402,{mix},-cmoe,llama.cpp,1,1,8,tg8,17,,"))
    loaded = load_model(one.model, formats=parse_formats(one.formats))
    assert loaded.total_bytes == pytest.approx(n_bytes, rel=off)


def test_cards_that_a_token_passes_in_turn_are_one_with_the_memory_of_both(tmp_path: Path) -> None:
    both, one = read_table(
        table(
            tmp_path,
            "glm-4.5-air,2x RTX 3090,EPYC 7402P,UD-Q4_K_XL (68.4 GB),-ngl 99 -ncmoe 30,llama.cpp,1,1,8,tg8,17,,",
            "glm-4.5-air,rtx-3090,epyc-7402,all=68.4GB,gpu_only@experts=cpu:30,llama-cpp,1,1,8,decode_tokens_per_s,17,"
            "tokens/s,accelerator.hbm_bytes=48GiB",
        )
    )
    assert both.hardware == "rtx-3090"
    bench = RowBench()
    assert bench.platform(both).machine.accelerator.hbm_bytes == bench.platform(one).machine.accelerator.hbm_bytes
    assert bench.predict(both) == bench.predict(one)


def test_rows_of_cards_that_are_told_to_share_every_layer_are_of_as_many(tmp_path: Path) -> None:
    said = "qwen3-30b-a3b,{},,all=q8_0,{},{},1,128,8,tpot,9,ms,"
    graph, tensor, layer, one, row = read_table(
        table(
            tmp_path, said.format("2x RTX 3090", "-ngl 99 -sm graph", "ik-llama"),
            said.format("2x RTX 5090", "-ngl 99 --split-mode tensor", "llama-cpp"),
            said.format("2x RTX 3090", "-ngl 99 -sm layer", "ik-llama"),
            said.format("RTX 5090", "-ngl 99 -sm graph", "ik-llama"),
            said.format("2x RTX 3090", "-ngl 99 -sm row", "llama-cpp"),
        )
    )  # fmt: skip
    assert [one.policy for one in (graph, tensor, layer, one)] == ["gpu_only@turns=1"] * 2 + ["gpu_only"] * 2
    bench = RowBench()
    assert bench.platform(graph).machine.n_cards == 2
    assert bench.predict(graph) != bench.predict(layer)
    with pytest.raises(InvalidInput):
        row.design()


def test_cards_that_share_every_layer_are_counted_by_hardware_or_by_flag(tmp_path: Path) -> None:
    said = "qwen3-30b-a3b,{},,,{},vllm,1,128,8,tpot,9,ms,"
    by_name, by_flag, by_both = read_table(
        table(
            tmp_path, said.format("4x H100 SXM", "gpu_only"), said.format("H100 SXM", "-tp 4"),
            said.format("4x H100 SXM", "-tp 4"),
        )
    )  # fmt: skip
    bench = RowBench()
    assert [bench.platform(row).machine.n_cards for row in (by_name, by_flag, by_both)] == [4, 4, 4]
    assert bench.predict(by_name) == bench.predict(by_flag) == bench.predict(by_both)
    with pytest.raises(InvalidInput, match="flags are of 2 cards together, the row has 4"):
        told_of_flags({"model": by_name.model, "policy": "-tp 2", "stack": "vllm", "set": "accelerator.n_cards=4"})


def test_flags_are_of_each_card_whether_their_number_stands_in_hardware_or_in_a_flag(tmp_path: Path) -> None:
    said = "qwen3-30b-a3b,{},,,{},vllm,1,128,8,tpot,9,ms,"
    by_name, by_flag = read_table(
        table(
            tmp_path, said.format("4x H100 SXM", "--cpu-offload-gb 4"),
            said.format("H100 SXM", "--cpu-offload-gb 4 -tp 4"),
        )
    )  # fmt: skip
    assert by_name.policy == by_flag.policy
    bench = RowBench()
    assert bench.predict(by_name) == bench.predict(by_flag)
    with pytest.raises(InvalidInput, match="flags are of 1 cards together, the row has 4"):
        told_of_flags({"model": by_name.model, "policy": "-tp 1", "stack": "vllm", "set": "accelerator.n_cards=4"})


def test_a_prompt_of_several_passes_is_of_as_many_cards_as_there_are(tmp_path: Path) -> None:
    said = "qwen3-30b-a3b,{},,all=q8_0,gpu_only,llama.cpp,1,4096,2,ttft,{},s,{}"
    both, one, short = read_table(
        table(
            tmp_path, said.format("2x RTX 3090", 9, ""), said.format("RTX 3090", 9, "accelerator.hbm_bytes=48GiB"),
            said.format("2x RTX 3090", 9, "").replace("4096", "512"),
        )
    )  # fmt: skip
    bench = RowBench()
    assert [bench.platform(row).machine.n_cards for row in (both, one, short)] == [2, 1, 1]
    assert 0.5 < bench.predict(both) / bench.predict(one) < 0.65


def test_columns_and_cells_as_others_write_them(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(
        "GPU,CPU,Model,Quant,Engine,Flags,Test,Result,Notes\n"
        "RTX 4090,Ryzen 9 7950X,unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M,,llama.cpp,-ngl 99 -ncmoe 24,tg128 @ d8192,"
        "51.2 \u00b1 0.3 t/s,mine\n"
        "RTX 4090,Ryzen 9 7950X,qwen3-30b-a3b,Q4_K_M,llama.cpp,-ngl 99 -ncmoe 24,pp512,~900,\n"
        "RTX 4090,Ryzen 9 7950X,qwen3-30b-a3b,Q4_K_M,llama.cpp,-ngl 99 -ncmoe 24,TPOT,20 ms,\n"
    )
    decode, prompt, token = read_table(path)
    assert (decode.metric, decode.value, decode.unit) == ("decode_tokens_per_s", 51.2, "tokens/s")
    assert (decode.output_tokens, decode.context_tokens, decode.formats) == (128, 8192, "all=Q4_K_M")
    assert (prompt.metric, prompt.input_tokens, prompt.value) == ("prefill_tokens_per_s", 512, 900)
    assert (token.metric, token.value) == ("tpot", pytest.approx(0.02))
