"""Works of a model that are kept from schedule to schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offload.decoding import work_rows
from offload.decoding.work_rows import Works, works_of
from offload.ops import OpKind
from pregate.named import load_model

MODEL = load_model("mixtral-8x7b")


def test_works_are_kept_for_the_same_model_and_slots_alone() -> None:
    works = works_of(MODEL, 8)
    gate = works.gate(3)
    assert works_of(MODEL, 8) is works
    assert works_of(MODEL, 8).gate(3) is gate
    assert works_of(MODEL, 9) is not works
    assert works_of(replace(MODEL), 8) is not works
    assert gate == Works(MODEL, 8).gate(3)


def test_works_are_made_anew_once_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_rows, "_MOST_WORKS", 3)
    works = works_of(MODEL, 1)
    for n in range(1, 5):
        works.run(OpKind.FETCH, n)
    assert works_of(MODEL, 1) is not works
    assert works_of(MODEL, 1) is works_of(MODEL, 1)
