"""Runs within a limit of memory: what is planned fits, what cannot is refused before memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import pregate
from offload.policies import policy_named
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import Captured
from pregate.running import devices
from pregate.running.devices import Device, capture_on, memory_of_device, resolve
from pregate.running.measured_run import execute_captured, run
from runtime.backends.pacing import Link
from tests.small_models import MODELS, routing
from tests.small_runs import CPU, MODEL
from traces.errors import InvalidFile, InvalidInput, PregateError, UnknownName
from traces.model.architecture import load_architecture

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
from runtime import memory  # noqa: E402
from runtime.pools import pool_bytes  # noqa: E402
from runtime.programs.passes import plan_passes  # noqa: E402

LIMITED = [("lru", 4, name) for name in MODELS]
LIMITED += [("pregate", 1, "encoder-decoder"), ("on_demand+lru:5", 1, "decoder-only")]


@pytest.mark.parametrize(("policy", "n_sizes", "name"), LIMITED)
def test_what_is_planned_within_a_limit_runs_within_it(name: str, policy: str, n_sizes: int) -> None:
    """Slots are whole pages and activations are carved: a plan to the byte would be a little too large."""
    model = MODELS[name]
    trace = routing(model, batch=2)
    enough = sum(pool_bytes(model, plan_passes(model, trace.steps()), 18).values())
    step = model.expert_bytes // 3 if model is MODEL else 3 * model.expert_bytes
    limits = range(enough, model.expert_bytes, -step)
    found = [(limit, captured_within(limit, model, trace, policy)) for limit in limits]
    granted = {n_slots(captured): (limit, captured) for limit, captured in found if captured is not None}
    assert len(granted) >= n_sizes
    slots = [n_slots(captured) for _, captured in found]
    assert slots == sorted(slots, reverse=True)
    assert slots[-1] == 0
    every = list(granted.values())  # the least limit of each number of slots
    for limit, captured in every if model is MODEL else every[:: max(len(every) - 1, 1)]:
        done = execute_captured(captured, Device("cpu", limit), prove=False)
        assert sum(done.pool_bytes.values()) <= limit


def captured_within(
    hbm_bytes: int, model: pregate.ModelArchitecture, trace: pregate.RoutingTrace, policy: str
) -> Captured | None:
    """What is planned for `hbm_bytes`; None where it is refused."""
    try:
        return capture_on(Device("cpu", hbm_bytes), model, trace, policy)
    except CapacityExceeded:
        return None


def n_slots(captured: Captured | None) -> int:
    """Expert slots of a plan; 0 of none."""
    return 0 if captured is None else captured.plan.n_buffers + captured.plan.n_cache_slots


def test_a_limit_that_takes_exactly_the_least_slots_is_not_refused() -> None:
    trace = routing(MODEL)
    policy, workload = policy_named("prefetch_all"), capture_on(CPU, MODEL, trace, "prefetch_all").request.workload
    n_least = policy.buffers(workload.n_active, MODEL.n_experts).minimum
    least = sum(pool_bytes(MODEL, plan_passes(MODEL, trace.steps()), n_least).values())
    captured = captured_within(least, MODEL, trace, "prefetch_all")
    assert captured is not None
    assert n_slots(captured) == n_least
    assert sum(execute_captured(captured, Device("cpu", least), prove=False).pool_bytes.values()) <= least
    assert captured_within(least - 1, MODEL, trace, "prefetch_all") is None


def test_experts_that_stay_are_refused_below_what_their_pages_take() -> None:
    trace = routing(MODEL)
    n_experts = MODEL.n_moe_layers * MODEL.n_experts
    whole = sum(pool_bytes(MODEL, plan_passes(MODEL, trace.steps()), n_experts).values())
    done = execute_captured(capture_on(Device("cpu", whole), MODEL, trace, "gpu_only"), Device("cpu", whole))
    assert sum(done.pool_bytes.values()) == whole
    with pytest.raises(CapacityExceeded, match=r"gpu_only needs .* GB of HBM, there are .* GB"):
        capture_on(Device("cpu", whole - 1), MODEL, trace, "gpu_only")


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 32 GB, 20 of them free, on which nothing may be taken."""

    def refuse(n_bytes: int) -> None:
        raise AssertionError(f"{n_bytes} bytes were taken")

    monkeypatch.setattr("runtime.machine.device._dram_bytes", lambda: 32_000_000_000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 20_000_000_000)
    monkeypatch.setattr(memory, "_aligned_array", refuse)


