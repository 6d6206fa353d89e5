"""How passes are read and who writes them: arrays or lists, parts, compiled or not, micro-batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import offload.decode
from offload import work
from offload.caches.residency import ResidentSet
from offload.decode import DecodeStream, about_ops, decode, small_ops
from offload.decoding import decode_loop, token_mixing, unions
from offload.decoding.decode_job import DecodeJob
from offload.execution import EXECUTIONS
from offload.ops import OpKind, Work
from offload.placing.placement import Placed
from offload.policies import policy_named
from offload.policy import BlockView, Cache, Fetch, Policy
from offload.recorder import assemble
from offload.slots.host_tier import ReadThrough
from offload.slots.low_copies import LowSlots
from pregate.named import load_model
from tests.by_hand import DECODER, NEXT, PROMPT, SHARED, asked, hybrid, ops, step, written
from tests.small_models import MODELS, routing
from traces.phase import Phase
from traces.routing import Step


def many(n: int) -> list[Step]:
    """Passes of two sequences whose tokens stand in no order, one of them without a second expert."""
    rng = np.random.default_rng(n)
    steps = []
    for i in range(4):
        rows = [(5, 3), (2, 7), (5, 1), (2, 0), (5, 2)] if i % 2 == 0 else [(2, 8 + i), (5, 4 + i)]
        experts = np.sort(rng.permuted(np.tile(np.arange(6), (len(rows), 3, 1)), axis=2)[..., :2])
        experts[0, 0, 1] = -1
        steps.append(step(i, Phase.DECODE, rows, experts))
    return steps


def test_long_passes_are_counted_on_arrays_to_the_same_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy in ("on_demand", "pregate", "gpu_only"):
        digests = []
        for size in (512, 0):
            monkeypatch.setattr(unions, "_SMALL_PASS", size)
            monkeypatch.setattr(token_mixing, "_SMALL_PASS", size)
            digests.append(written(SHARED, many(1), policy, n_buffers=12).schedule.digest)
        assert digests[0] == digests[1]
    attention = asked(written(SHARED, many(1), "gpu_only"), OpKind.SELF_ATTENTION, 0)[0]
    assert attention == work.self_attention_work(SHARED, SHARED.decoder, 5, 4 + 8, 4 + 8 + 2 + 1 + 3, n_sequences=2)


@pytest.mark.parametrize("size", [512, 0])
def test_unions_count_each_expert_once_with_its_tokens(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unions, "_SMALL_PASS", size)
    chosen = [[[0, 5], [-1, -1], [3, 3]], [[5, -1], [-1, -1], [2, 0]], [[1, 5], [-1, -1], [-1, 2]]]
    one = step(0, Phase.DECODE, [(0, 0), (1, 0), (2, 0)], chosen)
    decoded = written(DECODER, [one], "gpu_only")
    experts = [line.split()[1:3] for line in ops(decoded, 0) if line.startswith("experts")]
    assert experts == [["1", "e0"], ["1", "e1"], ["1", "e5"], ["2"], ["3", "e0"], ["3", "e2"], ["3", "e3"]]
    tokens = [what.gemms[0].m if what.gemms else 0 for what in asked(decoded, OpKind.EXPERTS, 0)]
    assert tokens == [1, 1, 3, 0, 1, 2, 2]


def test_parts_put_together_are_the_whole_and_none_ends_while_experts_are_held_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [PROMPT, NEXT, *[dataclasses.replace(NEXT, i_step=i, position=NEXT.position + i - 1) for i in range(2, 6)]]
    policy, whole = policy_named("pregate"), written(DECODER, steps, "pregate").schedule
    for most, sizes in ((30, [30, 52, 52, 26]), (31, [56, 52, 52, 0]), (10**6, [160])):
        monkeypatch.setattr(decode_loop, "_PART_OPS", most)
        parts = list(DecodeStream(DECODER, steps, policy, EXECUTIONS["streams"], n_buffers=8, compiled=False))
        assert assemble(parts) == whole
        assert [len(part) for part in parts] == sizes


class Spy:
    """Stands where the compiled loop does, and writes what the other would."""

    made = 0

    def __init__(self, job: DecodeJob) -> None:
        Spy.made += 1
        self._loop = decode_loop.DecodeLoop(job)
        self.lookups = self._loop.lookups
        self.parts = self._loop.parts


def test_large_schedules_are_written_by_compiled_code_where_it_knows_the_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of one token here counts as 3 x (8 + 3 x 2) = 42 ops, the prompt as 3 x (8 + 3 x 4) = 60."""
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    unknown = Policy("unknown", prefetch=lambda view: ())
    for policy, size, compiled, wanted in (
        ("pregate", 102, None, 0), ("pregate", 101, None, 1), ("pregate", 59, None, 1), ("pregate", 59, False, 0),
        ("pregate", 10**6, True, 1), (unknown, 0, None, 0), (unknown, 0, True, 0),
    ):  # fmt: skip
        monkeypatch.setattr(offload.decode, "SMALL_OPS", size)
        Spy.made = 0
        chosen = policy_named(policy) if isinstance(policy, str) else policy
        first, plain = (
            DecodeStream(DECODER, [PROMPT, NEXT], chosen, EXECUTIONS["streams"], n_buffers=8, compiled=how)
            for how in (compiled, False)
        )
        assert first.lookups == {Phase.PREFILL: [0, 0], Phase.DECODE: [0, 0]}
        assert assemble(first) == assemble(plain)
        assert first.lookups == {Phase.PREFILL: [8, 0], Phase.DECODE: [6, 0]}
        assert Spy.made == wanted, (policy, size, compiled)


