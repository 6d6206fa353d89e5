"""Tokens, depth and batch in the command of a benchmark, of a row whose columns say none of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import read_table


def row(folder: Path, command: str, metric: str, stack: str, **cells: str) -> MeasuredRow:
    stated = {"model": "qwen3-30b-a3b", "hardware": "rtx-4090", "metric": metric, "value": "9", "stack": stack}
    stated |= {"policy": command, "unit": "ms" if metric == "tpot" else ""} | cells
    quoted = ",".join(f'"{cell}"' for cell in stated.values())
    (folder / "mine.csv").write_text(f"{','.join(stated)}\n{quoted}\n")
    (found,) = read_table(folder / "mine.csv")
    return found


@pytest.mark.parametrize(
    ("stack", "command", "metric", "counts"),
    [
        ("llama.cpp", "llama-bench -m a -ngl 99 -p 0 -n 256 -d 8192", "decode", (1, 1, 256, 8192)),
        ("llama.cpp", "./llama-bench -m a -ngl 99 -p 2048 -n 64", "decode", (1, 1, 64, 0)),
        ("llama.cpp", "llama-bench -m a -ngl 99 -p 2048 -n 0 --n-depth 4096", "prefill", (1, 2048, 32, 4096)),
        ("llama.cpp", "llama-batched-bench -m a -npp 512 -ntg 128 -npl 16", "decode", (16, 512, 128, 0)),
        ("llama.cpp", "llama-bench -m a -ngl 99 -n 64 -d '4096' -d 4096", "decode", (1, 1, 64, 4096)),
        ("llama.cpp", "llama-cli -m a -ngl 99 -p 12 -n 200", "decode", (1, 1, 32, 0)),  # a prompt of two letters
        (
            "vllm",
            "vllm bench latency --model A --batch-size 8 --input-len 99 --output-len 9",
            "tpot",
            (8, 99, 9, 0),
        ),
        ("sglang", "python -m sglang.bench_one_batch --model A --batch 4 --input-len 64", "tpot", (4, 64, 32, 0)),
    ],
)
def test_counts_of_a_command_are_those_of_its_row(
    stack: str, command: str, metric: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    found = row(tmp_path, command, metric, stack)
    assert (found.batch, found.input_tokens, found.output_tokens, found.context_tokens) == counts
    assert not found.reason
    found.design()


def test_a_column_that_says_it_counts(tmp_path: Path) -> None:
    command = "llama-bench -m a -ngl 99 -n 128 -d 8192"
    assert row(tmp_path, command, "decode", "llama.cpp", context_tokens="512").context_tokens == 512
    assert row(tmp_path, command, "tg64 @ d1k", "llama.cpp").context_tokens == 1024


@pytest.mark.parametrize(
    ("stack", "command", "told"),
    [
        ("llama.cpp", "llama-bench -m a -ngl 99 -d 0,4096", "several of context_tokens \\(0, 4096\\)"),
        ("llama.cpp", "llama-bench -m a -ngl 99 -d 0 -n 64 -d 4096", "several of context_tokens \\(0, 4096\\)"),
        ("llama.cpp", "llama-bench -m a -ngl 99 -d 0-8192+1024", r"several of context_tokens \(0-8192\+1024\)"),
        ("llama.cpp", "llama-batched-bench -m a -ngl 99 -npl 1 -npl 8", r"several of batch \(1, 8\)"),
        ("sglang", "python -m sglang.bench_one_batch --model A --batch-size 1 16", "several of batch"),
        ("vllm", "vllm bench serve --model A --max-concurrency 1 2 4", "several of concurrency \\(1, 2, 4\\)"),
    ],
)
def test_a_command_that_tries_several_is_a_reason(stack: str, command: str, told: str, tmp_path: Path) -> None:
    assert re.search(told, row(tmp_path, command, "decode", stack).reason)
    assert not row(tmp_path, command, "decode", stack, batch="1", context_tokens="4096").reason


@pytest.mark.parametrize(
    ("command", "metric", "cells", "why"),
    [
        (
            "llama-bench -m a -ngl 99 -p 2048 -n 0",
            "prefill",
            {"input_tokens": "512"},
            "input_tokens 512, its command 2048",
        ),
        ("llama-bench -m a -ngl 99 -p 512,2048 -n 64", "prefill", {"input_tokens": "512", "output_tokens": "8"}, ""),
        ("llama-bench -m a -ngl 99 -p 2048 -n 64", "decode", {"input_tokens": "512", "output_tokens": "64"}, ""),
        ("llama-bench -m a -ngl 99 -n 64", "decode", {"output_tokens": "128"}, "output_tokens 128, its command 64"),
        ("llama-bench -m a -ngl 99 -d 4096,8192", "decode", {"context_tokens": "1024"}, "its command 4096, 8192"),
        ("llama-bench -m a -ngl 99 -d 0-8192+1024", "decode", {"context_tokens": "1024"}, ""),
        ("llama-batched-bench -m a -npp 512 -ntg 128 -npl 1,2", "decode", {"batch": "4"}, "batch 4, its command 1, 2"),
    ],
)
def test_a_column_that_says_another_number_than_its_command_is_a_reason(
    command: str, metric: str, cells: dict[str, str], why: str, tmp_path: Path
) -> None:
    reason = row(tmp_path, command, metric, "llama.cpp", **cells).reason
    assert why in reason if why else not reason
