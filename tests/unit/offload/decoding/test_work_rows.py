"""Works of a model that are kept from schedule to schedule."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from weakref import ref

import pytest

from offload.decoding import work_rows
from offload.decoding.work_rows import Works, works_of
from offload.ops import OpKind
from pregate.named import load_model
from tests.small_models import decoder_only, stored_apart
from traces.foundation.gc_pause import gc_paused
from traces.model.architecture import ModelArchitecture

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


@pytest.mark.parametrize("made", [decoder_only, lambda: stored_apart(decoder_only())], ids=["alike", "stored apart"])
def test_works_that_nobody_asks_for_are_given_back_without_a_look_for_garbage(
    made: Callable[[], ModelArchitecture],
) -> None:
    gc.collect()
    with gc_paused():
        works = Works(made(), 8)
        kept = [ref(one) for one in (works, *works.each)]
        works.at(1).gate(3)
        del works
        assert [one() for one in kept] == [None] * len(kept)
