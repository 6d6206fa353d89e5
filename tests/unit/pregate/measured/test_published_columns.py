"""Tables in the columns that papers and posts are noted down in: an engine in the note, a link as `4.0 x16`."""

from pathlib import Path

import pytest

from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.other_tables import RESIDENT_COLUMNS
from pregate.measured.rows.table import read_table
from pregate.measured.table_prediction import predict_table
from pregate.spellings.host_memory import host_and_numbers
from traces.errors import PregateError, UnknownName

HEADER = (
    "source,url_or_repo_path,model,gpu,host,pcie,policy,batch,in_len,out_len,dtype,metric,value,unit,confidence,notes"
)
CELLS = {
    "source": "a post", "url_or_repo_path": "x", "model": "Qwen3-30B-A3B", "gpu": "RTX 4090", "host": "Ryzen 9 7950X",
    "pcie": "4.0 x16", "policy": "all experts on the CPU", "batch": "1", "in_len": "512", "out_len": "128",
    "dtype": "Q4_K_M", "metric": "decode throughput", "value": "38", "unit": "tokens/s", "confidence": "high",
    "notes": "llama.cpp b6000",
}  # fmt: skip


def table(folder: Path, *changes: dict[str, str]) -> list[MeasuredRow]:
    path = folder / "rows.csv"
    lines = [",".join(f'"{cell}"' for cell in (CELLS | change).values()) for change in changes]
    path.write_text("\n".join([HEADER, *lines]))
    return read_table(path)


def one(folder: Path, **change: str) -> MeasuredRow:
    return table(folder, change)[0]


def test_a_published_table_is_read_column_by_column(tmp_path: Path) -> None:
    row = one(tmp_path)
    assert (row.hardware, row.host, row.link, row.stack) == ("rtx-4090", "ryzen-7950x", "pcie4-x16", "llama-cpp-2025")
    assert (row.placement, row.input_tokens, row.output_tokens, row.value) == ("experts=cpu", 512, 128, 38)
    assert "confidence high" in row.note
    assert "stack llama-cpp by its note" in row.note
    assert "stack llama-cpp-2025, of build 6000" in row.note
    assert not row.reason


@pytest.mark.parametrize(
    ("change", "stack", "step"),
    [
        ({"notes": "llama.cpp"}, "llama-cpp", ""),
        ({"notes": "llama.cpp b9000"}, "llama-cpp", ""),
        ({"notes": "llama.cpp, October 2025"}, "llama-cpp-late-2025", ""),
        ({"notes": "llama.cpp", "source": "https://github.com/ggml-org/llama.cpp/pull/15157"}, "llama-cpp-2025", ""),
        ({"notes": "vLLM 0.9.1", "policy": "", "dtype": "fp8"}, "vllm", "1ms"),
        ({"notes": "vLLM v0.14.0", "policy": "", "dtype": "fp8"}, "vllm", ""),
        ({"notes": "SGLang 0.4", "policy": "", "dtype": "fp8"}, "vllm", ""),
    ],
)
def test_a_release_that_a_row_names_is_the_one_that_ran(
    change: dict[str, str], stack: str, step: str, tmp_path: Path
) -> None:
    row = one(tmp_path, **change)
    assert (row.stack, row.overrides.get("stack.step_s", "")) == (stack, step)
    assert (f"stack {stack}, of" in row.note) == (stack not in ("llama-cpp", "vllm"))


@pytest.mark.parametrize(
    ("written", "link"),
    [("4.0 x16", "pcie4-x16"), ("5.0 x8", "pcie5-x8"), ("3.0", "pcie3-x16"), ("4.0 x16 (presumed)", "pcie4-x16")],
)
def test_a_link_is_a_generation_and_lanes(written: str, link: str, tmp_path: Path) -> None:
    assert one(tmp_path, pcie=written).link == link


