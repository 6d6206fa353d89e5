"""What serving benchmarks print at their end, pasted with its commands: rows, or one line of what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import read_table
from tests.command_line import Run
from traces.errors import InvalidFile

VLLM = r"""hardware: H100 SXM
formats: all=fp8
$ vllm serve Qwen/Qwen3-30B-A3B --max-num-seqs 16
$ vllm bench serve --backend vllm --model Qwen/Qwen3-30B-A3B \
    --dataset-name random --random-input-len 1024 --random-range-ratio 0.5 --max-concurrency 32
INFO 12-01 10:00:00 Starting: now
============ Serving Benchmark Result ============
Successful requests:                     320
Maximum request concurrency:             32
Benchmark duration (s):                  40.00
Total input tokens:                      327,680
Total generated tokens:                  40960
Output token throughput (tok/s):         1024.00
---------------Time to First Token----------------
Mean TTFT (ms):                          500.12
P99 TTFT (ms):                           900.0
P99 TPOT (ms):                           nan
---------------Inter-token Latency----------------
Mean ITL (ms):                           25.0
==================================================
"""
SGLANG = """hardware: rtx-4090
model: qwen3-30b-a3b
formats: all=int4-g128
============ Serving Benchmark Result ============
Backend:                                 sglang
Traffic request rate:                    4.0
Max request concurrency:                 not set
Successful requests:                     100
Total input tokens:                      51200
Total generated tokens:                  12800
Concurrency:                             5.31
----------------End-to-End Latency----------------
Median E2E Latency (ms):                 1300
==================================================
"""


def rows_of(folder: Path, text: str) -> list[MeasuredRow]:
    (folder / "run.txt").write_text(text)
    return read_table(folder / "run.txt")


def test_a_printed_result_is_rows_with_what_its_commands_say(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, VLLM)
    assert {one.metric: one.value for one in rows} == {"tokens_per_s": 1024, "ttft": 0.50012, "ttft_p99": 0.9}
    for one in rows:
        assert (one.model, one.hardware, one.stack, one.formats) == ("qwen3-30b-a3b", "h100-sxm", "vllm", "all=fp8")
        assert (one.input_tokens, one.output_tokens, one.batch, one.routing) == (1024, 128, 32, "random")
        assert (one.load, one.reason) == ("requests=320;lengths=0.5-1.5;slots=16", "")


def test_a_rate_is_one_and_no_limit_is_none(tmp_path: Path) -> None:
    (one,) = rows_of(tmp_path, SGLANG)
    assert (one.metric, one.value, one.stack) == ("e2el_p50", 1.3, "vllm"), "which stands in for SGLang"
    assert (one.input_tokens, one.output_tokens, one.load) == (512, 128, "requests=100;rate=4;prompts=alone")


def test_each_run_has_its_own_commands_and_the_columns_above(tmp_path: Path) -> None:
    again = VLLM[VLLM.index("$ ") :].replace("-seqs 16", "-seqs 8").replace("--random-range-ratio 0.5", "")
    loads = [one.load for one in rows_of(tmp_path, VLLM + again) if one.metric == "ttft"]
    assert loads == ["requests=320;lengths=0.5-1.5;slots=16", "requests=320;slots=8"]


def test_failed_requests_and_drafts_are_the_reason(tmp_path: Path) -> None:
    for line, told in (("Failed requests: 3", "3 requests failed"), ("Accept length: 2.5", "verified together")):
        (one,) = rows_of(tmp_path, SGLANG.replace("Concurrency: ", f"{line}\nConcurrency: "))
        assert told in one.reason


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (VLLM.replace("hardware", "x"), "writes no hardware: write hardware: rtx-4090 on a line above it"),
        (SGLANG.replace("model", "x"), "writes no model: write model: qwen3-30b-a3b on a line above it"),
        (SGLANG.replace("Backend", "x"), "writes no stack"),
        (SGLANG.replace("Successful", "x"), "without a line 'Successful requests:': cut short"),
    ],
)
def test_what_is_missing_is_asked_for_in_one_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=told) as caught:
        rows_of(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_text_of_results_is_a_table_of_the_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text(VLLM)
    status, out, _ = run("reproduce", str(tmp_path / "run.txt"), "--format", "csv")
    assert status == 0
    assert len(out.splitlines()) == 4, "a header and three rows"
