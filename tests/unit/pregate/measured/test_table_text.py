"""Tables in JSON and Markdown, as llama-bench and people write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.table import read_table
from pregate.measured.rows.table_text import as_csv
from traces.errors import InvalidFile, InvalidInput, UnknownName

BENCH = {
    "build_commit": "0cf6725", "cpu_info": "AMD Ryzen 9 7950X 16-Core Processor", "gpu_info": "NVIDIA GeForce RTX 4090",
    "backends": "CUDA", "model_filename": "a.gguf", "model_type": "qwen3moe 30B.A3B Q4_K - Medium", "n_batch": 2048,
    "n_ubatch": 512, "n_threads": 16, "type_k": "q8_0", "type_v": "q8_0", "n_gpu_layers": 99, "n_cpu_moe": 12,
    "no_kv_offload": False, "flash_attn": True, "use_mmap": False, "tensor_buft_overrides": "none", "n_prompt": 2048,
    "n_gen": 0, "n_depth": 4096, "avg_ns": 409600000, "avg_ts": 5000.5, "samples_ns": [1, 2],
}  # fmt: skip
"""An object of `llama-bench -o json`; figures are made up."""

MARKDOWN = """ggml_cuda_init: found 2 CUDA devices:
  Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes
  Device 1: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes
| model                          |       size |  params | backend | ngl | n_cpu_moe |          test |            t/s |
| ------------------------------ | ---------: | ------: | ------- | --: | --------: | ------------: | -------------: |
| qwen3moe 30B.A3B Q4_K - Medium |  17.28 GiB | 30.53 B | CUDA    |  99 |        20 |        pp2048 | 1500.25 ± 1.1 |
| qwen3moe 30B.A3B Q4_K - Medium |  17.28 GiB | 30.53 B | CUDA    |  99 |        20 | tg128 @ d4096 |   60.11 ± 0.2 |

