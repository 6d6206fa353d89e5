"""The compiled decode loop writes placements and micro-batches as the definition does, digest for digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from offload.answers.cheaper import ShorterLane
from offload.decode import Decoded, DecodeStream, decode
from offload.execution import EXECUTIONS, Execution, Fusing
from offload.fast.decode_compiled import CompiledLoop
from offload.ops import OpKind
from offload.placing.placed import place
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.policy import Policy
from offload.policy_parts.miss_costs import MissCosts
from offload.recorder import assemble
from tests.grids import one_in
from tests.small_models import DIFFERING, MODELS, decoder_only, routing, stored_apart
from tests.written_schedules import UNEVEN, resident_set
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.transforms.rebatching import rebatch

ALL = MODELS | UNEVEN | {"layers alike, stored apart": stored_apart(decoder_only(n_shared=1, n_matrices=3))}
HOMES = (
    "experts=cpu", "experts=cpu:2", "experts=cpu:1-2", "experts=cpu:keep=2", "experts=cpu:keep=4:uniform", "layers=cpu",
    "layers=cpu:2", "layers=cpu:1-2", "layers=cpu:2@experts=cpu", "experts=cpu@host=beside", "weights=stream",
    "weights=stream:1-2@experts=cpu:2", "weights=stream:2-@layers=cpu:1",
)  # fmt: skip
READ_THERE = (
    "experts=zerocopy", "weights=zerocopy", "experts=zerocopy:2-@weights=zerocopy:2", "weights=zerocopy:1-2:share=0.3",
    "experts=zerocopy:1-:share=0.7",
)  # fmt: skip
CACHES = (
    "", "kv=cpu", "kv=stream", "kv=cpu:share=0.4", "kv=stream:share=0.3@weights=stream", "kv=cpu@experts=cpu",
    "kv=stream@experts=cpu:keep=1", "kv=cpu@layers=cpu:2", "kv=cpu@weights=stream:2",
)  # fmt: skip
STREAMED = (
    "experts=stream", "experts=stream:1-@weights=stream:1-", "experts=stream:1/2@weights=stream:1/2@ahead=1",
    "weights=stream@ahead=0", "weights=stream:1-@ahead=2@layers=cpu:1", "experts=stream:2:share=0.5@ahead=9@kv=stream",
    "weights=stream:2/3:share=0.4@ahead=1@kv=cpu",
)  # fmt: skip
PASSES = ("", "ubatch=3", "ubatch=5@stream=4", "stream=2", "stream=never")
DESIGNS = ("gpu_only", "on_demand", "pregate", "pregate(2)", "prefetch_all", "on_demand+lru:5", "pregate+lfu:4:warm")


def may_be(model: ModelArchitecture, placement: str, *, at_once: bool = False) -> bool:
    """Whether a model can be placed so, its keys and values away from HBM only where its layers are alike."""
    if "kv=" in placement and (model.is_encoder_decoder or not model.decoder.is_uniform):
        return False
    return not (at_once and any(part.startswith(("experts", "layers")) for part in placement.split("@")))


def assert_alike(
    model: ModelArchitecture, trace: RoutingTrace, policy: Policy, execution: Execution, spare: int = 2
) -> Decoded:
    workload = measure_workload(model, trace.steps())
    n_active = max(workload.n_active, workload.n_encoder_active)
    wanted = policy.buffers(n_active, model.n_experts)
    n_buffers = max(wanted.minimum, n_active) + spare
    if execution.hands_slots_on and policy.needs_ids and spare == 0:
        n_buffers = 1
    popularity = np.random.default_rng(3).random((model.n_moe_layers, model.n_experts))
    run, placed = policy.placement.execution(execution), place(model, policy.placement, popularity)

    def written(by: type[DecodeStream] | Callable[..., Decoded], compiled: bool) -> Any:
        cache = resident_set(model, trace, policy, 7)
        return by(model, trace.steps(), policy, run, n_buffers=n_buffers, cache=cache, placed=placed, compiled=compiled)

    assert isinstance(written(DecodeStream, True)._loop, CompiledLoop)
    fast, slow = written(decode, True), written(decode, False)
    assert fast == slow, (model.name, policy.name, str(policy.placement), execution.name)
    return slow


def half_of(placements: tuple[str, ...], name: str, execution: str) -> list[tuple[int, str]]:
    """Every other placement with its number: each meets every model under half of the executions, and every execution
    on half of the models.
    """
    turn = list(ALL).index(name) + list(EXECUTIONS).index(execution)
    return [(i, placement) for i, placement in enumerate(placements) if (i + turn) % 2 == 0]


@pytest.mark.parametrize(("name", "execution"), one_in(3, ALL, DIFFERING))
def test_kernels_that_read_host_memory_are_written_alike(name: str, execution: str) -> None:
    model = ALL[name]
    for i, placement in half_of(READ_THERE, name, execution):
        trace = routing(model, batch=1 + 2 * (i % 2), seed=i, input_tokens=9, output_tokens=3)
        run = dataclasses.replace(EXECUTIONS[execution], zero_copy_rows=1 + 3 * i)
        policy = policy_named(text_of("gpu_only", placement, PASSES[i % len(PASSES)]))
        found = assert_alike(model, trace, policy, run)
        assert any(work.kind is OpKind.ZERO_COPY for work in found.schedule.works)


@pytest.mark.parametrize(("name", "execution"), one_in(3, ALL, DIFFERING))
def test_layers_that_are_streamed_are_written_alike(name: str, execution: str) -> None:
    model = ALL[name]
    for i, placement in half_of(STREAMED, name, execution):
        trace = routing(model, batch=1 + 2 * (i % 2), seed=i, input_tokens=9, output_tokens=3)
        micro = f"micro={1 + i % 3}" if i % 2 and may_be(model, placement, at_once=True) else ""
        policy = policy_named(text_of("gpu_only", placement, PASSES[i % len(PASSES)], micro))
        if may_be(model, placement):
            found = assert_alike(model, trace, policy, EXECUTIONS[execution])
            assert any(work.kind is OpKind.STREAM for work in found.schedule.works)


def text_of(*clauses: str) -> str:
    return "@".join(clause for clause in clauses if clause)


@pytest.mark.parametrize(("name", "execution"), one_in(3, ALL, DIFFERING))
def test_every_placement_is_written_alike(name: str, execution: str) -> None:
    """With all experts in HBM under half of the executions, and as some other design under the others."""
    model, kinds, run = ALL[name], set[OpKind](), EXECUTIONS[execution]
    turn = list(ALL).index(name) + list(EXECUTIONS).index(execution)
    for i, placement in half_of((*HOMES, *CACHES), name, execution):
        trace = routing(model, batch=1 + 2 * (i % 2), seed=i, input_tokens=7, output_tokens=3)
        design = "gpu_only" if (i + turn) % 4 == 0 else DESIGNS[1 + (i + len(execution)) % (len(DESIGNS) - 1)]
        policy = policy_named(text_of(design, placement, PASSES[i % len(PASSES)]))
        if may_be(model, placement) and not (run.fuses_across and policy.cache is not None):
            found = assert_alike(model, trace, policy, run, spare=0 if i % 3 == 0 else i)
            kinds |= {work.kind for work in found.schedule.works}
    assert kinds >= {OpKind.CPU_EXPERT, OpKind.CPU_LAYER, OpKind.STREAM}


@pytest.mark.parametrize(("name", "execution"), one_in(3, ALL, DIFFERING))
def test_micro_batches_are_written_alike(name: str, execution: str) -> None:
    model, run = ALL[name], EXECUTIONS[execution]
    trace = rebatch(routing(model, batch=7, seed=2, output_tokens=3, input_tokens=5), 5)
    for i, placement in half_of(("weights=stream", "weights=stream:1-2", *CACHES), name, execution):
        if not may_be(model, placement, at_once=True):
            continue
        policy = policy_named(text_of(DESIGNS[(i + len(execution)) % len(DESIGNS)], placement, f"micro={1 + i % 4}"))
        if not run.fuses_across or policy.cache is None:
            assert_alike(model, trace, policy, run, spare=i % 4)


@given(
    st.sampled_from(DESIGNS), st.sampled_from(list(ALL)), st.sampled_from(list(EXECUTIONS)), st.sampled_from(HOMES),
    st.sampled_from(CACHES), st.sampled_from(PASSES), st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 4),
)  # fmt: skip
def test_random_placements_are_written_alike(
    design: str, name: str, execution: str, home: str, kv: str, passes: str, seed: int, batch: int, micro: int
) -> None:
    """With `micro` sequences in a micro-batch where the host computes nothing of what these would share."""
    model, run = ALL[name], EXECUTIONS[execution]
    both = [part for part in kv.split("@") if part.partition("=")[0] not in home]
    placement = text_of(home, *both)
    if not may_be(model, placement):
        placement = home
    clause = f"micro={micro}" if micro and may_be(model, placement, at_once=True) else ""
    policy = policy_named(text_of(design, placement, passes, clause))
    if run.fuses_across and policy.cache is not None:
        return
    trace = rebatch(routing(model, batch=6, seed=seed, output_tokens=4, input_tokens=1 + seed % 9), batch)
    assert_alike(model, trace, policy, run, spare=seed % 5)


@pytest.mark.parametrize("asks", ["sorts_on_host", "selects_on_host", "fills_mask", "schedules_ahead"])
def test_a_host_that_is_asked_something_is_written_alike(asks: str) -> None:
    for text in ("on_demand", "pregate(2)", "gpu_only", "gpu_only@experts=cpu:keep=3", "on_demand@micro=2"):
        ways: tuple[Fusing, ...] = ("each", "layer")
        for fuses in ways:
            run = dataclasses.replace(EXECUTIONS["streams"], resident=fuses, cached=fuses, arriving=fuses)
            policy = policy_named(text)
            for model in (MODELS["decoder-only"], MODELS["shared experts, three matrices"]):
                trace = routing(model, batch=4)
                assert_alike(model, trace, policy, dataclasses.replace(run, **{asks: True}))


@pytest.mark.parametrize("placement", ["kv=cpu", "experts=cpu:2", "layers=cpu:1-2", "weights=stream@kv=stream"])
def test_answers_to_misses_beside_a_placement_are_written_alike(placement: str) -> None:
    model = decoder_only(n_experts=8)
    answered = dataclasses.replace(
        policy_named(f"on_demand+lru:4@{placement}"), on_miss=ShorterLane(MissCosts(0.45, host_token=0.3))
    )
    for host_computes in (False, True):
        run = dataclasses.replace(EXECUTIONS["streams"], host_computes=host_computes)
        found = assert_alike(model, routing(model, batch=4), answered, run)
        assert OpKind.CPU_EXPERT in {work.kind for work in found.schedule.works}


def test_micro_batches_of_what_the_host_computes_are_refused_by_the_definition() -> None:
    model = MODELS["decoder-only"]
    policy, run = policy_named("on_demand@experts=cpu"), dataclasses.replace(EXECUTIONS["streams"], micro_sequences=2)
    with pytest.raises(InvalidInput, match="leave out experts=cpu and layers=cpu"):
        decode(model, routing(model, batch=4).steps(), policy, run, n_buffers=6, compiled=True)


@pytest.mark.parametrize(
    "text", ["gpu_only@layers=cpu:1-2@kv=cpu", "gpu_only@weights=stream@kv=stream", "on_demand@kv=cpu@micro=2"]
)
def test_parts_of_a_placement_name_what_may_still_be_waited_for(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, policy = MODELS["decoder-only"], policy_named(text)
    trace = routing(model, batch=3, output_tokens=6)
    monkeypatch.setattr("offload.fast.decode_compiled._PART_OPS", 1)
    run = policy.placement.execution(EXECUTIONS["flexgen"])
    stream = DecodeStream(model, trace.steps(), policy, run, n_buffers=6, compiled=True)
    parts, known = list(stream), np.zeros(0, np.int64)
    for part in parts:
        earlier = part.columns["dep"][part.columns["dep"] < part.base]
        assert set(earlier.tolist()) <= set(known.tolist())
        known = part.live
    slow = decode(model, trace.steps(), policy, run, n_buffers=6, compiled=False)
    assert len(parts) > 1
    assert assemble(parts).digest == slow.schedule.digest
