"""How passes are read: arrays or lists, parts, micro-batches, and what an engine does once a pass."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from offload import work
from offload.caches.residency import ResidentSet
from offload.decode import DecodeStream, decode
from offload.decoding import decode_loop, token_mixing, unions
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind, Work
from offload.policies import eviction_named, policy_named
from offload.policy import BlockView, Fetch, Policy
from offload.recorder import assemble
from offload.schedule import COLUMNS
from pregate.named import load_model
from tests.small_models import MODELS, in_parts, routing
from tests.unit.offload.by_hand import DECODER, NEXT, PROMPT, SHARED, asked, hybrid, ops, step, written
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


@pytest.mark.parametrize("policy", ["gpu_only", "on_demand", "pregate", "pregate+lru:4"])
def test_a_prompt_that_steps_read_is_what_an_engine_does_that_passes_as_many_tokens(policy: str) -> None:
    """The same ops, works and waits, in steps that are numbered otherwise."""
    trace = routing(DECODER, input_tokens=7, output_tokens=2)
    by_two = dataclasses.replace(EXECUTIONS["streams"], name="by two", micro_batch=2)
    chosen, cache = policy_named(policy), None
    if chosen.cache is not None:
        cache = ResidentSet(4, eviction_named("lru", 0), per_layer=False, n_layers=3, n_experts=6)
    whole, parts = (
        decode(DECODER, one.steps(), chosen, execution, n_buffers=18, cache=copy.deepcopy(cache))
        for one, execution in ((trace, by_two), (in_parts(trace, 2), EXECUTIONS["streams"]))
    )
    assert (whole.schedule.step.max(), parts.schedule.step.max()) == (1, 4)
    same = {name: getattr(whole.schedule, name) for name in COLUMNS} | {"step": parts.schedule.step}
    assert dataclasses.replace(whole.schedule, **same) == parts.schedule
    assert whole.n_prefill_hits == parts.n_prefill_hits


@pytest.mark.parametrize("micro_batch", [0, 2, 3])
def test_a_prompt_that_fits_is_one_pass(micro_batch: int) -> None:
    execution = dataclasses.replace(EXECUTIONS["streams"], name="by some", micro_batch=micro_batch)
    decoded = decode(DECODER, [PROMPT], policy_named("gpu_only"), execution, n_buffers=8)
    assert decoded.schedule == written(DECODER, [PROMPT], "gpu_only").schedule


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


def test_a_pass_is_decided_on_before_the_one_before_it_ends_and_the_first_of_a_run_before_anything() -> None:
    ahead = dataclasses.replace(EXECUTIONS["streams"], name="ahead", schedules_ahead=True, micro_batch=2)
    steps = [step(0, Phase.PREFILL, [(0, i) for i in range(3)], np.zeros((3, 3, 2), int))]
    steps += [step(i, Phase.DECODE, [(0, 2 + i)], np.zeros((1, 3, 2), int)) for i in (1, 2)]
    schedule = decode(DECODER, steps, policy_named("gpu_only"), ahead, n_buffers=8).schedule
    of_host = schedule.kind[schedule.lane == Lane.HOST].tolist()
    assert of_host == [OpKind.SCHEDULE, *[OpKind.SCHEDULE, OpKind.STEP] * 3], "chunks make no token"
    assert schedule.kind[0] == OpKind.SCHEDULE
    for op in np.flatnonzero(schedule.kind == OpKind.SCHEDULE).tolist():
        assert not len(schedule.deps(op)), "it waits for nothing that the device does"


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
    """Of ik_llama.cpp from 128 tokens of a pass on, which moves each of their bytes 6.4 times."""
    model = load_model("deepseek-v2-lite")
    chosen = [list(range(model.top_k))] * model.n_moe_layers
    for stack, n, made_moves in (("vllm", 2, 2.0), ("streams", 2, 0.0), ("ik_llama", 127, 0.0), ("ik_llama", 128, 6.4)):
        rows = [(4, position) for position in range(n)]
        steps = [step(0, Phase.PREFILL, rows, [chosen] * n), step(1, Phase.DECODE, [(4, n)], [chosen])]
        decoded = written(model, steps, "gpu_only", stack, n_buffers=0)
        prompt, token = (set(asked(decoded, OpKind.SELF_ATTENTION, i)) for i in (0, 1))
        pairs = n * (n + 1) // 2
        assert prompt == {work.self_attention_work(model, model.decoder, n, n, pairs, made_moves=made_moves)}
        assert token == {work.self_attention_work(model, model.decoder, 1, n + 1, n + 1)}


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
