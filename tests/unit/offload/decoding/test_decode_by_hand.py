"""Schedules of a few tokens, written by hand: every op, what it waits for and what it asks of the machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from offload import ffn_work, work
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, DecodeStream, decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind, Work
from offload.policies import policy_named
from offload.policy import BlockView, Decisions, Fetch, Policy, RunFacts, no_prefetch
from offload.recorder import assemble
from tests.small_models import routing
from tests.unit.offload.by_hand import DECODER, NEXT, PROMPT, SHARED, SWITCH, asked, hybrid, ops, step, written
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase

NONE = [-1]
READ = step(0, Phase.PREFILL, [(0, 0), (0, 1), (1, 0)], [[[2], *[NONE] * 3], [[2], *[NONE] * 3], [[0], *[NONE] * 3]])
MADE = [step(i, Phase.DECODE, [(0, i - 1), (1, i - 1)], [[NONE, [1], [0], [3]], [NONE, [1], [4], [3]]]) for i in (1, 2)]


def test_experts_on_demand_are_fetched_when_the_host_has_read_who_they_are() -> None:
    decoded = written(DECODER, [PROMPT, NEXT], "on_demand", static_bytes=77)
    assert ops(decoded, 0) == [
        "attention 0", "ffn 0",
        "attention 1", "gate 1", "readback 1 after 3", "wait 1 after 4",
        "fetch 1 e0 s0", "fetch 1 e1 s1", "fetch 1 e5 s2",
        "experts 1 e0 after 6", "experts 1 e1 after 7", "experts 1 e5 after 6 7 8",
        "attention 2", "gate 2", "readback 2 after 13", "wait 2 after 14",
        "fetch 2 e0 s3", "fetch 2 e1 s4", "experts 2 e0 after 16", "experts 2 e1 after 16 17",
        "attention 3", "gate 3", "readback 3 after 21", "wait 3 after 22",
        "fetch 3 e2 s5", "fetch 3 e3 s6", "fetch 3 e4 s7",
        "experts 3 e2 after 24", "experts 3 e3 after 25", "experts 3 e4 after 24 25 26",
        "head", "step after 30",
    ]  # fmt: skip
    assert ops(decoded, 1)[4:12] == [
        "readback 1 after 3", "wait 1 after 4", "fetch 1 e1 s0 after -21", "fetch 1 e2 s1 after -21",
        "experts 1 e1 after 6", "experts 1 e2 after 6 7", "attention 2", "gate 2",
    ]  # fmt: skip
    schedule = decoded.schedule
    assert schedule.static_bytes == 77
    assert set(schedule.priority.tolist()) == {0}
    assert schedule.layer[-2:].tolist() == [-1, -1]  # the head and the end of a step are of no layer
    assert (decoded.n_lookups, decoded.n_hits, decoded.n_prefill_lookups, decoded.n_prefill_hits) == (6, 0, 8, 0)
    fetched = schedule.kind == OpKind.FETCH
    assert set(schedule.hbm_acquired[fetched].tolist()) == {DECODER.expert_bytes}
    assert schedule.hbm_released[schedule.hbm_released > 0].tolist() == [
        n * DECODER.expert_bytes for n in (3, 2, 3, 2, 2, 2)
    ]
    lanes = {OpKind.READBACK: Lane.D2H, OpKind.WAIT: Lane.HOST, OpKind.STEP: Lane.HOST, OpKind.FETCH: Lane.H2D}
    for kind in {OpKind(kind) for kind in schedule.kind.tolist()}:
        assert set(schedule.lane[schedule.kind == kind].tolist()) == {lanes.get(kind, Lane.COMPUTE)}


def test_every_op_of_a_pass_asks_for_its_tokens_and_contexts() -> None:
    """A prompt of two tokens, then one token beside another sequence's at position 9."""
    other = step(1, Phase.DECODE, [(4, 2), (7, 9)], [[[1, 2], [0, 5], [4, 3]], [[1, -1], [0, 5], [4, 3]]])
    decoded = written(SHARED, [PROMPT, other], "on_demand", n_buffers=9)
    stack, slots_bytes = SHARED.decoder, 9 * SHARED.expert_bytes
    assert asked(decoded, OpKind.SELF_ATTENTION, 0) == [work.self_attention_work(SHARED, stack, 2, 2, 3)] * 4
    assert (
        asked(decoded, OpKind.SELF_ATTENTION, 1)
        == [work.self_attention_work(SHARED, stack, 2, 13, 13, n_sequences=2)] * 4
    )
    for i, n_sequences in ((0, 1), (1, 2)):
        assert asked(decoded, OpKind.GATE, i) == [work.gate_work(SHARED, 2)] * 3
        assert asked(decoded, OpKind.READBACK, i) == [work.readback_work(4)] * 3
        assert asked(decoded, OpKind.DENSE_FFN, i) == [ffn_work.dense_ffn_work(SHARED, stack, 2)]
        assert asked(decoded, OpKind.HEAD, i) == [work.head_work(SHARED, n_sequences)]
        assert asked(decoded, OpKind.STEP, i) == [Work(OpKind.STEP)]
        assert set(asked(decoded, OpKind.FETCH, i)) == {work.expert_copy_work(SHARED, OpKind.FETCH)}
    alone = ffn_work.experts_work(SHARED, (), 2)
    one, two = (ffn_work.experts_work(SHARED, (n,), 0, slots_bytes) for n in (1, 2))
    assert asked(decoded, OpKind.EXPERTS, 0)[:4] == [alone, two, one, one]  # expert 0 serves both tokens
    assert asked(decoded, OpKind.EXPERTS, 1)[:3] == [alone, two, one]


