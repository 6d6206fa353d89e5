"""Traces with a number of active experts: who is chosen, when tokens run, what no step can have."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.traces.synthesis.toy_traces import SHAPE, made
from traces.errors import InvalidInput
from traces.synthesis.dials import Dials
from traces.synthesis.forced import forced_active_routing


def test_choices_go_round_the_active_experts() -> None:
    trace = forced_active_routing(**(SHAPE | {"input_tokens": 2}), n_active=3)
    assert trace.experts[:, 0].tolist() == [[0, 1], [2, 0], [1, 2], [0, 1], [0, 1], [2, 0], [0, 1], [2, 0]]
    assert (trace.experts == trace.experts[:, :1]).all()
    dealt = forced_active_routing(**(SHAPE | {"input_tokens": 2}), n_active=3, rng=np.random.default_rng(0))
    order = np.random.default_rng(0).permuted(np.tile(np.arange(4), (3, 1)), axis=1)
    plain = np.array([[0, 1], [2, 0], [1, 2], [0, 1]])
    assert dealt.experts[:4].tolist() == [[plain[order[layer, t]].tolist() for layer in range(3)] for t in range(4)]


@pytest.mark.parametrize("n_encoder", [0, 1])
def test_forced_tokens_run_as_those_of_any_synthetic_trace(n_encoder: int) -> None:
    for output_tokens in (1, 2, 3):
        shape = SHAPE | {"n_encoder_moe_layers": n_encoder, "output_tokens": output_tokens}
        forced, any_other = forced_active_routing(**shape, n_active=3), made(Dials(1.0, 0.0, 0.0), **shape)
        for name in ("sequence", "position", "phase", "step"):
            assert getattr(forced, name).tolist() == getattr(any_other, name).tolist()
        assert ((forced.experts >= 0) == (any_other.experts >= 0)).all()
        assert forced.experts.dtype == any_other.experts.dtype == np.int16


@pytest.mark.parametrize(
    ("n_active", "told"),
    [
        (1, "n_active = 1: it must be top_k = 2 to n_experts = 6"),
        (7, "n_active = 7: it must be top_k = 2 to n_experts = 6"),
        (5, "n_active = 5, but a step of batch 2 x top_k 2 makes 4 choices: a batch of 3 is enough"),
        (6, "n_active = 6, but a step of batch 2 x top_k 2 makes 4 choices: a batch of 3 is enough"),
    ],
)
def test_a_number_of_active_experts_that_no_step_can_have_is_refused(n_active: int, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        forced_active_routing(**SHAPE, n_active=n_active)
    assert str(refused.value) == told
    for possible in (2, 4):
        assert len(np.unique(forced_active_routing(**SHAPE, n_active=possible).experts)) == possible
    assert len(np.unique(forced_active_routing(**(SHAPE | {"batch": 3}), n_active=6).experts)) == 6
