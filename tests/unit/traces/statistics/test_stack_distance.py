"""One pass answers every capacity: each lookup as a replay of that capacity meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pregate
from offload.caches.budget_replay import replay_residency, residency_curve
from offload.caches.residency import ResidentSet
from pregate.ask.replays.replay import LruCurve
from pregate.ask.replays.replay import lru_curve as front_door
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.statistics.hit_curve import HitCurve, lru_curve
from traces.statistics.locality import lru_hit_rates
from traces.statistics.stack_distance import NEVER, size_by_layer, stack_distances

BUDGETS = (0, 1, 2, 3, 5, 7, 10, 13, 17, 25, 40, 60, 100, 200, 1000, 1 << 40, 1 << 62)


def trace_of(
    experts: list[list[list[int]]], tokens_a_step: list[int], n_prefill_steps: int, n_experts: int
) -> RoutingTrace:
    """Tokens (n_tokens, n_moe_layers, top_k), so many in each step, prefill first."""
    step = np.repeat(np.arange(len(tokens_a_step)), tokens_a_step).astype(np.int32)
    index = np.arange(step.size, dtype=np.int32)
    return RoutingTrace(
        experts=np.array(experts, dtype=np.int16),
        sequence=index,
        position=index,
        phase=np.where(step < n_prefill_steps, Phase.PREFILL, Phase.DECODE).astype(np.int8),
        step=step,
        n_experts=n_experts,
        provenance=Provenance(model="toy", source="this test"),
    )


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    """Steps of 1 to 4 tokens, some pads, 1 to 4 layers."""
    n_layers, n_experts = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    top_k = draw(st.integers(1, min(3, n_experts)))
    tokens_a_step = draw(st.lists(st.integers(1, 4), min_size=1, max_size=25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_tokens = sum(tokens_a_step)
    order = rng.random((n_tokens, n_layers, n_experts)).argsort(axis=2)[:, :, :top_k]
    padded = rng.random(order.shape) < draw(st.sampled_from((0.0, 0.2, 0.9)))
    padded[..., 0] = False  # every token has an expert at every layer
    experts = np.where(padded, -1, order).tolist()
    return trace_of(experts, tokens_a_step, draw(st.integers(0, 2)), n_experts)


@given(trace=traces(), data=st.data(), per_layer=st.booleans())
def test_every_lookup_hits_every_budget_that_the_replay_says(
    trace: RoutingTrace, data: st.DataObject, per_layer: bool
) -> None:
    """Unequal experts, no budget at all, budgets below an event, of exactly a need and one less, and huge ones."""
    size = st.integers(1, 12)
    sizes = data.draw(st.lists(size, min_size=trace.n_moe_layers, max_size=trace.n_moe_layers), label="sizes")
    found = stack_distances(trace, sizes, per_layer=per_layer)
    curve = lru_curve(trace, sizes, per_layer=per_layer)
    steps = curve.capacities.tolist()
    for budget in {*BUDGETS, *steps, *(step - 1 for step in steps if step)}:
        replayed = replay_residency(trace, "layer" if per_layer else "lru", budget, sizes)
        np.testing.assert_array_equal(found.needed <= budget, replayed.hits)
        assert curve.hits(budget) == replayed.n_hits
        assert curve.hits(budget, decode_only=True) == replayed.n_hits_decode
        assert curve.read(budget) == replayed.read_bytes
        assert (curve.n_lookups, curve.n_lookups_decode) == (replayed.n_lookups, replayed.n_lookups_decode)


def slot_hits(trace: RoutingTrace, capacity: int, per_layer: bool) -> list[bool]:
    residents = ResidentSet(capacity, per_layer=per_layer, n_layers=trace.n_moe_layers, n_experts=trace.n_experts)
    hits = []
    for step in trace.steps():
        for layer in range(trace.n_moe_layers):
            chosen = step.experts[:, layer, :].ravel()
            hits += [access.hit for access in residents.admit(layer, chosen[chosen >= 0].tolist())]
    return hits


@given(trace=traces(), per_layer=st.booleans())
def test_every_lookup_hits_every_number_of_slots_that_holds_the_largest_event(
    trace: RoutingTrace, per_layer: bool
) -> None:
    """Also numbers that do not divide by the layers."""
    found = stack_distances(trace, per_layer=per_layer)
    curve = lru_curve(trace, per_layer=per_layer)
    assert curve.capacities[0] == found.smallest_capacity
    for capacity in range(found.smallest_capacity, trace.n_moe_layers * trace.n_experts + 2):
        hits = slot_hits(trace, capacity, per_layer)
        assert (found.needed <= capacity).tolist() == hits
        assert curve.hits(capacity) == sum(hits)


@pytest.mark.parametrize("per_layer", [False, True])
def test_slots_begin_exactly_where_the_largest_event_fits(per_layer: bool) -> None:
    """Layer 0 needs 1, layer 1 needs 3: pooled 3 slots; split over two layers 6, as 5 give the second only 2."""
    trace = trace_of([[[0, -1, -1], [0, 1, 2]], [[0, -1, -1], [0, 1, 2]]], [1, 1], 0, 4)
    smallest = 6 if per_layer else 3
    curve = lru_curve(trace, per_layer=per_layer)
    assert curve.hits(smallest) == sum(slot_hits(trace, smallest, per_layer))
    with pytest.raises(InvalidInput, match=f"capacity = {smallest - 1} slots is below {smallest}, which the largest"):
        curve.hits([smallest, smallest - 1])


@given(trace=traces(), capacity=st.integers(1, 8))
def test_the_statistics_hit_rate_is_the_curve_of_layers(trace: RoutingTrace, capacity: int) -> None:
    """Two implementations of one rule, with caches a layer that start cold at the first decode step."""
    if trace.batch == 0:
        return
    decoded = trace.decode_only()
    if not (decoded.experts >= 0).any():
        return
    curve = lru_curve(decoded, [1] * trace.n_moe_layers, per_layer=True)
    assert lru_hit_rates(trace, [capacity]) == (curve.hit_rate(capacity * trace.n_moe_layers),)


def brute_force_depths(keys: list[int]) -> list[int]:
    """Events of one key: distinct keys since the last use, itself included; 0 when that was the event before."""
    depths = []
    for i, key in enumerate(keys):
        before = [j for j in range(i) if keys[j] == key]
        depths.append(NEVER if not before else 0 if before[-1] == i - 1 else len(set(keys[before[-1] : i])))
    return depths


def test_needs_hold_long_after_the_stamps_are_numbered_anew() -> None:
    """Four experts and 400 events: a tree of 8 stamps is full, and emptied, some 100 times."""
    keys = np.random.default_rng(0).integers(0, 4, 400).tolist()
    trace = trace_of([[[key]] for key in keys], [1] * 400, 0, 4)
    assert stack_distances(trace, [1]).needed.tolist() == brute_force_depths(keys)


def test_lookups_come_in_the_order_of_first_appearance_and_age_by_the_last() -> None:
    """Step 0 chooses 0, 1, 0 again; after 2, expert 1 lies below 0."""
    trace = trace_of([[[0]], [[1]], [[0]], [[2]], [[1]], [[0]]], [3, 1, 2], 1, 3)
    found = stack_distances(trace, [10])
    assert found.needed.tolist() == [NEVER, NEVER, NEVER, 30, 20]
    assert found.decode.tolist() == [False, False, True, True, True]


def test_what_the_event_before_used_needs_nothing() -> None:
    """A published rule: an event overshoots the budget, and what it used is still there for the next."""
    trace = trace_of([[[0, 1]], [[1, 0]], [[2, 3]], [[0, 1]]], [1] * 4, 0, 4)
    assert stack_distances(trace, [10]).needed.tolist() == [NEVER, NEVER, 0, 0, NEVER, NEVER, 30, 40]


def test_pooled_layers_of_unequal_experts_add_up() -> None:
    trace = trace_of([[[0], [0]], [[0], [0]]], [1, 1], 0, 1)
    assert stack_distances(trace, [10, 30]).needed.tolist() == [NEVER, NEVER, 40, 40]
    assert lru_curve(trace, [10, 30]).capacities.tolist() == [0, 40]


def test_a_shared_budget_is_split_before_it_is_spent() -> None:
    """Each layer gets a third: what needs 2 slots or 20 bytes of its own needs three times as much in all."""
    trace = trace_of([[[0]] * 3, [[1]] * 3, [[0]] * 3], [1] * 3, 0, 2)
    assert stack_distances(trace, [10] * 3, per_layer=True).needed[-3:].tolist() == [60, 60, 60]
    assert stack_distances(trace, per_layer=True).needed[-3:].tolist() == [4, 5, 6]
    again = trace_of([[[0]] * 3, [[0]] * 3], [1] * 2, 0, 2)  # nothing came between
    assert stack_distances(again, per_layer=True).needed[-3:].tolist() == [0, 0, 0]


@pytest.fixture
def curve() -> HitCurve:
    trace = trace_of([[[0]], [[1]], [[0]], [[1]], [[1]]], [1] * 5, 0, 2)
    return lru_curve(trace, [10])


def test_a_curve_answers_arrays_in_their_shape_and_order(curve: HitCurve) -> None:
    assert curve.hits(np.array([[20, 0], [19, 99]])).tolist() == [[3, 1], [1, 3]]
    assert curve.hit_rate([99, 0]).tolist() == [0.6, 0.2]
    assert curve.read([0, 20, NEVER - 1]).tolist() == [40, 20, 20]
    assert curve.hits(np.array([], dtype=np.int64)).tolist() == []


def test_arrays_are_read_only(curve: HitCurve) -> None:
    found = stack_distances(trace_of([[[0]], [[0]]], [1, 1], 0, 2))
    for array in (
        curve.n_hits, curve.n_hits_decode, curve.capacities, curve.n_read, found.needed, found.layer, found.decode,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_rates_of_decoding_are_of_its_lookups() -> None:
    """Experts 0 and 1 in the prompt, then 0 again: one lookup in decoding, which hits at two."""
    curve = lru_curve(trace_of([[[0]], [[1]], [[0]]], [1, 1, 1], 2, 2), [10])
    assert (curve.n_lookups, curve.n_lookups_decode, curve.unit) == (3, 1, "bytes")
    assert curve.hit_rate([19, 20], decode_only=True).tolist() == [0.0, 1.0]
    assert curve.hit_rate([19, 20]).tolist() == [0.0, 1 / 3]
    assert curve.hits([19, 20], decode_only=True).tolist() == curve.hits([19, 20]).tolist() == [0, 1]
    assert curve.read([19, 20]).tolist() == [30, 20]
    prompt = lru_curve(trace_of([[[0]], [[0]]], [1, 1], 2, 2))
    assert (prompt.n_lookups_decode, prompt.unit) == (0, "slots")
    assert prompt.hit_rate([1, 2], decode_only=True).tolist() == [0.0, 0.0]
    assert prompt.hit_rate(2) == 0.5


def test_capacities_beyond_what_floats_can_tell_apart_are_exact() -> None:
    size = (1 << 53) + 1
    curve = lru_curve(trace_of([[[0]], [[1]], [[0]]], [1, 1, 1], 0, 2), [size])
    assert curve.hits([2 * size - 1, 2 * size]).tolist() == [0, 1]
    assert curve.capacities.tolist() == [0, 2 * size]
    older = trace_of([[[0]], [[1]], [[2]], [[1]]], [1] * 4, 0, 3)
    assert stack_distances(older, [size]).needed.tolist() == [NEVER] * 3 + [2 * size]


def test_a_layer_that_no_token_reached_reads_nothing() -> None:
    """An engine may leave out the prompt's tokens at the last layer."""
    trace = trace_of([[[0], [-1]], [[1], [-1]], [[0], [-1]]], [1, 1, 1], 3, 2)
    curve = lru_curve(trace, [10, 1000])
    assert (curve.n_lookups, curve.n_read.tolist()) == (3, [30, 20])
    assert stack_distances(trace, [10, 1000]).needed.tolist() == [NEVER, NEVER, 20]


