"""Which schedules are spread over cards, and what the cards of a stage hand to the next, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offload.cards.many_cards import parts_on_cards
from offload.decoding.decode_job import DecodeJob
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.placing.placed import place
from offload.placing.placement import AS_DECIDED
from offload.placing.placement_clauses import placement_named
from offload.policies import policy_named
from offload.policy import Policy
from offload.policy_parts.speculation import Speculation
from offload.recorder import Part, assemble
from tests.small_models import MODELS, routing
from tests.written_schedules import stream_on_cards
from traces.model.tensor_parallel import sharded

DECODER = next(name for name, model in MODELS.items() if not model.is_encoder_decoder)
ENCODER_DECODER = next(name for name, model in MODELS.items() if model.is_encoder_decoder)
LOOKED_UP = Speculation(gamma=2, acceptance=0.5)
MODEL_DRAFTS = Speculation(gamma=2, acceptance=0.5, draft_name="d", draft=MODELS[DECODER])


def is_spread(policy: Policy, name: str = DECODER, placement: str = "", n_cards: int = 2) -> bool:
    """Whether the layers of a schedule under llama.cpp are put on its cards; else it is that of one card."""
    model = MODELS[name]
    placed = replace(place(model, placement_named(placement) if placement else AS_DECIDED), n_cards=n_cards)
    job = DecodeJob(model, policy, EXECUTIONS["llama_cpp"], model.n_experts, None, False, placed)
    of_one: list[Part] = []
    as_written = iter(of_one)
    return parts_on_cards(job, (), lambda steps: as_written) is not as_written


@pytest.mark.parametrize(
    ("policy", "name", "placement", "expected"),
    [
        (policy_named("gpu_only"), DECODER, "", True),
        (policy_named("on_demand"), DECODER, "", False),
        (policy_named("gpu_only"), DECODER, "experts=cpu", False),
        (policy_named("gpu_only"), ENCODER_DECODER, "", False),
        (policy_named("gpu_only").with_speculation(LOOKED_UP), DECODER, "", True),
        (policy_named("gpu_only").with_speculation(MODEL_DRAFTS), DECODER, "", False),
        (policy_named("on_demand"), DECODER, "experts=cpu", False),
    ],
)
def test_layers_are_on_cards_where_each_stays_on_one_and_they_are_of_one_decoder(
    policy: Policy, name: str, placement: str, expected: bool
) -> None:
    assert is_spread(policy, name, placement) is expected


def test_one_card_has_its_schedule_as_it_is_written() -> None:
    assert not is_spread(policy_named("gpu_only"), n_cards=1)


def test_what_a_stage_hands_on_is_sent_in_as_many_shares_as_cards_have_it() -> None:
    """Four cards in two stages: two have the activations, and each sends one half of them."""
    model = sharded(MODELS[DECODER], 2)
    trace = routing(model, batch=2, seed=1)
    written = assemble(stream_on_cards(model, trace, 4, compiled=False, n_cards=4, turns=2, expert_groups=1), 1000)
    shares = {work.n_entries for work in written.works if work.kind is OpKind.SEND}
    assert shares == {2}


def test_cards_in_turn_have_nothing_to_add_up() -> None:
    model = MODELS[DECODER]
    trace = routing(model, batch=2, seed=1)
    written = assemble(stream_on_cards(model, trace, 4, compiled=False, n_cards=2, turns=2, expert_groups=1), 1000)
    assert OpKind.SEND in written.kind
    assert OpKind.ALL_REDUCE not in written.kind


def test_replicas_of_experts_are_on_the_cards_that_hold_them() -> None:
    """Of four experts a layer, two cards hold two each; or three each, of which one is held twice."""
    model = sharded(MODELS[DECODER], 2, 2)
    trace = routing(model, batch=3, seed=1)
    plain, held = (
        assemble(stream_on_cards(model, trace, 6, compiled=False, n_cards=2, turns=1, expert_groups=2, held=held), 1000)
        for held in ((), ((*range(model.n_experts), 0, 1),) * model.n_moe_layers)
    )
    assert np.array_equal(plain.kind, held.kind)
    assert plain.digest != held.digest
