"""The Python API: names and signatures that stay."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import hwmodels
import offload
import pregate
import runtime
import simulator
import traces
from pregate import draw

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trace() -> pregate.RoutingTrace:
    return pregate.synthesize(pregate.load_model("switch-base-8"), input_tokens=16, output_tokens=6, batch=1, seed=0)


def test_every_package_lies_in_this_repository() -> None:
    for package in (pregate, simulator, runtime, hwmodels, offload, traces):
        assert package.__file__ is not None
        assert Path(package.__file__).parents[1] == ROOT


def test_import_loads_no_heavy_library() -> None:
    heavy = ("numpy", "torch", "matplotlib", "llvmlite", "simpy")
    code = f"import sys, pregate; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_simulation_draws_nothing_and_loads_no_framework() -> None:
    code = (
        "import sys, pregate; m = pregate.load_model('switch-base-8'); "
        "pregate.simulate(m, pregate.load_hardware('h100-sxm'), pregate.synthesize(m, 4, 2, n_active=1)); "
        "print([m for m in ('torch', 'matplotlib', 'pandas', 'xarray', 'distributed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_everything_promised_is_there() -> None:
    for name in pregate.__all__:
        assert getattr(pregate, name) is not None
    completed = dir(pregate)
    assert [name for name in completed if not name.startswith("_")] == sorted([*pregate.__all__, "draw"])
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = pregate.simulat


def test_a_design_that_has_no_result_is_told_why() -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("rtx-4090")
    found = pregate.compare(model, hw, pregate.synthesize(model, 4, 2), "gpu_only, pregate")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"gpu_only does not fit: .* of HBM"):
        _ = found["gpu_only"]
    with pytest.raises(KeyError, match="no design 'pregat' was compared: gpu_only, pregate were"):
        _ = found["pregat"]


def test_a_path_may_be_text_wherever_one_is_taken() -> None:
    public = [getattr(module, name) for module in (pregate, draw) for name in module.__all__]
    functions = [
        getattr(one, "__func__", one)
        for owner in public
        for one in (vars(owner).values() if inspect.isclass(owner) else (owner,))
        if inspect.isroutine(getattr(one, "__func__", one))
    ]
    taken = [
        (function.__qualname__, name, str(parameter.annotation))
        for function in functions
        if not function.__name__.startswith("_")
        for name, parameter in inspect.signature(function).parameters.items()
        if "Path" in str(parameter.annotation)
    ]
    assert len(taken) > 10
    assert [one for one in taken if "str" not in one[2].replace("Path", "")] == []


def test_a_machine_and_a_model_print_in_a_line() -> None:
    machine, model = pregate.load_hardware("rtx-4090"), pregate.load_model("switch-base-8")
    assert "rtx-4090 (streams): 25.8 GB at 1,008 GB/s, pcie4-x16 at 31.5 GB/s" in str(machine)
    assert str(machine).endswith("claimed")
    assert "12 MoE layers of 8 experts, 1 of a token" in str(model)
    for one in (machine, model):
        assert len(str(one)) < 200
        assert str(one) in one._repr_html_()


def test_a_picture_is_written_to_a_path_that_is_text(tmp_path: Path, trace: pregate.RoutingTrace) -> None:
    result = pregate.simulate(pregate.load_model("switch-base-8"), pregate.load_hardware("rtx-4090"), trace, "pregate")
    draw.gantt(result, path=str(tmp_path / "step.svg"))
    draw.save_figure(draw.gantt(result), str(tmp_path / "again.svg"))
    assert {one.name for one in tmp_path.iterdir()} == {"step.svg", "again.svg"}


def test_result_has_the_documented_fields(trace: pregate.RoutingTrace) -> None:
    model = pregate.load_model("switch-base-8")
    hw = pregate.load_hardware("a100-sxm4-80gb", stack="fastertransformer", overrides={"link.h2d_bytes_per_s": 64e9})
    result = pregate.simulate(model, hw, trace, policy="pregate")
    for name in (
        "moe_layer_latency_s", "tokens_per_s", "ttft_s", "tpot_s", "peak_hbm_bytes", "h2d_bytes", "hit_rate",
        "stall_s", "timeline", "schedule_digest",
    ):  # fmt: skip
        assert hasattr(result, name)
    assert result.calibration == "extrapolated"
    assert result.to_dict()["policy"] == "pregate"
    assert "timeline" not in result.to_dict()
    frame = result.to_dataframe()
    assert frame.loc[0, "tokens_per_s"] == result.tokens_per_s


def test_the_same_seed_gives_the_same_digest_and_another_does_not() -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("h100-sxm")
    digests = [
        pregate.simulate(model, hw, pregate.synthesize(model, 8, 4, seed=seed), "pregate").schedule_digest
        for seed in (1, 1, 2)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_intervals_hold_the_prediction_and_are_wider_without_a_fit(trace: pregate.RoutingTrace) -> None:
    model = pregate.load_model("switch-base-8")
    fitted = pregate.simulate(model, pregate.load_hardware("a100-sxm4-80gb"), trace, "on_demand")
    assert fitted.calibration == "fitted"
    assert fitted.tokens_per_s_ci95 is not None
    assert fitted.tokens_per_s_ci95[0] < fitted.tokens_per_s < fitted.tokens_per_s_ci95[1]
    claimed = pregate.simulate(model, pregate.load_hardware("h100-sxm"), trace, "on_demand")
    assert claimed.calibration == "claimed"
    assert claimed.tokens_per_s_ci95 is not None
    low, high = claimed.tokens_per_s_ci95
    assert low * high < claimed.tokens_per_s**2  # no efficiency is above 1
    assert high / low > 1.5 * fitted.tokens_per_s_ci95[1] / fitted.tokens_per_s_ci95[0]


def test_storage_that_no_fit_saw_is_extrapolated(trace: pregate.RoutingTrace) -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    result = pregate.simulate(model, hw, trace, "on_demand", expert_tier="ssd")
    assert result.calibration == "extrapolated"
    assert result.tokens_per_s_ci95 is not None
    kept = pregate.simulate(model, hw, trace, "on_demand").tokens_per_s_ci95
    assert kept is not None
    assert result.tokens_per_s_ci95[1] / result.tokens_per_s_ci95[0] > 2 * kept[1] / kept[0]
    assert "extrapolated" in pregate.compare(model, hw, trace, ["on_demand"], expert_tier="ssd").calibration


def test_a_prompt_in_steps_is_the_prompt_of_an_engine_that_passes_as_many_tokens() -> None:
    """To the bit, by either engine, and longer than the prompt at once; a token of the answer takes what it did."""
    model, hw = pregate.load_model("olmoe-1b-7b"), pregate.load_hardware("rtx-4090")
    whole = pregate.synthesize(model, 8, 3)
    parts = dataclasses.replace(whole, step=np.where(whole.phase == 0, whole.position // 2, whole.step + 3))
    for policy in ("on_demand+lru:0.2", "gpu_only"):
        in_steps, by_des = (pregate.simulate(model, hw, parts, policy, engine=engine) for engine in ("auto", "des"))
        chunked = pregate.simulate(model, hw, whole, f"{policy}@ubatch=2")
        assert (in_steps.ttft_s, in_steps.tpot_s) == (by_des.ttft_s, by_des.tpot_s) == (chunked.ttft_s, chunked.tpot_s)
        assert in_steps.ttft_s > pregate.simulate(model, hw, whole, policy).ttft_s


def test_both_engines_give_the_same_figures(trace: pregate.RoutingTrace) -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    for policy in ("gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)+lru:0.3"):
        des = pregate.simulate(model, hw, trace, policy)
        compiled = pregate.simulate(model, hw, trace, policy, engine="recurrence")
        assert des.to_dict() == compiled.to_dict()


def test_what_does_not_fit_is_a_row_with_what_it_needs(trace: pregate.RoutingTrace) -> None:
    model = pregate.load_model("switch-base-8")
    hw = pregate.load_hardware("h100-sxm", overrides={"hbm_bytes": "2GB"})
    table = pregate.compare(model, hw, trace, policies=["gpu_only", "pregate"])
    assert [unfit.policy for unfit in table.unfit] == ["gpu_only"]
    assert table.unfit[0].needed_bytes > 2e9
    assert table.best is table["pregate"]
    frame = table.to_dataframe()
    assert frame["fits"].tolist() == [False, True]
    assert "would not fit" in table.verdict()
    roomy = pregate.load_hardware("h100-sxm", overrides={"hbm_bytes": table.unfit[0].needed_bytes})
    assert not pregate.compare(model, roomy, trace, policies=["gpu_only"]).unfit


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pregate.load_model("mixtral-8x7"), "did you mean 'mixtral-8x7b'"),
        (lambda: pregate.load_hardware("a100"), "a100-sxm4-80gb"),
        (lambda: pregate.load_hardware("h100-sxm", overrides={"link.h2d_bytes_per_s": -1.0}), "above 0"),
        (lambda: pregate.load_hardware("h100-sxm", overrides={"stack.sync": "1us"}), "sync_s"),
        (lambda: pregate.load_hardware("h100-sxm", overrides={"stack.gemm_efficiency": 1.5}), "above 1"),
        (lambda: pregate.load_hardware("h100-sxm", stack="stream"), "did you mean 'streams'"),
        (lambda: pregate.synthesize(pregate.load_model("switch-base-8"), 4, 4, n_active=9), "n_active = 9"),
        (lambda: pregate.synthesize(pregate.load_model("switch-base-8"), 0, 4), "input_tokens = 0"),
        (lambda: pregate.load_trace("no/such/file"), "no/such/file"),
        (lambda: pregate.synthesize(pregate.load_model("switch-base-8"), 4, 4, seed=-1), "seed = -1"),
        (lambda: pregate.reproduce("isca23"), "isca24"),
    ],
)
def test_mistakes_are_answered_in_one_line(call: object, message: str) -> None:
    with pytest.raises(pregate.PregateError, match=message) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_a_trace_of_another_model_is_refused(trace: pregate.RoutingTrace) -> None:
    with pytest.raises(pregate.InvalidInput, match="n_experts = 8, model switch-base-16 has 16"):
        pregate.simulate(pregate.load_model("switch-base-16"), pregate.load_hardware("h100-sxm"), trace)


def test_residency_is_rows_a_frame_and_csv(trace: pregate.RoutingTrace) -> None:
    found = pregate.residency(trace, ["lru", "belady"], [20, 40], expert_bytes=1 << 20)
    assert len(found) == len(found.to_dict()) == len(found.to_dataframe()) == 4
    assert found.to_csv().splitlines()[0] == "budget_mib,policy,hit_pct_cum,hit_pct_decode,read_mib"
    assert found.to_dataframe()["hit_pct_cum"].between(0, 100).all()
    with pytest.raises(pregate.InvalidInput, match="expert_bytes"):
        pregate.residency(trace, ["lru"], [20])
    for budget in (0, -1, float("nan"), float("inf")):
        with pytest.raises(pregate.InvalidInput, match="budget = "):
            pregate.residency(trace, ["lru"], [budget], expert_bytes=1)
    with pytest.raises(pregate.InvalidInput, match="no policies"):
        pregate.residency(trace, [], [20], expert_bytes=1)
    with pytest.raises(pregate.InvalidInput, match="expert_bytes = 0"):
        pregate.residency(trace, ["lru"], [20], expert_bytes=0)


def test_experts_have_to_fit_host_memory_or_wait_on_storage() -> None:
    model = pregate.load_model("switch-large-128")
    hw = pregate.load_hardware("a100-sxm4-80gb", overrides={"host.dram_bytes": "32GB"})
    trace = pregate.synthesize(model, 4, 3)
    table = pregate.compare(model, hw, trace, ["pregate"])
    assert [(unfit.memory, unfit.needed_bytes) for unfit in table.unfit] == [("DRAM", 24 * 128 * model.expert_bytes)]
    with pytest.raises(pregate.CapacityExceeded, match="--tier ssd"):
        pregate.simulate(model, hw, trace)
    from_storage = pregate.simulate(model, hw, trace, expert_tier="ssd")
    from_memory = pregate.simulate(model, pregate.load_hardware("a100-sxm4-80gb"), trace)
    assert from_storage.tpot_s > from_memory.tpot_s


def test_policies_are_compared_once_each(trace: pregate.RoutingTrace) -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("h100-sxm")
    with pytest.raises(pregate.InvalidInput, match="given twice"):
        pregate.compare(model, hw, trace, ["pregate", "pregate"])
    with pytest.raises(pregate.InvalidInput, match="no policies"):
        pregate.compare(model, hw, trace, [])


@pytest.mark.parametrize("package", [pregate, draw], ids=["pregate", "draw"])
def test_no_module_hides_a_function_of_the_same_name(package: ModuleType) -> None:
    """`import pregate.x` would replace the attribute `pregate.x`."""
    assert package.__file__ is not None
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert len(modules) > 10
    assert not modules & set(package.__all__)