def test_a_pre_gate_brings_the_next_block_under_this_one() -> None:
    """The gate of block 1 chooses for block 2 too: its experts are on their way when it begins."""
    decoded = written(DECODER, [PROMPT, NEXT], "pregate")
    assert ops(decoded, 0)[3:] == [
        "gate 1", "readback 1 after 3", "wait 1 after 4", "fetch 1 e0 s0", "fetch 1 e1 s1", "fetch 1 e5 s2",
        "experts 1 e0 after 6", "experts 1 e1 after 7", "experts 1 e5 after 6 7 8",
        "fetch 2 e0 s3", "fetch 2 e1 s4",
        "attention 2", "gate 2", "experts 2 e0 after 12", "experts 2 e1 after 12 13",
        "readback 2 after 15", "wait 2 after 18", "fetch 3 e2 s5", "fetch 3 e3 s6", "fetch 3 e4 s7",
        "attention 3", "gate 3", "experts 3 e2 after 20", "experts 3 e3 after 21", "experts 3 e4 after 20 21 22",
        "head", "step after 28",
    ]  # fmt: skip
    schedule = decoded.schedule
    ahead = [i for i in range(len(schedule)) if schedule.priority[i] == 1]
    assert ahead == [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.FETCH and schedule.layer[i] > 1]


def test_the_released_stack_stages_and_waits() -> None:
    decoded = written(DECODER, [NEXT], "on_demand", "fastertransformer")
    assert ops(decoded, 1)[2:14] == [
        "attention 1", "gate 1", "readback 1 after 3", "wait 1 after 4",
        "fetch 1 e1", "stage 1 e1 s0 after 6", "fetch 1 e2", "stage 1 e2 s1 after 8",
        "wait 1 after 7 9", "experts 1 after 7 9", "wait 1 after 11", "attention 2",
    ]  # fmt: skip
    schedule = decoded.schedule
    assert schedule.hbm_released[schedule.kind == OpKind.EXPERTS].tolist() == [2 * DECODER.expert_bytes] * 3
    assert asked(decoded, OpKind.STAGE, 1) == [work.expert_copy_work(DECODER, OpKind.STAGE)] * 6


def test_storage_comes_before_the_link() -> None:
    decoded = written(DECODER, [NEXT], "on_demand", disk=True)
    assert ops(decoded, 1)[6:10] == [
        "disk_read 1 e1", "fetch 1 e1 s0 after 6", "disk_read 1 e2", "fetch 1 e2 s1 after 8",
    ]  # fmt: skip
    assert asked(decoded, OpKind.DISK_READ, 1) == [work.expert_copy_work(DECODER, OpKind.DISK_READ)] * 6


