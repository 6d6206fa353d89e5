"""`pregate.sweep`: every point says what a simulation of it says, and the dataset says where that comes from."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from hwmodels.platform import Platform
from offload.policies import cache_named, policy_named
from offload.policy import BlockView, Fetch
from offload.schedule import COLUMNS
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import capture
from pregate.ask.simulation import simulate
from pregate.named import load_hardware
from pregate.routing_traces import synthesize
from pregate.sweeps.axes import LatinHypercube
from pregate.sweeps.checkpoint import Checkpoint
from pregate.sweeps.machines import MachineRecipe
from pregate.sweeps.summary import best_policy, summarise
from pregate.sweeps.sweep import SweepFailed, sweep
from pregate.sweeps.workloads import TraceRecipe
from simulator.modes import Modes
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, UnknownName
from traces.transforms.rebatching import rebatch

MODEL = MODELS["decoder-only"]
HW = load_hardware("a100-sxm4-80gb")
TRACE = routing(MODEL)
ALL = ["gpu_only", "on_demand", "prefetch_all", "pregate", "lru"]


def swept(policies: Any = ("on_demand", "pregate"), hw: Any = HW, trace: Any = TRACE, **more: Any) -> Any:
    return sweep(MODEL, hw, trace, policies=list(policies), cache_dir=False, **({"axes": {}} | more))


def assert_as_simulated(
    point: Any, hw: Platform, policy: Any, trace: Any = TRACE, model: Any = MODEL, **more: Any
) -> None:
    """Every variable at a point is the field of the simulation of the same machine."""
    if not point["fits"].item():
        with pytest.raises(CapacityExceeded) as caught:
            simulate(model, hw, trace, policy, **more)
        assert (point["needed_bytes"].item(), point["memory"].item()) == (
            caught.value.needed_bytes,
            caught.value.memory,
        )
        assert math.isnan(point["tokens_per_s"].item())
        return
    result = simulate(model, hw, trace, policy, engine="recurrence", **more).to_dict()
    compared = 0
    for name, variable in point.data_vars.items():
        if name in ("fits", "needed_bytes", "memory"):
            continue
        found = variable.values.tolist()
        assert found == (result[name] if isinstance(found, str) else pytest.approx(result[name], rel=1e-12)), name
        compared += 1
    assert compared > 15


def test_every_point_of_a_grid_is_its_simulation() -> None:
    axes = {
        "link.h2d_bytes_per_s": [4e9, 64e9],
        "hbm_bytes": ["700MB", "1.2GB", "1.5GB"],
        "stack.sync_s": ["1us", "9us"],
    }
    hw = load_hardware("a100-sxm4-80gb", "streams")
    dataset = swept(ALL, hw, axes=axes)
    assert dataset["tokens_per_s"].dims == ("policy", *axes)
    for index in np.ndindex(2, 3, 2):
        values = {name: dataset[name].values[i] for name, i in zip(axes, index, strict=True)}
        machine = load_hardware("a100-sxm4-80gb", "streams", values)
        for policy in ALL:
            assert_as_simulated(dataset.sel(policy=policy, **values), machine, policy)


def test_every_draw_of_a_sample_is_its_simulation() -> None:
    dataset = swept(
        ALL,
        axes={"link.h2d_bytes_per_s": (4e9, 64e9, "log"), "hbm_bytes": ("800MB", "4GB"), "batch": (1, 3)},
        trace=TraceRecipe(4, 5, seed=2),
        sample=LatinHypercube(12, seed=5),
    )
    assert dict(dataset.sizes) == {"policy": 5, "sample": 12}
    for i in range(12):
        point = dataset.isel(sample=i)
        batch = int(point["batch"])
        values = {name: float(point[name]) for name in ("link.h2d_bytes_per_s", "hbm_bytes")}
        trace = synthesize(MODEL, 4, 5, batch, 2)
        for policy in ALL:
            machine = load_hardware("a100-sxm4-80gb", overrides=values)
            assert_as_simulated(point.sel(policy=policy), machine, policy, trace)


CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("hardware", "rtx-4090", {"hw": load_hardware("rtx-4090", "fastertransformer")}),
    ("accelerator", "h100-sxm", {"hw": load_hardware("a100-sxm4-80gb", overrides={"accelerator": "h100-sxm"})}),
    ("link", "pcie5-x16", {"hw": load_hardware("a100-sxm4-80gb", overrides={"link": "pcie5-x16"})}),
    ("host", "desktop-ddr4", {"hw": load_hardware("a100-sxm4-80gb", overrides={"host": "desktop-ddr4"})}),
    ("storage", "sata", {"hw": load_hardware("a100-sxm4-80gb", overrides={"storage": "sata"})}),
    ("stack", "pytorch-eager", {"hw": load_hardware("a100-sxm4-80gb", "pytorch-eager")}),
    ("expert_tier", "ssd", {"expert_tier": "ssd"}),
    ("batch", 3, {"trace": synthesize(MODEL, 4, 5, 3)}),
    ("input_tokens", 7, {"trace": synthesize(MODEL, 7, 5)}),
    ("output_tokens", 3, {"trace": synthesize(MODEL, 4, 3)}),
    ("n_active", 2, {"trace": synthesize(MODEL, 4, 5, n_active=2)}),
    ("top_k", 1, {"model": MODEL.with_top_k(1), "trace": synthesize(MODEL.with_top_k(1), 4, 5)}),
    ("dtype", "bf16", {"model": MODEL.with_dtype("bf16")}),
    ("expert_dtype", "fp8", {"model": MODEL.with_expert_dtype("fp8")}),
    ("lookahead", 2, {"policy": "pregate(2)"}),
    ("cache_ratio", 0.5, {"cache": cache_named("lru:0.5")}),
    ("accelerator.n_sm", 54, {"hw": load_hardware("a100-sxm4-80gb", overrides={"accelerator.n_sm": 54})}),
    ("stack.reserve_bytes", 5e9, {"hw": load_hardware("a100-sxm4-80gb", overrides={"stack.reserve_bytes": 5e9})}),
    ("host.dram_bytes", 1e4, {"hw": load_hardware("a100-sxm4-80gb", overrides={"host.dram_bytes": 1e4})}),
]


@pytest.mark.parametrize(("name", "value", "wanted"), CASES, ids=[case[0] for case in CASES])
def test_every_axis_does_what_its_option_does(name: str, value: Any, wanted: dict[str, Any]) -> None:
    recipe = TraceRecipe(4, 5)
    dataset = swept(["pregate"], trace=recipe, axes={name: [value]})
    arguments = {"hw": HW, "policy": "pregate", "trace": synthesize(MODEL, 4, 5), "model": MODEL} | wanted
    assert_as_simulated(dataset.isel({"policy": 0, name: 0}), **arguments)
    assert dataset["policy"].values.tolist() == ["pregate"]
    assert dataset[name].values.tolist() == [value]


def test_a_recording_is_rebatched_along_batch() -> None:
    recorded = routing(MODEL, batch=4)
    dataset = swept(["pregate"], trace=recorded, axes={"batch": [1, 4]})
    for batch in (1, 4):
        assert_as_simulated(dataset.sel(policy="pregate", batch=batch), HW, "pregate", rebatch(recorded, batch))


def test_names_and_files_are_as_good_as_objects(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    model = pregate.load_model("switch-base-8")
    trace = synthesize(model, 4, 3)
    pregate.save_trace(trace, path)
    more: Any = {"policies": ["pregate"], "axes": {"stack.sync_s": [1e-6]}, "cache_dir": False}
    named = sweep("switch-base-8", "a100-sxm4-80gb", path, **more)
    assert named.identical(sweep(model, HW, trace, **more))
    by_axis = sweep(model, None, trace, **more | {"axes": {"hardware": ["a100-sxm4-80gb", "t4"]}})
    assert by_axis.attrs["hardware"] == "a100-sxm4-80gb, t4"
    recipe = MachineRecipe("a100-sxm4-80gb", "streams", {"hbm_bytes": "40GB"})
    assert sweep(model, recipe, trace, **more).attrs["stack"] == "streams"


def test_a_dataset_says_where_it_comes_from() -> None:
    dataset = swept(
        ["on_demand", "pregate"], trace=TraceRecipe(4, 5, seed=7), axes={"link.h2d_bytes_per_s": [4e9, 8e9]}
    )
    trace = synthesize(MODEL, 4, 5, seed=7)
    digests = {name: [simulate(MODEL, HW, trace, name).schedule_digest] for name in ("on_demand", "pregate")}
    attrs = dataset.attrs
    assert json.loads(attrs["schedule_digests"]) == digests
    assert json.loads(attrs["trace_digests"]) == [trace.digest]
    assert json.loads(attrs["seeds"]) == {"trace": 7, "sample": None, "draws": None}
    assert (attrs["model"], attrs["hardware"], attrs["stack"]) == (
        "small-decoder",
        "a100-sxm4-80gb",
        "fastertransformer",
    )
    assert (attrs["calibration"], attrs["pregate_version"]) == ("extrapolated", pregate.__version__)
    assert attrs["engine"].startswith("recurrence")
    assert dataset["link.h2d_bytes_per_s"].attrs["units"] == "B/s"
    units = {
        name: dataset[name].attrs.get("units") for name in ("ttft_s", "peak_hbm_bytes", "tokens_per_s", "hit_rate")
    }
    assert units == {"ttft_s": "s", "peak_hbm_bytes": "B", "tokens_per_s": "1/s", "hit_rate": "1"}
    assert all(isinstance(value, str) for value in attrs.values())


def test_a_machine_left_as_it_was_measured_is_fitted() -> None:
    model = pregate.load_model("switch-base-8")
    dataset = sweep(model, HW, TraceRecipe(4, 3), policies=["pregate"], axes={"batch": [1, 2]}, cache_dir=False)
    assert set(dataset["calibration"].values.ravel()) == {"fitted"}


def test_intervals_have_two_ends() -> None:
    model = pregate.load_model("switch-base-8")
    dataset = sweep(
        model, HW, TraceRecipe(4, 3), policies=["pregate"], axes={"batch": [1, 2]}, cache_dir=False, draws=20, seed=1
    )
    assert dataset["bound"].values.tolist() == ["low", "high"]
    interval, value = dataset["tokens_per_s_ci95"], dataset["tokens_per_s"]
    assert (interval.sel(bound="low") < value).all()
    assert (value < interval.sel(bound="high")).all()
    assert json.loads(dataset.attrs["seeds"])["draws"] == 1


def test_modes_move_the_sweep_to_the_event_engine_and_say_so() -> None:
    with pytest.warns(UserWarning, match="event: .*shared"):
        dataset = swept(axes={"link.h2d_bytes_per_s": [4e9, 8e9]}, modes=Modes(link="shared"))
    assert dataset.attrs["engine"].startswith("event: ")
    fifo = swept(axes={"link.h2d_bytes_per_s": [4e9, 8e9]})
    assert set(dataset.data_vars) == set(fifo.data_vars)
    assert not np.array_equal(dataset["makespan_s"], fifo["makespan_s"])


def test_points_that_cannot_be_are_empty_with_the_reason() -> None:
    with pytest.warns(UserWarning, match=r"2 points have no figures: n_active = 4, but a step of batch 1"):
        dataset = swept(trace=TraceRecipe(4, 5), axes={"batch": [1, 2], "n_active": [2, 4]})
    assert dataset["fits"].sel(policy="pregate").values.tolist() == [[True, False], [True, True]]
    assert np.isnan(dataset["needed_bytes"].values).all()
    dataset = swept(axes={"dtype": ["bf16", "fp8"]})  # stored at 8 bits, computed in what the card has a rate for
    assert dataset["fits"].values.all()


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"axes": {"n_active": [4]}, "trace": TraceRecipe(4, 5)}, InvalidInput, "n_active = 4, but a step of batch 1"),
        ({"axes": {"hardware": ["a100"]}}, UnknownName, "a100-sxm4-80gb"),
        ({"axes": {"link": ["pcie9"]}}, UnknownName, "did you mean 'pcie6-x8'"),
        ({"axes": {"output_tokens": [4]}}, InvalidInput, "needs a synthetic trace"),
        ({"hw": None}, InvalidInput, "no hardware"),
        ({"hw": "a100"}, UnknownName, "a100-sxm4-80gb"),
        ({"expert_tier": "tape"}, InvalidInput, "dram or ssd"),
        ({"jobs": 0}, InvalidInput, "jobs = 0: 1 to "),
        ({"jobs": 100_000}, InvalidInput, "jobs = 100000: 1 to "),
        ({"policies": []}, InvalidInput, "at least one"),
        ({"axes": {"link.h2d_bytes_per_s": 1e9 + np.arange(1, 10**6), "stack.sync_s": [1, 2]}, "policies": ALL * 11},
         InvalidInput, "given twice|evaluations"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line(more: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        swept(**more)
    assert "\n" not in str(caught.value)


def test_nothing_fitting_anywhere_is_a_result() -> None:
    dataset = swept(axes={"hbm_bytes": [1e6, 2e6]})
    assert not dataset["fits"].values.any()
    assert (dataset["needed_bytes"].values > 2e6).all()
    assert (dataset["memory"].values == "HBM").all()


def test_what_is_best_is_counted_where_it_fits() -> None:
    dataset = swept(ALL, axes={"hbm_bytes": [1e6, 2e9, 80e9]})
    best = best_policy(dataset)
    assert best[0] == -1
    assert best[2] == int(np.argmax(dataset["tokens_per_s"].values[:, 2]))
    rows = summarise(dataset)
    assert [row["policy"] for row in rows] == ALL
    assert sum(row["best_share"] for row in rows) == pytest.approx(2 / 3)
    assert rows[0]["fits_share"] == pytest.approx(2 / 3)
    assert rows[3]["tokens_per_s_max"] == np.nanmax(dataset["tokens_per_s"].sel(policy="pregate"))


# ---- checkpoints


def test_a_rerun_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more: Any = {"policies": ALL, "axes": {"link.h2d_bytes_per_s": [4e9, 8e9]}, "checkpoint": tmp_path / "kept"}
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(**more, progress=stop)
    n_kept = len(list((tmp_path / "kept").iterdir()))
    assert 3 <= n_kept <= 5
    assert not list((tmp_path / "kept").glob(".*"))
    seen.clear()
    dataset = swept(**more, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (2 * n_kept, 10)
    assert seen[-1] == (10, 10)
    assert dataset.identical(swept(**more | {"checkpoint": None}))
    monkeypatch.setattr("pregate.sweeps.tasks.evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    assert dataset.identical(swept(**more))
    (tmp_path / "kept" / f".{dataset.attrs['sweep_digest']}-0.safetensors.1.partial").touch()  # of a killed run
    Checkpoint(tmp_path / "kept", dataset.attrs["sweep_digest"]).clear()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_keeps_holes_texts_and_intervals(tmp_path: Path) -> None:
    model = pregate.load_model("switch-base-8")
    more: Any = {
        "policies": ["gpu_only", "pregate"], "axes": {"n_active": [1, 9]}, "draws": 5, "cache_dir": False,
        "checkpoint": tmp_path,
    }  # fmt: skip
    with pytest.warns(UserWarning, match="n_active = 9"):
        first = sweep(model, HW, TraceRecipe(4, 3), **more)
    with pytest.warns(UserWarning, match="n_active = 9"):
        again = sweep(model, HW, TraceRecipe(4, 3), **more)
    assert first.identical(again)


def test_what_is_broken_in_a_checkpoint_is_done_again(tmp_path: Path) -> None:
    more: Any = {"axes": {"link.h2d_bytes_per_s": [4e9, 8e9]}, "checkpoint": tmp_path}
    first = swept(**more)
    for i, path in enumerate(sorted(tmp_path.iterdir())):
        path.write_bytes(path.read_bytes()[: 100 * i])
    assert first.identical(swept(**more))


def test_another_sweeps_checkpoint_is_refused(tmp_path: Path) -> None:
    first = swept(axes={"link.h2d_bytes_per_s": [4e9]}, checkpoint=tmp_path)
    for other in (
        {"axes": {"link.h2d_bytes_per_s": [5e9]}},
        {"axes": {"link.h2d_bytes_per_s": [4e9]}, "trace": routing(MODEL, seed=1)},
        {"axes": {"link.h2d_bytes_per_s": [4e9]}, "policies": ["pregate"]},
        {"axes": {"link.h2d_bytes_per_s": [4e9]}, "hw": load_hardware("h100-sxm")},
        {"axes": {"link.h2d_bytes_per_s": [4e9]}, "seed": 1},
    ):
        with pytest.raises(InvalidInput, match=f"holds what is done of another sweep .{first.attrs['sweep_digest']}"):
            swept(**{"checkpoint": tmp_path, **other})  # type: ignore[arg-type]


def my_prefetch(view: BlockView) -> list[Fetch]:
    return []


def test_code_of_ones_own_is_swept_but_not_kept(tmp_path: Path) -> None:
    mine = dataclasses.replace(policy_named("pregate"), name="mine", prefetch=my_prefetch)
    dataset = swept([mine, "on_demand"], axes={"link.h2d_bytes_per_s": [4e9]})
    assert dataset["h2d_bytes"].sel(policy="mine").item() > 0
    with pytest.raises(InvalidInput, match="policy mine is made of functions of your own"):
        swept([mine], checkpoint=tmp_path)
    unsendable = dataclasses.replace(mine, prefetch=lambda view: [])
    assert swept([unsendable])["fits"].all()
    with pytest.raises(InvalidInput, match="cannot be sent to another process"):
        swept([unsendable], jobs=1)


def test_a_failing_task_loses_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pregate.sweeps import tasks

    whole = swept(ALL)
    evaluate = tasks.evaluate

    def fail_for_lru(captured: Any, *rest: Any, **more: Any) -> Any:
        if captured.policy.name == "lru":
            raise MemoryError("no room")
        return evaluate(captured, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(tasks, "evaluate", fail_for_lru)
        with pytest.raises(
            SweepFailed, match=r"1 of 5 tasks failed, first with MemoryError: no room; .*sweep again"
        ) as caught:
            swept(ALL, checkpoint=tmp_path)
    others = [name for name in ALL if name != "lru"]
    assert caught.value.dataset["fits"].values.tolist() == [name in others for name in ALL]
    found, wanted = (dataset.sel(policy=others) for dataset in (caught.value.dataset, whole))
    assert np.array_equal(found["tokens_per_s"], wanted["tokens_per_s"])
    assert len(list(tmp_path.iterdir())) == 4
    assert swept(ALL, checkpoint=tmp_path).identical(whole)


def test_a_process_writes_a_schedule_once_and_keeps_a_bounded_number() -> None:
    from pregate.sweeps.tasks import _Memo

    captured = [(capture(MODEL, HW, routing(MODEL, seed=seed), "pregate"), None) for seed in range(4)]
    sizes = [sum(getattr(one.decoded.schedule, name).nbytes for name in COLUMNS) for one, _ in captured]
    memo, made = _Memo(sizes[0] + sizes[2] + sizes[3]), []

    def get(i: int) -> Any:
        return memo.get(str(i), lambda: made.append(i) or captured[i])  # type: ignore[func-returns-value]

    with ThreadPoolExecutor(8) as threads:
        assert all(found is captured[0] for found in threads.map(get, [0] * 50))
    assert made == [0]
    for i in (1, 0, 2, 3, 0, 1):
        assert get(i) is captured[i]
    assert made == [0, 1, 2, 3, 1]  # 1, unused longest, had gone when 3 came


def test_a_quiet_sweep_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swept(ALL, axes={"hbm_bytes": [1e6, 80e9]})


def test_schedules_are_kept_where_one_says(tmp_path: Path) -> None:
    sweep(MODEL, HW, routing(MODEL, seed=99), policies=["pregate"], axes={}, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
