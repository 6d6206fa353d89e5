"""Parts of a schedule put together: which works share a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offload.ops import Gemm, Lane, OpKind, Work
from offload.recorder import Part, Recorder, assemble


def _what(m: int) -> Work:
    return Work(OpKind.EXPERTS, (Gemm(m, 2, 3, 1),))


def _parts(*works: tuple[Work, ...]) -> list[Part]:
    recorder, parts = Recorder(), list[Part]()
    for some in works:
        for what in some:
            recorder.issue(Lane.COMPUTE, what, step=0)
        parts.append(recorder.take())
    return parts


def test_equal_works_of_different_parts_share_a_row() -> None:
    found = assemble(_parts((_what(1), _what(2)), (_what(2), _what(3))))
    assert found.works == (_what(1), _what(2), _what(3))
    assert found.cost.tolist() == [0, 1, 1, 2]


def test_works_that_are_made_once_share_a_row_with_themselves_alone() -> None:
    """Whoever says so answers for it: nobody compares them."""
    own, other = _what(2), _what(2)
    flags = np.array([False, True]), np.array([True, False])
    for second, cost in ((own, [0, 1, 1, 0]), (other, [0, 1, 2, 0])):
        parts = _parts((_what(1), own), (second, _what(1)))
        said = [replace(part, made_once=known) for part, known in zip(parts, flags, strict=True)]
        assert assemble(said).cost.tolist() == cost


def test_what_is_said_of_works_is_of_each() -> None:
    parts = _parts((_what(1),), (_what(2),))
    with pytest.raises(ValueError, match="zip"):
        assemble([replace(parts[0], made_once=np.zeros(2, np.bool_)), parts[1]])
