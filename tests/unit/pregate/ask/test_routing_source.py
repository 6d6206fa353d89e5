"""What a result says of its routing: recorded or made up, by whose dials, and how large the experts were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pregate
from pregate.ask.recorded_size import describe_size, with_recorded_experts
from pregate.ask.routing_source import describe_routing
from pregate.ask.simulation import SimulationResult, simulate
from pregate.routing_traces import DEFAULT_DIALS, default_dials
from traces.recorded import recorded_names
from traces.recorded.dials import (
    FEW_EXPERTS,
    MODEL_OF,
    default_error,
    default_for,
    recorded_dials,
    recorded_hit_rates,
)
from traces.routing import RoutingTrace
from traces.statistics.locality import lru_hit_rates

SWITCH = pregate.load_model("switch-base-8")


def recorded(expert_bytes: int) -> RoutingTrace:
    trace = pregate.synthesize(SWITCH, 4, 4)
    origin = replace(trace.provenance, source="a file", recorder="an engine")
    return replace(trace, provenance=origin, expert_bytes=np.full(trace.n_moe_layers, expert_bytes))


def test_every_model_with_dials_has_its_recorded_trace_and_shape() -> None:
    for name, trace_name in MODEL_OF.items():
        model, trace = pregate.load_model(name), pregate.load_trace(trace_name)
        assert trace_name in recorded_names()
        assert (trace.n_moe_layers, trace.n_experts) == (model.n_moe_layers, model.n_experts)
        dials, whose = default_dials(model)
        assert dials != DEFAULT_DIALS
        assert whose == f"dials fitted to {trace_name}"


def test_other_models_keep_the_default_dials() -> None:
    assert default_dials(pregate.load_model("switch-base-128")) == (DEFAULT_DIALS, "default dials")
    for name in ("switch-base-8", "mixtral-8x7b"):  # few experts: those of the only such model that was counted
        dials, whose = default_dials(pregate.load_model(name))
        assert whose == "default dials"
        assert dials.sequence_affinity < 0.1 < DEFAULT_DIALS.sequence_affinity
    assert default_for(FEW_EXPERTS) != default_for(FEW_EXPERTS + 1) == DEFAULT_DIALS
    assert recorded_dials("qwen3-30b-a3b", 47) is None
    assert "default dials" in pregate.synthesize(SWITCH, 4, 4).provenance.note


def test_recorded_hit_rates_are_those_of_the_traces_that_ship() -> None:
    trace = pregate.load_trace("qwen3-30b-a3b-phone")
    (counted,) = lru_hit_rates(trace, [round(0.4 * 128)])
    assert recorded_hit_rates(0.4)["qwen3-30b-a3b-phone"] == pytest.approx(counted, abs=1e-4)
    assert recorded_hit_rates(1.0)["qwen3-30b-a3b-phone"] == 1.0


def test_dials_of_a_recorded_model_hit_as_the_recording_does() -> None:
    model, slots = pregate.load_model("qwen3-30b-a3b", top_k=6), [round(share * 128) for share in (0.1, 0.25, 0.4)]
    recorded = lru_hit_rates(pregate.load_trace("qwen3-30b-a3b-phone"), slots)
    made = [lru_hit_rates(pregate.synthesize(model, 28, 129, seed=seed), slots) for seed in range(6)]
    assert np.mean(made, axis=0) == pytest.approx(recorded, abs=0.03)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.5, 0.75])
def test_default_dials_without_a_model_come_near_what_it_hits(share: float) -> None:
    """Each model left out; the errors are committed with the dials. Default dials that knew no sequences: up to 31."""
    assert 0 < default_error(share) < 0.12
    assert default_error(1.0) == 0


def simulated(trace: RoutingTrace, policy: str) -> SimulationResult:
    return simulate(SWITCH, pregate.load_hardware("a100-sxm4-80gb"), trace, policy)


def test_a_synthetic_trace_is_called_so_with_what_recorded_ones_would_hit() -> None:
    trace = pregate.synthesize(SWITCH, 4, 16)
    said = describe_routing(SWITCH, trace, [simulated(trace, "on_demand")])
    assert simulated(trace, "on_demand").to_dict()["routing"] == "synthetic"
    assert said == "synthetic (default dials), so hit rates are assumed, not known"
    said = describe_routing(SWITCH, trace, [simulated(trace, "on_demand+lru:0.4")])
    assert "an LRU with" in said
    assert "on recorded traces; default dials are up to " in said
    own = replace(trace, provenance=replace(trace.provenance, note="dials fitted to a trace: ..."))
    assert describe_routing(SWITCH, own, [simulated(trace, "on_demand+lru:0.4")]).endswith("on recorded traces")


def test_of_a_cache_that_all_experts_fit_nothing_recorded_is_told() -> None:
    model = pregate.load_model("qwen3-30b-a3b")
    trace = pregate.synthesize(model, 4, 2)
    result = simulate(model, pregate.load_hardware("a100-sxm4-80gb"), trace, "on_demand+lru")
    assert result.n_expert_slots > model.n_moe_layers * model.n_experts
    assert describe_routing(model, trace, [result]).endswith("assumed, not known")


def test_experts_are_as_large_as_the_engine_stored_them() -> None:
    quarter = SWITCH.expert_bytes // 4
    trace = recorded(quarter)
    model = with_recorded_experts(SWITCH, trace)
    assert model.expert_bytes == pytest.approx(quarter, rel=1e-3)
    assert describe_size(model, trace).endswith("MB, as the recording engine stored them")
    assert "where the recording engine stored" in describe_size(SWITCH, trace)
    assert with_recorded_experts(SWITCH, recorded(SWITCH.expert_bytes)) == SWITCH
    assert with_recorded_experts(SWITCH, pregate.synthesize(SWITCH, 4, 4)) == SWITCH


@pytest.mark.parametrize("expert_bytes", [999, 1 << 39])
def test_a_size_that_no_format_has_is_of_another_model(expert_bytes: int) -> None:
    with pytest.raises(pregate.InvalidInput, match=r"bits for each of the .* it is not of this model"):
        with_recorded_experts(SWITCH, recorded(expert_bytes))


def test_a_sweep_refuses_a_batch_above_the_recorded_sequences_before_it_runs() -> None:
    trace = pregate.synthesize(SWITCH, 4, 4, 2)
    with pytest.raises(pregate.InvalidInput, match="axis batch = 4: the trace of switch-base-8 has 2 sequences"):
        pregate.sweep(
            "switch-base-8",
            "a100-sxm4-80gb",
            trace=trace,
            policies=["pregate"],
            axes={"batch": [1, 2, 4, 8, 1000]},
        )
