"""The engines behind one call: the same figures, and each refuses what it cannot say."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import pregate
from hwmodels.cost import Costs
from offload.schedule import Schedule
from pregate.ask.capturing.capture import capture
from pregate.ask.choices import ENGINES
from pregate.ask.simulation import Disagreement
from pregate.ask.timing.evaluation import evaluate
from simulator import recurrence
from simulator.modes import Modes, NotFifo
from traces.errors import InvalidInput, UnknownName

MODEL = pregate.load_model("switch-base-8")
HW = pregate.load_hardware("a100-sxm4-80gb")
TRACE = pregate.synthesize(MODEL, 16, 12, batch=2)
SHARED = Modes(link="shared", hbm_shared=True)
OMITTED = {"timeline", "moe_layer_latency_ci95_s", "tokens_per_s_ci95"}


@pytest.mark.parametrize("policy", ["gpu_only", "pregate", "prefetch_all", "on_demand+lru:0.2", "pregate+lfu:9"])
@pytest.mark.parametrize("tier", ["dram", "ssd"])
def test_every_engine_says_what_the_definition_says(tier: str, policy: str) -> None:
    wanted = pregate.simulate(MODEL, HW, TRACE, policy, expert_tier=tier, engine="des").to_dict()
    for engine in sorted(set(ENGINES) - {"des"}):
        found = pregate.simulate(MODEL, HW, TRACE, policy, expert_tier=tier, engine=engine).to_dict()
        for name in set(wanted) - OMITTED:
            assert found[name] == (
                pytest.approx(wanted[name], rel=1e-12) if isinstance(wanted[name], float) else wanted[name]
            ), (engine, name)


def test_a_streamed_simulation_keeps_no_timeline_and_has_the_interval_of_its_critical_paths() -> None:
    result = pregate.simulate(MODEL, HW, TRACE, "pregate", engine="stream")
    whole = pregate.simulate(MODEL, HW, TRACE, "pregate")
    assert result.timeline is None
    for name in ("tokens_per_s_ci95", "moe_layer_latency_ci95_s"):
        assert getattr(result, name) == pytest.approx(getattr(whole, name), rel=1e-6)
    assert pregate.compare(MODEL, HW, TRACE, ["pregate"], engine="stream").verdict().startswith("pregate: 137 tokens/s")


def test_a_streamed_simulation_has_no_interval_of_another_machines_fit() -> None:
    elsewhere = pregate.load_hardware("h100-sxm", "fastertransformer")
    assert elsewhere.fit is not None
    assert pregate.simulate(MODEL, elsewhere, TRACE, "pregate", engine="stream").tokens_per_s_ci95 is None
    assert pregate.simulate(MODEL, elsewhere, TRACE, "pregate").tokens_per_s_ci95 is not None, "how far claims scatter"


def test_an_interval_that_critical_paths_do_not_add_up_to_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pregate.ask.timing.intervals._CUT", -1.0)
    assert pregate.simulate(MODEL, HW, TRACE, "pregate", engine="stream").tokens_per_s_ci95 is None


def test_a_long_trace_is_taken_part_by_part_unless_its_timeline_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    short = pregate.simulate(MODEL, HW, TRACE, "pregate")
    monkeypatch.setattr("pregate.ask.simulation.LONG_TRACE", 100)
    long, asked, none = (pregate.simulate(MODEL, HW, TRACE, "pregate", timeline=wish) for wish in (None, True, False))
    assert short.timeline is not None
    assert long.timeline is none.timeline is None
    assert asked.timeline is not None
    assert asked.to_dict() == short.to_dict()
    assert pregate.simulate(MODEL, HW, TRACE, "pregate", check=True).timeline is not None
    assert long.makespan_s == short.makespan_s
    assert long.schedule_digest == short.schedule_digest


def test_no_timeline_is_kept_where_none_is_asked_for() -> None:
    assert pregate.simulate(MODEL, HW, TRACE, "pregate", timeline=False).timeline is None
    with pytest.raises(InvalidInput, match="the engine stream keeps no timeline"):
        pregate.simulate(MODEL, HW, TRACE, "pregate", engine="stream", timeline=True)


@pytest.mark.parametrize("engine", ["recurrence", "stream"])
def test_fifo_engines_refuse_other_modes_by_name(engine: str) -> None:
    with pytest.raises(NotFifo, match="use the engine event or des"):
        pregate.simulate(MODEL, HW, TRACE, "pregate", engine=engine, modes=SHARED)


def test_an_engine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'recurrence'"):
        pregate.simulate(MODEL, HW, TRACE, "pregate", engine="recurence")


@pytest.mark.parametrize("modes", [SHARED, Modes(link="priority", chunk_bytes=1 << 20, cancel=True)])
def test_machines_with_modes_are_evaluated_as_simulated(modes: Modes) -> None:
    captured = capture(MODEL, HW, TRACE, "prefetch_all")
    links = np.array([8e9, 31e9])
    found = evaluate(captured, HW, {"link.h2d_bytes_per_s": links}, 2, modes=modes)
    for i, link in enumerate(links.tolist()):
        hw = pregate.load_hardware("a100-sxm4-80gb", overrides={"link.h2d_bytes_per_s": link})
        for engine in ("des", "event"):
            wanted = pregate.simulate(MODEL, hw, TRACE, "prefetch_all", engine=engine, modes=modes).to_dict()
            for name, values in found.items():
                value = values[i].item()
                assert value == (pytest.approx(wanted[name], rel=1e-12) if isinstance(value, float) else wanted[name])


def test_cancelled_prefetches_make_prefetching_everything_bearable() -> None:
    """What the gate did not select is dropped once it is known: far fewer bytes stand in the way."""
    plain = pregate.simulate(MODEL, HW, TRACE, "prefetch_all", engine="event", modes=Modes(link="priority"))
    cancelled = pregate.simulate(
        MODEL, HW, TRACE, "prefetch_all", engine="event", modes=Modes(link="priority", cancel=True)
    )
    assert cancelled.makespan_s < plain.makespan_s
    assert cancelled.bound_s <= cancelled.makespan_s


def test_memory_of_a_stream_is_bounded_by_a_part_not_by_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.fast.decode_compiled._PART_OPS", 2000)
    monkeypatch.setattr("offload.fast.decode_compiled._PART_CELLS", 500)

    monkeypatch.setattr("offload.decode.SMALL_OPS", 0)  # compiled, as a large one is

    def peak_bytes(n_steps: int, engine: str) -> int:
        trace = pregate.synthesize(MODEL, 4, n_steps)
        tracemalloc.start()
        pregate.simulate(MODEL, HW, trace, "pregate", engine=engine)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    for engine in ("stream", "recurrence"):
        pregate.simulate(MODEL, HW, pregate.synthesize(MODEL, 4, 20), "pregate", engine=engine)
    short, long = (peak_bytes(n_steps, "stream") for n_steps in (150, 600))
    assert long < 1.3 * short
    assert peak_bytes(600, "recurrence") > 3 * long


@pytest.mark.parametrize("design", ["gpu_only@experts=cpu:2-5", "gpu_only@kv=stream", "on_demand@layers=cpu:2"])
def test_a_stream_prices_a_pass_that_is_cut_as_a_whole_run_does(design: str) -> None:
    model = pregate.load_model("olmoe-1b-7b")
    hw = pregate.load_hardware("rtx-5090", stack="pipelined-sharding", overrides={"stack.split_launch_s": 1e-3})
    trace = pregate.synthesize(model, 4, 4)
    whole, parts = (pregate.simulate(model, hw, trace, design, engine=one) for one in ("recurrence", "stream"))
    assert whole.makespan_s == parts.makespan_s
    uncut = pregate.load_hardware("rtx-5090", stack="pipelined-sharding", overrides={"stack.split_launch_s": 1e-9})
    assert whole.makespan_s > pregate.simulate(model, uncut, trace, design).makespan_s


def test_the_default_is_the_recurrence_and_simpy_agrees_when_it_is_asked() -> None:
    result = pregate.simulate(MODEL, HW, TRACE, "pregate", check=True)
    assert result.timeline is not None
    assert result.timeline.source == "recurrence"
    shared = pregate.simulate(MODEL, HW, TRACE, "pregate", modes=Modes(link="shared"), check=True)
    assert shared.timeline is not None
    assert shared.timeline.source == "event"
    with pytest.raises(InvalidInput, match="the engine stream keeps no times to check"):
        pregate.simulate(MODEL, HW, TRACE, "pregate", engine="stream", check=True)


def test_an_engine_that_is_wrong_is_found_out() -> None:
    def wrong(schedule: Schedule, costs: Costs) -> Any:
        start, end, *bound = recurrence.walked(schedule, costs)
        end[-1] = np.nextafter(end[-1], np.inf)
        return start, end, *bound

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulator.explain.critical_path.walked", wrong)
        with pytest.raises(
            Disagreement, match=r"recurrence and SimPy differ on 1 of \d+ ops, first on op \d+: it ends at"
        ):
            pregate.simulate(MODEL, HW, TRACE, "pregate", check=True)
