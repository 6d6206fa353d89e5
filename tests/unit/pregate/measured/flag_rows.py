"""A row of a measured table whose policy is what was typed: flags of an engine, or its whole command."""

from __future__ import annotations

from pathlib import Path

from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import read_table

HEADER = "model,hardware,host,formats,policy,stack,input_tokens,output_tokens,metric,value,unit,set\n"


def row(
    folder: Path,
    policy: str,
    formats: str = "",
    model: str = "qwen3-30b-a3b",
    stack: str = "llama.cpp",
    set: str = "",
    hardware: str = "rtx-4090",
    metric: str = "tpot",
) -> MeasuredRow:
    path = folder / "mine.csv"
    quoted = policy.replace('"', '""')
    unit = "ms" if metric in ("tpot", "ttft") else "tokens/s"
    cells = f'{model},{hardware},ryzen-7950x,{formats},"{quoted}",{stack},1,8,{metric},9,{unit},{set}'
    path.write_text(f"{HEADER}{cells}\n")
    return read_table(path)[0]
