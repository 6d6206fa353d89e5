"""How experts become ops: one each, one for those of a place, one for the layer; by hand, and by every engine alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, DecodeStream, decode
from offload.execution import EXECUTIONS, Execution
from offload.fast.decode_compiled import CompiledLoop
from offload.ops import Lane, OpKind
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.recorder import assemble
from tests.engines import timed_alike
from tests.grids import one_in
from tests.small_models import MODELS, decoder_only, routing
from traces.errors import UnknownName
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace, Step

STREAMS = EXECUTIONS["streams"]
WAYS = {
    name: dataclasses.replace(STREAMS, name=name, resident=resident, cached=cached, arriving=arriving, **more)
    for name, resident, cached, arriving, more in (
        ("resident fused", "layer", "each", "each", {}),
        ("cached fused, others as they come", "section", "section", "each", {}),
        ("cached as they are, others fused", "each", "each", "section", {}),
        ("a section for each place", "section", "section", "section", {}),
        ("all in one", "layer", "layer", "layer", {}),
        ("all in one, in chunks", "layer", "layer", "layer", {"micro_batch": 3}),
        ("one by one, in chunks", "each", "each", "each", {"micro_batch": 3}),
    )
}
MODEL = decoder_only(n_shared=1, n_matrices=3)


def cached(model: ModelArchitecture, experts: list[int]) -> ResidentSet:
    residents = ResidentSet(
        len(experts) * model.n_moe_layers, "lru", n_layers=model.n_moe_layers, n_experts=model.n_experts
    )
    for layer in range(model.n_moe_layers):
        residents.admit(layer, experts)
    return residents


NEXT = Step(
    1, int(Phase.DECODE), np.array([[[1, 2], [0, 5], [4, 3]], [[5, 2], [0, 3], [2, 3]]], np.int16),
    np.array([4, 7], np.int32), np.array([2, 9], np.int32),
)  # fmt: skip
"""Layer 1 asks for 1, 2 (by both) and 5."""


def of_layer(decoded: Decoded, layer: int) -> list[tuple[int, list[int], list[int]]]:
    """Of every op of experts: which it names (-1 many), rows of its GEMMs up, and what it waits for."""
    schedule, found = decoded.schedule, []
    for i in np.flatnonzero((schedule.kind == OpKind.EXPERTS) & (schedule.layer == layer)).tolist():
        work = schedule.works[schedule.cost[i]]
        rows = [gemm.m for gemm in work.gemms[::2] for _ in range(gemm.n_gemms // 2)]
        kinds = [OpKind(schedule.kind[dep]).name.lower() for dep in schedule.deps(i).tolist()]
        found.append((int(schedule.expert[i]), rows, [f"{kind}" for kind in kinds]))
    return found


def run(execution: Execution, policy: str, residents: ResidentSet | None = None) -> Decoded:
    return decode(MODEL, [NEXT], policy_named(policy), execution, n_buffers=8, cache=residents)


def test_experts_that_stay_run_in_one_op_with_the_shared_ones() -> None:
    """Expert 1 and 5 serve a token each, 2 both, the shared one both."""
    assert of_layer(run(WAYS["resident fused"], "gpu_only"), 1) == [(-1, [1, 1, 2, 2], [])]
    each = of_layer(run(STREAMS, "gpu_only"), 1)
    assert each == [(-1, [2], []), (1, [1], []), (2, [2], []), (5, [1], [])]


def test_experts_of_a_cache_run_before_those_that_arrive() -> None:
    """Expert 2 is in the cache; 1 and 5 are fetched. The op of the cache waits for no copy."""
    sections = of_layer(run(WAYS["a section for each place"], "on_demand+lru:3", cached(MODEL, [2])), 1)
    assert sections == [(-1, [2, 2], []), (-1, [1, 1], ["fetch", "fetch"])]
    mixed = of_layer(run(WAYS["cached fused, others as they come"], "on_demand+lru:3", cached(MODEL, [2])), 1)
    assert mixed == [(-1, [2, 2], []), (1, [1], ["fetch"]), (5, [1], ["fetch", "fetch"])]
    other = of_layer(run(WAYS["cached as they are, others fused"], "on_demand+lru:3", cached(MODEL, [2])), 1)
    assert other == [(-1, [2], []), (2, [2], []), (-1, [1, 1], ["fetch", "fetch"])]
    whole = of_layer(run(WAYS["all in one"], "on_demand+lru:3", cached(MODEL, [2])), 1)
    assert whole == [(-1, [1, 1, 2, 2], ["fetch", "fetch"])]


def test_a_way_that_is_none_is_refused() -> None:
    with pytest.raises(UnknownName, match="way to fuse experts"):
        dataclasses.replace(STREAMS, cached="some")  # type: ignore[arg-type]


def test_slots_are_handed_on_only_where_experts_that_arrive_run_one_by_one() -> None:
    assert {name for name, way in WAYS.items() if not way.hands_slots_on} == {
        "cached as they are, others fused", "a section for each place", "all in one", "all in one, in chunks",
    }  # fmt: skip


def written(model: ModelArchitecture, trace: RoutingTrace, text: str, way: Execution, compiled: bool) -> DecodeStream:
    policy = policy_named(text)
    residents = cached(model, [0, 2]) if policy.cache else None
    workload = measure_workload(model, trace.steps())
    n_buffers = policy.buffers(max(workload.n_active, workload.n_encoder_active), model.n_experts).full
    n_buffers += workload.n_encoder_active
    return DecodeStream(model, trace.steps(), policy, way, n_buffers=n_buffers, cache=residents, compiled=compiled)


@pytest.mark.parametrize(
    ("text", "way"), one_in(2, ["gpu_only", "on_demand", "pregate", "prefetch_all", "on_demand+lru:6"], WAYS)
)
def test_compiled_and_plain_write_alike_and_every_engine_ends_at_the_same_instant(text: str, way: str) -> None:
    for name, model in MODELS.items():
        trace = routing(model, batch=2, seed=3, input_tokens=4)
        streams = [written(model, trace, text, WAYS[way], compiled) for compiled in (True, False)]
        slow, fast = (assemble(stream) for stream in reversed(streams))
        assert slow.digest == fast.digest, name
        assert streams[0].lookups == streams[1].lookups
        for stack in ("streams", "vllm"):
            timed_alike(slow, price(slow.works, load_platform("rtx-4090", stack)))


def test_what_depends_on_where_experts_are_found_is_left_to_the_definition_only_with_a_cache() -> None:
    model, trace = MODELS["decoder-only"], routing(MODELS["decoder-only"])
    for way, text, is_compiled in (
        ("a section for each place", "on_demand", True),
        ("a section for each place", "on_demand+lru:6", False),
        ("resident fused", "on_demand+lru:6", True),
        ("one by one, in chunks", "on_demand+lru:6", True),
    ):
        stream = written(model, trace, text, WAYS[way], compiled=True)
        assert isinstance(stream._loop, CompiledLoop) == is_compiled, (way, text)


def test_a_prompt_in_chunks_has_one_head_and_each_chunk_sees_what_came_before() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model, input_tokens=7, output_tokens=2)
    chunked = assemble(written(model, trace, "gpu_only", WAYS["all in one, in chunks"], compiled=True))
    first = chunked.step == 0
    assert int((first & (chunked.kind == OpKind.GATE)).sum()) == 3 * model.n_moe_layers
    assert int((first & (chunked.kind == OpKind.HEAD)).sum()) == 1
    rows = chunked.cost[first & (chunked.kind == OpKind.SELF_ATTENTION) & (chunked.layer == 0)]
    works = [chunked.works[row] for row in rows.tolist()]
    assert [work.hbm_bytes / work.attending.token_bytes for work in works if work.attending] == [3, 6, 7]
    assert chunked.lane[chunked.kind == OpKind.HEAD].tolist() == [Lane.COMPUTE] * 2
