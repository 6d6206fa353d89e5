"""The assumed workload of the published rows: how many experts a batch makes use of."""

from __future__ import annotations

import dataclasses
from math import gamma, log
from statistics import NormalDist

import numpy as np
import pytest

from pregate.measured.isca24.natural_routing import Activation, natural_routing
from tests.small_models import decoder_only, encoder_decoder
from traces.errors import InvalidInput
from traces.model.architecture import load_architecture
from traces.phase import Phase


def distinct(model_name: str, batch: int, activation: Activation, *, pregated: bool = False) -> np.ndarray:
    """Distinct experts of every decode step and decoder layer."""
    model = load_architecture(model_name)
    trace = natural_routing(model, batch, activation, 0, pregated=pregated)
    steps = trace.experts[trace.phase == Phase.DECODE][:, model.n_encoder_moe_layers :, 0].reshape(-1, batch, 6)
    ordered = np.sort(steps, axis=1)
    return 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1)


@pytest.mark.parametrize(("exponent", "batch"), [(0.25, 16), (0.5, 4), (0.5, 32), (0.65, 16)])
def test_distinct_experts_grow_with_the_batch_as_a_power(exponent: float, batch: int) -> None:
    """With experts enough, on average G(b + e) / (G(b) G(1 + e)), which grows as b ** e."""
    activation = Activation(decoder_working_set=128, gate_exponent=exponent)
    expected = gamma(batch + exponent) / (gamma(batch) * gamma(1 + exponent))
    found = distinct("switch-base-256", batch, activation)  # of 256 experts, so that few draw the same one
    assert found.mean() == pytest.approx(expected, rel=0.06)
    assert found.min() >= 1
    assert found.max() <= batch


def test_the_ends_of_the_law() -> None:
    """Nobody takes another expert, or everybody who meets one that is alone."""
    assert (distinct("switch-base-128", 16, Activation(gate_exponent=0.0)) == 1).all()
    assert distinct("switch-base-128", 16, Activation(gate_exponent=1.0)).mean() > 11


@pytest.mark.parametrize("n_experts", [8, 64])
def test_who_does_not_follow_takes_another_expert_than_the_one_it_met(n_experts: int) -> None:
    found = distinct(f"switch-base-{n_experts}", 2, Activation(gate_exponent=1.0))
    assert (found == 2).all()


@pytest.mark.parametrize("exponent", [0.4, 0.6])
def test_distinct_experts_of_two_and_of_three_sequences(exponent: float) -> None:
    """By hand, of W experts: 1 + e, and then e (1 + e (W - 2) / (W - 1)) / 2 more."""
    n_experts = Activation().working_set(8)
    assert 4 < n_experts < 5  # three layers of four experts and three of five: 4.5 in the mean of 1 / (W - 1)
    left = np.mean([(w - 2) / (w - 1) for w in (4, 5)])
    two = 1 + exponent
    three = (
        two + (1 - exponent) * exponent / 2 * 1 + exponent * exponent * left
    )  # met: one with two, or one of two alone
    activation = Activation(gate_exponent=exponent)
    assert distinct("switch-base-8", 2, activation).mean() == pytest.approx(two, abs=0.05)
    assert distinct("switch-base-8", 3, activation).mean() == pytest.approx(three, abs=0.06)


def test_a_working_set_of_one_or_two_experts_is_used_evenly() -> None:
    """128 ** (1 / 3) of 128 experts are 2 of 8: who leaves the one takes the other, and the first takes either."""
    one, two = (Activation(decoder_working_set=w, gate_exponent=1.0) for w in (1, 128 ** (1 / 3)))
    assert (distinct("switch-base-8", 3, one) == 1).all()
    assert (distinct("switch-base-8", 2, two) == 2).all()
    model = load_architecture("switch-base-8")
    alone = natural_routing(model, 1, two, 0)
    decoding = alone.experts[alone.phase == Phase.DECODE][:, model.n_encoder_moe_layers :, 0]
    for layer in range(decoding.shape[1]):
        _, counts = np.unique(decoding[:, layer], return_counts=True)
        assert len(counts) == 2
        assert abs(counts[0] / counts.sum() - 0.5) < 0.15


