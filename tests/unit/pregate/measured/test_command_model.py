"""What a row's command calls the model: its format, and another model than the row's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pregate.engines.reading import told_of_flags
from pregate.measured.rows.command_model import with_command_model
from pregate.measured.rows.engine_words import in_flags
from tests.unit.pregate.measured.flag_rows import row as flag_row
from traces.errors import InvalidInput

QWEN = "qwen3-30b-a3b"


def row(command: str, **cells: str) -> dict[str, str]:
    return with_command_model({"model": QWEN, "stack": "llama.cpp", "formats": "", "policy": command} | cells)


@pytest.mark.parametrize(
    ("command", "formats"),
    [
        ("llama-server -m Qwen3-30B-A3B-Q8_0.gguf -ngl 99 --cpu-moe", "Q8_0"),
        ("./llama-bench --model=/models/Qwen3-30B-A3B-UD-Q4_K_XL.gguf -ngl 99", "UD-Q4_K_XL"),
        (r"llama-server.exe -m 'C:\llm\Qwen3-30B-A3B-Q6_K.gguf' -ngl 99", "Q6_K"),
        ("llama-server -hf unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M -ngl 99", "Q4_K_M"),
        ("llama-server -hf unsloth/Qwen3-30B-A3B-GGUF -hff Qwen3-30B-A3B-Q5_K_M.gguf", "Q5_K_M"),
        ("vllm serve Qwen/Qwen3-30B-A3B-GPTQ-Int4 --max-num-seqs 16", "GPTQ-Int4"),
        ("python -m sglang.launch_server --model-path Qwen/Qwen3-30B-A3B-FP8 --tp 1", "fp8-b128"),
        ("vllm serve cpatonn/Qwen3-30B-A3B-Instruct-2507-AWQ-4bit --tp 1", "AWQ-4bit"),
        ("lms load qwen/qwen3-30b-a3b@q4_k_m --gpu max", "q4_k_m"),
        ("python -m ktransformers.local_chat --gguf_path ./Qwen3-30B-A3B-GGUF/Q4_K_M/ --cpu_infer 33", "Q4_K_M"),
        ("vllm serve Qwen/Qwen3-30B-A3B --max-num-seqs 16", ""),
        ("vllm serve Qwen/Qwen3-30B-A3B-AWQ --quantization awq_marlin", ""),  # by its flag
        ("llama-server -m model.gguf -ngl 99 --cpu-moe", ""),
        ("numactl -N 0 -m 0 llama-server -m model.gguf -ngl 99", ""),
        ("gpu_only@experts=cpu", ""),
    ],
)
def test_a_command_says_how_its_file_is_stored(command: str, formats: str) -> None:
    found = row(command)
    assert (found["formats"], found.get("reason", "")) == (formats, "")
    assert not formats or found["note"] == f"formats {formats} by its command"


def test_a_column_says_it_first_and_its_model_too() -> None:
    command = "llama-server -m Qwen3-30B-A3B-Q4_K_M.gguf -ngl 99"
    for cells in ({"formats": "all=q4_k_m"}, {"formats": "UD-Q4_K_XL (17.7 GB)"}, {"formats": "Q4"}):
        assert row(command, **cells)["formats"] == cells["formats"]
    assert row(command, model="Qwen3-30B-A3B-Q8_0.gguf")["formats"] == ""
    assert row(command, model="")["model"] == QWEN


@pytest.mark.parametrize(
    ("command", "cells", "why"),
    [
        (
            "llama-server -m gpt-oss-120b-mxfp4.gguf -ngl 99",
            {},
            "the command runs gpt-oss-120b, the row is of qwen3-30b",
        ),
        ("vllm serve mistralai/Mixtral-8x7B-v0.1", {"stack": "vllm"}, "the command runs mixtral-8x7b, the row is of"),
        (
            "llama-server -m Qwen3-30B-A3B-Q8_0.gguf -ngl 99",
            {"formats": "all=q4_k_m"},
            "the command's file is Q8_0, formats say all=q4_k_m: which of them ran?",
        ),
    ],
)
def test_what_command_and_row_say_otherwise_is_a_reason(command: str, cells: dict[str, str], why: str) -> None:
    assert row(command, **cells)["reason"].startswith(why)


def test_releases_of_one_architecture_are_one_model() -> None:
    command = "llama-server -hf unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:Q4_K_M -ngl 99"
    assert row(command) | {"reason": ""} == row(command, reason="")
    assert row(command)["formats"] == "Q4_K_M"
    assert row(command, model="nobody's model")["formats"] == "Q4_K_M"


@pytest.mark.parametrize("words", ["/set parameter num_gpu 20", "PARAMETER num_gpu 20 PARAMETER num_ctx 8192"])
def test_options_are_set_in_a_conversation_with_ollama_or_in_its_file(words: str) -> None:
    assert in_flags({"policy": words, "stack": "llama-cpp"})["policy"].split() == ["-ngl", "20"]


@pytest.mark.parametrize(
    ("stack", "command", "why"),
    [
        ("vllm", "vllm serve mistralai/Mixtral-8x7B-v0.1 --dtype float32", "--dtype float32: weights that are kept in"),
        (
            "sglang",
            "python -m sglang.launch_server --model-path a --dtype float",
            "--dtype float: weights that are kept",
        ),
        ("llama.cpp", "llama-server --models-preset mine.ini -ngl 99", "--models-preset: options that stand in a file"),
    ],
)
def test_what_changes_weights_unsaid_is_refused(stack: str, command: str, why: str, tmp_path: Path) -> None:
    found = flag_row(tmp_path, command, stack=stack, model="mixtral-8x7b")
    with pytest.raises(InvalidInput, match=why):
        told_of_flags({"model": found.model, "policy": found.policy, "stack": found.stack, "set": found.set})


def test_a_gate_on_the_host_is_noted(tmp_path: Path) -> None:
    assert "blk.0.ffn_gate_inp.weight on the host" in flag_row(tmp_path, "-ngl 99 -ot ffn_gate_inp=CPU").note
