"""Where the parts of a model are: what the host computes, what streams, and what HBM and DRAM then hold."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload import work
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.placing.layers import LayerRange
from offload.placing.placed import place
from offload.placing.placement import AS_DECIDED, Placement
from offload.placing.placement_clauses import placement_named
from offload.policies import policy_named
from pregate import load_hardware, load_model, simulate
from simulator import recurrence
from simulator.definition import des
from tests.engines import timed_alike
from tests.grids import one_in
from tests.small_models import DIFFERING, MODELS, routing
from tests.unit.offload.placing.placed_schedules import HW, MODEL, TRACE, count, written
from traces.errors import InvalidInput
from traces.model.layer_bytes import layer_weight_bytes

DECODER = MODELS["decoder-only"]
TEXTS = (
    "experts=cpu", "experts=cpu:2", "experts=cpu:1-2", "experts=cpu:2-", "experts=cpu:keep=2", "experts=cpu:3:keep=1",
    "layers=cpu", "experts=cpu:keep=2:uniform", "layers=cpu:2", "layers=cpu:1-1", "weights=stream",
    "weights=stream:1-3", "kv=cpu", "kv=stream", "experts=cpu:share=0.4", "experts=cpu:1-2:share=0.5:uniform",
    "weights=stream:share=0.25", "kv=cpu:share=0.5", "weights=stream:1-3:share=0.123456789", "kv=stream:share=0.75",
    "experts=cpu@ubatch=4", "experts=cpu@stream=5", "experts=cpu@stream=never", "experts=cpu:2@layers=cpu:1@kv=stream",
    "experts=cpu:keep=2@host=beside",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_typed_is_what_is_said(text: str) -> None:
    placement = placement_named(text)
    assert placement_named(str(placement)) == placement
    assert policy_named(f"pregate@{text}").name == f"pregate@{text}"
    assert policy_named(f"pregate@{text}") == policy_named("pregate").with_placement(placement)
    assert placement_named(text.replace("@", ",")) == placement


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not of the form"), ("experts", "is not of the form"), ("experts=gpu", "is not of the form"),
        ("heads=cpu", "is not of the form"), ("kv=cpu:2", "is not of the form"), ("experts=cpu:0", "0 layers"),
        ("experts=cpu:4-2", "no range ends before it starts"), ("experts=cpu:x", "neither a number of layers"),
        ("experts=cpu:keep=x", "not a number of experts"), ("experts=cpu@experts=cpu:2", "says experts twice"),
        ("ubatch=-1", "no number of tokens"), ("stream=often", "no number of tokens"),
        ("experts=cpu:\N{ARABIC-INDIC DIGIT TWO}", "neither a number of layers"),
    ],
)  # fmt: skip
def test_what_is_no_placement_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        placement_named(text)
    assert "\n" not in str(caught.value)


def test_a_placement_is_of_the_model() -> None:
    assert place(MODEL, AS_DECIDED).is_plain
    with pytest.raises(InvalidInput, match="layers from 9 on: there are 4"):
        place(MODEL, Placement(host_experts=LayerRange(9)))
    for text in ("layers=cpu:5", "experts=cpu:5", "weights=stream:5", "layers=cpu:2-4"):
        with pytest.raises(InvalidInput, match="there are 4"):
            place(MODEL, placement_named(text))
    assert len(place(MODEL, placement_named("layers=cpu:4")).host_layers) == 4
    with pytest.raises(InvalidInput, match="keep = 99 experts"):
        place(MODEL, placement_named("experts=cpu:keep=99"))
    with pytest.raises(InvalidInput, match="kv = host"):
        place(MODELS["encoder-decoder"], placement_named("kv=cpu"))
    with pytest.raises(InvalidInput, match="names a placement of its own"):
        policy_named("gpu_only@experts=cpu").with_placement(placement_named("kv=cpu"))


def test_the_most_popular_experts_are_kept() -> None:
    popularity = np.zeros((MODEL.n_moe_layers, MODEL.n_experts))
    popularity[:, 4], popularity[:, 2] = 9, 5
    kept = place(MODEL, placement_named("experts=cpu:keep=2"), popularity).kept
    assert kept == (frozenset({2, 4}),) * MODEL.n_moe_layers
    assert place(MODEL, placement_named("experts=cpu:keep=2:uniform"), popularity).kept[0] == frozenset({0, 1})


@pytest.mark.parametrize(("text", "execution"), one_in(3, TEXTS, DIFFERING))
def test_every_expert_is_computed_once_wherever_it_is(text: str, execution: str) -> None:
    """Lookups are those of the plain design; all engines agree op by op."""
    plain, decoded = written("", execution), written(text, execution)
    chosen = policy_named(f"gpu_only@{text}").placement.execution(EXECUTIONS[execution])
    if not 0 < chosen.micro_batch < 12:  # else a prompt looks an expert up in every pass
        assert decoded.n_prefill_lookups == plain.n_prefill_lookups
    assert decoded.n_lookups == plain.n_lookups
    schedule = decoded.schedule
    on_cpu = np.isin(schedule.kind, (OpKind.CPU_EXPERT, OpKind.CPU_LAYER))
    assert np.array_equal(on_cpu, schedule.lane == Lane.CPU)
    assert decoded.n_hits + decoded.n_prefill_hits + count(decoded, OpKind.CPU_EXPERT) <= (
        decoded.n_lookups + decoded.n_prefill_lookups
    )
    timed_alike(schedule, price(schedule.works, load_platform("rtx-4090", "streams")))


def test_experts_on_the_host_take_their_activations_there_and_back() -> None:
    decoded = written("experts=cpu@stream=never", "llama_cpp")
    schedule = decoded.schedule
    n_blocks = len(np.unique(TRACE.step)) * MODEL.n_moe_layers
    assert count(decoded, OpKind.HANDOVER) == count(decoded, OpKind.RETURN) == n_blocks
    assert count(decoded, OpKind.CPU_EXPERT) == decoded.n_lookups + decoded.n_prefill_lookups
    assert decoded.n_hits == count(decoded, OpKind.FETCH) == 0
    tokens = [int(np.count_nonzero(TRACE.step == step)) for step in np.unique(TRACE.step)]
    row = work.activation_row_bytes(MODEL)
    assert row == MODEL.d_model * 4
    assert schedule.bytes[schedule.kind == OpKind.HANDOVER].sum() == sum(tokens) * MODEL.n_moe_layers * row
    timeline = des.simulate(schedule, price(schedule.works, load_platform("rtx-4090", "llama-cpp")), 1 << 40)
    for back in np.flatnonzero(schedule.kind == OpKind.RETURN).tolist():
        same = (schedule.step == schedule.step[back]) & (schedule.layer == schedule.layer[back])
        there = np.flatnonzero(same & (schedule.kind == OpKind.HANDOVER))
        done = np.flatnonzero(same & (schedule.kind == OpKind.CPU_EXPERT))
        joined = np.flatnonzero(same & (schedule.kind == OpKind.EXPERTS))
        assert timeline.end_s[there].max() <= timeline.start_s[done].min()
        assert timeline.end_s[done].max() <= timeline.start_s[back]
        assert timeline.end_s[back] <= timeline.start_s[joined].min()  # the issuing thread was busy


def test_an_engine_with_threads_of_its_own_computes_shared_experts_meanwhile() -> None:
    schedule = written("experts=cpu", "ktransformers").schedule
    timeline = des.simulate(schedule, price(schedule.works, load_platform("rtx-4090", "ktransformers")), 1 << 40)
    overlaps = 0
    for step, layer in {*zip(schedule.step.tolist(), schedule.layer.tolist(), strict=True)}:
        same = (schedule.step == step) & (schedule.layer == layer)
        shared, back = (np.flatnonzero(same & (schedule.kind == k)) for k in (OpKind.EXPERTS, OpKind.RETURN))
        if len(back):
            overlaps += bool(timeline.start_s[shared[0]] < timeline.start_s[back[0]])
            later = np.flatnonzero((schedule.lane == Lane.COMPUTE) & (np.arange(len(schedule)) > back[0]))
            assert timeline.start_s[later[0]] >= timeline.end_s[back[0]]
    assert overlaps > 0


def test_layers_on_the_host_leave_nothing_of_theirs_on_the_device() -> None:
    schedule = written("layers=cpu:2").schedule
    theirs = (schedule.layer >= 0) & (schedule.layer < 2)
    assert set(schedule.lane[theirs].tolist()) == {Lane.CPU}
    assert np.count_nonzero(schedule.kind == OpKind.RETURN) == len(np.unique(TRACE.step))
    whole = written("layers=cpu").schedule
    assert set(whole.lane.tolist()) == {Lane.CPU, Lane.HOST}
    late = written("layers=cpu:2-3").schedule  # activations go there, and come back for the head
    assert np.count_nonzero(late.kind == OpKind.HANDOVER) == len(np.unique(TRACE.step))
    assert np.count_nonzero(late.kind == OpKind.RETURN) == len(np.unique(TRACE.step))


def test_streamed_weights_are_those_of_the_layers_and_go_round_two_buffers() -> None:
    schedule = written("weights=stream").schedule
    copies = np.flatnonzero(schedule.kind == OpKind.STREAM)
    n_steps = len(np.unique(TRACE.step))
    assert schedule.bytes[copies].tolist() == list(layer_weight_bytes(MODEL)) * n_steps
    first_of = {}
    for op in np.flatnonzero(schedule.lane == Lane.COMPUTE).tolist():
        first_of.setdefault((schedule.step[op], schedule.layer[op]), op)
    for n, copy in enumerate(copies.tolist()):
        assert copy in schedule.deps(first_of[schedule.step[copy], schedule.layer[copy]]).tolist()
        if n >= 2:
            (reader,) = schedule.deps(copy).tolist()
            assert (schedule.step[reader], schedule.layer[reader]) == (
                schedule.step[copies[n - 2]], schedule.layer[copies[n - 2]],
            )  # fmt: skip


def test_streamed_keys_and_values_go_round_two_buffers() -> None:
    """Capacity is a dependency: a copy waits for the layer that read its buffer, two layers before."""
    schedule = written("kv=stream").schedule
    copies = np.flatnonzero(schedule.kind == OpKind.STREAM)
    last: dict[tuple[int, int], int] = {}
    for op in np.flatnonzero((schedule.lane == Lane.COMPUTE) & (schedule.layer >= 0)).tolist():
        last[schedule.step[op], schedule.layer[op]] = op
    for n, copy in enumerate(copies.tolist()):
        before = copies[n - 2]
        wanted = [last[schedule.step[before], schedule.layer[before]]] if n >= 2 else []
        assert schedule.deps(copy).tolist() == wanted


def test_the_hosts_experts_run_beside_the_devices_where_a_placement_says_so() -> None:
    """llama.cpp's thread computes them before it issues more; a fork with threads for them issues on."""
    apart, beside = (written(f"experts=cpu:keep=3{more}", "llama_cpp") for more in ("", "@host=beside"))
    assert (count(apart, OpKind.CPU_EXPERT), count(apart, OpKind.EXPERTS)) == (
        count(beside, OpKind.CPU_EXPERT), count(beside, OpKind.EXPERTS),
    )  # fmt: skip
    assert count(apart, OpKind.WAIT) > count(beside, OpKind.WAIT)
    ends = {}
    for name, decoded in (("apart", apart), ("beside", beside)):
        costs = price(decoded.schedule.works, HW)
        ends[name] = float(recurrence.simulate(decoded.schedule, costs).end_s.max())
    assert ends["beside"] < ends["apart"]
    assert placement_named("host=beside@experts=cpu") == placement_named("experts=cpu,host=beside")
    for text, words in (("host=beside", "give experts=cpu"), ("experts=cpu@host=first", "is not host=beside")):
        with pytest.raises(InvalidInput, match=words):
            placement_named(text)


