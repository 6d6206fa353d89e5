"""Layers on several cards: both decoders write it alike, and every interpreter times it as the definition does."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from hwmodels.cost import Costs
from offload.cards.layers_on_cards import LayersOnCards, card_of_layers
from offload.decode import DecodeStream, decode
from offload.execution import EXECUTIONS, Execution
from offload.lanes import card_lane, computes, n_lanes
from offload.metrics.metric_probes import find_probes
from offload.metrics.run_metrics import Totals, decode_steps, of_timeline
from offload.ops import Lane, OpKind, Work
from offload.placing.placed import place
from offload.placing.placement import AS_DECIDED
from offload.policies import policy_named
from offload.recorder import Part, Recorder, assemble
from offload.schedule import Schedule
from simulator import recurrence
from simulator.batched import batch
from simulator.batched.batch_small import evaluate_small
from simulator.definition import des
from simulator.events import event_engine
from simulator.explain.bounds import lower_bounds
from simulator.explain.critical_path import walk
from simulator.modes import Modes
from simulator.streamed.stream import Stream
from tests.small_models import MODELS, routing
from tests.written_schedules import assert_written_alike_in_parts_of_any_size
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

DECODERS = [name for name, model in MODELS.items() if not model.is_encoder_decoder]
ENGINES = ("llama_cpp", "llama_cpp_2025", "ik_llama")


def in_passes(execution: str, n_tokens: int) -> Execution:
    return replace(EXECUTIONS[execution], micro_batch=n_tokens)


def stream_of(
    model: ModelArchitecture, trace: RoutingTrace, n_cards: int, execution: Execution, *, compiled: bool = False
) -> DecodeStream:
    placed = replace(place(model, AS_DECIDED), n_cards=n_cards)
    policy = policy_named("gpu_only")
    return DecodeStream(
        model, trace.steps(), policy, execution, n_buffers=policy.buffers(model.n_experts, model.n_experts).full,
        placed=placed, compiled=compiled,
    )  # fmt: skip


def on_cards(model: ModelArchitecture, trace: RoutingTrace, n_cards: int, execution: Execution) -> Schedule:
    return assemble(stream_of(model, trace, n_cards, execution), 1000)


def drawn_costs(schedule: Schedule, seed: int, n: int | None = None) -> Costs:
    """Zeros and ties included."""
    rng = np.random.default_rng(seed)
    shape = len(schedule.works) if n is None else (len(schedule.works), n)
    return Costs(*(rng.choice([0.0, 1.0, 2.0, rng.random()], shape) * rng.choice([1e-6, 1.0]) for _ in range(2)))


cases = st.tuples(
    st.sampled_from(DECODERS), st.sampled_from(ENGINES), st.integers(2, 7), st.integers(1, 6), st.integers(1, 3),
    st.integers(0, 10**6),
)  # fmt: skip


@given(cases)
def test_both_decoders_write_the_same_in_parts_of_any_size(case: tuple[str, str, int, int, int, int]) -> None:
    name, execution, n_cards, n_tokens, batch_size, seed = case
    model, how = MODELS[name], in_passes(execution, n_tokens)
    trace = routing(model, batch=batch_size, seed=seed)
    whole = on_cards(model, trace, n_cards, how)
    assert_written_alike_in_parts_of_any_size(
        lambda compiled: stream_of(model, trace, n_cards, how, compiled=compiled), whole.digest
    )


@given(cases)
def test_every_interpreter_times_cards_bit_for_bit(case: tuple[str, str, int, int, int, int]) -> None:
    name, execution, n_cards, n_tokens, batch_size, seed = case
    model = MODELS[name]
    trace = routing(model, batch=batch_size, seed=seed)
    schedule = on_cards(model, trace, n_cards, in_passes(execution, n_tokens))
    costs = drawn_costs(schedule, seed)
    start, end, free = [], [], dict.fromkeys(range(n_lanes(schedule.lane)), 0.0)
    for i in range(len(schedule)):  # the contract, as the docstring of `des` reads
        lane, row = int(schedule.lane[i]), int(schedule.cost[i])
        free[0] += float(costs.issue_s[row]) if lane else 0.0
        start.append(max([free[lane], free[0], *(end[int(dep)] for dep in schedule.deps(i))]))
        free[lane] = start[-1] + float(costs.duration_s[row])
        end.append(free[lane])
    defined = des.simulate(schedule, costs, hbm_bytes=1 << 50)
    for small in (True, False):
        found = recurrence.simulate(schedule, costs, small=small)
        assert found.start_s.tolist() == defined.start_s.tolist() == start
        assert found.end_s.tolist() == defined.end_s.tolist() == end
    assert walk(schedule, costs).timeline.end_s.tolist() == end
    bounds = lower_bounds(schedule, costs)
    assert bounds.makespan_s <= defined.makespan_s * (1 + 1e-12)
    swept = drawn_costs(schedule, seed, 3)
    probes = find_probes(schedule, trace)
    many, few = batch.evaluate(batch.compile_schedule(schedule, probes), swept), evaluate_small(probes, swept)
    for i in range(3):
        mine = Costs(*(np.ascontiguousarray(values[:, i]) for values in (swept.issue_s, swept.duration_s)))
        one = recurrence.simulate(schedule, mine)
        assert many.makespan_s[i] == few.makespan_s[i] == one.makespan_s
        ends = one.end_s[schedule.kind == OpKind.STEP].tolist()
        assert many.step_end_s[i].tolist() == few.step_end_s[i].tolist() == ends
        assert many.bound_s[i] == pytest.approx(lower_bounds(schedule, mine).makespan_s, rel=1e-12)
        assert -1 <= many.binding[i] < len(Lane)


@given(cases)
@settings(max_examples=20)
def test_a_schedule_of_cards_in_parts_is_measured_as_the_whole(case: tuple[str, str, int, int, int, int]) -> None:
    name, execution, n_cards, n_tokens, batch_size, seed = case
    model, how = MODELS[name], in_passes(execution, n_tokens)
    trace = routing(model, batch=batch_size, seed=seed)
    schedule = on_cards(model, trace, n_cards, how)
    costs = drawn_costs(schedule, seed)
    row_of = {work: row for row, work in enumerate(schedule.works)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offload.fast.decode_compiled._PART_OPS", 1)
        stream = Stream(decode_steps(trace), 1000)
        for part in stream_of(model, trace, n_cards, how, compiled=True):
            rows = [row_of[work] for work in part.works]
            stream.feed(part, Costs(costs.issue_s[rows], costs.duration_s[rows]))
    whole = of_timeline(recurrence.simulate(schedule, costs), trace, 1, (0, 0))
    seen: Totals = stream.totals
    assert seen.makespan_s == whole["makespan_s"]
    assert seen.moe_layer_latency_s == pytest.approx(whole["moe_layer_latency_s"], rel=1e-12)
    assert stream.step_ends[1].tolist() == recurrence.simulate(schedule, costs).end_s[
        schedule.kind == OpKind.STEP
    ].tolist()  # fmt: skip
    assert stream.critical_path_s == lower_bounds(schedule, costs).critical_path_s


@given(cases)
def test_cards_do_what_one_does_and_are_never_slower_than_it_nor_faster_than_their_number(
    case: tuple[str, str, int, int, int, int],
) -> None:
    name, execution, n_cards, n_tokens, batch_size, seed = case
    model, how = MODELS[name], in_passes(execution, n_tokens)
    trace = routing(model, batch=batch_size, seed=seed)
    one, several = on_cards(model, trace, 1, how), on_cards(model, trace, n_cards, how)
    waits = ~np.isin(several.kind, (OpKind.WAIT,))
    stays = ~np.isin(one.kind, (OpKind.WAIT,))
    for column in ("kind", "step", "layer", "bytes"):
        assert getattr(several, column)[waits].tolist() == getattr(one, column)[stays].tolist()
    works = [[schedule.works[row] for row in schedule.cost[mine].tolist()] for schedule, mine in
             ((several, waits), (one, stays))]  # fmt: skip
    assert works[0] == works[1]
    cards = card_of_layers(model.decoder.n_layers, min(n_cards, model.decoder.n_layers))
    wanted = [card_lane(int(cards[layer])) for layer in several.layer[computes(several.lane)].tolist()]
    assert several.lane[computes(several.lane)].tolist() == wanted
    rng = np.random.default_rng(seed)
    by_work = {work: (0.1 * rng.random(), rng.random()) for work in several.works}
    times = []
    for schedule in (one, several):
        free = [(0.0, 0.0) if work.kind is OpKind.WAIT else by_work[work] for work in schedule.works]
        times.append(recurrence.simulate(schedule, Costs(*np.array(free).T.copy())).makespan_s)
    assert times[0] / n_cards * (1 - 1e-12) <= times[1] <= times[0] * (1 + 1e-12)


def passes_on_cards(stage_s: list[float], n_cards: int, n_copies: int) -> float:
    """When passes end that take as long on each of several cards: by the definition, of hand-written ops."""
    recorder, n_layers, rows = Recorder(), 4 * n_cards - 1, dict[Work, float]()
    cards = card_of_layers(n_layers, n_cards)
    counts = np.bincount(cards[:-1], minlength=n_cards)  # without the head, which takes no time here
    for i, time in enumerate(stage_s):
        for layer in range(n_layers):
            work = Work(OpKind.DENSE_FFN, flop=1000 * i + layer)
            rows[work] = time / counts[cards[layer]]
            recorder.issue(Lane.COMPUTE, work, step=0, layer=layer)
    head = recorder.issue(Lane.COMPUTE, Work(OpKind.HEAD), step=0)
    recorder.issue(Lane.HOST, Work(OpKind.STEP), (head,), step=0)
    (part,) = LayersOnCards(card_of_layers(n_layers, n_cards), n_copies).parts([recorder.take()])
    schedule = assemble([Part(part.base, part.columns, part.works, np.zeros(0, np.int64))])
    duration_s = np.array([rows.get(work, 0.0) for work in schedule.works])
    return des.simulate(schedule, Costs(np.zeros(len(duration_s)), duration_s), hbm_bytes=1).makespan_s


@pytest.mark.parametrize("n_cards", [2, 3, 4, 5])
@pytest.mark.parametrize("stage_s", [[1.0], [1.0, 1.5], [1.0, 1.25, 1.5, 1.75, 2.0], [2.0, 1.0, 3.0, 0.5, 0.25, 1.0]])
def test_equal_stages_take_the_sum_of_the_passes_and_the_longest_once_more_for_each_further_card(
    stage_s: list[float], n_cards: int
) -> None:
    """Of a flow shop with equal stages; four copies suffice for five cards: the fifth pass waits for the first."""
    wanted = sum(stage_s) + (n_cards - 1) * max(stage_s)
    assert passes_on_cards(stage_s, n_cards, 4) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("n_cards", "n_copies", "period"), [(2, 1, 1.0), (3, 1, 1.5), (4, 1, 2.0), (8, 4, 1.6)])
def test_too_few_copies_hold_the_host_back(n_cards: int, n_copies: int, period: float) -> None:
    """n_copies + 1 passes are under way in the time that one takes through all cards."""
    per_pass = (passes_on_cards([1.0] * 60, n_cards, n_copies) - passes_on_cards([1.0] * 20, n_cards, n_copies)) / 40
    assert per_pass == pytest.approx(period, rel=1e-9)


@pytest.mark.parametrize(
    ("n_layers", "n_cards", "split"),
    [(47, 2, [24, 23]), (48, 2, [25, 23]), (61, 4, [16, 15, 16, 14]), (3, 3, [2, 1, 0]), (32, 1, [32])],
)
def test_layers_are_split_with_the_head_as_one_more(n_layers: int, n_cards: int, split: list[int]) -> None:
    cards = card_of_layers(n_layers, n_cards)
    assert cards[-1] == n_cards - 1
    assert np.all(np.diff(cards) >= 0)
    assert np.bincount(cards[:-1], minlength=n_cards).tolist() == split


def test_modes_of_links_refuse_several_cards() -> None:
    model = MODELS[DECODERS[0]]
    schedule = on_cards(model, routing(model), 2, EXECUTIONS["llama_cpp"])
    costs = drawn_costs(schedule, 0)
    for ask in (
        lambda: event_engine.simulate(schedule, costs),
        lambda: des.simulate(schedule, costs, 1 << 50, Modes(link="shared")),
    ):
        with pytest.raises(InvalidInput, match="experts on 2 cards: modes of links and memories are of one card"):
            ask()


def test_a_stack_that_runs_one_pass_at_a_time_stays_on_one_lane() -> None:
    model = MODELS[DECODERS[0]]
    trace = routing(model)
    how = replace(EXECUTIONS["llama_cpp"], input_copies=0)
    assert on_cards(model, trace, 2, how).digest == on_cards(model, trace, 1, how).digest
    plain = decode(model, trace.steps(), policy_named("gpu_only"), how, n_buffers=0, static_bytes=1000)
    assert plain.schedule.digest == on_cards(model, trace, 2, how).digest
