"""The assumed workload of the published rows: how many experts a batch makes use of."""

from __future__ import annotations

from math import gamma

import numpy as np
import pytest

from pregate.measured.isca24_routing import Activation, natural_routing
from traces.errors import InvalidInput
from traces.model.architecture import load_architecture
from traces.phase import Phase


def distinct(model_name: str, batch: int, activation: Activation) -> np.ndarray:
    """Distinct experts of every decode step and decoder layer."""
    model = load_architecture(model_name)
    trace = natural_routing(model, batch, activation, 0)
    steps = trace.experts[trace.phase == Phase.DECODE][:, model.n_encoder_moe_layers :, 0].reshape(-1, batch, 6)
    ordered = np.sort(steps, axis=1)
    return 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1)


@pytest.mark.parametrize(("exponent", "batch"), [(0.25, 16), (0.5, 4), (0.5, 64), (0.75, 16)])
def test_distinct_experts_grow_with_the_batch_as_a_power(exponent: float, batch: int) -> None:
    """With experts enough, on average G(b + e) / (G(b) G(1 + e)), which grows as b ** e."""
    activation = Activation(decoder_working_set=128, batch_exponent=exponent)
    expected = gamma(batch + exponent) / (gamma(batch) * gamma(1 + exponent))
    found = distinct("switch-base-256", batch, activation)  # of 201 experts, so that few draw the same one
    assert found.mean() == pytest.approx(expected, rel=0.12)
    assert found.min() >= 1
    assert found.max() <= batch


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_ends_of_the_law(exponent: float) -> None:
    """Nobody draws afresh, or everybody who follows one that is alone."""
    found = distinct("switch-base-128", 16, Activation(batch_exponent=exponent))
    if exponent == 0.0:
        assert (found == 1).all()
    else:
        assert found.mean() > 11


def test_the_working_set_grows_with_the_experts() -> None:
    activation = Activation(decoder_working_set=32, working_set_exponent=0.5)
    assert activation.working_set(128) == 32
    assert activation.working_set(32) == 16
    assert activation.working_set(8) == 8
    assert Activation(working_set_exponent=0.0).working_set(64) == 33


@pytest.mark.parametrize("n_experts", [8, 64, 128])
def test_a_layer_uses_the_working_set_and_no_more(n_experts: int) -> None:
    activation = Activation(working_set_exponent=0.7)
    model = load_architecture(f"switch-base-{n_experts}")
    trace = natural_routing(model, 64, activation, 0)
    decoding = trace.experts[trace.phase == Phase.DECODE][:, model.n_encoder_moe_layers :, 0]
    used = [len(np.unique(decoding[:, layer])) for layer in range(decoding.shape[1])]
    assert abs(np.mean(used) - activation.working_set(n_experts)) < 1
    assert max(used) - min(used) <= 1


@pytest.mark.parametrize(
    "changes", [{"batch_exponent": 1.5}, {"working_set_exponent": -0.1}, {"decoder_working_set": 0.5}]
)
def test_what_is_no_law_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        Activation(**changes)