build: 0cf6725 (7201)
"""


@pytest.mark.parametrize("lines", [False, True])
def test_json_of_a_benchmark_is_its_csv(lines: bool, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    other = BENCH | {"n_prompt": 0, "n_gen": 128, "avg_ts": 90.25}
    path.write_text("".join(json.dumps(one) + "\n" for one in (BENCH, other)) if lines else json.dumps([BENCH, other]))
    prompt, answer = read_table(path)
    assert (prompt.model, prompt.hardware, prompt.host, prompt.stack) == (
        "qwen3-30b-a3b",
        "rtx-4090",
        "ryzen-7950x",
        "llama-cpp",
    )
    assert (prompt.metric, prompt.value, prompt.input_tokens) == ("prefill_tokens_per_s", 5000.5, 2048)
    assert (answer.metric, answer.value, answer.output_tokens) == ("decode_tokens_per_s", 90.25, 128)
    assert prompt.context_tokens == answer.context_tokens == 4096
    assert prompt.formats == "all=Q4_K_M,kv=q8_0"
    assert prompt.policy == "gpu_only@experts=cpu:12@ubatch=512"


def test_markdown_of_a_benchmark_has_the_cards_that_stand_above_it(tmp_path: Path) -> None:
    (tmp_path / "bench.md").write_text(MARKDOWN)
    prompt, answer = read_table(tmp_path / "bench.md")
    assert (prompt.hardware, prompt.set) == ("rtx-3090", "accelerator.hbm_bytes=51539607552")
    assert (prompt.metric, prompt.value, prompt.input_tokens) == ("prefill_tokens_per_s", 1500.25, 2048)
    assert (answer.metric, answer.value, answer.context_tokens) == ("decode_tokens_per_s", 60.11, 4096)
    assert answer.policy == "gpu_only@experts=cpu:20"


def test_rows_of_ones_own_may_be_json_or_markdown(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "Measured at home:\n\n|Model|GPU|Engine|Quant|decode t/s|\n|:--|--|--|--|--:|\n"
        "|Qwen3-30B-A3B|RTX 4090|llama.cpp|`Q4_K_M`|**150**|\n"
    )
    (tmp_path / "a.json").write_text(
        '{"Model": "Qwen3-30B-A3B", "GPU": "RTX 4090", "Engine": "llama.cpp", "Quant": "Q4_K_M", "decode t/s": 150}'
    )
    assert read_table(tmp_path / "a.md") == read_table(tmp_path / "a.json")
    assert read_table(tmp_path / "a.md")[0].value == 150


@pytest.mark.parametrize("text", ["[]", "[1]", "{", '[{"a": [1]}]', "[[1, 2]]"])
def test_json_that_is_no_rows_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InvalidFile, match="JSON"):
        read_table(tmp_path / "a.json")


def test_json_of_other_keys_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"bandwidth": 26.1}]')
    with pytest.raises(UnknownName, match="unknown column 'bandwidth'"):
        read_table(tmp_path / "a.json")


def test_csv_stays_as_it_is() -> None:
    text = "model,note\nx,a | b\n"
    assert as_csv(text, "a.csv") is text


@pytest.mark.parametrize("backend", ["Vulkan", "SYCL", "RPC,Vulkan"])
def test_a_backend_without_constants_is_taken_for_no_other(backend: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(BENCH | {"backends": backend}))
    (tmp_path / "a.md").write_text(MARKDOWN.replace("CUDA    |", f"{backend} |"))
    for name in ("a.json", "a.md"):
        found = read_table(tmp_path / name)[0]
        with pytest.raises(InvalidInput, match="no constants of this engine are known here"):
            RowBench().predict(found)


def test_runs_in_one_file_have_the_cards_above_each(tmp_path: Path) -> None:
    other = MARKDOWN.replace("RTX 3090", "RTX 4090")
    (tmp_path / "a.md").write_text(MARKDOWN + MARKDOWN + other)
    found = read_table(tmp_path / "a.md")
    assert [row.hardware for row in found] == ["rtx-3090"] * 4 + ["rtx-4090"] * 2
    assert {row.set for row in found} == {"accelerator.hbm_bytes=51539607552"}  # two cards each, not six


@pytest.mark.parametrize(
    "second", ["|Model|GPU|decode t/s|Quant|\n|--|--|--|--|\n|A|B|1|C|\n", "|A|B|C|\n", "|A|B|C|D|E|\n"]
)
def test_a_table_of_other_columns_is_told_with_its_line(second: str, tmp_path: Path) -> None:
    first = "|Model|GPU|Quant|decode t/s|\n|--|--|--|--:|\n|Qwen3-30B-A3B|RTX 4090|Q4_K_M|150|\n"
    (tmp_path / "a.md").write_text(first + second)
    with pytest.raises(InvalidFile, match=r"a\.md line 4: \d cells that are not of the 4 columns above"):
        read_table(tmp_path / "a.md")


def test_cells_of_markdown_may_be_empty_or_hold_bars_and_links(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "|source|Model|GPU|Engine|Quant|flags|decode t/s|note|\n|--|--|--|--|--|--|--:|--|\n"
        "||Qwen3-30B-A3B|[RTX 4090](https://example.org)|llama.cpp|q8_0|-ot `blk\\.(1\\|2)\\.ffn_.*_exps=CPU`|150||\n"
        "   \n"
        "||Qwen3-30B-A3B|RTX 4090|llama.cpp|q8_0|-ngl 99|150||\n"
    )
    first, second = read_table(tmp_path / "a.md")
    assert (first.hardware, first.source, first.note) == ("rtx-4090", "", "")
    assert first.policy == "gpu_only@experts=cpu:1-2"
    assert second.policy == "gpu_only"


@pytest.mark.parametrize("value", [{"all": "q4_k_m"}, ["q4_k_m"]])
@pytest.mark.parametrize("key", ["formats", "Quant"])
def test_a_column_that_is_an_object_is_not_passed_over(key: str, value: object, tmp_path: Path) -> None:
    row = {"model": "qwen3-30b-a3b", "hardware": "rtx-4090", "metric": "decode", "value": 9, "samples": [1, 2]}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    assert len(read_table(tmp_path / "a.json")) == 1
    (tmp_path / "a.json").write_text(json.dumps([row | {key: value}]))
    with pytest.raises(InvalidFile, match=f"{key!r} is a list or an object"):
        read_table(tmp_path / "a.json")


def test_counts_with_a_fraction_of_nothing_are_counts(tmp_path: Path) -> None:
    row = {"model": "qwen3-30b-a3b", "hardware": "rtx-4090", "metric": "ttft_s", "value": 2.0, "unit": "s"}
    (tmp_path / "a.json").write_text(json.dumps(row | {"batch": 4.0, "input_tokens": 512.0}))
    (found,) = read_table(tmp_path / "a.json")
    assert (found.value, found.batch, found.input_tokens) == (2.0, 4, 512)
