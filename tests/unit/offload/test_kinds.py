"""The table of the kinds of op: a row each, and what other rooms derive from it."""

from __future__ import annotations

import re

import pytest

from offload.ops import KERNEL_KINDS, KINDS, TRANSFERS, Lane, OpKind
from pregate.draw.timelines import COLOURS
from simulator.explain.attribution import CLASSES


def test_every_kind_has_one_row_in_its_order() -> None:
    assert list(KINDS) == list(OpKind)


@pytest.mark.parametrize("kind", list(OpKind), ids=lambda kind: kind.name)
def test_a_row_is_consistent(kind: OpKind) -> None:
    row = KINDS[kind]
    assert row.time in CLASSES
    assert re.fullmatch("#[0-9A-F]{6}", row.colour)
    assert COLOURS[row.family] == row.colour, "a family has one colour"
    assert row.is_kernel == (row.lane is Lane.COMPUTE and kind is not OpKind.DRAFT)  # of a draft only the time is known
    assert not (row.is_kernel and row.moves_weights)


def test_transfers_and_kernels_are_those_of_the_design() -> None:
    assert TRANSFERS == (OpKind.FETCH, OpKind.STAGE, OpKind.DISK_READ, OpKind.STREAM, OpKind.WRITE_BACK, OpKind.FILE)
    assert {OpKind.GATE, OpKind.EXPERTS, OpKind.HEAD} < set(KERNEL_KINDS)
