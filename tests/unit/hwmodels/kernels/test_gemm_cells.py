from __future__ import annotations

import numpy as np

from hwmodels.kernels.gemm_cells import listed_gemms
from offload.ffn_work import experts_work
from offload.ops import OpKind, Work
from pregate.named import load_model
from traces.foundation.memoised_values import ByIdentity

MODEL = load_model("deepseek-v3")
WORKS = (
    experts_work(MODEL, (1, 2, 2, 7), 9, fused=True), Work(OpKind.WAIT), experts_work(MODEL, (3,), 0, fused=True),
    experts_work(MODEL, (1, 4), 2, fused=True), Work(OpKind.STEP),
)  # fmt: skip


def by_hand(works: tuple[Work, ...]) -> list[tuple[int, ...]]:
    return [(*gemm, i, place) for i, work in enumerate(works) for place, gemm in enumerate(work.gemms)]


def test_cells_are_the_gemms_of_each_work_in_order() -> None:
    for works in (WORKS, WORKS[1:2], ()):
        cells = listed_gemms(works)
        assert np.array([*cells.columns, cells.owner, cells.place]).T.tolist() == [list(row) for row in by_hand(works)]


def test_a_tuple_is_listed_once_and_a_list_as_it_now_is() -> None:
    assert listed_gemms(WORKS) is listed_gemms(WORKS)
    works = list(WORKS)
    assert len(listed_gemms(works).n_gemms) == 5
    works.pop()
    assert len(listed_gemms(works).n_gemms) == 4
    assert ByIdentity(works) != ByIdentity(list(works))
