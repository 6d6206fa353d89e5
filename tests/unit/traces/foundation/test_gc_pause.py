from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest

from pregate.measured import table_prediction
from pregate.measured.rows.table import read_field
from pregate.measured.table_scores import PredictedRow
from traces.foundation.gc_pause import gc_paused


def _fails() -> None:
    with gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            pass
        assert not gc.isenabled()
        raise ZeroDivisionError


def test_garbage_is_looked_for_as_before_even_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        _fails()
    assert gc.isenabled()


def test_a_long_table_is_predicted_row_by_row_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_field()[:7]
    seen: list[bool] = []

    def asked(_: Any, __: Any, row: Any, *rest: Sequence[Any]) -> PredictedRow:
        seen.append(gc.isenabled())
        return PredictedRow(row, 1.0, {}, "")

    monkeypatch.setattr(table_prediction, "_UNCOLLECTED_ROWS", 3)
    monkeypatch.setattr(table_prediction, "_predicted", asked)
    result = table_prediction.predict_table(rows)
    assert [one.row for one in result.rows] == rows
    assert seen == [False] * 7
    assert gc.isenabled()
