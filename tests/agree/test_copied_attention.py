"""Copies of attention that share the experts: both decoders write one alike, and interpreters agree."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.cost import Costs
from offload.cards.copied_attention import sequences_of_copies
from offload.cards.expert_groups import experts_of_groups
from offload.decode import DecodeStream
from offload.decoding.prompt_chunks import passes_of
from offload.execution import EXECUTIONS
from offload.ffn_work import experts_work
from offload.ops import OpKind
from offload.recorder import assemble
from offload.schedule import Schedule
from offload.work import activation_row_bytes
from simulator import recurrence
from simulator.definition import des
from tests.small_models import MODELS, routing
from tests.written_schedules import assert_written_alike_in_parts_of_any_size, stream_on_cards
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded
from traces.routing import RoutingTrace

DECODERS = [name for name, model in MODELS.items() if not model.is_encoder_decoder]
TOGETHER = [(2, 2, 2), (4, 1, 2), (4, 4, 4), (2, 1, 2), (4, 2, 2), (3, 3, 3)]
"""Cards, groups of whole experts, copies."""
Case = tuple[str, tuple[int, int, int], int, int, int]

cases = st.tuples(
    st.sampled_from(DECODERS), st.sampled_from(TOGETHER), st.integers(1, 9), st.integers(1, 6), st.integers(0, 10**6)
)


def asked(case: Case) -> tuple[ModelArchitecture, RoutingTrace]:
    name, (n_cards, n_groups, copies), _, size, seed = case
    model = sharded(MODELS[name], n_cards // copies, n_groups, copies)
    return model, routing(model, batch=size, seed=seed)


def stream_of(case: Case, *, compiled: bool = False) -> DecodeStream:
    model, trace = asked(case)
    _, (n_cards, n_groups, copies), n_tokens, _, _ = case
    cards = {"n_cards": n_cards, "expert_groups": n_groups, "copies": copies}
    return stream_on_cards(model, trace, n_tokens, compiled=compiled, **cards)


def schedule_of(case: Case) -> Schedule:
    return assemble(stream_of(case), 1000)


@given(cases)
def test_both_decoders_write_the_same_in_parts_of_any_size_and_interpreters_agree(case: Case) -> None:
    whole = schedule_of(case)
    assert_written_alike_in_parts_of_any_size(lambda compiled: stream_of(case, compiled=compiled), whole.digest)
    rng = np.random.default_rng(case[-1])
    costs = Costs(rng.random(len(whole.works)) / 9, rng.random(len(whole.works)))
    defined = des.simulate(whole, costs, hbm_bytes=1 << 50)
    for small in (True, False):
        assert recurrence.simulate(whole, costs, small=small).end_s.tolist() == defined.end_s.tolist()


@given(cases)
def test_attention_is_of_the_largest_copy_and_experts_serve_the_tokens_of_all(case: Case) -> None:
    """Counted anew, from the trace, sequence by sequence and expert by expert."""
    (model, trace), (_, n_groups, copies) = asked(case), case[1]
    schedule, bounds = schedule_of(case), experts_of_groups(model.n_experts, n_groups)
    how = replace(EXECUTIONS["vllm"], micro_batch=case[2])
    ops = iter(np.flatnonzero(schedule.kind == OpKind.EXPERTS).tolist())
    mixing = iter(np.flatnonzero(schedule.kind == OpKind.SELF_ATTENTION).tolist())
    for step in trace.steps():
        sequences = sorted(set(step.sequence.tolist()))
        ranks = [np.isin(step.sequence, sequences[copy::copies]) for copy in range(copies)]
        of_ranks = [
            [one.experts for one, _ in passes_of(_part(step, mine), model, how)] for mine in ranks if mine.any()
        ]
        for i, own in enumerate(of_ranks[0]):
            every = np.concatenate([passes[i] for passes in of_ranks if i < len(passes)])
            for block in range(len(model.decoder.moe_layers)):
                chosen = every[:, block].ravel().tolist()
                for group in range(n_groups):
                    op = next(ops)
                    served = [chosen.count(e) for e in range(bounds[group], bounds[group + 1]) if e in chosen]
                    wanted = experts_work(model, served, len(own) * bool(model.n_shared_experts), fused=True)
                    fused = wanted.fused and wanted.fused._replace(n_tokens=len(every))
                    found = schedule.works[schedule.cost[op]]
                    assert found == wanted._replace(fused=fused, n_copies=int(group == 0))
                gathered, scattered = op - n_groups, op + 1
                assert schedule.kind[gathered] == schedule.kind[scattered] == OpKind.ALL_REDUCE
                width = activation_row_bytes(model)
                logits = model.n_experts * model.stored_activation_dtype.bytes_per_param
                assert schedule.bytes[gathered] == -(-len(every) * (width + logits) // 2)
                assert schedule.bytes[scattered] == -(-len(every) * width // 2)
                for exchange in (gathered, scattered):
                    work = schedule.works[schedule.cost[exchange]]
                    assert (work.copy_bytes, work.n_entries) == (schedule.bytes[exchange], copies)
                    for column in (schedule.lane, schedule.step, schedule.layer):
                        assert column[exchange] == column[gathered + 1], "as the first group of experts has it"
                    assert schedule.expert[exchange] == schedule.slot[exchange] == -1
            for _ in range(model.decoder.n_layers):
                attending = schedule.works[schedule.cost[next(mixing)]].attending
                assert attending is not None
                assert attending.n_tokens == len(own)
    assert next(ops, None) is next(mixing, None) is None


def _part(step, mine):  # type: ignore[no-untyped-def]
    return replace(
        step, experts=step.experts[mine], sequence=step.sequence[mine], position=step.position[mine], gate_weights=None
    )


def test_sequences_of_several_lengths_are_refused() -> None:
    """Nobody knows then which copy the others wait for."""
    step = next(iter(routing(MODELS["decoder-only"], batch=3).steps()))
    assert [len(one.experts) for one in sequences_of_copies(step, 2)] == [8, 4]
    assert sequences_of_copies(step, 1) == [step]
    drafted = replace(step, gate_weights=np.ones(step.experts.shape, np.float32), rejected=step.position == 2)
    for copy in sequences_of_copies(drafted, 2):
        assert copy.gate_weights is not None
        assert copy.rejected is not None
        assert len(copy.gate_weights) == len(copy.experts)
        assert copy.rejected.tolist() == (copy.position == 2).tolist()
    uneven = _part(step, np.arange(len(step.experts)) > 0)
    with pytest.raises(InvalidInput, match=r"copies=2: step 0 has sequences of several lengths.*as long as each other"):
        sequences_of_copies(uneven, 2)
