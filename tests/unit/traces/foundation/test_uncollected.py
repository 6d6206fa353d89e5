from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pregate.measured import table_prediction
from pregate.measured.rows.table import read_field
from traces.foundation.uncollected import uncollected


def _fails() -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
        raise ZeroDivisionError


def test_garbage_is_looked_for_as_before_even_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        _fails()
    assert gc.isenabled()


@pytest.fixture
def thawed() -> Iterator[None]:
    """Nothing is frozen, as where no test runs."""
    n_frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
    gc.unfreeze()
    yield
    gc.set_threshold(*threshold)
    if n_frozen:
        gc.freeze()


def test_what_was_made_meanwhile_is_not_looked_at_on_leaving(thawed: None) -> None:
    looks: list[str] = []
    gc.callbacks.append(lambda phase, _: looks.append(phase))
    try:
        with uncollected():
            looks.clear()
            gc.set_threshold(1000, 10, 10)
            made = [[i] for i in range(5000)]
        made += [[i] for i in range(500)]
        assert not looks
        made += [[i] for i in range(5000)]
        assert looks
    finally:
        gc.callbacks.pop()


def test_what_others_have_frozen_stays_frozen(thawed: None) -> None:
    gc.freeze()
    n_frozen = gc.get_freeze_count()
    with uncollected():
        pass
    assert n_frozen // 2 < gc.get_freeze_count() <= n_frozen
    gc.unfreeze()


def test_a_long_table_is_predicted_row_by_row_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_field()[:7]
    seen: list[bool] = []

    def asked(_: Any, __: Any, row: Any, *rest: Sequence[Any]) -> table_prediction.PredictedRow:
        seen.append(gc.isenabled())
        return table_prediction.PredictedRow(row, 1.0, {}, "")

    monkeypatch.setattr(table_prediction, "_UNCOLLECTED_ROWS", 3)
    monkeypatch.setattr(table_prediction, "_predicted", asked)
    result = table_prediction.predict_table(rows)
    assert [one.row for one in result.rows] == rows
    assert seen == [False] * 7
    assert gc.isenabled()
