"""What a gate says of one event, by hand, and the weights that are stated where a trace has none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offload.caches.gate_output import GateOutput, gate_output, stated_weights

CHOSEN = np.array([[5, 2], [2, -1], [0, 5]], np.int16)


def test_an_event_is_its_experts_with_their_tokens_and_scores() -> None:
    weights = np.array([[0.75, 0.25], [1.0, 9.0], [0.5, 0.5]], np.float32)
    assert gate_output(7, 3, CHOSEN, weights, True) == GateOutput(
        7, 3, [0, 2, 5], [1, 2, 2], [0.5, 1.25, 1.25], 3, 2, True
    )


def test_a_token_weighs_its_experts_alike_where_nobody_says_otherwise() -> None:
    assert gate_output(7, 3, CHOSEN, None) == GateOutput(7, 3, [0, 2, 5], [1, 2, 2], [0.5, 1.0, 1.0], 3, 2, False)


def test_scores_are_summed_in_double() -> None:
    small = np.full((1000, 1), np.float32(0.1))
    found = gate_output(0, 0, np.zeros((1000, 1), np.int16), small)
    assert found.scores == [pytest.approx(1000 * float(np.float32(0.1)), rel=1e-14)]


def test_stated_weights_are_a_softmax_over_the_largest_of_all_logits() -> None:
    found = stated_weights(4, 2, CHOSEN, 8)
    logits = np.random.default_rng((0, 4, 2)).standard_normal((3, 8))
    for token, row in enumerate(CHOSEN.tolist()):
        largest = sorted(logits[token].tolist(), reverse=True)[:2]
        exponents = [math.exp(logit) if expert >= 0 else 0.0 for logit, expert in zip(largest, row, strict=True)]
        assert found[token].tolist() == [pytest.approx(one / sum(exponents), rel=1e-14) for one in exponents]


def test_a_token_without_experts_weighs_nothing() -> None:
    found = stated_weights(0, 0, np.array([[-1, -1], [0, -1]], np.int16), 4)
    assert found.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_weights_of_a_token_sum_to_one_however_small_its_logits() -> None:
    for block in range(20):  # the only logit of a token is below 0 as often as above
        assert stated_weights(0, block, np.array([[0]], np.int16), 1).tolist() == [[1.0]]