def test_an_engine_that_streams_ahead_does_not_wait_for_the_gate() -> None:
    gates, experts = {}, {}
    for execution in ("llama_cpp", "ktransformers", "pipelined_sharding"):
        schedule = written("experts=cpu@stream=12", execution).schedule
        kinds = [
            schedule.kind[op] for copy in np.flatnonzero(schedule.kind == OpKind.STREAM) for op in schedule.deps(copy)
        ]
        gates[execution], experts[execution] = kinds.count(OpKind.GATE), kinds.count(OpKind.EXPERTS)
    assert gates == {"llama_cpp": MODEL.n_moe_layers, "ktransformers": 0, "pipelined_sharding": 0}
    assert experts["ktransformers"] == MODEL.n_moe_layers - 2, "the buffer of the layer before the last"
    assert experts["pipelined_sharding"] > experts["ktransformers"], "copies beside experts are not made"


def test_ids_that_the_host_sorts_by_come_behind_the_weights_of_their_layer() -> None:
    schedule = written("experts=cpu@stream=12", "pipelined_sharding").schedule
    streamed = {
        (int(schedule.step[op]), int(schedule.layer[op])): op for op in np.flatnonzero(schedule.kind == OpKind.STREAM)
    }
    sorted_by = [op - 2 for op in np.flatnonzero(schedule.kind == OpKind.SORT).tolist()]  # ids, the wait for them, sort
    assert all(schedule.kind[op] == OpKind.READBACK for op in sorted_by)
    for op in sorted_by:
        weights = streamed.get((int(schedule.step[op]), int(schedule.layer[op])))
        assert weights is None or weights in schedule.deps(op)
    assert len(streamed) == MODEL.n_moe_layers


