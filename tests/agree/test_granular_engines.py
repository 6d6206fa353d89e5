"""What one copy brings, and what is written back: every interpreter gives the same times, and every byte is counted."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings

from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.decode import DecodeStream
from offload.execution import EXECUTIONS
from offload.metrics import run_metrics
from offload.ops import OpKind
from offload.schedule import Schedule, ScheduleDigest
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.machine_memory import MachineMemory
from pregate.ask.capturing.request import request
from pregate.ask.capturing.starting_cache import resident_set
from pregate.ask.timing.evaluation import evaluate
from simulator import recurrence
from simulator.definition import des
from simulator.events import event_engine
from simulator.modes import Modes
from simulator.streamed.stream import Stream
from tests.engines import timed_alike
from tests.small_models import MISSES_KNOW, MODELS, routing
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

DESIGNS = [
    "on_demand", "pregate", "pregate(2)", "prefetch_all", "on_demand:cpu", "on_demand:split", "guess/markov",
    "guess/uniform:guessed", "guess/shuffled_markov:resident", "lru_next_gate:recall=0.5", "adap_moe",
    "mixed_precision",    "pregate:encoder", "on_demand:cheaper", "activation_aware",
]  # fmt: skip
CACHES = ["", "+lru:5", "+lfu:4:per_layer", "+lru:5:warm", "+hot_lru:7", "+lru:6:budget=1", "+belady:5"]
PLACED = ["", "@experts=cpu:1", "@kv=cpu", "@weights=stream"]


def captured(model: ModelArchitecture, trace: RoutingTrace, text: str, hbm_bytes: int = 10**9) -> Captured:
    memory = MachineMemory(hbm_bytes, 0, 10**12, "host", EXECUTIONS["streams"], costs_of=lambda _: MISSES_KNOW)
    return capture_request(request(model, memory, trace, text), compiled=False)


def kinds(schedule: Schedule, kind: OpKind) -> np.ndarray:
    return np.flatnonzero(schedule.kind == kind)


@given(
    st.sampled_from(DESIGNS),
    st.sampled_from(CACHES),
    st.sampled_from(PLACED),
    st.sampled_from(["", ":granularity=matrix"]),
    st.booleans(),
    st.sampled_from(list(MODELS)),
    st.integers(0, 10**6),
    st.integers(1, 3),
)
@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_combination_is_exact_or_refused_in_a_line(
    design: str, cache: str, placed: str, matrix: str, back: bool, name: str, seed: int, batch: int
) -> None:
    """Bytes by hand: what the same design moves expert by expert; what is written back came and is there no more."""
    model = MODELS[name]
    trace = routing(model, batch=batch, seed=seed, output_tokens=4)
    assume(cache or not back)
    write_back = ":write_back" if back else ""
    try:
        plain = captured(model, trace, f"{design}{cache}{placed}").decoded.schedule
    except (InvalidInput, CapacityExceeded):
        assume(False)
    refused = ""
    try:
        found = captured(model, trace, f"{design}{matrix}{cache}{write_back}{placed}")
    except (InvalidInput, CapacityExceeded) as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        assert back
        return
    schedule = found.decoded.schedule
    if not back:
        assert schedule.bytes[schedule.kind == OpKind.FETCH].sum() == plain.bytes[plain.kind == OpKind.FETCH].sum()
        assert schedule.hbm_acquired.sum() == plain.hbm_acquired.sum()
    assert_whole(schedule, model)
    assert_agree(schedule, seed)


def assert_whole(schedule: Schedule, model: ModelArchitecture) -> None:
    """Matrices of an expert follow one another; each is read after its own copy; HBM balances at the end."""
    pieces = [schedule.works[row].piece for row in schedule.cost.tolist()]
    for kind in (OpKind.FETCH, OpKind.EXPERTS):
        mine = [op for op in kinds(schedule, kind).tolist() if pieces[op] is not None]
        for op in mine:
            piece = pieces[op]
            assert piece is not None
            assert piece.n == model.n_expert_matrices
        assert [pieces[op].i for op in mine] == [*range(model.n_expert_matrices)] * (
            len(mine) // model.n_expert_matrices
        )  # type: ignore[union-attr]
    arrived: dict[tuple[int, int, int], int] = {}
    for op, piece in enumerate(pieces):
        if piece is None:
            continue
        key = int(schedule.layer[op]), int(schedule.expert[op]), piece.i
        if schedule.kind[op] == OpKind.FETCH:
            arrived[key] = op
        else:
            assert arrived[key] in schedule.deps(op)
    in_use = schedule.static_bytes + int(schedule.hbm_acquired.sum() - schedule.hbm_released.sum())
    assert in_use >= 0
    back = kinds(schedule, OpKind.WRITE_BACK)
    assert set(schedule.bytes[back].tolist()) <= {model.expert_bytes}
    assert len(back) * model.expert_bytes <= schedule.bytes[schedule.kind == OpKind.FETCH].sum() + schedule.static_bytes


def assert_agree(schedule: Schedule, seed: int) -> None:
    hw = load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 10.0 ** (6 + seed % 5)})
    costs = price(schedule.works, hw)
    timed_alike(schedule, costs)
    modes = Modes(link="priority", chunk_bytes=5_000, cancel=True, both_ways=True)
    one, other = des.simulate(schedule, costs, 1 << 50, modes), event_engine.simulate(schedule, costs, modes)
    assert other.end_s == pytest.approx(one.end_s, rel=1e-12)


LAYERS = [
    "on_demand:granularity=layer",
    "pregate:granularity=layer",
    "prefetch_all:granularity=layer",
    "pregate(2):granularity=layer",
]


@pytest.mark.parametrize("execution", ["streams", "vllm", "llama_cpp", "flexgen"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("text", LAYERS)
def test_a_layer_is_one_transfer(text: str, name: str, execution: str) -> None:
    model = MODELS[name]
    trace = routing(model, batch=2, seed=3, output_tokens=4)
    memory = MachineMemory(10**9, 0, 10**12, "host", EXECUTIONS[execution])
    found = capture_request(request(model, memory, trace, text))
    schedule = found.decoded.schedule
    copies = kinds(schedule, OpKind.FETCH)
    assert set(schedule.bytes[copies].tolist()) == {model.n_experts * model.expert_bytes}
    assert set(schedule.expert[copies].tolist()) == {-1}
    assert len(
        {(s, la) for s, la in zip(schedule.step[copies].tolist(), schedule.layer[copies].tolist(), strict=True)}
    ) == len(copies)
    assert int((schedule.kind == OpKind.GATE).sum()) == len(copies)
    assert set((schedule.slot[copies] % model.n_experts).tolist()) == {0}
    assert schedule.hbm_acquired.sum() == schedule.hbm_released.sum()
    assert_agree(schedule, 3)


@pytest.mark.parametrize("tier", ["dram", "ssd"])
@pytest.mark.parametrize(
    "text",
    [
        "on_demand:granularity=matrix", "pregate:granularity=matrix+lru:5", "on_demand+lru:5:write_back",
        "lru_next_gate:granularity=matrix+lru:4:write_back", "prefetch_all:granularity=layer",
        "on_demand:granularity=matrix+lru:5:warm:write_back",
    ],
)  # fmt: skip
def test_part_by_part_and_many_machines_are_as_the_whole(text: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["shared experts, three matrices"]
    trace = routing(model, batch=2, seed=5, output_tokens=8)
    memory = MachineMemory(10**9, 0, 10**12, "host", EXECUTIONS["streams"])
    asked = request(model, memory, trace, text, expert_tier=tier)
    if tier == "ssd" and ("write_back" in text or "layer" in text):
        with pytest.raises(InvalidInput, match=r"experts on storage stay there|storage is read expert by expert"):
            capture_request(asked)
        return
    whole = capture_request(asked)
    schedule = whole.decoded.schedule
    hw = load_platform("rtx-4090", "streams", {"storage": "nvme-gen4"})
    timeline = recurrence.simulate(schedule, price(schedule.works, hw))
    monkeypatch.setattr("offload.decoding.decode_loop._PART_OPS", 1)
    parts = DecodeStream(
        model, trace.steps(), asked.policy, asked.execution, n_buffers=asked.plan.n_buffers, cache=resident_set(asked),
        disk=tier == "ssd", placed=asked.placed,
    )  # fmt: skip
    stream, digest, n_parts = Stream(run_metrics.decode_steps(trace), schedule.static_bytes), ScheduleDigest(), 0
    for part in parts:
        n_parts += 1
        stream.feed(part, price(part.works, hw))
        digest.update(part.columns, part.works)
    assert n_parts > 2
    assert digest.of(schedule.static_bytes) == schedule.digest
    assert stream.makespan_s == pytest.approx(timeline.makespan_s, rel=1e-12)
    assert stream.transfer_s == pytest.approx(run_metrics.transfer_s(timeline), rel=1e-12)
    assert stream.peak_hbm_bytes == timeline.peak_hbm_bytes
    assert stream.moved == run_metrics.moved_bytes(schedule.kind, timeline.moved_bytes)
    links = np.geomspace(1e9, 1e11, 5)
    many = evaluate(whole, hw, {"link.h2d_bytes_per_s": links}, 5)
    for i, link in enumerate(links):
        each = load_platform("rtx-4090", "streams", {"storage": "nvme-gen4", "link.h2d_bytes_per_s": float(link)})
        one = recurrence.simulate(schedule, price(schedule.works, each))
        assert many["makespan_s"][i] == one.makespan_s
        assert many["transfer_s" if "transfer_s" in many else "stall_s"][i] == pytest.approx(
            run_metrics.stall_s(one), rel=1e-9
        )
        assert many["exposed_transfer_fraction"][i] == pytest.approx(
            run_metrics.exposed_s(one) / run_metrics.transfer_s(one), rel=1e-9
        )
        assert many["peak_hbm_bytes"][i] == one.peak_hbm_bytes
        for name, n_bytes in run_metrics.moved_bytes(schedule.kind, one.moved_bytes).items():
            assert many[name][i] == n_bytes


def test_a_schedule_of_matrices_is_stored_and_read_again(tmp_path: object) -> None:
    from pathlib import Path

    model = MODELS["decoder-only"]
    schedule = captured(model, routing(model, batch=1, seed=2), "on_demand:granularity=matrix").decoded.schedule
    path = Path(str(tmp_path)) / "matrices.safetensors"
    schedule.save(path)
    assert Schedule.load(path).works == schedule.works
    assert Schedule.load(path).digest == schedule.digest
