"""Every source of the field's table that is missed by far has its mechanism named, and no other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("field_tables", DOCS / "field_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("field_tables", module)
    spec.loader.exec_module(module)
    return module


def test_what_is_missed_by_more_than_a_fifth_has_a_mechanism_and_nothing_else_has(tables: ModuleType) -> None:
    missed, told = set(tables.missed_sources()), set(tables.mechanisms())
    assert missed - told == set(), "missed without a mechanism: docs/field_mechanisms.yaml"
    assert told - missed == set(), "told of what is not missed: docs/field_mechanisms.yaml"


def test_each_judged_source_has_a_line(tables: ModuleType) -> None:
    text = tables.by_source()
    document = tables._document()
    judged = {f"{row['source']}, {row['metric']}" for row in document["rows"] if row["scored"]}
    lines = {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()[2:]}
    assert judged <= lines
