"""Experts that tokens do without: which, how many, and that every way to ask says the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pregate
from hwmodels.platform import load_platform
from offload.caches.gate_output import stated_weights
from offload.ops import OpKind
from offload.policies import policy_named
from offload.policy_parts.skipping import Skipping, skipping_named
from pregate.ask.capturing.capture import capture
from tests.command_line import Run
from tests.small_models import decoder_only, routing
from traces.errors import InvalidInput
from traces.routing import RoutingTrace

HW = load_platform("rtx-4090", "streams")
MODEL = decoder_only(top_k=3)


def weighed(seed: int = 0) -> RoutingTrace:
    trace, rng = routing(MODEL, seed=seed, batch=2), np.random.default_rng(seed)
    return dataclasses.replace(trace, gate_weights=rng.random(trace.experts.shape).astype(np.float32))


@given(st.integers(0, 20), st.floats(0.01, 1.0), st.lists(st.floats(0.1, 3.0), min_size=1, max_size=3))
def test_what_weighs_little_is_left_out_and_what_weighs_most_stays(
    seed: int, threshold: float, sensitivity: list[float]
) -> None:
    trace, skipping = weighed(seed), Skipping(threshold, tuple(sensitivity))
    left = skipping.of(trace)
    n_layers = trace.n_moe_layers
    assert trace.gate_weights is not None
    for token in range(trace.n_tokens):
        for layer in range(n_layers):
            chosen, weights = trace.experts[token, layer], trace.gate_weights[token, layer].astype(np.float64)
            factor = np.interp(layer / (n_layers - 1), np.linspace(0, 1, len(sensitivity)), sensitivity)
            kept = []
            for rank, expert in enumerate(chosen.tolist()):
                if rank == int(weights.argmax()) or not factor * weights[rank] / weights.sum() < threshold:
                    kept.append(expert)
            assert [e for e in left.experts[token, layer].tolist() if e >= 0] == kept
    again = skipping.of(left)
    assert np.array_equal(again.experts, left.experts)


def test_a_trace_without_weights_is_thinned_by_those_that_are_stated() -> None:
    trace = routing(MODEL, batch=2)
    left = Skipping(0.3).of(trace)
    for step in trace.steps():
        rows = np.flatnonzero(trace.step == step.i_step)
        for layer in range(trace.n_moe_layers):
            weights = stated_weights(step.i_step, layer, step.experts[:, layer], trace.n_experts)
            least = (weights < 0.3) & (np.arange(3) != 0)
            assert np.array_equal(left.experts[rows, layer] < 0, least)


@pytest.mark.parametrize("design", ["on_demand", "pregate+lru:5", "adap_moe", "gpu_only@experts=cpu", "on_demand:cpu"])
def test_less_is_executed_and_the_share_left_out_is_said(design: str) -> None:
    trace = weighed()
    whole = pregate.simulate(MODEL, HW, trace, design)
    found = pregate.simulate(MODEL, HW, trace, f"{design}@skip=0.3")
    n_all, n_kept = (int(np.count_nonzero(one.experts >= 0)) for one in (trace, Skipping(0.3).of(trace)))
    assert found.changed_share == (n_all - n_kept) / n_all > 0
    assert found.output == "approximate"
    assert whole.changed_share == 0
    schedules = [capture(MODEL, HW, trace, name).decoded.schedule for name in (design, f"{design}@skip=0.3")]
    ffns = [int(np.isin(one.kind, [OpKind.EXPERTS, OpKind.CPU_EXPERT]).sum()) for one in schedules]
    assert ffns[1] <= ffns[0]
    assert (
        pregate.simulate(MODEL, HW, trace, f"{design}@skip=0.3", engine="stream").changed_share == found.changed_share
    )


def test_a_sweep_and_one_simulation_say_the_same_of_it() -> None:
    trace, policies = routing(MODEL, batch=2), ["on_demand+lru:5@skip=0.3", "on_demand@skip=0.3:sensitivity=1/0.5"]
    swept = pregate.sweep(MODEL, HW, trace, policies=policies, axes={"expert_tier": ["dram", "ssd+lru:4"]})
    for policy in policies:
        for tier in ("dram", "ssd+lru:4"):
            one, at = (
                pregate.simulate(MODEL, HW, trace, policy, expert_tier=tier),
                swept.sel(policy=policy_named(policy).name, expert_tier=tier),
            )
            assert float(at.tokens_per_s) == one.tokens_per_s
            assert float(at.changed_share) == one.changed_share > 0


def test_the_name_says_it_and_is_read_again() -> None:
    policy = policy_named("adap_moe@skip=0.25:sensitivity=1/0.5@kv=cpu")
    assert policy.skipping == Skipping(0.25, (1.0, 0.5))
    assert policy_named(policy.name) == policy
    assert not policy.is_exact


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("skip=0", "above 0"), ("skip=1.5", "at most 1"), ("skip=", "not a number"), ("skip=nan", "not a number"),
        ("skip=0.1:skip=0.2", "twice"), ("skip=0.1:sens=1", "not of the form"), ("skip=0.1:sensitivity=0", "above 0"),
        ("skip=0.1:sensitivity=1//2", "not a number"), ("skip=0.1@skip=0.2", "already"),
    ],
)  # fmt: skip
def test_what_skips_nothing_that_can_be_is_one_line(run: Run, text: str, says: str) -> None:
    words = ("switch-base-8", "--hardware", "rtx-4090", "--input-tokens", "4", "--output-tokens", "2")
    status, _, err = run("simulate", *words, "--policy", f"on_demand@{text}")
    assert (status, "Traceback" in err) == (2, False)
    assert says in err


def test_skipping_is_named_in_full() -> None:
    assert skipping_named("skip=0.1:sensitivity=1/0.4/0.2") == Skipping(0.1, (1.0, 0.4, 0.2))
    with pytest.raises(InvalidInput):
        Skipping(0.1, ())
