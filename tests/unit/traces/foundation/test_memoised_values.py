from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.foundation.memoised_values import ByIdentities, KeptWithArray


def frozen(n: int = 12) -> NDArray[np.int16]:
    whole = np.arange(n, dtype=np.int16)
    whole.flags.writeable = False
    return whole


def test_the_same_part_of_an_array_is_asked_of_once() -> None:
    kept, whole, asked = KeptWithArray[int](), frozen(), list[int]()

    def told(*views: NDArray[np.int16], key: str = "sum") -> int:
        def make() -> int:
            asked.append(1)
            return sum(int(view.sum()) for view in views)

        return kept.of(views, key, make)

    assert [told(whole[2:5]), told(whole[2:5]), told(whole[2:5], whole[7:])] == [9, 9, 9 + 45]
    assert len(asked) == 2
    told(whole[2:5], key="another question")
    told(whole[2:6])
    told(whole[2:8:2])  # begins there, and is as long as the first
    told(whole[2:5].view(np.uint16))
    told(whole[7:], whole[2:5])
    assert len(asked) == 7
    assert len(kept) == 1


def test_what_may_change_or_is_of_two_arrays_is_made_anew() -> None:
    kept, one, other = KeptWithArray[object](), frozen(), frozen()
    changing = np.arange(12, dtype=np.int16)
    for views in ([changing[2:5]], [one[2:5], changing[2:5]], [one[2:5], other[2:5]]):
        assert kept.of(views, "", object) is not kept.of(views, "", object)
    assert len(kept) == 0


def test_nothing_is_kept_of_an_array_that_is_gone() -> None:
    kept = KeptWithArray[object]()
    first = kept.of([frozen()[2:5]], "", object)  # nobody else has this array
    assert len(kept) == 0
    whole = frozen()
    found = kept.of([whole[2:5]], "", object)
    assert found is not first
    assert len(kept) == 1
    del whole
    assert len(kept) == 0


def test_objects_are_the_same_in_order_whatever_they_hold() -> None:
    one, other, alike = [1], [2], [1]
    found = {ByIdentities((one, other)): "both"}
    assert found[ByIdentities((one, other))] == "both"
    for others in ((alike, other), (other, one), (one,), (one, other, one), ()):
        assert ByIdentities(others) not in found