def test_cells_are_listed_before_each_layer_whose_keys_and_values_stream() -> None:
    schedule = written("kv=stream", "pipelined_sharding").schedule
    copies = np.flatnonzero(schedule.kind == OpKind.STREAM).tolist()
    lists = [op for op in copies if schedule.kind[op - 1] == OpKind.SORT]
    assert copies == lists
    row_bytes = MODEL.kv_bytes_per_token // MODEL.decoder.n_layers
    for op in copies:
        n_cells = schedule.works[schedule.cost[op]].copy_bytes // row_bytes
        assert schedule.works[schedule.cost[op - 1]] == work.gather_work(n_cells)
    assert not any(written("kv=stream").schedule.kind == OpKind.SORT)


def test_experts_that_stream_beside_the_attention_of_their_layer_wait_for_the_layer_before() -> None:
    schedule = written("experts=cpu@stream=12", "pipelined_sharding").schedule
    for copy in np.flatnonzero(schedule.kind == OpKind.STREAM).tolist():
        layer, step = schedule.layer[copy], schedule.step[copy]
        before = np.flatnonzero(
            (schedule.lane == Lane.COMPUTE) & (schedule.step == step) & (schedule.layer == layer - 1)
        )
        assert layer == 0 or before[-1] in schedule.deps(copy).tolist()


