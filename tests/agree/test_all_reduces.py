"""Cards that share every layer: both decoders write the same sums, and every interpreter times them alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from hwmodels.cost import Costs
from offload.caches.residency import ResidentSet
from offload.decode import DecodeStream
from offload.execution import EXECUTIONS, Execution
from offload.ops import Lane, OpKind, Work
from offload.placing.placed import place
from offload.policies import policy_named
from offload.recorder import Part, assemble
from offload.schedule import Schedule
from offload.work import activation_row_bytes, cpu_expert_work
from pregate.ask.capturing.machine_memory import MachineMemory, of_sharing_cards
from simulator import recurrence
from simulator.definition import des
from simulator.events import event_engine
from tests.small_models import MODELS, routing
from tests.written_schedules import assert_written_alike_in_parts_of_any_size
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded
from traces.phase import Phase
from traces.routing import RoutingTrace

DECODERS = [name for name, model in MODELS.items() if not model.is_encoder_decoder]
POLICIES = ("gpu_only", "on_demand", "on_demand+lru:5", "pregate", "prefetch_all", "lru_next_gate",
            "gpu_only@weights=stream", "gpu_only@experts=zerocopy", "gpu_only@experts=stream@ahead=2")  # fmt: skip
HANDED_OVER = (
    "gpu_only@experts=cpu",
    "gpu_only@experts=cpu:keep=2",
    "gpu_only@experts=cpu:2",
    "gpu_only@experts=cpu@stream=3",
)
TOLD = ("gpu_only@turns=1", "gpu_only@experts=cpu:2@stream=never@turns=1")
"""Of engines whose cards take turns unless they are told to share every layer."""


def stream_of(
    model: ModelArchitecture, trace: RoutingTrace, text: str, n_cards: int, execution: Execution,
    *, compiled: bool = False,
) -> DecodeStream:  # fmt: skip
    policy = policy_named(text)
    placed = replace(place(model, policy.placement), n_cards=n_cards)
    cache = None
    if policy.cache is not None:
        n_slots = policy.cache.n_slots or 6
        cache = ResidentSet(n_slots, policy.cache.eviction, n_layers=model.n_moe_layers, n_experts=model.n_experts)
    return DecodeStream(
        model, trace.steps(), policy, execution, n_buffers=2 * model.n_experts, cache=cache, placed=placed,
        compiled=compiled,
    )  # fmt: skip


cases = st.tuples(
    st.sampled_from(DECODERS), st.sampled_from((*POLICIES, *HANDED_OVER, *TOLD)), st.sampled_from([2, 4]),
    st.integers(1, 9), st.integers(1, 3), st.integers(0, 10**6),
)  # fmt: skip


def asked(case: tuple[str, str, int, int, int, int]) -> tuple[ModelArchitecture, RoutingTrace, str, int, Execution]:
    name, text, n_cards, n_tokens, size, seed = case
    model = sharded(MODELS[name], n_cards) if may_be_shared(MODELS[name], n_cards) else MODELS[name]
    policy, how = policy_named(text), EXECUTIONS["ktransformers" if text in HANDED_OVER else "vllm"]
    if text in TOLD:
        told = replace(EXECUTIONS["ik_llama" if seed % 2 else "llama_cpp"], micro_batch=n_tokens)
        how = of_sharing_cards(MachineMemory(1, 1, 1, "", told, n_cards=n_cards)).execution
    how = policy.placement.execution(replace(how, micro_batch=n_tokens))
    return model, routing(model, batch=size, seed=seed), text, n_cards, how


def may_be_shared(model: ModelArchitecture, n_cards: int) -> bool:
    widths = model.d_ff_expert, model.d_ff_shared, model.decoder.d_ff_dense, model.decoder.attention.n_heads
    return not any(width % n_cards for width in widths) and not model.decoder.mixers


@given(cases)
def test_both_decoders_write_the_same_in_parts_of_any_size(case: tuple[str, str, int, int, int, int]) -> None:
    model, trace, text, n_cards, how = asked(case)
    whole = assemble(stream_of(model, trace, text, n_cards, how), 1000)
    assert_written_alike_in_parts_of_any_size(
        lambda compiled: stream_of(model, trace, text, n_cards, how, compiled=compiled), whole.digest
    )


def without_sums(schedule: Schedule, whole: Mapping[Work, Work]) -> Iterator[tuple[Any, ...]]:
    """The ops beside the sums and what each waits for, by their number among themselves. `whole`: works that are to be
    those of a whole model in place of a card's share.
    """
    others = np.flatnonzero(schedule.kind != OpKind.ALL_REDUCE)
    number = np.cumsum(schedule.kind != OpKind.ALL_REDUCE) - 1  # a sum is its layer's last op before it
    for op in others.tolist():
        columns = (
            schedule.lane, schedule.kind, schedule.step, schedule.layer, schedule.expert, schedule.slot,
            schedule.bytes, schedule.hbm_acquired, schedule.hbm_released, schedule.priority,
        )  # fmt: skip
        work = schedule.works[schedule.cost[op]]
        by = int(schedule.cancelled_by[op])
        cancelled = -1 if by < 0 else int(number[by])
        yield (*(int(column[op]) for column in columns), whole.get(work, work), cancelled,
               sorted(int(number[dep]) for dep in schedule.deps(op)))  # fmt: skip


@given(cases)
def test_a_card_does_what_one_with_its_share_does_and_sums_beside_it(case: tuple[str, str, int, int, int, int]) -> None:
    model, trace, text, n_cards, how = asked(case)
    alone = assemble(stream_of(model, trace, text, 1, how), 1000)
    shared = assemble(stream_of(model, trace, text, n_cards, how), 1000)
    whole = {cpu_expert_work(model, n): cpu_expert_work(MODELS[case[0]], n) for n in range(1, 99)}
    assert list(without_sums(shared, {})) == list(without_sums(alone, whole))
    heads = alone.kind == OpKind.HEAD
    sums = np.flatnonzero(shared.kind == OpKind.ALL_REDUCE)
    n_tokens = sum(len(step.experts) for step in trace.steps())
    n_logits = sum(
        len(np.unique(step.sequence)) if step.phase == Phase.PREFILL else len(step.experts) for step in trace.steps()
    )
    stack = model.decoder
    n_mixing = sum(mixer is not None for mixer in stack.all_mixers)
    n_ffn = stack.n_layers - len(stack.bare_layers)
    logits_bytes = n_logits * model.vocab_size * n_cards * model.stored_activation_dtype.bytes_per_param / 2
    wanted = (1 + n_mixing + n_ffn) * n_tokens * activation_row_bytes(model) + logits_bytes
    assert int(shared.bytes[sums].sum()) == pytest.approx(wanted, abs=len(sums))
    assert np.all(shared.lane[sums] == Lane.COMPUTE)
    gathers = {int(op) for op in np.flatnonzero(shared.kind == OpKind.HEAD) + 1}
    assert gathers <= set(sums.tolist())
    for op in np.flatnonzero(shared.kind == OpKind.STEP).tolist():
        assert gathers & set(shared.deps(op).tolist()), "a token is chosen from all logits"
    assert len(gathers) == np.count_nonzero(heads)


@given(cases)
@settings(max_examples=20)
def test_interpreters_agree_and_sums_that_take_no_time_change_nothing(
    case: tuple[str, str, int, int, int, int],
) -> None:
    model, trace, text, n_cards, how = asked(case)
    alone = assemble(stream_of(model, trace, text, 1, how), 1000)
    shared = assemble(stream_of(model, trace, text, n_cards, how), 1000)
    rng = np.random.default_rng(case[-1])
    by_work = {work: rng.random(2) for work in alone.works}
    whole = ((cpu_expert_work(model, n), cpu_expert_work(MODELS[case[0]], n)) for n in range(1, 99))
    by_work |= {many: by_work[one] for one, many in whole if one in by_work}
    free = np.array([by_work.get(work, np.zeros(2)) for work in shared.works]).T.copy()
    some = np.array([by_work.get(work, rng.random(2)) for work in shared.works]).T.copy()
    once = recurrence.simulate(alone, Costs(*np.array([by_work[work] for work in alone.works]).T.copy()))
    assert recurrence.simulate(shared, Costs(*free)).makespan_s == once.makespan_s
    defined = des.simulate(shared, Costs(*some), hbm_bytes=1 << 60)
    for found in (
        recurrence.simulate(shared, Costs(*some), small=True),
        recurrence.simulate(shared, Costs(*some), small=False),
        event_engine.simulate(shared, Costs(*some)),
    ):
        assert found.end_s.tolist() == defined.end_s.tolist()
        assert found.start_s.tolist() == defined.start_s.tolist()
    assert defined.makespan_s >= once.makespan_s * (1 - 1e-12)


def test_a_sum_waits_for_what_the_host_computed_and_no_earlier_one_does() -> None:
    model, trace, text, n_cards, how = asked((DECODERS[0], "gpu_only@experts=cpu", 2, 9, 1, 0))
    shared = assemble(stream_of(model, trace, text, n_cards, how), 1000)
    returns = np.flatnonzero(shared.kind == OpKind.RETURN)
    sums = np.flatnonzero(shared.kind == OpKind.ALL_REDUCE)
    waiting = [int(op) for op in sums.tolist() if set(shared.deps(op).tolist()) & set(returns.tolist())]
    assert len(returns) == len(waiting) == len(model.decoder.moe_layers) * len(set(trace.step.tolist()))
    for back, op in zip(returns.tolist(), waiting, strict=True):
        assert shared.layer[back] == shared.layer[op]
        assert back in shared.deps(op)
        assert not np.any(shared.lane[back + 1 : op] == Lane.COMPUTE)


def test_parts_say_which_ops_are_still_waited_for() -> None:
    """A copy of one part that an op of the next waits for counts on in the new numbers."""
    model = sharded(MODELS[DECODERS[0]], 2)
    trace = routing(model, batch=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offload.decoding.decode_loop._PART_OPS", 1)
        parts: list[Part] = list(stream_of(model, trace, "on_demand+lru:5", 2, EXECUTIONS["vllm"]))
    assert len(parts) > 2
    for before, part in itertools.pairwise(parts):
        earlier = part.columns["dep"][part.columns["dep"] < part.base]
        assert set(earlier.tolist()) <= set(before.live.tolist())
        assert part.base == before.base + len(before)