@pytest.mark.parametrize(
    ("name", "policy", "message"),
    [
        (
            "mixtral-8x7b",
            "pregate",
            "experts of mixtral-8x7b take 90.2 GB of host memory, this machine has 32.0 GB: try --tier ssd with --s",
        ),
        ("mixtral-8x7b", "gpu_only", "gpu_only needs 93.4 GB of HBM, there are 10.0 GB"),
        (
            "switch-base-128",
            "prefetch_all",
            "takes 14.8 GB of host memory for experts and 5.5 GB of HBM, which is host",
        ),
    ],
)
def test_a_model_that_is_too_large_is_refused_before_memory_is_taken(
    name: str, policy: str, message: str, untouched: None
) -> None:
    model = load_architecture(name)
    with pytest.raises(CapacityExceeded) as caught:
        run(model, pregate.synthesize(model, 4, 2), policy, device=Device("cpu"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_hbm_than_is_free_is_refused(untouched: None) -> None:
    assert memory_of_device(Device("cpu")).hbm_bytes == 10_000_000_000
    assert memory_of_device(Device("cpu", 19_000_000_000)).hbm_bytes == 19_000_000_000
    with pytest.raises(CapacityExceeded, match=r"21.0 GB of HBM are asked for, the cpu back end has 20.0 GB free"):
        memory_of_device(Device("cpu", 21_000_000_000))


def test_a_cuda_device_keeps_some_memory_for_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "backend_named", lambda _: "cuda")
    monkeypatch.setattr(
        "runtime.backends.cuda.CudaBackend", lambda *_: SimpleNamespace(budget=SimpleNamespace(hbm_bytes=8 << 30))
    )
    monkeypatch.setattr("runtime.machine.device.describe_device", lambda _: {"dram_bytes": 64 << 30})
    assert 7 << 30 < memory_of_device(Device("auto")).hbm_bytes < 8 << 30
    with pytest.raises(CapacityExceeded, match=r"the cuda back end has 8\.3 GB free here"):
        memory_of_device(Device("auto", 8 << 30))
    with pytest.raises(InvalidInput, match="a CUDA device has its own"):
        resolve(Device("auto", h2d=Link(1e9)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Device("gpu"), UnknownName, "unknown back end 'gpu'"),
        (lambda: Device("cpu", hbm_bytes=0), InvalidInput, "hbm_bytes = 0 is below 1"),
        (lambda: Device("cpu", chunk_bytes=-1), InvalidInput, "chunk_bytes = -1 is below 1"),
        (lambda: resolve(Device("cpu", chunk_bytes=1)), InvalidInput, "--chunk is of the CUDA back end"),
        (lambda: resolve(Device("cpu", storage=Path("no-such"))), InvalidFile, "no-such: there is no such folder"),
        (lambda: run(MODEL, routing(MODEL), device=CPU, expert_tier="ssd"), InvalidInput, "--storage DIR"),
        (lambda: run(MODEL, routing(MODEL), device=CPU, expert_tier="tape"), InvalidInput, "dram or ssd"),
        (lambda: run(MODEL, routing(MODEL), device=CPU, repeats=0), InvalidInput, "repeats = 0 is below 1"),
        (lambda: run(MODEL, routing(MODEL), device=CPU, seed=-1), InvalidInput, "seed = -1 is below 0"),
        (lambda: run(MODEL.with_dtype("fp8"), routing(MODEL), device=CPU), InvalidInput, "try --dtype bf16"),
        (lambda: run(MODEL, routing(MODELS["encoder-decoder"]), device=CPU), InvalidInput, "trace"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    make: Callable[[], object], error: type[PregateError], message: str
) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