def test_each_step_meets_a_sequence_of_its_own() -> None:
    """Where two differ, a third that follows takes the first one's expert as often as the second one's."""
    model = load_architecture("switch-base-128")
    trace = natural_routing(model, 3, Activation(decoder_working_set=128, gate_exponent=0.5), 0)
    steps = trace.experts[trace.phase == Phase.DECODE][:, model.n_encoder_moe_layers :, 0].reshape(-1, 3, 6)
    first, second, third = steps.swapaxes(0, 1).reshape(3, -1)
    follows = (first != second) & ((third == first) | (third == second))
    assert follows.sum() > 300
    assert (third == first)[follows].mean() == pytest.approx(0.5, abs=0.1)


def test_the_workload_is_of_encoder_decoders_with_one_expert_a_token() -> None:
    for model in (dataclasses.replace(encoder_decoder(), top_k=2), decoder_only(top_k=1)):
        with pytest.raises(InvalidInput, match="encoder-decoder models with one expert a token"):
            natural_routing(model, 1, Activation(), 0)


@pytest.mark.parametrize("pregated", [False, True])
def test_each_kind_of_gate_has_its_exponent_and_both_have_one_encoder(pregated: bool) -> None:
    model = load_architecture("switch-base-64")
    activation = Activation(gate_exponent=0.0, pregate_exponent=1.0)
    found = distinct("switch-base-64", 4, activation, pregated=pregated)
    assert bool(found.mean() > 3) is pregated
    ours, other = (natural_routing(model, 4, activation, 0, pregated=kind) for kind in (False, True))
    encoding = ours.phase == Phase.PREFILL
    np.testing.assert_array_equal(ours.experts[encoding], other.experts[encoding])
    assert np.array_equal(natural_routing(model, 4, activation, 0).experts, ours.experts)


def test_the_working_set_is_a_power_of_the_experts() -> None:
    """One of one expert, as stated of 128, and the same power between and beyond."""
    activation = Activation(decoder_working_set=32)
    assert activation.working_set(1) == 1
    assert activation.working_set(128) == pytest.approx(32)
    assert activation.working_set(8) == pytest.approx(8 ** (log(32) / log(128)))
    assert activation.working_set(8) * activation.working_set(16) == pytest.approx(32)


@pytest.mark.parametrize("n_experts", [8, 64, 128])
def test_a_layer_uses_the_working_set_and_no_more(n_experts: int) -> None:
    activation = Activation(gate_exponent=0.7)
    model = load_architecture(f"switch-base-{n_experts}")
    trace = natural_routing(model, 64, activation, 0)
    decoding = trace.experts[trace.phase == Phase.DECODE][:, model.n_encoder_moe_layers :, 0]
    used = [len(np.unique(decoding[:, layer])) for layer in range(decoding.shape[1])]
    assert abs(np.mean(used) - activation.working_set(n_experts)) < 1
    assert max(used) - min(used) <= 1


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("log_sd", [0.5, 1.8])
def test_the_encoder_draws_from_lognormal_popularity(batch: int, log_sd: float) -> None:
    """Distinct experts of n tokens: the sum of 1 - (1 - p) ** n."""
    model = load_architecture("switch-base-128")
    trace = natural_routing(model, batch, Activation(encoder_log_sd=log_sd), 0)
    encoded = trace.experts[trace.phase == Phase.PREFILL][:, : model.n_encoder_moe_layers, 0]
    popularity = np.exp(log_sd * np.array([NormalDist().inv_cdf((i + 0.5) / 128) for i in range(128)]))
    expected = (1 - (1 - popularity / popularity.sum()) ** len(encoded)).sum()
    found = np.mean([len(np.unique(encoded[:, layer])) for layer in range(model.n_encoder_moe_layers)])
    assert found == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(
    "changes",
    [
        {"gate_exponent": 1.5},
        {"pregate_exponent": -0.1},
        {"decoder_working_set": 0.5},
        {"decoder_working_set": 129.0},
        {"encoder_log_sd": -1.0},
        {"encoder_log_sd": 9.5},
    ],
)
def test_what_is_no_law_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        Activation(**changes)


@pytest.mark.parametrize("changes", [{"decoder_working_set": 1.0}, {"encoder_log_sd": 0.0}, {"encoder_log_sd": 9.0}])
def test_the_limits_themselves_are_laws(changes: dict[str, float]) -> None:
    assert dataclasses.asdict(Activation(**changes)).items() >= changes.items()
