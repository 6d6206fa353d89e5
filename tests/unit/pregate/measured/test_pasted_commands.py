"""Commands as they are copied out of terminals, pages and other shells, and what they come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pregate.engines.pasted_commands import unpasted
from tests.unit.pregate.measured.flag_rows import row
from traces.errors import InvalidInput

ONE = "llama-server -m q.gguf -ngl 99 -ncmoe 12"


@pytest.mark.parametrize(
    "pasted",
    [
        "$ ./" + ONE,
        "> " + ONE,
        "user@box:~/llama.cpp$ ./" + ONE,
        "(venv) user@box:~$ " + ONE,
        "(base) $ " + ONE,
        "[user@box llama.cpp]$ ./" + ONE,
        f'cmd: "{ONE}"',
        ONE.replace("-m", "\u2013m"),
        "PS C:\\llama> .\\llama-server.exe -m C:\\models\\q.gguf -ngl 99 -ncmoe 12",
        "C:\\llama>llama-server.exe -m q.gguf -ngl 99 -ncmoe 12",
        "& .\\llama-server.exe -m q.gguf -ngl 99 -ncmoe 12",
        '"C:\\my programs\\llama-server.exe" -m "C:\\my models\\q.gguf" -ngl 99 -ncmoe 12',
        '$env:CUDA_VISIBLE_DEVICES="0"; .\\llama-server.exe -m q.gguf -ngl 99 -ncmoe 12',
        "build\\bin\\Release\\llama-bench.exe -m q.gguf -ngl 99 -ncmoe 12",
        "llama-server `\n  -m q.gguf `\n  -ngl 99 `\n  -ncmoe 12",
        "llama-server.exe ^\n -m q.gguf ^\n -ngl 99 ^\n -ncmoe 12",
        f"```\n{ONE}\n```",
        f"```bash\n{ONE}\n```",
        f"`{ONE}`",
        f'"{ONE}"',
        f"{ONE} # with flash attention",
        f"{ONE} 2>&1 | tee log.txt",
        f"{ONE} > log.txt 2>&1 &",
        f"{ONE} &",
        f"(cd llama.cpp/build/bin && ./{ONE})",
        f"nice -n -10 {ONE}",
        f"/usr/bin/time -v {ONE}",
        f"screen -S l ./{ONE}",
        f"CUDA_VISIBLE_DEVICES=0 nice numactl -N 0 -m 0 {ONE}",
        "llama-server -m q.gguf -ngl 99 \u2013n-cpu-moe 12",
        "llama-server -m q.gguf \u2014n-cpu-moe 12 -ngl 99",
        "podman run --device nvidia.com/gpu=all ghcr.io/ggml-org/llama.cpp:full-cuda --server -ngl 99 -ncmoe 12",
        "./server -m q.gguf -ngl 99 -ncmoe 12",
        "export LLAMA_ARG_N_CPU_MOE=12\nllama-server -m q.gguf -ngl 99",
    ],
)
def test_what_stands_around_a_command_is_no_part_of_it(pasted: str, tmp_path: Path) -> None:
    assert row(tmp_path, pasted).policy == "gpu_only@experts=cpu:12"


@pytest.mark.parametrize(
    "kept",
    [
        "gpu_only@experts=cpu:12",
        "llama-cli -p 'a | b > c # d &' -ngl 99",
        "llama-server -ot 'blk\\.(1|2)\\.ffn=CPU' -ngl 99",
        "llama-server -ot blk.(1|2).ffn_.*_exps=CPU -ngl 99",
        '-ngl 99 -ot "exps=CPU"',
    ],
)
def test_what_is_the_commands_own_is_kept(kept: str) -> None:
    assert unpasted(kept) == kept


def test_quotes_of_pages_are_quotes(tmp_path: Path) -> None:
    found = row(tmp_path, "llama-server -m q.gguf -ngl 99 -ot \u201cexps=CPU\u201d")
    assert found.policy == "gpu_only@experts=cpu"


def test_variables_before_a_binding_to_cores_are_kept(tmp_path: Path) -> None:
    command = "GGML_CUDA_DISABLE_GRAPHS=1 numactl -N 0 -m 0 llama-bench -ngl 99"
    assert row(tmp_path, command).overrides["stack.launch_s"] == "3.8us"


@pytest.mark.parametrize(("option", "policy"), [("--gpu max", "gpu_only"), ("--gpu=off", "gpu_only@layers=cpu")])
def test_layers_that_lm_studio_loads_are_read(option: str, policy: str, tmp_path: Path) -> None:
    assert row(tmp_path, f"lms load qwen/qwen3-30b-a3b {option} --context-length 8192").policy == policy


def test_an_image_whose_model_stands_bare_is_read(tmp_path: Path) -> None:
    command = "docker run --gpus all vllm/vllm-openai:latest Qwen/Qwen3-30B-A3B --enforce-eager"
    assert row(tmp_path, command, stack="vllm", hardware="h100-sxm").overrides["stack.launch_s"] == "35us"


@pytest.mark.parametrize(
    "command", ["mistralrs serve qwen3 --num-device-layers 20", "tabby run qwen3-30b --gpu-split 20"]
)
def test_a_program_that_is_not_read_says_what_is(command: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no program that is read here: give its flags alone"):
        row(tmp_path, command).design()
