"""Result files of engines' benchmarks: what they hold is read, and what they lack is asked for in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
MODEL_AND_CARD = {"model": "qwen3-30b-a3b", "hardware": "rtx-4090", "formats": "all=q4_k_m"}


def written(tmp_path: Path, found: Any, name: str = "mine.json") -> Path:
    path = tmp_path / name
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return path


def test_a_serving_benchmark_of_one_request_at_a_time_is_its_mean_times(tmp_path: Path) -> None:
    tpot, ttft = read_table(written(tmp_path, SERVED | {"hardware": "h100-sxm"}))
    assert (tpot.metric, tpot.value, ttft.metric, ttft.value) == ("tpot", pytest.approx(0.0123), "ttft", 0.1502)
    for row in (tpot, ttft):
        assert (row.model, row.stack, row.batch, row.input_tokens, row.output_tokens) == (
            "qwen3-30b-a3b", "vllm", 1, 1024, 128,
        )  # fmt: skip
        assert not row.reason


@pytest.mark.parametrize(("at_once", "told"), [(8, "8 at once"), (None, "any number at once")])
def test_requests_that_come_and_go_are_kept_with_the_reason(tmp_path: Path, at_once: int | None, told: str) -> None:
    rows = read_table(written(tmp_path, SERVED | {"hardware": "h100-sxm", "max_concurrency": at_once}))
    assert all(told in row.reason and "pregate arrivals" in row.reason for row in rows)


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
        ({"elapsed_time": 1.0, "num_requests": 2, "requests_per_second": 2.0}, "a row of one batch"),
        ({"avg_latency": 1.2, "latencies": [1.2], "percentiles": {"50": 1.2}}, "whole requests of no stated length"),
        ({"records": {"a": 1}, "input_config": {}}, "or ask pregate arrivals"),
        ("Metric,avg,min,max,p99\nTime To First Token (ms),1,1,1,1\n", "GenAI-Perf or AIPerf: it holds percentiles"),
    ],
)  # fmt: skip
def test_what_a_file_lacks_is_asked_for_in_one_line(tmp_path: Path, found: Any, told: str) -> None:
    with pytest.raises(InvalidFile, match=told) as error:
        read_table(written(tmp_path, found))
    assert "\n" not in str(error.value)
