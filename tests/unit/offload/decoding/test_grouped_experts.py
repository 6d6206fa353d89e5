from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from offload.decoding.work_rows import Rows, Works
from offload.fast import block_unions
from offload.fast.block_unions import BlockUnions, block_unions_of
from offload.ffn_work import GroupedExperts, experts_work
from offload.ops import Work
from pregate.named import load_model
from tests.small_models import decoder_only, stored_apart
from traces.model.formats_by_part import parse_formats
from traces.phase import Phase
from traces.routing import Step

MODELS = {
    "no shared experts": load_model("mixtral-8x7b"),
    "shared experts": load_model("deepseek-v3"),
    "shared experts in another format": load_model(
        "deepseek-v3", formats=parse_formats("experts=int4-g128,shared=fp8")
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
@given(tokens=st.lists(st.integers(1, 9), max_size=12), n_shared=st.sampled_from([0, 1, 40]), slots=st.integers(0, 1))
def test_grouped_experts_are_those_of_experts_work(model, tokens, n_shared, slots) -> None:  # type: ignore[no-untyped-def]
    made = GroupedExperts(model, slots << 30)
    runs = sorted(Counter(tokens).items())
    served, n_experts = [n for n, _ in runs], [times for _, times in runs]
    wanted = experts_work(model, tokens, n_shared, slots << 30, fused=True)
    assert made.of(n_shared, served, n_experts) == wanted
    assert made.of(n_shared, served, n_experts) == wanted  # with what was kept of the first


@given(data=st.data(), n_parts=st.integers(1, 3), seed=st.integers(0, 99), many=st.sampled_from([1, 1 << 20]))
def test_costs_of_unions_are_those_of_their_experts_one_by_one(
    data: st.DataObject, n_parts: int, seed: int, many: int
) -> None:
    rng, model = np.random.default_rng(seed), MODELS["shared experts"]
    n_passes, n_blocks, n_experts = 2, 3, 6
    sizes = data.draw(st.lists(st.integers(0, n_experts), min_size=n_passes * n_blocks, max_size=n_passes * n_blocks))
    ptr = np.append(0, np.cumsum(sizes))
    experts = np.concatenate([np.sort(rng.choice(n_experts, n, replace=False)) for n in sizes]).astype(np.int64)
    tokens = rng.integers(0 if n_parts > 1 else 1, 4, int(ptr[-1]) * n_parts) * many
    shares, shared = rng.random(len(experts)) < 0.7, rng.integers(0, 3, n_passes * n_parts)
    unions = BlockUnions(ptr, experts, tokens, np.full(n_passes, n_parts), shared)
    rows, works = Rows(), Works(model, 0)
    found = unions.grouped(rows, works, shares, [0] * unions.n_blocks).tolist()
    wanted, at = [], 0
    for u, n in enumerate(sizes):
        of_union = tokens[at * n_parts : (at + n) * n_parts].reshape(n, n_parts)[shares[at : at + n]]
        at += n
        for part in range(n_parts):
            served = tuple(sorted(k for k in of_union[:, part].tolist() if k))
            n_shared = int(shared[u // n_blocks * n_parts + part])
            wanted.append(works.grouped(n_shared, served) if n_parts == 1 or served or n_shared else None)
    assert [None if row < 0 else rows.works[row] for row in found] == wanted


def test_a_second_design_of_the_same_unions_makes_no_group_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, make = list[bytes](), Works.grouped_runs

    def made(works: Works, numbers: bytes) -> Work:
        asked.append(numbers)
        return make(works, numbers)

    monkeypatch.setattr(Works, "grouped_runs", made)
    model, whole = MODELS["no shared experts"], np.ones(4, np.bool_)
    one_block = np.array([0, 4]), np.arange(4), np.array([3, 1, 0, 2, 0, 5, 4, 0]), np.array([2]), np.array([5, 6])
    unions, works = BlockUnions(*one_block), Works(model, 0)

    def costs(works: Works, shares: NDArray[np.bool_]) -> list[Work]:
        rows = Rows()
        rows.of(works.gate(7))  # numbers begin elsewhere in every part
        return [rows.works[i] for i in unions.grouped(rows, works, shares, [0]).tolist()]

    first, n_made = costs(works, whole), len(asked)
    assert n_made == 2
    assert [one is other for one, other in zip(costs(works, whole), first, strict=True)] == [True, True]
    assert len(asked) == n_made
    for others, shares in ((works, np.arange(4) > 0), (Works(model, 1 << 30), whole)):
        fresh = BlockUnions(*one_block).grouped(rows := Rows(), others, shares, [0]).tolist()
        assert costs(others, shares) == [rows.works[i] for i in fresh] != first


def test_blocks_of_layers_stored_otherwise_are_other_groups() -> None:
    """What was found last is of one way in which blocks are stored: another, or another order, is found anew."""
    works = Works(stored_apart(decoder_only()), 0)
    assert len(works.each) > 1
    two_blocks = np.array([0, 2, 4]), np.array([0, 1, 0, 1]), np.array([3, 1, 3, 1]), np.array([1]), np.array([0])
    unions, shares = BlockUnions(*two_blocks), np.ones(4, np.bool_)
    for form in ([0, 0], [0, 1], [1, 0], [1, 1], [0, 0]):
        rows = Rows()
        found = [rows.works[i] for i in unions.grouped(rows, works, shares, form).tolist()]
        assert found == [works.each[i].grouped(0, (1, 3)) for i in form]


def _prompt(experts: NDArray[np.int16], sequence: list[int]) -> Step:
    tokens = np.array(sequence, np.int32)
    return Step(0, Phase.PREFILL, experts, tokens, np.arange(len(tokens), dtype=np.int32))


def _halves(step: Step) -> list[Step]:
    """Micro-batches of the tokens of even and of odd sequences."""
    groups = (step.sequence % 2 == i for i in (0, 1))
    return [_prompt(step.experts[mine], step.sequence[mine].tolist()) for mine in groups]


def test_unions_of_a_prompt_are_counted_once_for_all_placements(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, make = list[int](), block_unions._unions_of_passes

    def made(batch: Sequence[Step], *rest: Any) -> BlockUnions:
        counted.append(len(batch))
        return make(batch, *rest)

    monkeypatch.setattr(block_unions, "_unions_of_passes", made)
    experts = np.random.default_rng(0).integers(0, 4, (64, 3, 2)).astype(np.int16)
    experts.flags.writeable = False
    for _ in range(2):  # as `RoutingTrace.steps` gives them, made anew each time
        batch = [_prompt(experts[:32], [0] * 32), _prompt(experts[32:], [0] * 32)]
        found = block_unions_of(batch, [[step] for step in batch], 0, 3, 4, shared=False)
        assert found.tokens.sum() == experts.size
    assert counted == [2]
    assert block_unions_of(batch, [[step] for step in batch], 1, 2, 4, shared=False).tokens.sum() == experts[:, 1:].size
    assert counted == [2, 2]
    few = [_prompt(experts[i : i + 1], [0]) for i in range(8)]  # whose unions take more than their choices
    for _ in range(2):
        block_unions_of(few, [[step] for step in few], 0, 3, 4, shared=False)
    assert counted == [2, 2, 8, 8]


def test_unions_of_micro_batches_are_of_the_sequences_that_these_have() -> None:
    experts = np.random.default_rng(0).integers(0, 4, (64, 3, 2)).astype(np.int16)
    experts.flags.writeable = False
    whole = [_prompt(experts, sequence) for sequence in ([0, 1] * 32, [0] * 32 + [1] * 32)]
    for step in whole:
        found = block_unions_of([step], [_halves(step)], 0, 3, 4, shared=False)
        again = block_unions_of([step], [_halves(step)], 0, 3, 4, shared=False)
        assert found is again
        first = _halves(step)[0].experts
        wanted = [int((first[:, 0] == expert).sum()) for expert in range(4)]
        assert found.tokens[: 2 * 4 : 2].tolist() == wanted
