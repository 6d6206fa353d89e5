"""Result files of engines' benchmarks: what they hold is read, and what they lack is asked for in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import read_table
from traces.errors import InvalidFile

SERVED: dict[str, Any] = {
    "backend": "vllm", "model_id": "Qwen/Qwen3-30B-A3B", "num_prompts": 4, "request_rate": "inf", "max_concurrency": 1,
    "duration": 12.3, "completed": 4, "total_input_tokens": 4096, "total_output_tokens": 512, "input_lens": [1024],
    "request_throughput": 0.8, "output_throughput": 103.7, "mean_ttft_ms": 150.2, "mean_tpot_ms": 12.3,
}  # fmt: skip
BATCHED: dict[str, Any] = {
    "n_kv_max": 8192, "n_batch": 2048, "n_ubatch": 256, "flash_attn": 1, "is_pp_shared": 0, "n_gpu_layers": 99,
    "n_threads": 8, "pp": 512, "tg": 128, "pl": 4, "n_kv": 2560, "t_pp": 0.5, "speed_pp": 4096.0, "t_tg": 1.6,
    "speed_tg": 320.0, "t": 2.1, "speed": 1219.0,
}  # fmt: skip
SERVED_32 = SERVED | {
    "hardware": "h100-sxm", "max_concurrency": 8, "num_prompts": 32, "completed": 32, "total_input_tokens": 32 * 1024,
    "total_output_tokens": 32 * 128,
}  # fmt: skip
SERVED_32.pop("input_lens")
MODEL_AND_CARD = {"model": "qwen3-30b-a3b", "hardware": "rtx-4090", "formats": "all=q4_k_m"}


def written(tmp_path: Path, found: Any, name: str = "mine.json") -> Path:
    path = tmp_path / name
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return path


def by_metric(path: Path) -> dict[str, MeasuredRow]:
    rows = read_table(path)
    found = {row.metric: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_serving_benchmark_of_one_request_at_a_time_is_its_mean_times(tmp_path: Path) -> None:
    found = by_metric(written(tmp_path, SERVED | {"hardware": "h100-sxm"}))
    assert {metric: row.value for metric, row in found.items()} == {
        "tpot": pytest.approx(0.0123), "ttft": 0.1502, "tokens_per_s": 103.7,
    }  # fmt: skip
    for row in found.values():
        assert (row.model, row.stack, row.batch, row.input_tokens, row.output_tokens, row.load) == (
            "qwen3-30b-a3b", "vllm", 1, 1024, 128, "",
        )  # fmt: skip
        assert not row.reason


@pytest.mark.parametrize(
    ("theirs", "batch", "load"),
    [
        ({"max_concurrency": 8}, 8, "requests=32"),
        ({"max_concurrency": "8", "policy": "--max-num-seqs 4"}, 8, "requests=32;slots=4"),
        ({"max_concurrency": None}, 32, "requests=32"),
        ({"max_concurrency": None, "request_rate": 2.5, "burstiness": 1.0}, 32, "requests=32;rate=2.5"),
        ({"max_concurrency": 8, "request_rate": float("inf"), "backend": "sglang"}, 8, "requests=32;prompts=alone"),
        ({"max_concurrency": 8, "input_lens": [*range(512, 1537)]}, 8, "requests=32;lengths=0.5-1.5"),
        ({"max_concurrency": 8, "input_lens": [900] * 60 + [1700] * 4}, 8, "requests=32;lengths=0.647-1.35"),
        ({"max_concurrency": 8, "input_lens": [64, 128, 8000]}, 8, "requests=32;lengths=0-2"),  # no even law is wider
        ({"max_concurrency": 8, "input_lens": [0, 0]}, 8, "requests=32"),
        ({"max_concurrency": 8, "input_lens": [1024, 1024]}, 8, "requests=32"),
        (
            {"max_concurrency": 8, "backend": "sglang", "dataset_name": "random", "random_range_ratio": 0.0,
             "input_lens": [*range(1, 1000)]},
            8, "requests=32;lengths=0-2;prompts=alone",
        ),
        (
            {"max_concurrency": 8, "backend": "sglang", "dataset_name": "random", "random_range_ratio": 0.25},
            8, "requests=32;lengths=0.4-1.6;prompts=alone",
        ),
        (
            {"max_concurrency": 8, "backend": "sglang", "dataset_name": "sharegpt", "random_range_ratio": 0.0},
            8, "requests=32;prompts=alone",
        ),
    ],
)  # fmt: skip
def test_requests_that_come_and_go_are_a_load(tmp_path: Path, theirs: dict[str, Any], batch: int, load: str) -> None:
    found = by_metric(written(tmp_path, SERVED_32 | theirs))
    for row in found.values():
        assert (row.reason, row.batch, row.load) == ("", batch, load)
        assert (row.input_tokens, row.output_tokens) == (1024, 128)


def test_every_mean_and_percentile_of_a_serving_benchmark_that_is_predicted_is_a_row(tmp_path: Path) -> None:
    theirs: dict[str, Any] = {
        "median_ttft_ms": 140.0, "p99_ttft_ms": 300.0, "p25_ttft_ms": 100.0, "std_tpot_ms": 1.0, "mean_itl_ms": 12.3,
        "p95_tpot_ms": 13.0, "mean_e2el_ms": 1700.0, "p50_ttft_ms": 140.0,
    }  # fmt: skip
    found = by_metric(written(tmp_path, SERVED_32 | theirs))
    told = {
        "tokens_per_s": 103.7, "ttft": 0.1502, "tpot": 0.0123, "ttft_p50": 0.14, "ttft_p99": 0.3, "tpot_p95": 0.013,
        "e2el": 1.7,
    }  # fmt: skip
    assert {metric: row.value for metric, row in found.items()} == pytest.approx(told)
    sglang = by_metric(written(tmp_path, SERVED_32 | {"mean_e2e_latency_ms": 1700.0, "p90_e2e_latency_ms": 2000.0}))
    assert (sglang["e2el"].value, sglang["e2el_p90"].value) == (1.7, 2.0)


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({"request_rate": 2.5, "burstiness": 0.5}, "burstiness 0.5"),
        ({"ramp_up_strategy": "linear"}, "ramp_up_strategy linear"),
        ({"failed": 3}, "3 requests failed"),
        ({"input_lens": ["a", "b"]}, "lengths"),
        ({"input_lens": [512, None]}, "lengths"),
        ({"input_lens": [512, 10**400]}, "lengths"),
        ({"dataset_name": "random", "random_range_ratio": -1}, "lengths 'random_range_ratio -1'"),
        ({"accept_length": 2.7}, "accept_length 2.7: a draft's tokens were verified together"),
        ({"spec_decode_acceptance_length": 1.9, "spec_decode_num_drafts": 12}, "spec_decode_acceptance_length 1.9"),
    ],
)
def test_traffic_that_is_not_simulated_is_the_reason(tmp_path: Path, theirs: dict[str, Any], told: str) -> None:
    for row in read_table(written(tmp_path, SERVED_32 | theirs)):
        assert told in row.reason
        assert not row.load


def test_a_serving_benchmark_of_several_at_once_is_predicted(tmp_path: Path) -> None:
    few = SERVED_32 | {"completed": 4, "num_prompts": 4, "total_input_tokens": 256, "total_output_tokens": 32}
    rows = [row for row in read_table(written(tmp_path, few | {"max_concurrency": 2})) if row.metric == "tpot"]
    alone = [row for row in read_table(written(tmp_path, few | {"max_concurrency": 1})) if row.metric == "tpot"]
    bench = RowBench()
    assert bench.predict(rows[0]) > bench.predict(alone[0]) > 0


def test_a_batched_benchmark_is_a_row_of_prompts_and_one_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    shared = BATCHED | {"is_pp_shared": 1}
    path.write_text("".join(json.dumps(MODEL_AND_CARD | one) + "\n" for one in (BATCHED, shared)), encoding="utf-8")
    prompts, answers, of_one, _ = read_table(path)
    assert (prompts.metric, prompts.batch, prompts.input_tokens, prompts.value) == (
        "prefill_tokens_per_s",
        4,
        512,
        4096,
    )
    assert (answers.metric, answers.batch, answers.output_tokens, answers.value) == ("decode_tokens_per_s", 4, 128, 320)
    assert (answers.formats, answers.stack, answers.is_of_random_tokens) == ("all=q4_k_m", "llama-cpp", True)
    assert "ubatch=256" in prompts.policy
    assert of_one.batch == 1


def test_a_batched_benchmark_in_markdown_is_read_with_its_card(tmp_path: Path) -> None:
    text = (
        "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s | Model | Hardware |\n"
        "|-------|--------|------|--------|----------|----------|----------|----------|-------|----------|\n"
        "|   512 |    128 |    4 |   2560 |    0.500 |  4096.00 |    1.600 |   320.00 | qwen3-30b-a3b | rtx-4090 |\n"
    )
    _, answers = read_table(written(tmp_path, text, "mine.md"))
    assert (answers.batch, answers.input_tokens, answers.value) == (4, 512, 320)


def test_one_batch_of_sglang_is_read(tmp_path: Path) -> None:
    one = {
        "run_name": "a", "batch_size": 4, "input_len": 1024, "output_len": 16, "prefill_latency": 0.1,
        "prefill_throughput": 40960.0, "median_decode_throughput": 650.0,
    }  # fmt: skip
    prompts, answers = read_table(written(tmp_path, MODEL_AND_CARD | one))
    assert (prompts.batch, prompts.input_tokens, prompts.value, answers.value) == (4, 1024, 40960, 650)
    assert prompts.stack == "vllm"  # SGLang's constants are vLLM's


def test_what_llama_bench_inserts_into_a_database_is_read(tmp_path: Path) -> None:
    columns = "build_commit, cpu_info, gpu_info, backends, model_type, n_prompt, n_gen, n_depth, avg_ts"
    text = "CREATE TABLE IF NOT EXISTS llama_bench (\n  avg_ts REAL\n);\n\n" + "".join(
        f"INSERT INTO llama_bench ({columns}) VALUES ('b1', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX "
        f"4090', 'CUDA', 'qwen3moe 30B.A3B Q4_K - Medium', '{n_prompt}', '{n_gen}', '0', '{rate}');\n"
        for n_prompt, n_gen, rate in ((512, 0, 6000.1), (0, 128, 200.1))
    )
    prompts, answers = read_table(written(tmp_path, text, "bench.sql"))
    assert (prompts.hardware, prompts.host, prompts.input_tokens, prompts.value) == (
        "rtx-4090", "ryzen-7950x", 512, 6000.1,
    )  # fmt: skip
    assert (answers.metric, answers.output_tokens, answers.value) == ("decode_tokens_per_s", 128, 200.1)
    cut = text.replace("'0', '200.1');", "'200.1');")
    with pytest.raises(InvalidFile, match="an INSERT of 8 values for its 9 columns"):
        read_table(written(tmp_path, cut, "cut.sql"))
    with pytest.raises(InvalidFile, match="SQL of no rows"):
        read_table(written(tmp_path, "CREATE TABLE a (b);\n", "none.sql"))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (SERVED, 'which writes no hardware: add "hardware": "rtx-4090" to each of its objects'),
        ({**SERVED, "backend": "openai"}, "which writes no hardware and no stack: add"),
        ({key: SERVED[key] for key in SERVED if key != "model_id"}, "which writes no model and no hardware: add"),
        (BATCHED, "of llama-batched-bench, which writes no model and no hardware: add"),
        ([MODEL_AND_CARD | BATCHED, {"pp": 1}], "'tg' is missing in one of its objects"),
        ({"elapsed_time": 1.0, "num_requests": 2, "requests_per_second": 2.0}, "stack,concurrency,requests,"),
        ({"avg_latency": 1.2, "latencies": [1.2], "percentiles": {"50": 1.2}}, "whole requests of no stated length"),
        ({"records": {"a": 1}, "input_config": {}}, "stack,concurrency,requests,"),
        ("Metric,avg,min,max,p99\nTime To First Token (ms),1,1,1,1\n", "GenAI-Perf or AIPerf: it holds percentiles"),
    ],
)  # fmt: skip
def test_what_a_file_lacks_is_asked_for_in_one_line(tmp_path: Path, found: Any, told: str) -> None:
    with pytest.raises(InvalidFile, match=told) as error:
        read_table(written(tmp_path, found))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("     NVIDIA AIPerf | LLM Metrics\n\u2503 Metric \u2503 avg \u2503\n", "GenAI-Perf or AIPerf"),
        ("\u2503 Statistic \u2503 avg \u2503 min \u2503 max \u2503 p99 \u2503\n", "GenAI-Perf or AIPerf"),
        ("======\n= PERFORMANCE OVERVIEW\n======\nTotal Output Throughput (tokens/sec):  <value>\n", "trtllm-bench"),
        ('{"model": "m", "results_ttft_s_mean": 0.5, "num_concurrent_requests": 5}', "llmperf"),
        ("inter_token_latency_s\n    p25 = 0.02\n", "llmperf"),
        ("Benchmarks Stats:\n====\nBenchmark | Per Second |\n", "guidellm"),
        ('{"benchmarks": [{"metrics": {"time_to_first_token_ms": {}}}]}', "guidellm"),
    ],
)
def test_results_of_clients_are_told_what_to_write_in_their_place(text: str, client: str, tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text(text)
    with pytest.raises(InvalidFile, match=f"of {client}: it holds percentiles .*: write a row of it"):
        read_table(path)
