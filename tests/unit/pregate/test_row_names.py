"""Rows as others write them: names in other letters, several cards, flags of engines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pregate.measured.prediction import RowBench
from pregate.measured.row_names import with_our_names
from pregate.measured.table import read_table
from tests.command_line import Run, runner
from traces.errors import InvalidInput
from traces.model.architecture import architecture_names, load_architecture
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
            "qwen3-30b-a3b,RTX 3090 \u00d7 4,,,gpu_only,,1,1,8,tpot,9,ms,",
            "a row is of one card.*rtx-3090, and set accel",
        ),
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


def test_a_model_by_another_name_has_the_architecture_that_it_shares() -> None:
    assert set(SAME_AS.values()) <= set(architecture_names())
    assert not set(SAME_AS) & set(architecture_names())
    assert load_architecture("deepseek-r1") == load_architecture("deepseek-v3")


@pytest.mark.parametrize(
    ("column", "written", "ours"),
    [
        ("hardware", "GeForce RTX 3060", "rtx-3060-12gb"),
        ("hardware", "RTX 4090 24GB", "rtx-4090"),
        ("hardware", "RTX 4090 48GB", "RTX 4090 48GB"),
        ("hardware", "Tesla T4", "t4"),
        ("hardware", "AMD Radeon RX 9070 XT", "rx-9070-xt"),
        ("hardware", "Tesla P40", "p40"),
        ("hardware", "Radeon 8060S", "strix-halo"),
        ("hardware", "Ryzen AI Max+ 395", "strix-halo"),
        ("hardware", "NVIDIA RTX PRO 6000 Blackwell", "rtx-pro-6000"),
        ("host", "AMD Ryzen 9 5900X", "ryzen-5900x"),
        ("host", "Ryzen Threadripper PRO 7975WX", "threadripper-pro-7975wx"),
        ("host", "Intel Core i9-13900K", "core-13900k"),
        ("host", "Core Ultra 9 285K", "core-285k"),
        ("host", "Intel(R) Xeon(R) Gold 6330", "xeon-6330"),
        ("host", "2x EPYC 7763", "epyc-7763-2s"),
        ("host", "EPYC 9654 x 2", "epyc-9654-2s"),
        ("host", "dual Xeon Platinum 8480+", "xeon-8480+-2s"),
        ("host", "Xeon w9-3495X", "xeon-w9-3495x"),
        ("host", "Xeon E5-2680 v4", "xeon-e5-2680-v4"),
        ("host", "EPYC 7762", "EPYC 7762"),
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