@pytest.mark.parametrize("policy", ["gpu_only", "pregate"])
def test_an_encoder_reads_once_and_a_decoder_attends_to_what_it_read(policy: str) -> None:
    """Three tokens of two sequences: all pairs of each, 4 + 1; keys and values of them are made in the first step."""
    decoded = written(SWITCH, [READ, *MADE], policy)
    assert SWITCH.encoder is not None
    reads = work.self_attention_work(SWITCH, SWITCH.encoder, 3, 3, 5, n_sequences=2)
    assert asked(decoded, OpKind.SELF_ATTENTION, 0) == [reads] * 2
    for i, fresh in ((1, 3), (2, 0)):
        own, cross = (asked(decoded, kind, i) for kind in (OpKind.SELF_ATTENTION, OpKind.CROSS_ATTENTION))
        assert own == [work.self_attention_work(SWITCH, SWITCH.decoder, 2, 2 * i, 2 * i, n_sequences=2)] * 6
        assert cross == [work.cross_attention_work(SWITCH, SWITCH.decoder, 2, 3, fresh, n_sequences=2)] * 6
        assert asked(decoded, OpKind.HEAD, i) == [work.head_work(SWITCH, 2)]
    brought = ["readback 1 after 3", "wait 1 after 4", "fetch 1 e0 s0", "fetch 1 e2 s1"]
    read = (
        ["experts 1 e0", "experts 1 e2"] if policy == "gpu_only" else ["experts 1 e0 after 6", "experts 1 e2 after 6 7"]
    )
    assert ops(decoded, 0) == [
        "attention 0", "ffn 0", "attention 1", "gate 1", *(brought if policy == "pregate" else []), *read,
    ]  # fmt: skip
    kinds = [
        line for line in ops(decoded, 2) if line.split()[0] in ("attention", "cross", "ffn", "gate", "head", "step")
    ]
    assert [line.split(" after")[0] for line in kinds] == [
        "attention 0", "cross 0", "ffn 0", "attention 1", "cross 1", "gate 1",
        "attention 2", "cross 2", "ffn 2", "attention 3", "cross 3", "gate 3",
        "attention 4", "cross 4", "ffn 4", "attention 5", "cross 5", "gate 5", "head", "step",
    ]  # fmt: skip
    hits = (8, 8, 2, 2) if policy == "gpu_only" else (8, 0, 2, 0)
    assert (decoded.n_lookups, decoded.n_hits, decoded.n_prefill_lookups, decoded.n_prefill_hits) == hits


def test_a_sequence_that_joins_later_has_its_own_memory_projected() -> None:
    """Sequence 0 read two tokens and goes on alone, then sequence 1 with its one."""
    alone, both = (step(i, Phase.DECODE, [(s, p) for s, p in rows], [[NONE, [1], [0], [3]]] * len(rows)) for i, rows in
                   ((1, [(0, 0)]), (2, [(1, 0), (0, 1)])))  # fmt: skip
    decoded = written(SWITCH, [READ, alone, both], "on_demand")
    assert asked(decoded, OpKind.CROSS_ATTENTION, 1)[0] == work.cross_attention_work(SWITCH, SWITCH.decoder, 1, 2, 2)
    cross = work.cross_attention_work(SWITCH, SWITCH.decoder, 2, 3, 1, n_sequences=2)
    own = work.self_attention_work(SWITCH, SWITCH.decoder, 2, 3, 3, n_sequences=2)
    assert asked(decoded, OpKind.CROSS_ATTENTION, 2)[0] == cross
    assert asked(decoded, OpKind.SELF_ATTENTION, 2)[0] == own


def two_block_encoder() -> ModelArchitecture:
    return dataclasses.replace(SWITCH, encoder=dataclasses.replace(SWITCH.stacks[0], moe_layers=(0, 1), d_ff_dense=0))


@pytest.mark.parametrize("policy", ["pregate", "pregate:encoder"])
def test_an_encoder_runs_on_demand_unless_the_policy_says_the_same(policy: str) -> None:
    reads = step(0, Phase.PREFILL, [(0, 0)], [[[2], [3], *[NONE] * 3]])
    decoded = written(two_block_encoder(), [reads], policy)
    demanded = ["readback 1 after 8", "wait 1 after 9", "fetch 1 e3 s1", "experts 1 e3 after 11"]
    assert ops(decoded, 0) == [
        "attention 0", "gate 0", "readback 0 after 1", "wait 0 after 2", "fetch 0 e2 s0", "experts 0 e2 after 4",
        *(["attention 1", "gate 1"] if policy == "pregate" else ["fetch 1 e3 s1", "attention 1", "gate 1"]),
        *([line.replace("8", "7").replace("9", "8").replace("11", "10") for line in demanded]
          if policy == "pregate" else ["experts 1 e3 after 6"]),
    ]  # fmt: skip


