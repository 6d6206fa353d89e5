"""Rows as others write them: names in other letters, several cards, flags of engines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pregate.measured.prediction import RowBench
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
        ("qwen3-30b-a3b,rtx-3090,,,-ncmoe 20,,1,1,8,tpot,9,ms,", "is a flag of an engine.*gpu_only@experts=cpu:20"),
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