def test_what_compiled_code_does_not_know_is_written_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    monkeypatch.setattr(offload.decode, "SMALL_OPS", 0)
    Spy.made = 0
    written(DECODER, [PROMPT, NEXT], "gpu_only@experts=cpu", n_buffers=0, disk=True)  # read of storage by the host
    for eviction, wanted in (("random", 0), ("lru", 1)):
        cache = ResidentSet(3, eviction, n_layers=3, n_experts=6)
        written(DECODER, [NEXT], "on_demand", cache=cache)
        assert Spy.made == wanted


def test_large_passes_count_no_expert_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tokens of two experts each are at most six experts a block: 3 x (8 + 3 x 6) ops."""
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    one = step(0, Phase.DECODE, [(i, 0) for i in range(9)], [[[0, 1]] * 3] * 9)
    for size, wanted in ((78, 0), (77, 1)):
        monkeypatch.setattr(offload.decode, "SMALL_OPS", size)
        Spy.made = 0
        written(DECODER, [one], "pregate")
        assert Spy.made == wanted


def test_a_prompt_passes_in_micro_batches_and_its_head_comes_last() -> None:
    """Five tokens, two at a time: each pass attends to what came before, each expert is looked up in its pass."""
    by_two = dataclasses.replace(EXECUTIONS["streams"], name="by two", micro_batch=2)
    chosen = [[[i, 5]] * 3 for i in range(5)]
    prompt = step(0, Phase.PREFILL, [(4, i) for i in range(5)], chosen)
    prompt = dataclasses.replace(prompt, gate_weights=np.arange(30, dtype=np.float32).reshape(5, 3, 2))
    seen: list[object] = []

    def prefetch(view: BlockView) -> list[Fetch]:
        if view.block == 0:
            tokens, weights = view.chosen(0), view.gate_weights(0)
            seen.append((None if tokens is None else tokens.tolist(), None if weights is None else weights.tolist()))
        return []

    for policy in (Policy("looks", prefetch=prefetch), policy_named("on_demand")):
        decoded = decode(DECODER, [prompt, NEXT], policy, by_two, n_buffers=8)
        stack = DECODER.decoder
        assert asked(decoded, OpKind.SELF_ATTENTION, 0) == [
            work.self_attention_work(DECODER, stack, n_tokens, kv_tokens, pairs)
            for n_tokens, kv_tokens, pairs in ((2, 2, 1 + 2), (2, 4, 3 + 4), (1, 5, 5))
            for _ in range(stack.n_layers)
        ]
        assert asked(decoded, OpKind.HEAD, 0) == [work.head_work(DECODER, 1)]
        assert [line.split()[0] for line in ops(decoded, 0)[-2:]] == ["head", "step"]
        assert (decoded.n_prefill_lookups, decoded.n_lookups) == (3 * (3 + 3 + 2), 6)
    weights = [[[6 * i, 6 * i + 1] for i in range(5)], chosen]
    assert seen[:3] == [
        ([row[0] for row in chosen[low:high]], weights[0][low:high]) for low, high in ((0, 2), (2, 4), (4, 5))
    ]


@pytest.mark.parametrize("micro_batch", [0, 2, 3])
def test_a_prompt_that_fits_is_one_pass(micro_batch: int) -> None:
    execution = dataclasses.replace(EXECUTIONS["streams"], name="by some", micro_batch=micro_batch)
    decoded = decode(DECODER, [PROMPT], policy_named("gpu_only"), execution, n_buffers=8)
    assert decoded.schedule == written(DECODER, [PROMPT], "gpu_only").schedule


def test_whoever_decodes_may_say_how_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    for size, compiled, wanted in ((10**6, True, 1), (0, False, 0), (0, None, 1), (10**6, None, 0)):
        monkeypatch.setattr(offload.decode, "SMALL_OPS", size)
        Spy.made = 0
        written(DECODER, [NEXT], "pregate", compiled=compiled)
        assert Spy.made == wanted


def test_layers_that_are_placed_on_the_host_run_there() -> None:
    placed = Placed(frozenset({0}), frozenset(), (None, None, None), "device")
    decoded = written(DECODER, [NEXT], "gpu_only", placed=placed)
    assert len(asked(decoded, OpKind.CPU_LAYER, 1)) >= 2  # its attention and its FFN
    assert len(asked(decoded, OpKind.SELF_ATTENTION, 1)) == DECODER.decoder.n_layers - 1
    assert not asked(written(DECODER, [NEXT], "gpu_only"), OpKind.CPU_LAYER, 1)


def test_a_prompt_without_weights_of_its_gates_passes_in_micro_batches_too() -> None:
    one_by_one = dataclasses.replace(EXECUTIONS["streams"], name="one by one", micro_batch=1)
    decoded = decode(DECODER, [PROMPT], policy_named("gpu_only"), one_by_one, n_buffers=8)
    assert len(asked(decoded, OpKind.GATE, 0)) == 2 * 3


def test_an_engine_that_has_not_warmed_up_loads_kernels_with_the_first_prompt_of_a_run() -> None:
    cold = dataclasses.replace(EXECUTIONS["streams"], name="cold", loads_prompt_kernels=True)
    by_token = dataclasses.replace(cold, name="by token", micro_batch=1)  # what it has warmed up with
    plain, loading = Work(OpKind.STEP), Work(OpKind.STEP, n_entries=1)
    again = dataclasses.replace(PROMPT, i_step=2)
    for execution, first in ((EXECUTIONS["streams"], plain), (by_token, plain), (cold, loading)):
        decoded = decode(DECODER, [PROMPT, NEXT, again], policy_named("gpu_only"), execution, n_buffers=8)
        steps = [what for step in range(3) for what in asked(decoded, OpKind.STEP, step)]
        assert steps == [first, plain, plain]


def test_an_engine_that_fills_a_mask_looks_at_whole_blocks_of_cells_for_each_token_of_its_sequence() -> None:
    fills = dataclasses.replace(EXECUTIONS["streams"], name="fills", fills_mask=True)
    rows = [(0, 254), (0, 255), (1, 256), (2, 0)]  # contexts of 256 (two tokens), 257 and 1
    several = step(0, Phase.DECODE, rows, np.zeros((4, 3, 2), int))
    alone = step(1, Phase.DECODE, [(0, 256)], np.zeros((1, 3, 2), int))
    decoded = decode(DECODER, [several, alone], policy_named("gpu_only"), fills, n_buffers=8)
    assert asked(decoded, OpKind.MASK, 0) == [work.mask_work(2 * 256 + 512 + 256)]
    assert decoded.schedule.kind[0] == OpKind.MASK, "before its layers"
    assert not asked(decoded, OpKind.MASK, 1), "one token has one row"
    plain = decode(DECODER, [several, alone], policy_named("gpu_only"), EXECUTIONS["streams"], n_buffers=8)
    assert len(plain.schedule) == len(decoded.schedule) - 1


def test_an_encoder_has_no_mask_of_what_came_before() -> None:
    fills = dataclasses.replace(EXECUTIONS["streams"], name="fills", fills_mask=True)
    model = MODELS["encoder-decoder"]
    trace = routing(model, batch=2)
    kinds = decode(model, trace.steps(), policy_named("gpu_only"), fills, n_buffers=8).schedule
    of_prompt = kinds.step == 0
    assert not (kinds.kind[of_prompt] == OpKind.MASK).any()
    assert (kinds.kind[~of_prompt] == OpKind.MASK).any()


def test_an_engine_that_sorts_rows_by_expert_does_so_for_each_matrix_of_several_tokens() -> None:
    fused = dataclasses.replace(EXECUTIONS["vllm"], name="sorts", sorts_on_host=True, micro_batch=0)
    decoded = decode(DECODER, [PROMPT, NEXT], policy_named("gpu_only"), fused, n_buffers=8)
    n_matrices = DECODER.n_expert_matrices
    first = ops(decoded, 0)
    gate = first.index("gate 1")
    assert first[gate + 1 : gate + 5] == [
        f"readback 1 after {gate}", f"wait 1 after {gate + 1}", "sort 1", f"readback 1 after {gate}",
    ]  # fmt: skip
    assert first[gate + 1 + 3 * n_matrices] == "experts 1"
    entries = DECODER.n_experts * 2 * DECODER.top_k
    assert asked(decoded, OpKind.SORT, 0) == [Work(OpKind.SORT, n_entries=entries)] * n_matrices * 3
    assert not asked(decoded, OpKind.SORT, 1), "one token's rows are in order"


def test_how_many_ops_there_are_about_is_the_sum_over_passes() -> None:
    assert about_ops(DECODER, [PROMPT, NEXT]) == 3 * (8 + 3 * 4) + 3 * (8 + 3 * 2)
    assert about_ops(DECODER, []) == 0


@pytest.mark.parametrize(("there", "small", "wanted"), [
    ("kept", 90, 50), ("nowhere", 90, 90), ("kept", 40, 40), ("loaded", 90, 20), ("loaded", 10, 10)
])  # fmt: skip
def test_less_is_written_in_python_where_machine_code_is_kept_and_less_still_where_it_is_loaded(
    there: str, small: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of 60 ops and a step of 42 are 102: more than 50 and 40, and than 90 once both are read."""
    monkeypatch.setattr(offload.decode, "SMALL_OPS", small)
    monkeypatch.setattr(offload.decode, "KEPT_OPS", 50)
    monkeypatch.setattr(offload.decode, "_LOADED_OPS", 20)
    monkeypatch.setattr(offload.decode, "is_kept", lambda: there == "kept")
    monkeypatch.setattr(offload.decode, "is_loaded", lambda: there == "loaded")
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    assert small_ops() == wanted
    for steps, n_ops in (([PROMPT], 60), ([NEXT], 42), ([PROMPT, NEXT], 102)):
        Spy.made = 0
        written(DECODER, steps, "pregate")
        assert Spy.made == (n_ops > wanted)


