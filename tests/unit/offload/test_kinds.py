"""The table of the kinds of op: a row each, and what other rooms derive from it."""

from __future__ import annotations

import re

import pytest

from offload.ops import KERNEL_KINDS, KINDS, TO_DEVICE, TRANSFERS, Lane, OpKind
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
    assert not row.is_kernel or (row.lane is Lane.COMPUTE and row.time == "kernel")
    assert not (row.is_kernel and row.moves_weights)


def test_transfers_and_kernels_are_those_of_the_design() -> None:
    within = OpKind.FETCH, OpKind.STAGE, OpKind.DISK_READ, OpKind.STREAM, OpKind.WRITE_BACK, OpKind.FILE
    assert (*within, OpKind.ZERO_COPY) == TRANSFERS
    attentions = OpKind.SELF_ATTENTION, OpKind.CROSS_ATTENTION
    assert (*attentions, OpKind.GATE, OpKind.EXPERTS, OpKind.DENSE_FFN, OpKind.HEAD) == KERNEL_KINDS
    assert TO_DEVICE == (OpKind.FETCH, OpKind.STREAM, OpKind.RETURN, OpKind.ZERO_COPY)


def test_an_expert_goes_on_from_where_it_was_put() -> None:
    """By what moves it there, what may take it on: through host memory to HBM, within HBM, and back."""
    found = {
        before.name: {kind.name for kind in OpKind if KINDS[kind].goes_on(KINDS[before])}
        for before in OpKind
        if KINDS[before].puts is not None
    }
    assert found == {
        "DISK_READ": {"FETCH", "FILE"},
        "FILE": {"FETCH", "FILE"},
        "FETCH": {"STAGE", "WRITE_BACK"},
        "STAGE": {"STAGE", "WRITE_BACK"},
        "WRITE_BACK": {"FETCH"},
    }