@pytest.mark.parametrize(
    ("change", "stack", "policy"),
    [
        ({"notes": "", "policy": "vLLM --cpu-offload-gb 20", "dtype": "fp8"}, "vllm", "gpu_only@experts=zerocopy"),
        ({"notes": "", "source": "ik_llama.cpp disc. 7"}, "ik-llama", "gpu_only"),
        ({"notes": "llama.cpp", "policy": "-ot exps=CPU: all routed experts on the CPU"}, "llama-cpp", "gpu_only@exp"),
        ({"notes": "llama.cpp, 2x faster than vLLM"}, "llama-cpp", "gpu_only"),
    ],
)
def test_the_engine_stands_in_policy_note_or_source(
    change: dict[str, str], stack: str, policy: str, tmp_path: Path
) -> None:
    row = one(tmp_path, **change)
    assert row.stack == stack
    assert row.policy.startswith(policy)


def test_two_engines_of_a_note_are_told_of(tmp_path: Path) -> None:
    assert "note names ik-llama and llama-cpp: put the engine" in one(tmp_path, notes="llama.cpp, ik_llama.cpp").reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"metric": "prediction accuracy"}, "unknown metric 'prediction accuracy'"),
        ({"in_len": "OpenAssistant"}, "input_tokens 'OpenAssistant' is not a whole number"),
        ({"batch": "a few"}, "batch 'a few' is not a whole number"),
        ({"metric": "decode (ms)"}, "has the unit"),
    ],
)
def test_a_row_that_is_not_read_leaves_the_others(change: dict[str, str], why: str, tmp_path: Path) -> None:
    rows = table(tmp_path, {}, change)
    assert not rows[0].reason
    assert why in rows[1].reason
    assert predict_table(rows, explained=False).rows[0].predicted > 0
    with pytest.raises((UnknownName, PregateError), match=why.split("(")[0]):
        table(tmp_path, change)


def test_no_tokens_before_an_answer_are_none(tmp_path: Path) -> None:
    assert one(tmp_path, in_len="0").input_tokens == 1
    assert table(tmp_path, {}, {"in_len": "0", "metric": "prefill throughput"})[1].reason.startswith("input_tokens '0'")


@pytest.mark.parametrize(
    ("metric", "ours"),
    [
        ("generation throughput (prefill+decode)", "tokens_per_s"),
        ("aggregate throughput", "tokens_per_s"),
        ("pp512 tokens/s", "prefill_tokens_per_s"),
    ],
)
def test_rates_by_other_names(metric: str, ours: str, tmp_path: Path) -> None:
    assert one(tmp_path, metric=metric).metric == ours


@pytest.mark.parametrize("metric", ["latency", "total time", "wall time"])
def test_a_time_of_no_one_knows_what_is_a_reason(metric: str, tmp_path: Path) -> None:
    assert "no metric that is predicted" in one(tmp_path, metric=metric, unit="s").reason


@pytest.mark.parametrize(
    ("written", "stored"),
    [("IQ3_K mix (106.8 GiB, 3.903 bpw)", "all=106.8GiB"), ("UD-Q2_K_XL (212 GiB)", "all=212GiB")],
)
def test_a_file_by_its_size(written: str, stored: str, tmp_path: Path) -> None:
    assert one(tmp_path, dtype=written).formats == stored


@pytest.mark.parametrize(
    ("written", "model"),
    [("DeepSeek-R1-0528 671B", "deepseek-r1-0528"), ("DeepSeek-V3-0324 671B", "deepseek-v3-0324"),
     ("Llama-4-Scout 109B", "llama-4-scout"), ("Llama-4-Scout 70B", "Llama-4-Scout 70B")],
)  # fmt: skip
def test_a_model_by_its_size_too(written: str, model: str, tmp_path: Path) -> None:
    assert one(tmp_path, model=written).model == model


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("EPYC 7302P, DDR4-3200 (4 of 8 channels)", "epyc-7302:4x3200"),
        ("EPYC 9334, DDR5-4800 8 of 12 channels", "epyc-9334:8x4800"),
        ("EPYC 9334 8 of 12 channels DDR5-4800", "epyc-9334:8x4800"),
        ("EPYC 9334, DDR5-4800, 8/12 channels populated", "epyc-9334:8x4800"),
        ("Threadripper 3970X quad channel DDR4-3200", "threadripper-3970x:4x3200"),
        ("Threadripper PRO 7975WX 32c, 768 GB 8x DDR5-5600", "threadripper-pro-7975wx:8x5600"),
    ],
)
def test_channels_that_hold_memory_are_those_that_are_read(written: str, host: str, tmp_path: Path) -> None:
    assert one(tmp_path, host=written).host == host
    assert host_and_numbers(written)[0] == host