@pytest.mark.parametrize("placement", ["experts=cpu@stream=1", "experts=cpu:keep=2:uniform@stream=1"])
@pytest.mark.parametrize("execution", ["pipelined_sharding", "ktransformers", "llama_cpp"])
def test_what_is_streamed_before_the_gate_has_run_is_all_that_the_host_holds(execution: str, placement: str) -> None:
    decoded = written(placement, execution)
    schedule, held = decoded.schedule, MODEL.n_experts - 2 * ("keep" in placement)
    moved = schedule.bytes[schedule.kind == OpKind.STREAM]
    assert moved.max() <= held * MODEL.expert_bytes
    if EXECUTIONS[execution].streams_chosen:
        asked = decoded.n_prefill_lookups + decoded.n_lookups - decoded.n_prefill_hits - decoded.n_hits
        assert moved.sum() == asked * MODEL.expert_bytes < len(moved) * held * MODEL.expert_bytes
    else:
        n_passes = len(np.unique(schedule.step))
        assert moved.tolist() == [held * MODEL.expert_bytes] * (n_passes * MODEL.n_moe_layers)


def test_layers_weigh_what_the_model_weighs_outside_tables_and_experts() -> None:
    for model in (MODEL, DECODER, load_model("deepseek-v2-lite"), load_model("gpt-oss-20b")):
        tables = model.embedding_params * model.stored_embedding_dtype.bytes_per_param
        tables += model.head_params * model.stored_head_dtype.bytes_per_param
        kept = model.other_params * model.stored_activation_dtype.bytes_per_param
        layers = sum(layer_weight_bytes(model))
        assert layers == pytest.approx(model.non_expert_bytes - tables - kept, rel=2e-3)


