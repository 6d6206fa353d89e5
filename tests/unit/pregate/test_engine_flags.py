"""Flags of engines in the policy of a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from pregate.measured.engine_flags import FLAGS, told_of_flags, without_flags
from pregate.measured.prediction import RowBench
from pregate.measured.table import MeasuredRow, read_table
from traces.errors import InvalidInput

HEADER = "model,hardware,host,formats,policy,stack,input_tokens,output_tokens,metric,value,unit,set\n"


def row(folder: Path, policy: str, formats: str = "", model: str = "qwen3-30b-a3b") -> MeasuredRow:
    path = folder / "mine.csv"
    path.write_text(f'{HEADER}{model},rtx-4090,ryzen-7950x,{formats},"{policy}",llama.cpp,1,8,tpot,9,ms,\n')
    return read_table(path)[0]


@pytest.mark.parametrize(
    ("flags", "policy"),
    [
        ("-ngl 99", "gpu_only"),
        ("-ngl all -fa 1", "gpu_only"),
        ("-ngl 28", "gpu_only@layers=cpu:20"),
        ("-ngl 0", "gpu_only@layers=cpu"),
        ("-ngl 99 --n-cpu-moe 20", "gpu_only@experts=cpu:20"),
        ("-ncmoe 99", "gpu_only@experts=cpu"),
        ("--cpu-moe", "gpu_only@experts=cpu"),
        ("-ot exps=CPU", "gpu_only@experts=cpu"),
        (r"-ot \.ffn_.*_exps\.=CPU -ub 4096 -c 32768", "gpu_only@experts=cpu@ubatch=4096"),
        (r"-ot blk\.([0-9]|1[0-9])\.ffn_.*_exps\.weight=CPU", "gpu_only@experts=cpu:20"),
        (r"-ot blk\.(4[0-7])\.=CPU", "gpu_only@experts=cpu:40-47"),
        (r"-ot blk\.[0-9]\.ffn=CUDA0,exps=CPU", "gpu_only@experts=cpu:10-47"),
        (r"-ot blk\.[0-9]\.ffn=CUDA0 -ot exps=CPU --no-op-offload", "gpu_only@experts=cpu:10-47@stream=never"),
        ("-fit on", "gpu_only@experts=cpu:fit"),
        ("-fit off --n-cpu-moe 1 -nkvo", "gpu_only@experts=cpu:1@kv=cpu"),
        ("--kt-num-gpu-experts 40 --kt-gpu-prefill-token-threshold 400", "gpu_only@stream=400@experts=cpu:keep=40"),
        ("--kt-num-gpu-experts=8 --chunked-prefill-size=4096", "gpu_only@ubatch=4096@experts=cpu:keep=8"),
    ],
)
def test_flags_are_said_as_a_policy(flags: str, policy: str, tmp_path: Path) -> None:
    found = row(tmp_path, flags)
    assert sorted(found.policy.split("@")) == sorted(policy.split("@"))
    found.design()


def test_flags_of_the_cache_and_of_the_file_are_said_in_their_columns(tmp_path: Path) -> None:
    found = row(tmp_path, "-ncmoe 8 -ctk q8_0 -ctv q8_0 --no-mmap", formats="q4_k_m")
    assert (found.policy, found.formats) == ("gpu_only@experts=cpu:8", "all=q4_k_m,kv=q8_0")
    assert found.set == "stack.host_memory=pinned"
    assert RowBench().predict(found) > 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--cpu-offload-gb 40", "flag '--cpu-offload-gb' is not known"),
        ("-t 16", "threads are host.n_cores in set"),
        ("-ngl many", "-ngl 'many' is not a whole number"),
        ("-ngl", "-ngl has no value"),
        ("-ctk q8_0 -ctv q4_0", "have one format"),
        (r"-ot blk\.(0|2)\.ffn_.*_exps=CPU", "layers 0, 2 on the host are no range"),
        ("-ot ffn_up_exps=CPU", "of layer 0 some expert matrices alone"),
        ("-ot exps", "no PATTERN=BUFFER"),
        ("-ot (a+)+=CPU", "no PATTERN=BUFFER"),
        ("-ot .*.*.*.*.*.*.*x=CPU", "no PATTERN=BUFFER"),
        ("-ot (=CPU", "no PATTERN=BUFFER"),
        ("-x=3", "is no flag"),
        ("-ot 'x", "No closing quotation"),
        ("-" + "x" * 3000, "characters of flags"),
    ],
)
def test_what_cannot_be_said_is_told_of_its_row_alone(flags: str, told: str, tmp_path: Path) -> None:
    found = row(tmp_path, flags)
    assert found.policy == flags
    with pytest.raises(InvalidInput, match=told):
        found.design()


def test_a_row_of_an_unknown_model_keeps_its_flags(tmp_path: Path) -> None:
    assert row(tmp_path, "-ngl 20", model="nosuch").policy == "-ngl 20"
    told_of_flags("gpu_only", "nosuch")
    assert without_flags({"policy": "gpu_only"}) == {"policy": "gpu_only"}


def test_flags_are_words_of_engines() -> None:
    assert all(flag.startswith("-") and n_words in (0, 1) for flag, (n_words, _) in FLAGS.items())