def test_commas_of_two_kinds_part_no_lengths(tmp_path: Path) -> None:
    path = tmp_path / "served.csv"
    head = "model,gpu,engine,quant,lengths,concurrency,metric,value"
    path.write_text(f'{head}\nQwen3-30B-A3B,H100,vllm,fp8,"1,024,128",8,output tok/s,900\n')
    assert "lengths '1,024,128': which comma parts two counts" in read_table(path)[0].reason


def test_layers_as_engines_print_them(tmp_path: Path) -> None:
    for policy in ("33/49 layers offloaded", "offloaded 33/49 layers to GPU"):
        assert one(tmp_path, policy=policy, notes="llama.cpp b9000").policy == "gpu_only@layers=cpu:16"
        assert one(tmp_path, policy=policy).policy == "gpu_only@layers=cpu:15"  # the output was no layer of -ngl
    assert one(tmp_path, policy="experts of 30 of 48 layers on the CPU").placement == "experts=cpu:30"
    assert one(tmp_path, policy="30/48 layers on the CPU").placement == "layers=cpu:30"


def test_columns_of_flags_b_and_tp(tmp_path: Path) -> None:
    path = tmp_path / "flags.csv"
    path.write_text(
        "model,gpu,engine,quant,tensor_parallel,metric,value\nQwen3-235B-A22B,8x H100,vLLM,FP8,8,decode,90\n"
    )
    (row,) = read_table(path)
    assert "accelerator.n_cards=8" in row.set
    path.write_text("model,gpu,engine,quant,ngl,ub,b,tg128\nQwen3-30B-A3B,RTX 4090,llama.cpp,Q4_K_M,99,512,2048,150\n")
    assert read_table(path)[0].batch == 1


def test_decode_steps_of_resident_engines_are_read_by_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    rows = ["x,vllm,qwen3-30b-a3b,h100-sxm,fp8,8,16,16,1024.0,9.0,1777,decode,",
            "x,llama.cpp,qwen3-30b-a3b,rtx-4090,Q4_0,4.5,4.5,2,1024.0,9.45,211.62,microbatch,pp4096"]  # fmt: skip
    path.write_text("\n".join([",".join(RESIDENT_COLUMNS), *rows]))
    step, part = read_table(path)
    assert (step.batch, step.context_tokens, step.metric, step.value) == (16, 1024, "decode_tokens_per_s", 1777)
    assert (part.batch, part.context_tokens, part.metric) == (2, 2048, "microbatch_tokens_per_s")


def test_a_card_that_is_not_used_and_lanes_before_their_generation(tmp_path: Path) -> None:
    assert one(tmp_path, policy="CPU only").placement == "layers=cpu@stream=never"
    row = one(tmp_path, gpu="RTX 4090 (4x PCIe 3.0)", pcie="")
    assert (row.hardware, row.link) == ("rtx-4090", "pcie3-x4")
    assert one(tmp_path, gpu="2x RTX 3090", pcie="").set.startswith("accelerator.hbm_bytes")


def test_a_word_of_a_rate_alone_beside_that_rate_is_a_length(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    head = "model,gpu,cpu,engine,quant,n_cpu_moe,pp t/s,tg t/s,prompt,gen"
    path.write_text(f"{head}\nQwen3-30B-A3B,RTX 4090,7950X,llama.cpp,Q4_K_M,20,1500,60,2048,256\n")
    prompt, answer = read_table(path)
    assert (prompt.metric, prompt.value, prompt.input_tokens) == ("prefill_tokens_per_s", 1500, 2048)
    assert (answer.metric, answer.value, answer.output_tokens) == ("decode_tokens_per_s", 60, 256)
    path.write_text("model,gpu,engine,quant,gen\nQwen3-30B-A3B,RTX 4090,llama.cpp,Q4_K_M,150\n")
    assert read_table(path)[0].metric == "decode_tokens_per_s"
