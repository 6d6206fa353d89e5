"""Whole experts and layers on cards that share the rest: decoders write them alike, and interpreters agree."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.cost import Costs
from offload.cards.expert_groups import ExpertsOnCards, _alike, experts_of_groups, most_experts
from offload.cards.layers_on_cards import stage_of_layers
from offload.decode import DecodeStream
from offload.decoding.choice_counts import choice_counts
from offload.decoding.prompt_chunks import passes_of
from offload.execution import EXECUTIONS
from offload.ffn_work import experts_work
from offload.lanes import card_lane
from offload.metrics.metric_probes import find_probes
from offload.ops import Lane, OpKind
from offload.placing.placed import place
from offload.policies import policy_named
from offload.recorder import assemble
from offload.schedule import Schedule
from offload.work import activation_row_bytes
from simulator import recurrence
from simulator.batched import batch
from simulator.definition import des
from tests.small_models import MODELS, routing
from tests.written_schedules import assert_written_alike_in_parts_of_any_size, stream_on_cards
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.layer_models import models_by_layer
from traces.model.tensor_parallel import sharded
from traces.routing import RoutingTrace

DECODERS = [name for name, model in MODELS.items() if not model.is_encoder_decoder]
TOGETHER = [(2, 2, 1), (4, 4, 1), (4, 2, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2), (4, 1, 4)]
"""Cards, groups of whole experts in each turn, turns."""

cases = st.tuples(
    st.sampled_from(DECODERS), st.sampled_from(TOGETHER), st.integers(1, 9), st.integers(1, 3), st.integers(0, 10**6)
)
Case = tuple[str, tuple[int, int, int], int, int, int]


def asked(case: Case) -> tuple[ModelArchitecture, RoutingTrace, tuple[int, int, int], int]:
    name, (n_cards, n_groups, turns), n_tokens, size, seed = case
    model = sharded(MODELS[name], n_cards // turns, n_groups)
    return model, routing(model, batch=size, seed=seed), (n_cards, n_groups, turns), n_tokens


def stream_of(case: Case, *, compiled: bool = False) -> DecodeStream:
    model, trace, (n_cards, n_groups, turns), n_tokens = asked(case)
    cards = {"n_cards": n_cards, "expert_groups": n_groups, "turns": turns}
    return stream_on_cards(model, trace, n_tokens, compiled=compiled, **cards)


def schedule_of(case: Case) -> Schedule:
    return assemble(stream_of(case), 1000)


@given(cases)
def test_both_decoders_write_the_same_in_parts_of_any_size(case: Case) -> None:
    digest = schedule_of(case).digest
    assert_written_alike_in_parts_of_any_size(lambda compiled: stream_of(case, compiled=compiled), digest)


def test_unions_are_told_apart_whatever_their_numbers_come_to() -> None:
    """Numbers of tokens are folded into one of 64 bits, and counted anew where that is full."""
    case: Case = ("shared experts, three matrices", (2, 2, 1), 9, 3, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offload.cards.expert_groups._MOST", 4)
        found = schedule_of(case).digest
    assert found == schedule_of(case).digest


def test_rows_alike_are_told_whatever_their_numbers_are() -> None:
    rng = np.random.default_rng(0)
    for top, n_columns in ((3, 4), (1 << 20, 3), (1 << 30, 4), (1 << 40, 3)):
        rows = rng.integers(max(top - 4, 0), top, (200, n_columns))
        first, of = _alike(rows)
        assert np.array_equal(rows[first][of], rows)
        assert len(first) == len(np.unique(rows, axis=0))


def test_experts_are_counted_the_same_by_machine_code() -> None:
    case: Case = ("shared experts, three matrices", (2, 2, 1), 9, 3, 1)
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("_FEW_CELLS", "_MANY_CELLS"):
            patch.setattr(f"offload.decoding.choice_counts.{limit}", 0)
        found = schedule_of(case).digest
    assert found == schedule_of(case).digest


def test_pads_are_counted_by_neither_way_of_counting_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = np.random.default_rng(2).integers(-1, 4, (7, 3, 2), np.int16)
    begins = np.array([0, 2, 2, 7])
    by_arrays = choice_counts(experts, 4, begins)
    for limit in ("_FEW_CELLS", "_MANY_CELLS"):
        monkeypatch.setattr(f"offload.decoding.choice_counts.{limit}", 0)
    assert np.array_equal(choice_counts(experts, 4, begins), by_arrays)
    assert by_arrays.sum() == np.count_nonzero(experts >= 0) < experts.size


@given(cases)
def test_every_interpreter_times_them_bit_for_bit(case: Case) -> None:
    schedule, trace = schedule_of(case), asked(case)[1]
    rng = np.random.default_rng(case[-1])
    costs = Costs(rng.random(len(schedule.works)) / 9, rng.random(len(schedule.works)))
    defined = des.simulate(schedule, costs, hbm_bytes=1 << 50)
    for small in (True, False):
        found = recurrence.simulate(schedule, costs, small=small)
        assert found.start_s.tolist() == defined.start_s.tolist()
        assert found.end_s.tolist() == defined.end_s.tolist()
    swept = Costs(rng.random((len(schedule.works), 3)), rng.random((len(schedule.works), 3)))
    many = batch.evaluate(batch.compile_schedule(schedule, find_probes(schedule, trace)), swept)
    for i in range(3):
        one = Costs(*(np.ascontiguousarray(values[:, i]) for values in (swept.issue_s, swept.duration_s)))
        assert many.makespan_s[i] == recurrence.simulate(schedule, one).makespan_s


@given(cases)
def test_each_group_computes_its_own_experts_and_all_are_waited_for(case: Case) -> None:
    """Counted anew, from the trace, expert by expert."""
    model, trace, (_, n_groups, turns), n_tokens = asked(case)
    schedule = schedule_of(case)
    bounds = experts_of_groups(model.n_experts, n_groups)
    ops = iter(np.flatnonzero(schedule.kind == OpKind.EXPERTS).tolist())
    how = replace(EXECUTIONS["vllm"], micro_batch=n_tokens)
    stages = stage_of_layers(model.decoder.n_layers, turns)
    lanes = set[tuple[int, int, int]]()
    for step in trace.steps():
        for one, _ in passes_of(step, model, how):
            for block, layer in enumerate(model.decoder.moe_layers):
                chosen, last = one.experts[:, block].ravel().tolist(), -1
                for group in range(n_groups):
                    served = [chosen.count(e) for e in range(bounds[group], bounds[group + 1]) if e in chosen]
                    wanted = experts_work(models_by_layer(model)[layer], served, len(one.experts), fused=True)
                    fused = wanted.fused and wanted.fused._replace(n_tokens=len(one.experts))
                    last = next(ops)
                    found = schedule.works[schedule.cost[last]]
                    assert found == wanted._replace(fused=fused, n_copies=int(group == 0))
                    assert schedule.layer[last] == layer
                    assert schedule.step[last] == schedule.step[last - group]
                    assert schedule.expert[last] == schedule.slot[last] == -1
                    lanes.add((int(schedule.lane[last]), int(stages[layer]), group))
                first = last - n_groups + 1
                assert schedule.kind[last + 1] == OpKind.ALL_REDUCE or n_groups == 1
                if n_groups > 1:
                    assert set(range(first + 1, last + 1)) <= set(schedule.deps(last + 1).tolist())
    assert next(ops, None) is None
    assert len(lanes) == len({lane for lane, _, _ in lanes}), "a lane is of one group of one turn"


@given(cases)
def test_the_slowest_group_counts_and_what_is_sent_is_on_the_way_of_every_pass(case: Case) -> None:
    """With issuing and scheduling free and one pass at a time, a step takes what one card does with the slowest group
    of each layer in place of all experts, and what is sent between.
    """
    model, trace, _, _ = asked(case)
    together = schedule_of((*case[:2], 10**6, *case[3:]))
    rng = np.random.default_rng(case[-1])
    duration_s = rng.random(len(together.works))
    duration_s[[work.kind is OpKind.SCHEDULE for work in together.works]] = 0.0
    timeline = recurrence.simulate(together, Costs(np.zeros(len(duration_s)), duration_s))
    taken = 0.0
    ops = np.flatnonzero(np.isin(together.lane, (Lane.HOST,)) | (together.kind != OpKind.EXPERTS))
    taken += float(duration_s[together.cost[ops]].sum())
    n_groups = case[1][1]
    experts = np.flatnonzero(together.kind == OpKind.EXPERTS).reshape(-1, n_groups)
    taken += float(duration_s[together.cost[experts]].max(axis=1).sum())
    assert timeline.makespan_s == pytest.approx(taken, rel=1e-12)
    sent = together.kind == OpKind.SEND
    n_tokens = sum(len(step.experts) for step in trace.steps())
    assert int(together.bytes[sent].sum()) == (case[1][2] - 1) * n_tokens * 2 * activation_row_bytes(model)


def test_chunks_of_a_prompt_are_in_several_stages_at_once_and_no_more_than_there_are_stages() -> None:
    """Four layers, one in each of four stages, six chunks: (6 + 3) times of a stage, as in any flow shop."""
    model = MODELS["decoder-only"]
    trace = routing(model, input_tokens=6, output_tokens=2)
    schedule = assemble(
        DecodeStream(
            model, trace.steps(), policy_named("gpu_only"), replace(EXECUTIONS["vllm"], micro_batch=1), n_buffers=0,
            placed=replace(place(model, policy_named("gpu_only").placement), n_cards=4, turns=4), compiled=False,
        ), 0,
    )  # fmt: skip
    mixes = np.isin(schedule.kind, (OpKind.SELF_ATTENTION,))
    duration_s = np.zeros(len(schedule.works))
    duration_s[schedule.cost[mixes]] = 1.0
    timeline = recurrence.simulate(schedule, Costs(np.zeros(len(duration_s)), duration_s))
    first = np.flatnonzero(schedule.kind == OpKind.STEP)[0]
    assert timeline.end_s[first] == pytest.approx(6 + 3)
    starts = timeline.start_s[mixes & (schedule.lane == Lane.COMPUTE)][:6]
    assert starts.tolist() == [0, 1, 2, 3, 4, 5]
    for wait in np.flatnonzero(schedule.kind == OpKind.WAIT).tolist():
        assert card_lane(3) in schedule.lane[schedule.deps(wait)].tolist(), "until a pass has left the last stage"
    waits = schedule.kind == OpKind.WAIT
    assert waits.sum() == 2, "the fifth chunk waits for the first, the sixth for the second"


@pytest.mark.parametrize(
    ("n_layers", "n_stages", "split"),
    [
        (48, 2, [24, 24]),
        (61, 4, [15, 15, 16, 15]),
        (62, 4, [15, 16, 16, 15]),
        (63, 4, [16, 16, 16, 15]),
        (5, 3, [2, 2, 1]),
    ],
)
def test_layers_are_split_over_stages_as_vllm_does(n_layers: int, n_stages: int, split: list[int]) -> None:
    stages = stage_of_layers(n_layers, n_stages)
    assert np.bincount(stages[:-1]).tolist() == split
    assert stages[-1] == n_stages - 1, "the head is on the last"


@pytest.mark.parametrize(
    ("n_experts", "n_groups", "sizes"), [(128, 8, [16] * 8), (60, 8, [8] * 4 + [7] * 4), (5, 1, [5])]
)
def test_experts_are_on_groups_in_order(n_experts: int, n_groups: int, sizes: list[int]) -> None:
    assert np.diff(experts_of_groups(n_experts, n_groups)).tolist() == sizes
    assert most_experts(n_experts, n_groups) == max(sizes)


def test_more_groups_than_experts_or_lanes_are_refused() -> None:
    model, policy = MODELS["decoder-only"], policy_named("gpu_only")
    placed = replace(place(model, policy.placement), n_cards=8, expert_groups=8)
    with pytest.raises(InvalidInput, match="6 experts of 1 turns on 8 groups of cards: at most 16"):
        iter(DecodeStream(model, routing(model).steps(), policy, EXECUTIONS["vllm"], n_buffers=0, placed=placed))
    for n_groups, n_turns in ((6, 2), (4, 4)):
        ExpertsOnCards(model, EXECUTIONS["vllm"], n_groups, n_turns, 1)
    with pytest.raises(InvalidInput, match="of 6 turns on 3 groups"):
        ExpertsOnCards(model, EXECUTIONS["vllm"], 3, 6, 1)