def test_what_is_no_capacity_is_refused_by_name(curve: HitCurve) -> None:
    with pytest.raises(InvalidInput, match="capacity = -1 bytes is below 0"):
        curve.hits([5, -1])
    for capacities in (1.5, [1.0], "8", True, NEVER, 1 << 70):
        with pytest.raises(InvalidInput, match="whole numbers of bytes"):
            curve.hits(capacities)  # type: ignore[arg-type]


def test_sizes_that_cannot_be_are_refused_by_name() -> None:
    trace = trace_of([[[0]], [[1]]], [1, 1], 0, 2)
    with pytest.raises(InvalidInput, match="2 values, the trace 1 MoE layers"):
        lru_curve(trace, [1, 1])
    with pytest.raises(InvalidInput, match="at least 1 byte"):
        lru_curve(trace, [0])
    with pytest.raises(InvalidInput, match=r"above 2\*\*63 - 1"):
        lru_curve(trace, [1 << 62])


@given(trace=traces(), budgets=st.lists(st.integers(1, 120), min_size=1, max_size=4))
@example(trace=trace_of([[[0]], [[0]]], [1, 1], 0, 1), budgets=[1 << 70])
def test_curve_rows_are_the_replays_to_the_last_bit(trace: RoutingTrace, budgets: list[int]) -> None:
    sizes = [1 << 18] * trace.n_moe_layers  # a quarter of a MiB
    budgets_mib = [budget / 4 for budget in budgets]
    rows = iter(residency_curve(trace, ["layer", "lfu", "lru"], budgets_mib, expert_bytes=sizes))
    for budget_mib in budgets_mib:
        for policy in ("layer", "lfu", "lru"):
            row, result = next(rows), replay_residency(trace, policy, int(budget_mib * (1 << 20)), sizes)
            assert (row.budget_mib, row.policy, row.read_mib) == (budget_mib, policy, result.read_bytes / (1 << 20))
            assert (row.hit_pct_cum, row.hit_pct_decode) == (result.hit_pct_cum, result.hit_pct_decode)