def test_keys_and_values_in_host_memory_are_streamed_or_attended_to_there() -> None:
    plain = written("").schedule
    kv_bytes = sum(plain.works[row].hbm_bytes for row in plain.cost[plain.kind == OpKind.SELF_ATTENTION].tolist())
    streamed, attended = written("kv=stream").schedule, written("kv=cpu").schedule
    assert streamed.bytes[streamed.kind == OpKind.STREAM].sum() == kv_bytes
    on_cpu = [attended.works[row] for row in attended.cost[attended.kind == OpKind.CPU_LAYER].tolist()]
    assert sum(one.hbm_bytes for one in on_cpu) == kv_bytes
    assert not any(one.gemms for one in on_cpu)
    here = [attended.works[row] for row in attended.cost[attended.kind == OpKind.SELF_ATTENTION].tolist()]
    assert not any(one.hbm_bytes or one.flop for one in here)
    flop = [sum(w.works[row].flop for row in w.cost.tolist()) for w in (plain, attended)]
    assert flop[0] == flop[1]


def test_a_prompt_passes_in_micro_batches_and_streams_from_its_tokens_on() -> None:
    n = int(np.count_nonzero(TRACE.step == 0))
    assert n == 12
    whole, parts = written("experts=cpu@stream=never"), written("experts=cpu@stream=never@ubatch=5")
    blocks = MODEL.n_moe_layers
    in_prompt = [(d.schedule.step == 0) & (d.schedule.kind == OpKind.HANDOVER) for d in (whole, parts)]
    assert [int(np.count_nonzero(one)) for one in in_prompt] == [blocks, 3 * blocks]  # 5 + 5 + 2 tokens
    assert parts.schedule.bytes[in_prompt[1]].sum() == whole.schedule.bytes[in_prompt[0]].sum()
    assert count(parts, OpKind.HEAD) == count(whole, OpKind.HEAD)
    pairs = [
        sum(d.schedule.works[row].flop for row in d.schedule.cost[(d.schedule.kind == OpKind.SELF_ATTENTION)].tolist())
        for d in (whole, parts)
    ]
    assert pairs[0] == pairs[1]  # a causal prompt scores the same pairs however it is cut
    streamed = written("experts=cpu@stream=12")
    first = streamed.schedule.step == 0
    assert np.count_nonzero(first & (streamed.schedule.kind == OpKind.STREAM)) == blocks
    assert np.count_nonzero(first & (streamed.schedule.kind == OpKind.CPU_EXPERT)) == 0
    moved = streamed.schedule.bytes[streamed.schedule.kind == OpKind.STREAM].sum()
    assert moved == streamed.n_prefill_lookups * MODEL.expert_bytes
    assert count(written("experts=cpu@stream=13"), OpKind.STREAM) == 0


def test_a_design_on_the_host_is_asked_for_by_name() -> None:
    hw, model = load_hardware("rtx-4090", stack="llama-cpp"), load_model("qwen3-30b-a3b")
    trace = routing(model, batch=1, input_tokens=4)
    found = simulate(model, hw, trace, "gpu_only@experts=cpu")
    assert found.moe_layer_latency_s > hw.constant("handover_s")
    assert found.hit_rate == 0
    assert found.peak_hbm_bytes < 8e9
    streamed = simulate(model, hw, trace, "gpu_only@experts=cpu", engine="stream")
    assert streamed.makespan_s == found.makespan_s
    assert streamed.h2d_bytes == found.h2d_bytes > 0
    assert streamed.moe_layer_latency_s == pytest.approx(found.moe_layer_latency_s, rel=1e-12)


@pytest.mark.parametrize("lookahead", [1, 2])
def test_what_gates_on_the_host_select_is_brought_before_the_layers_of_the_device_begin(lookahead: int) -> None:
    """Layers 0 (dense) and 1 (MoE block 0) on the host; blocks 1 and 2 are on the device."""
    schedule = written("layers=cpu:2", policy=f"pregate({lookahead})" if lookahead > 1 else "pregate").schedule
    for step in np.unique(schedule.step).tolist():
        mine = schedule.step == step
        fetched = np.flatnonzero(mine & (schedule.kind == OpKind.FETCH) & (schedule.layer <= 1 + lookahead))
        begins = np.flatnonzero(mine & (schedule.lane == Lane.COMPUTE))[0]
        assert set(schedule.layer[fetched].tolist()) == set(range(2, 2 + lookahead))
        assert fetched.max() < begins
        waits = np.flatnonzero(mine & (schedule.kind == OpKind.WAIT) & (schedule.layer == 1))
        gates = np.flatnonzero(mine & (schedule.kind == OpKind.CPU_LAYER) & (schedule.layer == 1))
        assert any(set(schedule.deps(int(op)).tolist()) & set(gates.tolist()) for op in waits)
