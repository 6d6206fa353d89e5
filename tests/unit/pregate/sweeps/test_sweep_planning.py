"""Which schedule a point runs: what axes make of machines, models, workloads and policies, and what plans share."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.platform import load_platform
from hwmodels.specs.overrides import with_overrides
from offload.policies import cache_named, policy_named
from offload.policies.pregate import pregate
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.request import request
from pregate.named import load_hardware
from pregate.sweeps.axes import read_axes
from pregate.sweeps.designs import read_designs
from pregate.sweeps.layout import lay_out, scatter
from pregate.sweeps.machines import MachineRecipe, platform_at
from pregate.sweeps.planning import Subject, SweepPlan, plan_points
from pregate.sweeps.points import Points, grid_points
from pregate.sweeps.tasks import TaskOutcome
from pregate.sweeps.workloads import TraceRecipe, as_source, check_workload_axes, model_at, trace_at
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, UnknownName
from traces.routing import RoutingTrace
from traces.storage import save_trace
from traces.synthesis.dials import Dials
from traces.transforms.rebatching import rebatch

HW = load_platform("a100-sxm4-80gb", "streams")
MODEL = MODELS["decoder-only"]


def planned(policies: list[Any], axes: dict[str, Any], trace: RoutingTrace | TraceRecipe | None = None) -> Any:
    names = {axis.key: axis for axis in read_axes(axes)}
    points = grid_points(tuple(names.values()), len(policies))
    subject = Subject(MODEL, HW, trace or TraceRecipe(4, 5), read_designs(policies, None, names), "dram")
    return points, plan_points(points, subject)


def at(points: Points, plan: SweepPlan, i_policy: int) -> np.ndarray:
    """Group of a policy at every point, shaped as the grid."""
    return plan.i_group[i_policy][points.i_choice].reshape(points.shape)


# ---- machines


def test_a_swapped_part_keeps_what_was_overridden() -> None:
    hw = load_hardware(
        "a100-sxm4-80gb", "streams", {"link.h2d_bytes_per_s": 5e9, "stack.sync_s": "5us", "hbm_bytes": 1e10}
    )
    swapped = platform_at(hw, {"link": "pcie5-x16", "host": "epyc-7v12"})
    same = load_hardware(
        "a100-sxm4-80gb", "streams",
        {"link.h2d_bytes_per_s": 5e9, "stack.sync_s": 5e-6, "hbm_bytes": 1e10, "link": "pcie5-x16",
         "host": "epyc-7v12"},
    )  # fmt: skip
    assert swapped == same
    other = platform_at(hw, {"hardware": "h100-sxm"})
    assert (other.hardware, other.machine.link.h2d_bytes_per_s) == ("h100-sxm", 5e9)
    assert other.machine.link.name == load_hardware("h100-sxm").machine.link.name


def test_a_platform_and_its_name_are_swapped_alike() -> None:
    for choice in ({"stack": "pytorch-eager"}, {"accelerator": "rtx-4090"}, {"hardware": "t4", "storage": "sata"}):
        by_name = platform_at(MachineRecipe("a100-sxm4-80gb", choice.get("stack", "streams")), choice)
        assert platform_at(HW, choice) == by_name
    assert platform_at(HW, {"batch": 3}) is HW
    assert platform_at("t4", {}).hardware == "t4"


def test_a_machine_of_ones_own_swaps_no_parts_but_runs() -> None:
    accelerator = dataclasses.replace(HW.machine.accelerator, name="mine")
    mine = dataclasses.replace(HW, machine=dataclasses.replace(HW.machine, accelerator=accelerator))
    assert platform_at(mine, {}) is mine
    odd = dataclasses.replace(
        HW, machine=dataclasses.replace(HW.machine, host=dataclasses.replace(HW.machine.host, n_cores=3))
    )
    for platform in (mine, odd):
        with pytest.raises(InvalidInput, match="does not ship with pregate"):
            platform_at(platform, {"link": "pcie5-x16"})
    with pytest.raises(InvalidInput, match="no hardware"):
        platform_at(MachineRecipe(), {})
    with pytest.raises(UnknownName, match="pcie6-x16"):
        platform_at(HW, {"link": "pcie9x16"})


# ---- workloads


def test_a_recording_is_rebatched_and_synthesis_follows_every_axis(tmp_path: Path) -> None:
    recorded = routing(MODEL, batch=4)
    assert trace_at(recorded, MODEL, {"batch": 2}).digest == rebatch(recorded, 2).digest
    assert trace_at(recorded, MODEL, {}) is recorded
    made = trace_at(TraceRecipe(seed=3), MODEL, {"batch": 2, "input_tokens": 3, "output_tokens": 5})
    assert (made.n_tokens, made.batch) == (2 * (3 + 4), 2)
    forced = trace_at(TraceRecipe(4, 5, 3), MODEL, {"n_active": 4})
    assert len(np.unique(forced.experts)) == 4
    save_trace(recorded, tmp_path / "t.safetensors")
    for source in (tmp_path / "t.safetensors", TraceRecipe(path=tmp_path / "t.safetensors")):
        loaded = as_source(source, MODEL)
        assert isinstance(loaded, RoutingTrace)
        assert loaded.digest == recorded.digest
    again = as_source(TraceRecipe(path=tmp_path / "t.safetensors", batch=2), MODEL)
    assert isinstance(again, RoutingTrace)
    assert again.digest == rebatch(recorded, 2).digest
    assert as_source(None, MODEL) == TraceRecipe()


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "n_active", "top_k"])
def test_a_recording_refuses_what_it_cannot_follow(name: str) -> None:
    axes = {axis.key: axis for axis in read_axes({name: [1]})}
    with pytest.raises(InvalidInput, match=f"axis {name}.*record"):
        check_workload_axes(routing(MODEL), axes)
    check_workload_axes(TraceRecipe(), axes)


def test_a_recording_takes_the_top_k_it_has() -> None:
    check_workload_axes(routing(MODEL), {"top_k": read_axes({"top_k": [MODEL.top_k]})[0]})


def test_dials_and_forced_experts_exclude_each_other() -> None:
    axes = {"n_active": read_axes({"n_active": [2]})[0]}
    with pytest.raises(InvalidInput, match="n_active"):
        check_workload_axes(TraceRecipe(dials=Dials(0.3, 0.3, 0.0)), axes)
    with pytest.raises(InvalidInput, match="of synthesis"):
        TraceRecipe(output_tokens=3, path="t.safetensors")


def test_precision_of_all_or_of_experts_only() -> None:
    both = model_at(MODEL, {"dtype": "bf16", "expert_dtype": "fp8", "top_k": 1})
    assert (both.dtype.name, both.expert_dtype.name, both.top_k) == ("bf16", "fp8", 1)
    experts = model_at(MODEL, {"expert_dtype": "fp8"})
    assert (experts.dtype, experts.non_expert_bytes) == (MODEL.dtype, MODEL.non_expert_bytes)
    assert experts.expert_bytes * 4 == MODEL.expert_bytes
    assert model_at(MODEL, {}) is MODEL


# ---- policies


def test_lookahead_moves_pregate_and_nothing_else() -> None:
    axes = {"lookahead": read_axes({"lookahead": [1, 3]})[0]}
    designs = read_designs(["on_demand", "pregate", "pregate:encoder+lru:0.1", "pregate(2)"], None, axes)
    found = [design.at({"lookahead": 3}) for design in designs]
    assert found == [
        policy_named("on_demand"), policy_named("pregate(3)"), policy_named("pregate(3):encoder+lru:0.1"),
        policy_named("pregate(2)"),
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="lookahead moves the policy pregate, none of on_demand"):
        read_designs(["on_demand", "pregate(2)", dataclasses.replace(pregate(), name="mine")], None, axes)


def test_a_cache_ratio_adds_a_cache_where_there_is_none() -> None:
    axes = {"cache_ratio": read_axes({"cache_ratio": [0, 0.5]})[0]}
    designs = read_designs(["gpu_only", "on_demand", "lru", "pregate+lfu:0.2"], None, axes)
    for ratio, cache in ((0.0, None), (0.5, cache_named("lru:0.5"))):
        found = [design.at({"cache_ratio": ratio}).cache for design in designs]
        assert found == [None, cache, cache_named("lru"), cache_named("lfu:0.2")]
    lfu = read_designs(["on_demand", "pregate"], cache_named("lfu:per_layer"), axes)
    assert [d.at({"cache_ratio": 0.5}).cache for d in lfu] == [cache_named("lfu:0.5:per_layer")] * 2
    assert [d.at({"cache_ratio": 0.0}).cache for d in lfu] == [None] * 2
    with pytest.raises(InvalidInput, match="none of gpu_only, lru takes one"):
        read_designs(["gpu_only", "lru"], None, axes)
    with pytest.raises(InvalidInput, match="eviction only"):
        read_designs(["on_demand"], cache_named("lru:0.1"), axes)


def test_a_cache_for_all_is_added_as_in_a_comparison() -> None:
    designs = read_designs(["gpu_only", "on_demand"], cache_named("lfu:0.2"), {})
    assert [design.at({}).cache for design in designs] == [None, cache_named("lfu:0.2")]
    with pytest.raises(InvalidInput, match="lru names a cache of its own"):
        read_designs(["on_demand", "lru"], cache_named("lfu:0.2"), {})


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ([], "at least one"),
        ("pregate", "give a list"),
        (["pregate", "pregate(1)"], "given twice"),
        (["pregated"], "did you mean"),
    ],
)
def test_wrong_lists_of_policies_are_one_clear_line(policies: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_designs(policies, None, {})


# ---- plans


def test_prices_alone_share_one_schedule_a_policy() -> None:
    points, plan = planned(["on_demand", "pregate"], {"link.h2d_bytes_per_s": [1e9, 2e9], "stack.sync_s": [1e-6, 2e-6]})
    assert len(plan.groups) == 2
    assert at(points, plan, 0).tolist() == [[0, 0], [0, 0]]
    assert at(points, plan, 1).tolist() == [[1, 1], [1, 1]]


def test_what_a_policy_does_not_feel_splits_nothing() -> None:
    points, plan = planned(["gpu_only", "pregate"], {"lookahead": [1, 2]})
    assert len(plan.groups) == 3
    assert len(set(at(points, plan, 0).tolist())) == 1
    assert len(set(at(points, plan, 1).tolist())) == 2


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True), st.sampled_from(["lru", "on_demand", "pregate"])
)
def test_every_size_of_hbm_has_the_plan_it_would_be_granted(rooms: list[int], policy: str) -> None:
    trace = TraceRecipe(4, 5)
    static = request(MODEL, HW, trace_at(trace, MODEL, {}), "on_demand").plan.static_bytes
    sizes = [static + room * MODEL.expert_bytes // 2 for room in rooms]
    points, plan = planned([policy], {"hbm_bytes": sizes}, trace)
    for size, group in zip(sizes, at(points, plan, 0).tolist(), strict=True):
        machine = with_overrides(HW.machine, {"hbm_bytes": size})
        hw = dataclasses.replace(HW, machine=machine)
        if group < 0:
            with pytest.raises(CapacityExceeded) as caught:
                request(MODEL, hw, trace_at(trace, MODEL, {}), policy)
            assert plan.holes[-1 - group].needed_bytes == caught.value.needed_bytes
        else:
            assert plan.groups[group].request.key == request(MODEL, hw, trace_at(trace, MODEL, {}), policy).key


def test_many_sizes_of_hbm_are_planned_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    from pregate.sweeps import planning

    asked: list[int] = []

    def counted(model: Any, hw: Any, *rest: Any, **more: Any) -> Any:
        asked.append(hw.machine.accelerator.hbm_bytes)
        return request(model, hw, *rest, **more)

    monkeypatch.setattr(planning, "request", counted)
    static = trace_at(TraceRecipe(4, 5), MODEL, {})
    least = request(MODEL, HW, static, "on_demand").plan.static_bytes
    points, plan = planned(["lru"], {"hbm_bytes": np.linspace(least, least + 40 * MODEL.expert_bytes, 10_000)})
    # a hole; one slot that the two experts of a step are handed on in; two, and none to all kept beside them
    assert len(np.unique(at(points, plan, 0))) == 3 + MODEL.n_moe_layers * MODEL.n_experts
    assert len(asked) < 400


def test_choices_that_cannot_be_are_holes_with_their_reason() -> None:
    points, plan = planned(["pregate"], {"batch": [1, 2], "n_active": [2, 4]})
    groups = at(points, plan, 0)
    assert (groups < 0).tolist() == [[False, True], [False, False]]
    assert "n_active = 4" in plan.holes[-1 - groups[0, 1]].reason
    assert plan.holes[-1 - groups[0, 1]].memory == ""


def test_parts_of_the_machine_are_priced_apart_and_planned_apart() -> None:
    _, plan = planned(["pregate"], {"link": ["pcie4-x16", "pcie5-x16"], "stack": ["streams", "fastertransformer"]})
    assert len(plan.groups) == 4
    names = {(group.hw.machine.link.name, group.hw.stack.name) for group in plan.groups}
    assert len(names) == 4
    assert len({group.request.key for group in plan.groups}) == 2  # one an execution


def test_requests_travel_to_other_processes() -> None:
    _, plan = planned(["pregate", "prefetch_all", "on_demand+lru:0.5"], {"batch": [1, 2]})
    for group in plan.groups:
        request, hw = pickle.loads(pickle.dumps((group.request, group.hw)))  # noqa: S301 (our own bytes)
        assert request.trace.digest == group.request.trace.digest
        assert (request.policy, request.plan, hw) == (group.request.policy, group.request.plan, group.hw)


# ---- layouts


def test_every_point_finds_the_row_of_its_prices() -> None:
    points, plan = planned(["lru", "gpu_only"], {"hbm_bytes": np.geomspace(1e6, 1e9, 9), "stack.sync_s": [1e-6, 2e-6]})
    for layout, groups in zip(lay_out(points, plan), plan.i_group, strict=True):
        parts = [
            (len(rows), TaskOutcome({"group": np.full(len(rows), group), "row": rows}))
            for group, rows in zip(layout.groups.tolist(), layout.rows, strict=True)
        ]
        fields = scatter(layout, plan.holes, parts)
        fits = groups[points.i_choice] >= 0
        assert np.array_equal(fields["fits"], fits)
        assert np.array_equal(fields["group"][fits], groups[points.i_choice][fits])
        assert np.array_equal(fields["row"][fits], points.i_price[fits])
        assert np.isnan(fields["row"][~fits]).all()
        assert set(fields["memory"][~fits]) <= {"HBM"}
        assert (fields["needed_bytes"][~fits] > 0).all()
    assert not fits.all()


def test_a_failed_task_empties_its_own_points_only() -> None:
    points, plan = planned(["pregate"], {"stack.sync_s": [1e-6, 2e-6, 3e-6, 4e-6]})
    (layout,) = lay_out(points, plan)
    done = TaskOutcome({"ttft_s": np.array([1.0, 2.0]), "binding": np.array(["H2D", "COMPUTE"])})
    fields = scatter(layout, plan.holes, [(2, done), (2, None)])
    assert fields["fits"].tolist() == [True, True, False, False]
    assert fields["ttft_s"][:2].tolist() == [1.0, 2.0]
    assert np.isnan(fields["ttft_s"][2:]).all()
    assert fields["binding"].tolist() == ["H2D", "COMPUTE", "", ""]
