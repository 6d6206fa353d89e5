"""The CUDA back end against a stand-in for streams and events that runs everything at once and checks every wait."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.memory import CapacityExceeded
from offload.ops import Lane, OpKind, Work
from offload.policies import policy_named
from offload.recorder import Recorder
from offload.schedule import Schedule
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backend import Copy, LaneFailure  # noqa: E402
from runtime.cpu import CpuBackend  # noqa: E402
from runtime.cuda import CudaBackend  # noqa: E402
from runtime.order import order_of  # noqa: E402
from runtime.run import check_close_output, check_same_output, execute  # noqa: E402
from runtime.weights import Experts  # noqa: E402

MODEL = MODELS["decoder-only"]


class Event:
    """`n_recorded`: once before the clock starts, so that the first recording in the run allocates nothing."""

    clock = itertools.count()

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.n_recorded, self.at = 0, -1

    def record(self, stream: Any) -> None:
        self.n_recorded, self.at = self.n_recorded + 1, next(self.clock)

    def synchronize(self) -> None:
        assert self.n_recorded

    def elapsed_time(self, other: Event) -> float:
        return float(other.at - self.at)


class Stream:
    def __init__(self, api: StandIn) -> None:
        self.api = api

    def wait_event(self, event: Event) -> None:
        assert event.n_recorded == 2, "waits for an event that nobody has recorded: on a device, it would not wait"
        self.api.n_waits += 1


class StandIn:
    """The part of `torch.cuda` that the back end uses."""

    def __init__(self, free_bytes: int = 1 << 30, available: bool = True, pin_error: int = 0) -> None:
        self.free_bytes, self.available, self.n_waits = free_bytes, available, 0
        self.pinned: list[int] = []
        self.current: list[Stream] = []
        self.runtime = SimpleNamespace(
            cudaHostRegister=lambda address, n, flags: pin_error or self.pinned.append(address) or 0,
            cudaHostUnregister=self.pinned.remove,
        )
        self.Event = Event

    def Stream(self) -> Stream:  # noqa: N802 (torch's name)
        return Stream(self)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.current.append(stream)
        yield
        self.current.pop()

    def is_available(self) -> bool:
        return self.available

    def mem_get_info(self) -> tuple[int, int]:
        return self.free_bytes, self.free_bytes

    def cudart(self) -> SimpleNamespace:
        return self.runtime

    def synchronize(self) -> None:
        pass

    def empty_cache(self) -> None:
        pass


def schedule_of(policy: str, disk: bool = False) -> tuple[list[Any], Schedule]:
    steps = list(routing(MODEL, batch=2, seed=1).steps())
    decoded = decode(MODEL, steps, policy_named(policy), EXECUTIONS["streams"], n_buffers=MODEL.n_experts, disk=disk)
    return steps, decoded.schedule


@pytest.mark.parametrize("policy", ["on_demand", "prefetch_all", "pregate"])
@pytest.mark.parametrize("disk", [False, True])
def test_streams_wait_on_edges_between_lanes_only_and_compute_what_threads_do(
    policy: str, disk: bool, tmp_path: Path
) -> None:
    steps, schedule = schedule_of(policy, disk)
    api = StandIn()
    run = execute(CudaBackend(device="cpu", api=api), MODEL, steps, schedule, storage=tmp_path)
    reference = execute(CpuBackend(), MODEL, steps, schedule, storage=tmp_path)
    assert check_close_output(reference, run) == 0
    check_same_output({"threads": reference, "streams": run})
    lanes, on_streams = schedule.lane.tolist(), (Lane.COMPUTE, Lane.H2D, Lane.D2H)
    edges = [
        dep for op, waits in enumerate(order_of(schedule).waits) for dep in waits
        if lanes[op] in on_streams and lanes[dep] in on_streams
    ]  # fmt: skip
    assert api.n_waits == len(edges) < len(schedule.dep)
    assert run.timeline.source == "cuda"
    assert dict(run.moved_bytes) == dict(reference.moved_bytes)


def test_pinned_memory_is_unpinned_when_it_goes() -> None:
    api, schedule = StandIn(), schedule_of("on_demand")
    execute(CudaBackend(device="cpu", api=api), MODEL, *schedule)
    assert not api.pinned
    backend = CudaBackend(device="cpu", api=api)
    kept = Experts(MODEL, allocate=backend.allocate_host)
    execute(backend, MODEL, *schedule, experts=kept)
    assert len(api.pinned) == 1
    del kept, backend
    assert not api.pinned


def test_copies_in_chunks_move_the_same_bytes() -> None:
    steps, schedule = schedule_of("pregate")
    runs = {
        str(chunk): execute(CudaBackend(chunk_bytes=chunk, device="cpu", api=StandIn()), MODEL, steps, schedule)
        for chunk in (None, 1000)
    }
    check_same_output(runs)
    with pytest.raises(InvalidInput, match="chunk_bytes = 0 is below 1"):
        CudaBackend(chunk_bytes=0, device="cpu", api=StandIn())


def test_what_the_device_lacks_is_said_in_one_line() -> None:
    with pytest.raises(InvalidInput, match=r"^no CUDA device, or a PyTorch without CUDA: try the cpu back end$"):
        CudaBackend(api=StandIn(available=False))
    for backend in (
        CudaBackend(device="cpu", api=StandIn(free_bytes=10_000)),
        CudaBackend(hbm_bytes=10_000, device="cpu", api=StandIn()),
    ):
        with pytest.raises(CapacityExceeded, match=r"of 0.000 GB of HBM are taken: try a larger --hbm"):
            execute(backend, MODEL, *schedule_of("on_demand"))
    with pytest.raises(CapacityExceeded, match=r"cannot be pinned \(2\): raise the limit of locked memory"):
        execute(CudaBackend(device="cpu", api=StandIn(pin_error=2)), MODEL, *schedule_of("on_demand"))


def test_experts_computed_on_the_host_are_refused() -> None:
    recorder = Recorder()
    recorder.issue(Lane.CPU, Work(OpKind.CPU_EXPERT), step=0)
    with pytest.raises(InvalidInput, match="the cuda back end does not"):
        CudaBackend(device="cpu", api=StandIn()).load(order_of(recorder.schedule()))


@pytest.mark.parametrize("lane", [Lane.COMPUTE, Lane.DISK])
def test_a_fault_of_the_driver_ends_in_one_line_naming_the_op(lane: Lane) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    recorder = Recorder()
    first = recorder.issue(lane, Work(OpKind.EXPERTS), step=0)
    copy = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (first,), step=0)
    recorder.issue(Lane.HOST, Work(OpKind.WAIT), (copy,), step=0)
    backend = CudaBackend(device="cpu", api=StandIn())
    backend.load(order_of(recorder.schedule()))
    there = torch.zeros(4, dtype=torch.uint8)

    def replay() -> None:
        backend.issue(0, fail)
        backend.issue(1, Copy(there, there))
        backend.wait(2)

    with pytest.raises(LaneFailure, match=rf"^op 0 on lane {lane.name} failed: CUDA error: .* encountered: nothing"):
        replay()
    backend.close()


def test_host_times_follow_the_device_times_they_wait_for() -> None:
    steps, schedule = schedule_of("on_demand")
    timeline = execute(CudaBackend(device="cpu", api=StandIn()), MODEL, steps, schedule).timeline
    assert np.all(timeline.end_s >= timeline.start_s)
    for lane in (Lane.COMPUTE, Lane.H2D, Lane.D2H):
        mine = np.flatnonzero(schedule.lane == lane)
        assert np.all(timeline.start_s[mine][1:] >= timeline.end_s[mine][:-1])
