"""Gates of a token that select for the next: what a pass brings before any gate of its own, written by hand."""

from __future__ import annotations

import dataclasses

import pytest

from offload.policies import policy_named
from tests.unit.offload.by_hand import DECODER, NEXT, PROMPT, ops, written
from traces.errors import InvalidInput

LAST_LAYER = dataclasses.replace(DECODER, pregated_from=3)
"""Layers 1 and 2 choose for themselves; what layer 3 needs, the token before has chosen."""


def test_what_the_token_before_chose_is_brought_as_the_pass_begins() -> None:
    decoded = written(LAST_LAYER, [PROMPT, NEXT], "pregate/next_token")
    assert ops(decoded, 1) == [
        "fetch 3 e3 s0 after -21", "fetch 3 e4 s1 after -21",
        "attention 0", "ffn 0",
        "attention 1", "gate 1", "readback 1 after 5", "wait 1 after 6",
        "fetch 1 e1 s2 after -21", "fetch 1 e2 s3 after -13", "experts 1 e1 after 8", "experts 1 e2 after 8 9",
        "attention 2", "gate 2", "readback 2 after 13", "wait 2 after 14",
        "fetch 2 e0 s4 after -13", "fetch 2 e5 s5 after -3", "experts 2 e0 after 16", "experts 2 e5 after 16 17",
        "attention 3", "gate 3", "experts 3 e3 after 0", "experts 3 e4 after 0 1",
        "head", "step after 24",
    ]  # fmt: skip


def test_one_block_is_brought_beside_each_that_chooses_for_itself() -> None:
    """Of a model that does not say from which layer on, all but the first MoE layer know before."""
    found = ops(written(DECODER, [PROMPT, NEXT], "pregate/next_token"), 1)
    assert found[:2] == ["fetch 2 e0 s0 after -21", "fetch 2 e5 s1 after -21"]
    assert found[10:15] == [
        "experts 1 e1 after 8", "experts 1 e2 after 8 9", "fetch 3 e3 s4 after -13", "fetch 3 e4 s5 after -3",
        "attention 2",
    ]  # fmt: skip
    assert sum(op.startswith("readback") for op in found) == 1


def test_a_prompt_chooses_by_its_own_gates() -> None:
    as_before, asked = (written(LAST_LAYER, [PROMPT], name) for name in ("on_demand", "pregate/next_token"))
    assert ops(asked, 0) == ops(as_before, 0)


def test_blocks_that_choose_for_themselves_keep_their_slots() -> None:
    """With slots for three experts, those of layer 3 wait until layers 1 and 2 had two each."""
    found = ops(written(LAST_LAYER, [PROMPT, NEXT], "pregate/next_token", n_buffers=3), 1)
    assert found[0] == "attention 0"
    assert found.index("fetch 3 e3 s0 after 9") > found.index("experts 2 e5 after 14 15")


def test_passes_that_verify_drafts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="leave gamma= out"):
        policy_named("pregate/next_token@gamma=3:acceptance=0.8")