def test_a_policy_starts_a_run_with_what_is_known_of_it_and_answers_misses_of_an_encoder() -> None:
    seen: list[object] = []

    def start(facts: RunFacts) -> Decisions:
        seen.append(facts)

        def on_miss(view: Any, missing: Any) -> Any:
            seen.append((view.i_step, view.block, tuple(missing)))
            from offload.policy import fetch_misses

            return fetch_misses(view, missing)

        return Decisions(no_prefetch, on_miss)

    reads = step(0, Phase.PREFILL, [(0, 0)], [[[2], [3], *[NONE] * 3]])
    written(two_block_encoder(), [reads], Policy("remembers", start=start))
    assert seen == [RunFacts(3, 2, 5, 1, 32), (0, 0, (2,)), (0, 1, (3,))]


def test_layers_that_differ_are_written_one_by_one() -> None:
    model = hybrid()
    attention, mixer = model.decoder.attention, model.decoder.mixers[0]
    moved = [dataclasses.replace(one, experts=one.experts[:, :2]) for one in (PROMPT, NEXT)]
    decoded = written(model, moved, "gpu_only")
    lines = [line for line in ops(decoded, 1) if not line.startswith("experts")]
    assert lines == ["attention 0", "ffn 0", "attention 1", "gate 1", "gate 2", "attention 3", "head", lines[-1]]
    assert lines[-1].startswith("step after")
    usual, state = (work.mixer_work(model, one, 1, 3, 3) for one in (attention, mixer))
    assert asked(decoded, OpKind.SELF_ATTENTION, 1) == [usual, state, usual]


def test_a_warm_cache_counts_in_hbm_and_is_looked_up() -> None:
    cache = ResidentSet(4, "lru", n_layers=3, n_experts=6)
    cache.admit(0, [1])
    cache.admit(1, [0, 3])
    decoded = written(DECODER, [NEXT], "on_demand", cache=cache, static_bytes=5)
    assert decoded.schedule.static_bytes == 5 + 3 * DECODER.expert_bytes
    assert (decoded.n_lookups, decoded.n_hits) == (6, 2)
    experts = asked(decoded, OpKind.EXPERTS, 1)
    assert {what.slots_bytes for what in experts} == {(8 + 4) * DECODER.expert_bytes}
    stream = DecodeStream(DECODER, [NEXT], policy_named("on_demand"), EXECUTIONS["streams"], n_buffers=8)
    assert stream.warm_bytes == 0


def test_the_same_trace_is_the_same_schedule_by_every_door() -> None:
    trace = routing(DECODER, batch=3)
    stream = DecodeStream(DECODER, trace.steps(), policy_named("pregate"), EXECUTIONS["streams"], n_buffers=20)
    assert assemble(stream) == written(DECODER, list(trace.steps()), "pregate", n_buffers=20).schedule


def test_one_token_of_one_expert_is_one_row() -> None:
    one = step(1, Phase.DECODE, [(0, 4)], [[NONE, [1], [0], [3]]])
    decoded = written(SWITCH, [one], "gpu_only")
    assert asked(decoded, OpKind.EXPERTS, 1) == [ffn_work.experts_work(SWITCH, (1,), 0, 8 * SWITCH.expert_bytes)] * 3
    assert [line for line in ops(decoded, 1) if line.startswith("experts")] == [
        "experts 1 e1", "experts 3 e0", "experts 5 e3",
    ]  # fmt: skip


def test_stacks_with_one_grouped_ffn_bring_neighbours_in_runs() -> None:
    decoded = written(DECODER, [NEXT], "prefetch_all", "fastertransformer", n_buffers=12)
    assert max(what.n_copies for what in asked(decoded, OpKind.FETCH, 1)) > 1
    assert asked(decoded, OpKind.ISSUE, 1)
    assert not asked(written(DECODER, [NEXT], "prefetch_all", n_buffers=12), OpKind.ISSUE, 1)


def test_an_encoder_on_demand_hands_its_slots_on_whatever_the_policy() -> None:
    """Two experts pass through one slot, though the policy itself needs all of a block at once."""
    decoded = written(SWITCH, [READ], "prefetch_all", n_buffers=1)
    assert [line for line in ops(decoded, 0) if line.startswith("fetch")] == ["fetch 1 e0 s0", "fetch 1 e2 s0 after 7"]