def test_host_memory_above_storage_is_looked_up_and_what_storage_is_asked_is_told() -> None:
    """The prompt's experts by layer and those of the step after it: of 13 lookups those hit that came before."""
    log: list[tuple[int, tuple[int, ...]]] = []
    host = ResidentSet(18, "lru", n_layers=3, n_experts=6)
    decoded = written(DECODER, [PROMPT, NEXT], "on_demand", disk=True, through=ReadThrough(cache=host, log=log))
    assert log == [(0, (0, 1, 5)), (1, (0, 1)), (2, (2, 3, 4)), (0, (1, 2)), (1, (0, 5)), (2, (3, 4))]
    assert (decoded.n_host_lookups, decoded.n_host_hits) == (14, 4)
    assert len(asked(decoded, OpKind.DISK_READ, 0)) + len(asked(decoded, OpKind.DISK_READ, 1)) == 14 - 4
    assert len(asked(written(DECODER, [PROMPT, NEXT], "on_demand", disk=True), OpKind.DISK_READ, 1)) == 6


@pytest.mark.parametrize("policy", ["on_demand:cpu", "on_demand"])
def test_an_answer_to_a_miss_over_storage_is_written_by_the_definition(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    Spy.made = 0
    written(DECODER, [PROMPT, NEXT], policy, disk=True, compiled=True)
    assert Spy.made == (policy == "on_demand")
    Spy.made = 0
    written(DECODER, [PROMPT, NEXT], policy, compiled=True)
    assert Spy.made == 1


def test_copies_of_fewer_bits_have_slots_behind_all_others() -> None:
    cache = ResidentSet(2, "lru", n_layers=3, n_experts=6)
    policy = policy_named("mixed_precision:high=0:low=1:bits=4+lru:2")
    decoded = written(DECODER, [PROMPT, NEXT], policy, cache=cache, low=LowSlots(5, 4.0, Cache("lru")))
    schedule = decoded.schedule
    low = np.array([what.weight_bits == 4.0 for what in schedule.works])[schedule.cost] & (
        schedule.kind == OpKind.FETCH
    )
    assert schedule.slot[low].min() >= 8 + 2
    assert schedule.slot.max() == 8 + 2 + 5 - 1


def test_choices_for_which_another_expert_was_computed_are_counted() -> None:
    """Of 1, 2 and 0, 5 that a token chose, the residents 5 and 1 stand for 1 and 0; 3 and 4 are there."""
    cache = ResidentSet(6, "lru", n_layers=3, n_experts=6)
    weights = np.array([[[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]]], np.float32)
    steps = [PROMPT, dataclasses.replace(NEXT, gate_weights=weights)]
    decoded = written(DECODER, steps, "on_demand:resident", cache=cache)
    executed = [line.split()[1:3] for line in ops(decoded, 1) if line.startswith("experts")]
    assert executed == [["1", "e5"], ["1", "e2"], ["2", "e1"], ["2", "e5"], ["3", "e3"], ["3", "e4"]]
    assert decoded.n_changed == 2
    assert written(DECODER, steps, "on_demand").n_changed == 0


def test_attention_over_keys_and_values_in_host_memory_is_divided_by_their_share_in_each_pass() -> None:
    """A quarter of the arithmetic and of the traffic of each pass is the host's; products stay on the device."""
    later = dataclasses.replace(NEXT, i_step=2, position=NEXT.position + 900)
    plain, decoded = (written(DECODER, [NEXT, later], f"gpu_only{text}") for text in ("", "@kv=cpu:share=0.25"))
    for i in (1, 2):
        (whole,) = set(asked(plain, OpKind.SELF_ATTENTION, i))
        flop, hbm_bytes = int(whole.flop * 0.25), int(whole.hbm_bytes * 0.25)
        here = whole._replace(flop=whole.flop - flop, hbm_bytes=whole.hbm_bytes - hbm_bytes)
        assert asked(decoded, OpKind.SELF_ATTENTION, i) == [here] * 4
        there = asked(decoded, OpKind.CPU_LAYER, i)
        assert [(what.flop, what.hbm_bytes, what.gemms) for what in there] == [(flop, hbm_bytes, ())] * 4


def test_what_leaves_a_cache_that_writes_back_goes_to_host_memory_once_it_was_read() -> None:
    cache = ResidentSet(2, "lru", n_layers=3, n_experts=6)
    decoded = written(DECODER, [NEXT], "on_demand+lru:2:write_back", cache=cache, n_buffers=1)
    assert [line for line in ops(decoded, 1) if "write_back" in line or "fetch" in line] == [
        "fetch 1 e1 s1", "fetch 1 e2 s2",
        "write_back 1 e1 s1 after 6 9", "fetch 2 e0 s0", "write_back 1 e2 s2 after 7 9", "fetch 2 e5 s1 after 14",
        "write_back 2 e0 s0 after 15 19", "fetch 3 e3 s2 after 16", "write_back 2 e5 s1 after 17 19",
        "fetch 3 e4 s0 after 24",
    ]  # fmt: skip
    assert set(asked(decoded, OpKind.WRITE_BACK, 1)) == {work.expert_copy_work(DECODER, OpKind.WRITE_BACK)}


@pytest.mark.parametrize(("stack", "apart"), [("fastertransformer", 1), ("streams", 2)])
def test_reads_of_storage_go_round_the_host_buffers_of_the_stack(stack: str, apart: int) -> None:
    schedule = written(DECODER, [PROMPT], "on_demand", stack, disk=True).schedule
    reads, fetches = (np.flatnonzero(schedule.kind == kind).tolist() for kind in (OpKind.DISK_READ, OpKind.FETCH))
    assert len(reads) == 8
    waits = [set(schedule.deps(read).tolist()) & set(fetches) for read in reads]
    assert waits == [set()] * apart + [{fetch} for fetch in fetches[: 8 - apart]]


def test_a_layer_may_come_at_once_and_an_expert_matrix_by_matrix() -> None:
    whole = written(DECODER, [NEXT], "on_demand:granularity=layer", n_buffers=12)
    assert [what.copy_bytes for what in asked(whole, OpKind.FETCH, 1)] == [6 * DECODER.expert_bytes] * 3
    pieces = written(DECODER, [NEXT], "on_demand:granularity=matrix")
    sizes = [what.copy_bytes for what in asked(pieces, OpKind.FETCH, 1)]
    assert len(sizes) == DECODER.n_expert_matrices * 6
    assert sum(sizes) == 6 * DECODER.expert_bytes


def test_the_first_prompt_of_several_tokens_loads_the_kernels_of_prompts() -> None:
    loads = dataclasses.replace(EXECUTIONS["streams"], name="loads", loads_prompt_kernels=True)
    again = dataclasses.replace(PROMPT, i_step=2, sequence=PROMPT.sequence + 1)
    one = dataclasses.replace(NEXT, i_step=0, phase=Phase.PREFILL)
    for steps, wanted in (([PROMPT, NEXT, again], [1, 0, 0]), ([one, NEXT], [0, 0])):
        decoded = decode(DECODER, steps, policy_named("gpu_only"), loads, n_buffers=8)
        assert [asked(decoded, OpKind.STEP, i)[0].n_entries for i in range(len(steps))] == wanted


def test_only_a_prompt_makes_keys_and_values_of_its_latents_and_only_on_a_stack_that_does() -> None:
    model = load_model("deepseek-v2-lite")
    chosen = [list(range(model.top_k))] * model.n_moe_layers
    steps = [step(0, Phase.PREFILL, [(4, 0), (4, 1)], [chosen] * 2), step(1, Phase.DECODE, [(4, 2)], [chosen])]
    for stack, decompressed in (("vllm", True), ("streams", False)):
        decoded = written(model, steps, "gpu_only", stack, n_buffers=0)
        prompt, token = (set(asked(decoded, OpKind.SELF_ATTENTION, i)) for i in (0, 1))
        assert prompt == {work.self_attention_work(model, model.decoder, 2, 2, 3, decompressed=decompressed)}
        assert token == {work.self_attention_work(model, model.decoder, 1, 3, 3)}


def test_a_last_layer_on_the_host_hands_its_tokens_back_for_the_head() -> None:
    placed = Placed(frozenset({3}), frozenset(), (None, None, None), "device")
    assert ops(written(DECODER, [NEXT], "gpu_only", placed=placed), 1)[10:] == [
        "handover 3 after 9", "cpu_layer 3 after 10", "cpu_layer 3", "cpu_expert 3 e3", "cpu_expert 3 e4",
        "return 3 after 14", "head after 15", "step after 16",
    ]  # fmt: skip


def test_keys_and_values_that_are_streamed_come_by_their_share() -> None:
    (whole,) = set(asked(written(DECODER, [NEXT], "gpu_only"), OpKind.SELF_ATTENTION, 1))
    decoded = written(DECODER, [NEXT], "gpu_only@kv=stream:share=0.25")
    assert [what.copy_bytes for what in asked(decoded, OpKind.STREAM, 1)] == [whole.hbm_bytes // 4] * 4
    assert asked(decoded, OpKind.SELF_ATTENTION, 1) == [whole] * 4


def test_where_all_layers_are_on_the_host_so_is_the_head() -> None:
    placed = Placed(frozenset(range(4)), frozenset(), (None, None, None), "device")
    decoded = written(DECODER, [NEXT], "gpu_only", placed=placed)
    assert ops(decoded, 1)[-4:] == ["cpu_expert 3 e3", "cpu_expert 3 e4", "cpu_layer", "step after 14"]
    assert asked(decoded, OpKind.CPU_LAYER, 1)[-1] == work.head_work(DECODER, 1)._replace(kind=OpKind.CPU_LAYER)
    assert decoded.schedule.layer[-2] == -1


def test_a_streamed_layer_goes_where_the_one_before_the_last_was_read() -> None:
    streamed = [line for line in ops(written(DECODER, [NEXT], "gpu_only@weights=stream"), 1) if "stream" in line]
    assert streamed == ["stream 0", "stream 1", "stream 2 after 3", "stream 3 after 8"]


def test_micro_batches_of_layers_that_differ_mix_what_each_would_alone() -> None:
    model, rows = hybrid(), [(4, 2), (7, 9)]
    chosen = [[[0, 1]] * model.n_moe_layers, [[1, 2]] * model.n_moe_layers]
    by_sequence = dataclasses.replace(EXECUTIONS["streams"], name="by sequence", micro_sequences=1)
    policy = policy_named("on_demand")
    together = decode(model, [step(1, Phase.DECODE, rows, chosen)], policy, by_sequence, n_buffers=8)
    alone = [
        asked(written(model, [step(1, Phase.DECODE, [row], [one])], policy), OpKind.SELF_ATTENTION, 1)
        for row, one in zip(rows, chosen, strict=True)
    ]
    assert asked(together, OpKind.SELF_ATTENTION, 1) == [what for pair in zip(*alone, strict=True) for what in pair]
