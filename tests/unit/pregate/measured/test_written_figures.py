"""Figures, metrics, placements and names in the words of strangers' tables."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.placement_words import placement_in_words
from pregate.measured.rows.row_names import with_our_names
from pregate.measured.rows.table import read_table
from pregate.measured.table_prediction import predict_table
from pregate.spellings.models import formats_as_ours, model_and_format
from traces.errors import InvalidFile, UnknownName


def row(folder: Path, **cells: str) -> MeasuredRow:
    stated = {"model": "qwen3-30b-a3b", "hardware": "rtx-4090", "metric": "tpot", "value": "1", "unit": "s"} | cells
    quoted = ",".join(f'"{cell}"' for cell in stated.values())
    (folder / "mine.csv").write_text(f"{','.join(stated)}\n{quoted}\n")
    (found,) = read_table(folder / "mine.csv")
    return found


@pytest.mark.parametrize(
    ("metric", "value", "unit", "expected"),
    [
        ("TPOT (ms)", "350", "", ("tpot", 0.35)),
        ("latency per token", "350", "ms/token", ("tpot", 0.35)),
        ("mean ITL", "12.5 ms", "", ("tpot", 0.0125)),
        ("TTFT", "1,250", "ms", ("ttft", 1.25)),
        ("decode tokens/s", "9.5", "tok/s", ("decode_tokens_per_s", 9.5)),
        ("decode (tok/s)", "9.5", "", ("decode_tokens_per_s", 9.5)),
        ("prefill", "1,250.5 tok/s", "", ("prefill_tokens_per_s", 1250.5)),
        ("prompt eval rate", "210 tokens per second", "", ("prefill_tokens_per_s", 210)),
        ("tg128", "65.2 \u00b1 0.3", "t/s", ("decode_tokens_per_s", 65.2)),
        ("tokens/s", "2.5", "", ("tokens_per_s", 2.5)),
        ("Output token throughput (tok/s)", "150", "", ("tokens_per_s", 150)),
        ("hit rate", "73 %", "", ("hit_rate", 0.73)),
        ("hit ratio", "73", "%", ("hit_rate", 0.73)),
        ("cache hit rate", "0.73", "", ("hit_rate", 0.73)),
        ("peak VRAM", "12.3", "GB", ("peak_hbm_bytes", 12.3e9)),
        ("h2d bandwidth", "25", "GB/s", ("h2d_bytes_per_s", 25e9)),
        ("pp512", "2.1k t/s", "", ("prefill_tokens_per_s", 2100)),
        ("pp512", "5.2K", "", ("prefill_tokens_per_s", 5200)),
        ("pp4k", "2.1 kt/s", "", ("prefill_tokens_per_s", 2100)),
        ("tg128 @ d16k", "95", "", ("decode_tokens_per_s", 95)),
        ("tg128", "10 ms/token", "", ("tpot", 0.01)),
        ("decode", "0.02 s/token", "", ("tpot", 0.02)),
        ("pp512", "0.35 s", "", ("ttft", 0.35)),
        ("prefill time", "2.1", "s", ("ttft", 2.1)),
        ("median ITL", "30", "ms", ("tpot", 0.03)),
        ("TPOT (ms)", "11 ms", "ms/token", ("tpot", 0.011)),
        ("TPOT (ms)", "0.011 s", "", ("tpot", 0.011)),
        ("TTFT (s)", "180 ms", "", ("ttft", 0.18)),
    ],
)
def test_figures_mean_what_they_say(
    metric: str, value: str, unit: str, expected: tuple[str, float], tmp_path: Path
) -> None:
    found = row(tmp_path, metric=metric, value=value, unit=unit)
    assert found.metric == expected[0]
    assert found.value == pytest.approx(expected[1])


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ({"metric": "hit_rate", "value": "73"}, "hit_rate '73' fraction is no fraction from 0 to 1"),
        ({"metric": "hit_rate", "value": "120 %"}, "is no fraction from 0 to 1"),
        ({"metric": "tg128", "value": "1,2,3"}, "value '1,2,3' is not a number above 0$"),
        (
            {"metric": "tg128", "value": "OOM", "role": "fit"},
            "nothing was measured, and its role 'fit' asks for a figure",
        ),
        ({"metric": "TPOT (ms)", "value": "11 t/s"}, "line 2: the value has the unit 't/s', its column or metric 'ms'"),
        ({"metric": "decode t/s", "value": "11 ms"}, "the value has the unit 'ms', its column or metric 'tokens/s'"),
    ],
)
def test_figures_that_are_none_are_refused_with_a_hint_that_is_right(
    cells: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidFile, match=told):
        row(tmp_path, **cells | {"unit": ""})


@pytest.mark.parametrize(
    "value",
    [
        *("OOM", "oom (24 GB)", "CUDA out of memory", "n/a", "N/A (see 3.2)", "nan", "-", "", "DNF", "failed"),
        *("timeout after 600 s", "12-15", "<5", ">= 20", "3 to 4"),
    ],
)
def test_a_cell_without_a_figure_is_its_row_s_reason_and_no_table_s(value: str, tmp_path: Path) -> None:
    text = f"model,hardware,metric,value\nm,rtx-4090,tg128,{value}\nm,rtx-4090,tg128,31.5\n"
    path = tmp_path / "t.csv"
    path.write_text(text)
    without, measured = read_table(path)
    assert without.reason.startswith(f"value {value!r}")
    assert math.isnan(without.value)
    assert (measured.value, measured.reason) == (31.5, "")


def test_what_did_not_run_is_told_in_a_table_of_a_column_a_metric_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("model,hardware,decode t/s,TTFT (ms)\nm,rtx-4090,OOM,-\nm,rtx-3090,31.5,0.5 s\n")
    first, second, third = read_table(path)
    assert (first.metric, first.reason) == ("decode_tokens_per_s", "value 'OOM': nothing was measured")
    assert (second.metric, second.value, second.reason) == ("decode_tokens_per_s", 31.5, "")
    assert (third.metric, third.value) == ("ttft", 0.5)


def test_a_row_without_a_figure_goes_through_every_form_of_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("model,hardware,formats,metric,value\nmixtral-8x7b,rtx-4090,all=q4_k_m,tg128,OOM\n")
    found = predict_table(read_table(path))
    (one,) = json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"]
    assert (one["value"], one["predicted"]) == (None, None)
    (again,) = csv.DictReader(io.StringIO(found.to_csv()))
    assert (again["value"], again["predicted"], again["reason"]) == ("", "", one["reason"])
    assert not found.scores()


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("tg128", "10 ms"),
        ("decode", "5700 tok/min"),
        ("pp512", "3 ms/token"),
        ("prompt eval time", "3 ms per token"),  # of one of the prompt's
        ("TTFT (ms/token)", "3"),
    ],
)
def test_a_unit_beside_a_value_is_never_passed_over(metric: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown unit"):
        row(tmp_path, metric=metric, value=value, unit="")


@pytest.mark.parametrize(
    ("metric", "instead"),
    [
        ("Std TTFT", "percentiles 50, 90, 95 and 99"),
        ("tokens/s/user", "1 over it, as tpot"),
        ("output throughput per gpu", "state that of all cards"),
        ("Input token throughput", "or all tokens a second"),
        ("speedup", "or all tokens a second"),
    ],
)
def test_a_metric_of_something_else_is_a_reason_and_no_error(metric: str, instead: str, tmp_path: Path) -> None:
    assert instead in row(tmp_path, metric=metric, value="30", unit="").reason


def test_columns_of_a_server_benchmark_are_rows_each(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "Model,GPU,Engine,Quant,Input,Output,Concurrency,Mean TTFT (ms),P99 TPOT (ms),Throughput (tok/s),tok/s/gpu\n"
        "Qwen3-30B-A3B-FP8,H100,vllm,fp8,1k,1k,16,120,11,1400,1400\n"
    )
    found = read_table(tmp_path / "mine.csv")
    assert [(one.metric, one.value, bool(one.reason)) for one in found] == [
        ("ttft", pytest.approx(0.12), False),
        ("tpot_p99", pytest.approx(0.011), False),
        ("tokens_per_s", 1400, False),
        ("tok/s/gpu", 1400, True),
    ]


def test_what_stands_beside_a_measurement_is_a_note(tmp_path: Path) -> None:
    found = row(tmp_path, note="mine", date="2025-11-02", driver="580.95", commit="")
    assert found.note == "mine; date 2025-11-02; driver 580.95"


@pytest.mark.parametrize("metric", ["prefill", "ttft"])
def test_a_prompt_of_no_stated_length_is_not_predicted(metric: str, tmp_path: Path) -> None:
    found = row(tmp_path, metric=metric, value="3", unit="s" if metric == "ttft" else "t/s")
    assert "input_tokens is empty" in found.reason
    (predicted,) = predict_table([found], cache_dir=False, explained=False).to_dict()["rows"]
    assert predicted["predicted"] is None
    assert not row(tmp_path, metric="ttft", input_tokens="1").reason


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("experts on CPU", "experts=cpu"),
        ("attention + shared experts on GPU, routed experts on CPU", "experts=cpu"),
        ("experts on the host, rest on GPU", "experts=cpu"),
        ("experts offloaded to CPU", "experts=cpu"),
        ("20 layers of experts on CPU", "experts=cpu:20"),
        ("experts of 20 layers on CPU", "experts=cpu:20"),
        ("10 layers on CPU", "layers=cpu:10"),
        ("all on GPU", ""),
        ("experts=cpu:18", "experts=cpu:18"),
        ("half of the experts on CPU", "half of the experts on CPU"),
        ("attention on CPU, experts on GPU", "attention on CPU, experts on GPU"),
    ],
)
def test_placements_are_read_in_words_that_leave_nothing_open(words: str, ours: str) -> None:
    assert placement_in_words(words) == ours


@pytest.mark.parametrize(("words", "ours"), [("all in VRAM", ""), ("experts on CPU", "experts=cpu"), ("gpu_only", "")])
def test_a_placement_in_words_may_stand_where_a_policy_does(words: str, ours: str, tmp_path: Path) -> None:
    found = row(tmp_path, policy=words)
    assert (found.policy, found.placement) == ("gpu_only", ours)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("i9-13900K, 64GB DDR5-5600", "core-13900k:5600"),
        ("Ryzen 9 7950X (DDR5-6000 dual channel)", "ryzen-7950x:2x6000"),
        ("EPYC 7763, 8ch DDR4-3200", "epyc-7763:8x3200"),
        ("2x Xeon Gold 6330 w/ 512GB RAM", "xeon-6330-2s"),
        ("EPYC 7402P 2x DDR4-2933", "epyc-7402:2x2933"),
        ("TR 7970X 4ch DDR5-5200", "threadripper-7970x:4x5200"),
        ("E5-2690v4, 4ch DDR4-2400", "xeon-e5-2690-v4:4x2400"),
        ("EPYC 9654 (2 sockets)", "epyc-9654-2s"),
        ("dual-socket EPYC 9654", "epyc-9654-2s"),
    ],
)
def test_memory_may_stand_beside_its_host(host: str, expected: str, tmp_path: Path) -> None:
    found = row(tmp_path, host=host)
    assert found.host == expected
    assert RowBench().platform(found).machine.host.name == expected


@pytest.mark.parametrize(
    ("called", "ours"),
    [
        ("Qwen 3 30B A3B", "qwen3-30b-a3b"),
        ("Qwen3:30b", "qwen3-30b-a3b"),
        ("Qwen3.5-35B", "qwen3.5-35b-a3b"),
        ("gemma4:26b", "gemma-4-26b-a4b"),
        ("qwen3:8b", ""),
        ("gemma4:31b", ""),
        ("phi-3.5", ""),
        ("qwen3-coder", ""),
    ],
)
def test_models_are_found_by_their_size_where_that_tells_them(called: str, ours: str) -> None:
    assert model_and_format(called)[0] == ours


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("w4a16", "all=int4-g128"),
        ("fp8_e4m3", "all=fp8"),
        ("bfloat16", "all=bf16"),
        ("Q4", "all=q4_k_m"),
        ("FP4", "all=nvfp4"),
        ("Q4_K_M (imatrix)", "all=Q4_K_M"),
    ],
)
def test_formats_have_other_names(text: str, ours: str) -> None:
    assert formats_as_ours(text, "vllm") == ours
    assert with_our_names({"hardware": "rtx-4090", "formats": text, "stack": "vllm"})["formats"] == ours
