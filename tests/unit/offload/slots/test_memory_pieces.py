"""Experts that come matrix by matrix, in fewer bits or in part, and those that are written back when they leave."""

from __future__ import annotations

import pytest

from offload.ops import Lane, OpKind, Work
from offload.policy import MissAction
from offload.slots.copies import Copies
from tests.unit.offload.slots.expert_desk import FETCH, Desk, cache_of

FOUR, SIX = (Work(OpKind.FETCH, copy_bytes=n, weight_bits=8.0) for n in (4, 6))
BACK = Work(OpKind.WRITE_BACK, copy_bytes=10, weight_bits=8.0)
BY_MATRIX = Copies(FETCH, None, (FOUR, SIX))
WRITTEN = Copies(FETCH, None, write_back=BACK)


def test_matrices_are_copies_of_their_own_and_take_their_slot_once() -> None:
    desk = Desk(2, BY_MATRIX)
    desk.memory.bring(0, [4, 2], step=0)
    assert [desk.memory.pieces(0, expert) for expert in (4, 2)] == [(0, 1), (2, 3)]
    assert [(held.first, held.ready) for held in desk.memory.held.claimed(0).values()] == [(0, 1), (2, 3)]
    schedule = desk.schedule()
    assert schedule.bytes.tolist() == [4, 6, 4, 6]
    assert schedule.slot.tolist() == [0, 0, 1, 1]
    assert schedule.hbm_acquired.tolist() == [10, 0, 10, 0]


def test_an_expert_that_was_there_came_in_no_matrices() -> None:
    desk = Desk(1, BY_MATRIX, cache_of(2, 3))
    desk.memory.bring(0, [3], step=0)
    assert desk.memory.pieces(0, 3) == ()


@pytest.mark.parametrize(
    ("how", "sizes", "bits"),
    [
        (MissAction(bits=4.0), [2, 3], 4.0),
        (MissAction(share=0.5), [2, 3], 8.0),
        (MissAction(bits=4.0, share=0.5), [1, 1], 4.0),
        (MissAction(share=0.25), [1, 1], 8.0),
        (MissAction(), [4, 6], 8.0),
    ],
)
def test_fewer_bits_and_shares_are_of_the_whole_expert(how: MissAction, sizes: list[int], bits: float) -> None:
    """The first bytes of it, rounded down once and not matrix by matrix."""
    desk = Desk(1, BY_MATRIX)
    desk.memory.bring(0, [4], step=0, how={4: how})
    schedule = desk.schedule()
    assert schedule.bytes.tolist() == sizes
    assert [schedule.works[i].weight_bits for i in schedule.cost.tolist()] == [bits, bits]


def test_what_leaves_a_cache_is_written_back_and_its_slot_is_free_after_that() -> None:
    """The cache of one slot holds expert 3; 4 goes to the spare slot, and 5 to where 3 was, once 3 is back."""
    desk = Desk(1, WRITTEN, cache_of(1, 3))
    assert (desk.memory.n_buffers, desk.memory.warm_bytes) == (1, 10)
    desk.memory.bring(0, [4], step=0)
    assert [(held.slot, held.given) for held in desk.memory.held.claimed(0).values()] == [(0, -1)]
    reader = desk.ffn(0)
    desk.memory.bring(0, [5], step=1)
    assert desk.rows() == [
        ("WRITE_BACK", 3, 3, 1, [], 0),
        ("FETCH", 3, 4, 0, [], 10),
        ("WRITE_BACK", 3, 4, 0, [1, reader], 0),
        ("FETCH", 3, 5, 1, [0], 0),
    ]
    schedule = desk.schedule()
    assert [lane for lane in schedule.lane.tolist() if lane != Lane.COMPUTE] == [Lane.D2H, Lane.H2D, Lane.D2H, Lane.H2D]
    assert schedule.step.tolist() == [0, 0, 0, 1, 1]
    assert desk.memory.live_ops() >= {0, 3, 4}


def test_an_expert_is_fetched_again_after_it_was_written_back() -> None:
    desk = Desk(1, WRITTEN, cache_of(1, 3))
    desk.memory.bring(0, [4], step=0)
    desk.ffn(0)
    desk.memory.bring(0, [3], step=1)
    kind, layer, expert, slot, after, taken = desk.rows()[-1]
    assert (kind, layer, expert, slot, taken) == ("FETCH", 3, 3, 1, 0)
    assert after == [0]  # its own write-back, which is also the last op of its slot
    desk.ffn(0)
    desk.memory.bring(1, [3], step=2)
    desk.ffn(1)
    desk.memory.bring(0, [4], step=3)
    fetches = [row[4] for row in desk.rows() if row[:3] == ("FETCH", 3, 4)]
    assert fetches == [[], [3, 6]]  # written back by 3; the slot that is free for longest gave its expert back by 6


def test_a_hit_has_no_matrices_to_wait_for_though_it_came_in_them_once() -> None:
    desk = Desk(1, BY_MATRIX, cache_of(1))
    desk.memory.bring(0, [2], step=0)
    assert desk.memory.pieces(0, 2) == (0, 1)
    desk.ffn(0)
    desk.memory.bring(0, [2], step=1)
    assert desk.memory.held.claimed(0)[2].ready == 1
    assert desk.memory.pieces(0, 2) == ()
