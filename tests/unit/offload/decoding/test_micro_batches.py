"""Micro-batches of a pass share what is fetched for a layer; what is computed is the same."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pregate
from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.decode import Decoded, decode
from offload.decoding.micro_batches import micro_batches_of
from offload.decoding.token_mixing import TokenMixing
from offload.decoding.work_rows import Works
from offload.execution import EXECUTIONS
from offload.metrics.run_metrics import gap_pairs
from offload.ops import TO_DEVICE, Lane, OpKind
from offload.placing.footprint import plan_memory
from offload.placing.placement_clauses import placement_named
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.schedule import Schedule
from pregate.ask.timing.streaming import stream_request
from simulator import recurrence
from tests.command_line import Run, runner
from tests.engines import timed_alike
from tests.small_models import decoder_only, encoder_decoder
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace, Step

POLICIES = ("gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "on_demand+lru:3")
PLACED = ("micro=2", "weights=stream@micro=2", "kv=cpu@micro=2", "weights=stream@kv=stream@micro=2")


def written(
    policy: str, placement: str, *, model: ModelArchitecture | None = None, batch: int = 5, execution: str = "streams"
) -> tuple[Decoded, RoutingTrace, ModelArchitecture]:
    model = decoder_only(n_shared=1) if model is None else model
    trace = pregate.synthesize(model, 3, 4, batch)
    design = policy_named(policy).with_placement(placement_named(placement) if placement else None)
    how = design.placement.execution(EXECUTIONS[execution])
    plan = plan_memory(
        model, measure_workload(model, trace.steps()), design, how, hbm_bytes=10**9, reserve_bytes=0
    )  # fmt: skip
    from offload.caches.eviction import Lru
    from offload.caches.residency import ResidentSet

    cache = None
    if design.cache is not None:
        cache = ResidentSet(3, lambda: Lru(), n_layers=model.n_moe_layers, n_experts=model.n_experts)
    made = decode(model, trace.steps(), design, how, n_buffers=plan.n_buffers, cache=cache)
    return made, trace, model


def moved(schedule: Schedule) -> int:
    return int(schedule.bytes[np.isin(schedule.kind, TO_DEVICE)].sum())


def flop(schedule: Schedule) -> float:
    return float(sum(schedule.works[row].total_flop for row in schedule.cost.tolist()))


@pytest.mark.parametrize("execution", ["streams", "ktransformers", "fastertransformer"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("placement", ["micro=2", "micro=1"])
def test_every_expert_is_fetched_once_and_as_much_is_computed(policy: str, placement: str, execution: str) -> None:
    whole, _, _ = written(policy, "", execution=execution)
    parts, _, _ = written(policy, placement, execution=execution)
    assert moved(parts.schedule) == moved(whole.schedule)
    assert flop(parts.schedule) == flop(whole.schedule)
    assert (parts.n_lookups, parts.n_hits) == (whole.n_lookups, whole.n_hits)
    assert len(parts.schedule) > len(whole.schedule)


@pytest.mark.parametrize("collects", [True, False])
def test_a_decode_leaves_the_search_for_garbage_as_it_was(collects: bool) -> None:
    enabled = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        written("gpu_only", "micro=2")
        assert gc.isenabled() is collects
        with pytest.raises(InvalidInput, match="leave out experts=cpu"):
            written("gpu_only", "experts=cpu@micro=2")
        assert gc.isenabled() is collects
    finally:
        (gc.enable if enabled else gc.disable)()


def test_an_encoder_reads_all_sequences_at_once_and_a_decoder_micro_batch_by_micro_batch() -> None:
    """Six sequences, two a micro-batch: the pass of the encoder as it was, cross-attention in each part of others."""
    model = encoder_decoder()
    whole, parts = (written("on_demand", place, model=model, batch=6)[0].schedule for place in ("", "micro=2"))
    first = [
        [(s.works[row], s.layer[i]) for i, row in enumerate(s.cost.tolist()) if s.step[i] == 0] for s in (whole, parts)
    ]
    assert first[0] == first[1]
    crossing = [np.count_nonzero(s.kind == OpKind.CROSS_ATTENTION) for s in (whole, parts)]
    assert crossing[1] == 3 * crossing[0] > 0
    assert flop(parts) == flop(whole)


@pytest.mark.parametrize("name", ["olmoe-1b-7b", "deepseek-v2-lite", "gpt-oss-20b"])
@pytest.mark.parametrize("made_moves", [0.0, 2.0])
@settings(max_examples=20)
@given(
    sequence=st.lists(st.integers(0, 5), min_size=1, max_size=12).map(sorted), seed=st.integers(0, 99),
    size=st.integers(1, 3), drafted=st.booleans(),
)  # fmt: skip
def test_what_mixes_the_tokens_of_micro_batches_is_what_mixes_those_of_each_alone(
    sequence: list[int], seed: int, size: int, name: str, drafted: bool, made_moves: float
) -> None:
    model, n = pregate.load_model(name), len(sequence)
    position = np.random.default_rng(seed).integers(0, 50, n).astype(np.int32)
    rejected = np.arange(n) % 2 == 1 if drafted else None
    step = Step(3, Phase.DECODE, np.zeros((n, 1, 1), np.int16), np.array(sequence, np.int32), position, None, rejected)
    parts, works = micro_batches_of(step, size), Works(model, 0)
    mixing = TokenMixing(model, works)
    assert sum(part.n_kept for part in parts) == step.n_kept
    alone = [mixing.of(part, model.decoder, False, made_moves) for part in parts]
    assert mixing.of_parts(parts, model.decoder, False, made_moves) == alone


@pytest.mark.parametrize("policy", POLICIES)
def test_a_micro_batch_of_all_sequences_is_the_schedule_without(policy: str) -> None:
    assert written(policy, "micro=5")[0].schedule.digest == written(policy, "")[0].schedule.digest


def test_streamed_weights_come_once_a_layer_and_keys_and_values_once_a_micro_batch() -> None:
    whole, trace, model = written("gpu_only", "weights=stream@kv=stream")
    parts, _, _ = written("gpu_only", "weights=stream@kv=stream@micro=2")
    streams = [s.kind == OpKind.STREAM for s in (whole.schedule, parts.schedule)]
    n_passes = len(np.unique(trace.step))
    n_layers = model.decoder.n_layers
    assert streams[0].sum() == 2 * n_layers * n_passes
    assert streams[1].sum() == (1 + 3) * n_layers * n_passes  # 5 sequences: micro-batches of 2, 2 and 1
    assert whole.schedule.bytes[streams[0]].sum() == parts.schedule.bytes[streams[1]].sum()


def test_a_buffer_of_keys_and_values_is_filled_when_the_micro_batch_before_last_has_read_it() -> None:
    schedule = written("gpu_only", "kv=stream@micro=1")[0].schedule
    copies = np.flatnonzero(schedule.kind == OpKind.STREAM)
    mixers = np.flatnonzero(schedule.kind == OpKind.SELF_ATTENTION)
    assert len(copies) == len(mixers)
    for i, copy in enumerate(copies.tolist()):
        waits = schedule.dep[schedule.dep_ptr[copy] : schedule.dep_ptr[copy + 1]].tolist()
        assert waits == ([] if i < 2 else [int(mixers[i - 2])])
        read = mixers[i]
        assert copy in schedule.dep[schedule.dep_ptr[read] : schedule.dep_ptr[read + 1]].tolist()


def test_attention_on_the_host_runs_beside_experts_of_the_micro_batch_before() -> None:
    """Two micro-batches, whose attention takes as long as their experts: nearly half of a layer is hidden."""
    made, _, _ = written("gpu_only", "kv=cpu@micro=1", batch=4, execution="ktransformers")
    schedule = made.schedule
    hw = load_platform("rtx-4090", "streams")
    timeline = recurrence.simulate(schedule, price(schedule.works, hw))
    on_host = np.flatnonzero(schedule.lane == Lane.CPU)
    computing = np.flatnonzero(schedule.kind == OpKind.EXPERTS)
    overlaps = [
        (timeline.start_s[host] < timeline.end_s[ffn]) & (timeline.start_s[ffn] < timeline.end_s[host])
        for host in on_host.tolist()
        for ffn in computing.tolist()
        if schedule.layer[host] == schedule.layer[ffn] and schedule.step[host] == schedule.step[ffn]
    ]
    assert any(overlaps)


def test_gates_run_before_anything_is_fetched_for_them_and_with_their_experts_where_nothing_is() -> None:
    asked, _, _ = written("on_demand", "micro=1", execution="ktransformers")
    there, _, _ = written("gpu_only", "micro=1", execution="ktransformers")
    kinds = [
        [OpKind(k) for k in made.schedule.kind.tolist() if k in (OpKind.GATE, OpKind.EXPERTS)][-30:]
        for made in (asked, there)
    ]
    assert kinds[0] == [*[OpKind.GATE] * 5, *[OpKind.EXPERTS] * 5] * 3
    assert kinds[1] == [OpKind.GATE, OpKind.EXPERTS] * 15


@given(
    policy=st.sampled_from(POLICIES), placement=st.sampled_from(PLACED), batch=st.integers(1, 6),
    execution=st.sampled_from(["streams", "ktransformers", "fastertransformer"]), encodes=st.booleans(),
)  # fmt: skip
def test_every_engine_times_micro_batches_alike(
    policy: str, placement: str, batch: int, execution: str, encodes: bool
) -> None:
    if encodes and "kv" in placement:
        placement = "weights=stream@micro=2"
    model = encoder_decoder() if encodes else decoder_only(n_shared=batch % 2)
    made, _, _ = written(policy, placement, model=model, batch=batch, execution=execution)
    timed_alike(made.schedule, price(made.schedule.works, load_platform("rtx-4090", "streams")), 10**9)


@pytest.mark.parametrize("policy", ["on_demand", "prefetch_all", "pregate+lru:4"])
def test_streaming_says_the_same_of_micro_batches(policy: str) -> None:
    model, hw = pregate.load_model("switch-mini-16"), load_platform("rtx-4090", "streams")
    from pregate.ask.capturing.capture import capture_request
    from pregate.ask.capturing.request import request
    from pregate.ask.simulation import interpret

    asked = request(model, hw, pregate.synthesize(model, 4, 4, 3), f"{policy}@micro=2")
    whole = interpret(capture_request(asked), hw, "recurrence").to_dict()
    parts = stream_request(asked, hw).to_dict()
    assert whole["schedule_digest"] == parts["schedule_digest"]
    assert whole["makespan_s"] == parts["makespan_s"]
    assert whole["moe_layer_latency_s"] == pytest.approx(parts["moe_layer_latency_s"], rel=1e-12)


def test_micro_batches_are_whole_sequences_in_order_and_lose_no_token() -> None:
    trace = pregate.synthesize(decoder_only(), 3, 2, 5)
    (prompt, *_) = trace.steps()
    parts = micro_batches_of(prompt, 2)
    assert [sorted(set(part.sequence.tolist())) for part in parts] == [[0, 1], [2, 3], [4]]
    assert sum(len(part.experts) for part in parts) == len(prompt.experts)
    assert micro_batches_of(prompt, 0) == micro_batches_of(prompt, 5) == [prompt]


def test_less_memory_is_held_inside_a_layer() -> None:
    model = decoder_only()
    workload = measure_workload(model, pregate.synthesize(model, 3, 4, 6).steps())
    execution = EXECUTIONS["streams"]
    static = [
        plan_memory(
            model, workload, policy_named("on_demand@kv=stream"), replace(execution, micro_sequences=n),
            hbm_bytes=10**9, reserve_bytes=0,
        ).static_bytes
        for n in (0, 3, 1)
    ]  # fmt: skip
    assert static[0] > static[1] > static[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("micro=0", "below 1"), ("micro=x", "no number of sequences"), ("micro=", "no number of sequences"),
        ("micro=2@experts=cpu", "leave out experts=cpu"), ("layers=cpu:2@micro=2", "leave out experts=cpu"),
        ("micro=2@micro=3", "twice"), ("micro=-1", "no number of sequences"),
    ],
)  # fmt: skip
def test_micro_batches_that_share_nothing_are_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        placement_named(text)


def test_a_placement_says_its_micro_batches_again() -> None:
    text = "weights=stream@kv=cpu@micro=36"
    assert str(placement_named(text)) == text


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_the_command_line_checks_them_against_simpy(run: Run) -> None:
    words = ("simulate", "switch-mini-16", "--hardware", "rtx-4090", "--input-tokens", "4", "--output-tokens", "3")
    status, out, error = run(*words, "--batch", "5", "--policy", "prefetch_all@micro=2", "--check")
    assert status == 0, error
    assert "bit for bit" in out


@pytest.mark.parametrize("stack", ["streams", "llama-cpp"])
@pytest.mark.parametrize(
    "design", ["prefetch_all@micro=2", "gpu_only@weights=stream@kv=cpu@micro=1", "on_demand@micro=2"]
)
def test_many_machines_at_once_say_the_same(design: str, stack: str) -> None:
    from pregate.ask.capturing.capture import capture
    from pregate.ask.simulation import interpret
    from pregate.ask.timing.evaluation import evaluate

    model, hw = pregate.load_model("switch-mini-16"), load_platform("rtx-4090", stack)
    if model.is_encoder_decoder and "kv=" in design:
        design = design.replace("@kv=cpu", "")
    captured = capture(model, hw, pregate.synthesize(model, 6, 4, 3), design)
    rates = np.array([8e9, 32e9])
    found = evaluate(captured, hw, {"link.h2d_bytes_per_s": rates}, len(rates))
    for i, rate in enumerate(rates.tolist()):
        machine = load_platform("rtx-4090", stack, {"link.h2d_bytes_per_s": rate})
        alone = interpret(captured, machine, "recurrence")
        assert alone.makespan_s == found["makespan_s"][i]
        assert alone.peak_hbm_bytes == found["peak_hbm_bytes"][i]


@pytest.mark.parametrize("n_sequences", [1, 5])
def test_a_sequence_that_makes_several_tokens_of_a_pass_makes_one_gap(n_sequences: int) -> None:
    trace = pregate.synthesize(decoder_only(), 3, 4, n_sequences)
    steps = np.unique(trace.step)[::-1].astype(np.int32)  # in whatever order
    gap_from, gap_to = gap_pairs(trace, steps)
    wanted = set()
    for sequence in np.unique(trace.sequence):
        mine = sorted(set(trace.step[trace.sequence == sequence].tolist()))
        wanted |= {(int(sequence), *pair) for pair in pairwise(mine)}
    assert sorted(zip(steps[gap_from].tolist(), steps[gap_to].tolist(), strict=True)) == sorted(
        pair for _, *rest in wanted for pair in [tuple(rest)]
    )