def test_an_encoder_and_a_decoder_have_works_of_their_own() -> None:
    """Passes of as many tokens, FFNs of another width."""
    model = dataclasses.replace(SWITCH, encoder=dataclasses.replace(SWITCH.stacks[0], d_ff_dense=96))
    reads = step(0, Phase.PREFILL, [(0, 0), (1, 0)], [[[2], *[NONE] * 3]] * 2)
    decoded = written(model, [reads, MADE[0]], "gpu_only")
    for i, stack in enumerate(model.stacks):
        assert set(asked(decoded, OpKind.DENSE_FFN, i)) == {ffn_work.dense_ffn_work(model, stack, 2)}


def test_a_fetch_for_the_next_step_starts_when_its_block_has_run() -> None:
    """Block 0 asks for expert 5 of block 0 and expert 3 of block 2, one step ahead."""

    def prefetch(view: BlockView) -> list[Fetch]:
        return [Fetch(0, (5,), 1), Fetch(2, (3,), 1)] if view.block == 0 and view.i_step == 0 else []

    decoded = written(DECODER, [PROMPT, NEXT], Policy("ahead", prefetch=prefetch), n_buffers=10)
    fetched = [line for line in ops(decoded, 0) if line.startswith("fetch")]
    assert [line.split()[1:3] for line in fetched[3:]] == [
        ["1", "e5"], ["2", "e0"], ["2", "e1"], ["3", "e2"], ["3", "e3"], ["3", "e4"], ["3", "e3"],
    ]  # fmt: skip
    again = [line.split()[1:3] for line in ops(decoded, 1) if line.startswith("fetch")]
    assert again == [["1", "e1"], ["1", "e2"], ["2", "e0"], ["2", "e5"], ["3", "e4"]]  # e3 of layer 3 is there


def test_an_encoder_has_no_next_step_to_fetch_for() -> None:
    policy = Policy("ahead", prefetch=lambda view: [Fetch(0, (1,), 1)], encoder="same")
    with pytest.raises(InvalidInput, match="the next step of an encoder is no target"):
        written(SWITCH, [READ], policy)


def test_a_policy_sees_what_each_token_chose() -> None:
    seen: list[object] = []

    def prefetch(view: BlockView) -> list[Fetch]:
        chosen = view.chosen(view.block)
        seen.append(None if chosen is None else chosen.tolist())
        return []

    written(DECODER, [PROMPT], Policy("looks", prefetch=prefetch))
    assert seen == [[[0, 5], [0, 1]], [[0, 1], [0, 1]], [[2, 3], [2, 4]]]


def kinds(decoded: Decoded, step: int) -> list[OpKind]:
    schedule = decoded.schedule
    return [OpKind(kind) for kind in schedule.kind[schedule.step == step].tolist()]


def test_an_engine_that_selects_on_the_host_waits_for_the_ids_before_each_matrix_of_each_expert() -> None:
    selects = dataclasses.replace(EXECUTIONS["streams"], name="selects", selects_on_host=True)
    found = kinds(decode(DECODER, [PROMPT, NEXT], policy_named("gpu_only"), selects, n_buffers=8), 1)
    n_matrices = DECODER.n_expert_matrices
    first = found.index(OpKind.EXPERTS)
    assert found[first - 2 * n_matrices : first] == [OpKind.READBACK, OpKind.WAIT] * n_matrices
    assert found.count(OpKind.READBACK) == n_matrices * found.count(OpKind.EXPERTS)
    plain = kinds(decode(DECODER, [PROMPT, NEXT], policy_named("gpu_only"), EXECUTIONS["streams"], n_buffers=8), 1)
    assert found.count(OpKind.EXPERTS) == plain.count(OpKind.EXPERTS)
    assert OpKind.READBACK not in plain


def test_with_copies_on_the_stream_that_computes_no_expert_of_a_layer_runs_before_the_last_is_there() -> None:
    found = kinds(decode(DECODER, [PROMPT], policy_named("on_demand"), EXECUTIONS["one_stream"], n_buffers=8), 0)
    n_blocks = DECODER.n_moe_layers
    assert found.count(OpKind.EXPERTS) == n_blocks, "one op a layer"
    assert found.count(OpKind.FETCH) > n_blocks, "of several experts"
    schedule = decode(DECODER, [PROMPT], policy_named("on_demand"), EXECUTIONS["one_stream"], n_buffers=8).schedule
    for i in np.flatnonzero(schedule.kind == OpKind.EXPERTS).tolist():
        fetches = np.flatnonzero((schedule.kind == OpKind.FETCH) & (schedule.layer == schedule.layer[i]))
        assert fetches.max() < i
        assert fetches.max() in schedule.deps(i)
