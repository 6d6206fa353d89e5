"""Recordings that people write themselves: a request a line, layers by name, a cell a layer, Parquet and Arrow."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import pregate
from tests.recorded_files import DECODED, EXPERTS, PHASED, SHAPE, cells, lines, outcome, text
from traces.errors import InvalidFile
from traces.importers import import_trace
from traces.importers.files import packed_files

IDS = EXPERTS.tolist()
FLAT = [(t, layer, slot, expert) for t, layer, chosen in cells() for slot, expert in enumerate(chosen)]
TOKENS = range(5)
PROMPT_ALONE = ([0] * 5, [0] * 5)


def named(layer_name: str, holder: str) -> bytes:
    return lines(*({"token": t, holder: {layer_name.format(i): IDS[t][i] for i in range(2)}} for t in TOKENS))


FORMS: dict[str, tuple[bytes, tuple[list[int], list[int]]]] = {
    "requests": (lines({"request_id": "a", "experts": IDS[:3]}, {"id": "b", "experts": IDS[3:]}), ([1] * 5, [])),
    "prompt told": (lines({"id": 1, "prompt_len": 3, "experts": IDS}), PHASED),
    "prompt apart": (lines({"id": 1, "prefill_experts": IDS[:3], "decode_experts": IDS[3:]}), PHASED),
    "prompt alone": (lines({"id": 1, "prompt_experts": IDS}), PROMPT_ALONE),
    "a document": (lines({"model": "m", "requests": [{"n_prompt": 3, "topk_ids": IDS}]}), PHASED),
    "over lines": (json.dumps({"requests": [{"n_prompt": 3, "topk_ids": IDS}]}, indent=1).encode(), PHASED),
    "layers by number": (named("{}", "layers"), DECODED),
    "layers by name": (named("layer_{}", "experts"), DECODED),
    "layers by module": (named("model.layers.{}", "routing"), DECODED),
    "a line a layer": (
        lines(*({"layer_idx": i, "topk_ids": [IDS[t][i] for t in TOKENS]} for i in range(2))), PROMPT_ALONE,
    ),
    "steps": (lines(*({"step": t, "layer": layer, "selected": chosen} for t, layer, chosen in cells())), DECODED),
    "floats of json": (
        lines(*({"token": t, "layer": i, "experts": list(map(float, chosen))} for t, i, chosen in cells())), DECODED,
    ),
    "floats of a table": (text("token,layer,expert", *(f"{t}.0,{i},{e}.0" for t, i, _, e in FLAT)), DECODED),
    "a cell a layer": (
        text("token,layer_0,layer_1", *(f"{t}," + ",".join("|".join(map(str, one)) for one in IDS[t]) for t in TOKENS)),
        DECODED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_people_write_themselves_is_read(form: str, tmp_path: Path) -> None:
    content, (phases, steps) = FORMS[form]
    (tmp_path / "t").write_bytes(content)
    found = import_trace(tmp_path / "t", shape=SHAPE)
    assert np.array_equal(found.experts, EXPERTS)
    assert found.phase.tolist() == phases
    assert not steps or found.step.tolist() == steps
    assert found.n_sequences == (2 if form == "requests" else 1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lines({"token": 0, "layers": {"3": [1, 2], "first": [0, 1]}}), "not a routing trace"),
        (
            lines({"token": 0, "layers": {"3": [1, 2]}}, {"token": 1, "layers": {"first": [0, 1]}}),
            "'first' is no layer",
        ),
        (lines({"token": 0, "layers": {"3": [1.5, 2]}}), "expert 1.5 is not a whole number"),
        (text("token,layer,expert", "0,0,1.5"), "'1.5' is not a whole number"),
    ],
)
def test_what_is_none_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InvalidFile, match=told):
        import_trace(tmp_path / "t", shape=SHAPE)


def write_parquet(path: Path, table: Any) -> None:
    parquet.write_table(table, path)


def write_arrow(path: Path, table: Any) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


WRITERS = pytest.mark.parametrize("write", [write_parquet, write_arrow])
TABLES: dict[str, tuple[dict[str, Any], tuple[list[int], list[int]]]] = {
    "rows": ({name: [row[i] for row in FLAT] for i, name in enumerate(("token", "layer", "slot", "expert"))}, DECODED),
    "cells": (
        {"token": [t for t, _, _ in cells()], "layer": [i for _, i, _ in cells()], "experts": [e for *_, e in cells()]},
        DECODED,
    ),
    "tokens": ({"position": list(TOKENS), "experts": IDS}, DECODED),
    "requests": ({"request_id": ["a"], "prompt_tokens": [3], "routed_experts": [IDS]}, PHASED),
}  # fmt: skip


@WRITERS
@pytest.mark.parametrize("form", TABLES)
def test_tables_of_columns_are_read_as_their_rows(
    form: str, write: Callable[[Path, Any], None], tmp_path: Path
) -> None:
    columns, (phases, steps) = TABLES[form]
    write(tmp_path / "t", pa.table(columns))
    found = import_trace(tmp_path / "t", shape=SHAPE)
    assert np.array_equal(found.experts, EXPERTS)
    assert (found.phase.tolist(), found.step.tolist()) == (phases, steps)


@WRITERS
def test_a_table_of_counts_by_columns_is_popularity(write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    write(tmp_path / "t", pa.table({"layer": [0, 0, 1, 1], "expert": [0, 1, 0, 1], "count": [3.0, 1.0, None, 2.0]}))
    with pytest.raises(InvalidFile, match="count '' is not a number"):
        pregate.load_popularity(tmp_path / "t")
    write(tmp_path / "t", pa.table({"layer": [0, 0, 1, 1], "expert": [0, 1, 0, 1], "count": [3.0, 1.0, 5.0, 2.0]}))
    assert pregate.load_popularity(tmp_path / "t").counts.tolist() == [[3.0, 1.0], [5.0, 2.0]]


@WRITERS
def test_a_table_of_columns_that_is_broken_is_one_line(write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    path = tmp_path / "t"
    write(path, pa.table(TABLES["rows"][0]))
    whole = path.read_bytes()
    for n in (5, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:n])
        with pytest.raises(InvalidFile, match=f"^{path}"):
            import_trace(path)
    for at in range(6, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        found = outcome(path)
        assert not isinstance(found, str) or "\n" not in found


@WRITERS
def test_columns_of_dates_are_left_out(write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    when = pa.array([0] * len(FLAT), pa.timestamp("ms"))
    write(tmp_path / "t", pa.table({"when": when} | TABLES["rows"][0]))
    assert np.array_equal(import_trace(tmp_path / "t", shape=SHAPE).experts, EXPERTS)
    write(tmp_path / "t", pa.table({"when": when}))
    with pytest.raises(InvalidFile, match="no column of numbers, text or lists, or one twice: when"):
        import_trace(tmp_path / "t")


def test_tables_of_columns_need_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "t", pa.table(TABLES["rows"][0]))
    found = importlib.util.find_spec
    monkeypatch.setattr(packed_files, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    with pytest.raises(InvalidFile, match=r"a table of Parquet: pip install 'pregate\[parquet\]', or save it as CSV"):
        import_trace(tmp_path / "t")
