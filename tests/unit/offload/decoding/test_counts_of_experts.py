"""Experts counted a part of a pass at a time, and what a trace must hold: as by the plainest loop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import offload.decoding.unions
from offload.decoding.micro_batches import micro_batches_of
from offload.decoding.token_mixing import contexts
from offload.decoding.unions import most_distinct, tokens_by_expert
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Step
from traces.token_checks import check_tokens

N_EXPERTS = 6
choices = st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.int16, shape, elements=st.integers(-1, N_EXPERTS - 1))
)


@given(experts=choices, cells=st.sampled_from([1, 7, 1 << 15]))
def test_experts_are_counted_part_by_part(experts: Any, cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offload.decoding.unions, "_CELLS", cells)
        counts, most = tokens_by_expert(experts, N_EXPERTS), most_distinct(experts, N_EXPERTS)
    for layer in range(experts.shape[1]):
        wanted = Counter(experts[:, layer].ravel().tolist())
        assert counts[layer].tolist() == [wanted[expert] for expert in range(N_EXPERTS)]
    assert most == (counts > 0).sum(axis=1).max()


@given(experts=choices)
def test_an_expert_that_a_token_chooses_twice_is_found(experts: Any) -> None:
    n = len(experts)
    columns = np.zeros(n, np.int32), np.arange(n, dtype=np.int32), np.zeros(n, np.int8), np.zeros(n, np.int32)
    rows = [[one for one in row if one >= 0] for token in experts.tolist() for row in token]
    twice = any(len(set(row)) < len(row) for row in rows)
    nowhere = any(max(max(row) for row in token) < 0 for token in experts.tolist())
    if twice or nowhere:
        with pytest.raises(InvalidInput):
            check_tokens(experts, *columns, N_EXPERTS)
    else:
        check_tokens(experts, *columns, N_EXPERTS)


@given(
    sequence=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    copies=st.sampled_from([1, 60]),
    in_order=st.booleans(),
    size=st.integers(1, 4),
)
def test_sequences_of_a_pass(sequence: list[int], copies: int, in_order: bool, size: int) -> None:
    tokens = np.array(sorted(sequence * copies) if in_order else sequence * copies, np.int32)
    position = np.arange(len(tokens), dtype=np.int32)[::-1]
    step = Step(0, Phase.PREFILL, np.zeros((len(tokens), 1, 1), np.int16), tokens, position)
    wanted: dict[int, int] = {}
    for one, at in zip(tokens.tolist(), position.tolist(), strict=True):
        wanted[one] = max(wanted.get(one, 0), at + 1)
    assert contexts(step) == (wanted, sum(position.tolist()) + len(tokens))
    order = list(dict.fromkeys(tokens.tolist()))
    parts = micro_batches_of(step, size)
    assert [sorted(set(part.sequence.tolist())) for part in parts] == [
        sorted(order[i : i + size]) for i in range(0, len(order), size)
    ]
    assert sum(len(part.experts) for part in parts) == len(tokens)