@pytest.fixture
def front_curve() -> LruCurve:
    trace = pregate.synthesize(pregate.load_model("switch-base-8"), input_tokens=16, output_tokens=30, batch=2, seed=0)
    return front_door(trace, expert_bytes=100)


def test_the_front_door_has_every_step_and_a_frame(front_curve: LruCurve) -> None:
    rates = front_curve.hit_rate
    assert (np.diff(rates) > 0).all()
    assert (rates >= 0).all()
    assert (rates <= 1).all()
    frame = front_curve.to_dataframe()
    assert list(frame.columns) == ["capacity_bytes", "hit_rate", "hit_rate_decode", "read_bytes"]
    assert frame["hit_rate"].tolist() == rates.tolist()


def test_the_front_door_answers_the_capacities_asked_for(front_curve: LruCurve) -> None:
    asked = front_curve.at([4000, 0])
    assert asked.capacities.tolist() == [4000, 0]
    assert asked.hit_rate.tolist() == front_curve.curve.hit_rate([4000, 0]).tolist()
    assert asked.to_dict()[1]["hit_rate"] == front_curve.at(0).hit_rate[0]
    with pytest.raises(InvalidInput, match="capacity = -5 bytes"):
        front_curve.at(-5)


def test_the_front_door_counts_slots_without_sizes() -> None:
    trace = pregate.synthesize(pregate.load_model("switch-base-8"), input_tokens=16, output_tokens=30, seed=0)
    pooled, split = front_door(trace), front_door(trace, per_layer=True)
    assert list(pooled.to_dict()[0]) == ["capacity_slots", "hit_rate", "hit_rate_decode", "read_slots"]
    n_keys = trace.n_moe_layers * trace.n_experts
    assert pooled.at(n_keys).hit_rate == split.at(n_keys).hit_rate  # everything fits
    with pytest.raises(InvalidInput, match="expert_bytes = 0 is below 1"):
        front_door(trace, expert_bytes=0)


def test_the_compiler_waits_for_the_first_curve() -> None:
    code = "import sys, pregate.ask.replays.replay; print('llvmlite' in sys.modules)"
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "False"


def test_experts_that_add_up_beyond_the_largest_number_are_refused_from_there_on() -> None:
    """Seven lookups of one expert whose size is a seventh of that number; or all experts of two layers."""
    seven = trace_of([[[0]]] * 7, [1] * 7, 0, 2)
    assert NEVER % 7 == 0
    assert size_by_layer(seven, [NEVER // 7 - 1]).tolist() == [NEVER // 7 - 1]
    with pytest.raises(InvalidInput, match=r"add up to 9223372036854775807 bytes, above 2\*\*63 - 1"):
        size_by_layer(seven, [NEVER // 7])
    two_layers = trace_of([[[0], [1]]], [1], 0, 2)
    assert size_by_layer(two_layers, [1 << 59, 1 << 59]).dtype == np.int64
    with pytest.raises(InvalidInput, match="add up to 9223372036854775808 bytes"):
        size_by_layer(two_layers, [1 << 60, 1 << 60])
