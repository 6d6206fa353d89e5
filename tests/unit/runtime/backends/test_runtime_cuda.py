"""The CUDA back end against a stand-in for streams, events and graphs that runs all at once and checks every wait."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind, Work
from offload.policies import policy_named
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.slots.memory import CapacityExceeded
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime import loading  # noqa: E402
from runtime.backends.backend import Copy, LaneFailure  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.programs.precedence import follows_of, order_of  # noqa: E402
from runtime.programs.program import resident_slots  # noqa: E402
from runtime.run import OutputMismatch, check_same_output, execute  # noqa: E402
from tests.close_outputs import STATES_TOLERANCE, check_close_output  # noqa: E402
from tests.cuda_standin import Graph, Rounded, StandIn  # noqa: E402

MODEL = MODELS["decoder-only"]


def schedule_of(policy: str, disk: bool = False) -> tuple[list[Any], Schedule]:
    steps = list(routing(MODEL, batch=2, seed=1).steps())
    decoded = decode(MODEL, steps, policy_named(policy), EXECUTIONS["streams"], n_buffers=MODEL.n_experts, disk=disk)
    return steps, decoded.schedule


@pytest.fixture(params=["the same arithmetic", "another library's"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    """What two back ends share is the model, not the last bit: they may sum in another order."""
    with Rounded() if request.param.startswith("another") else nullcontext():
        yield


@pytest.mark.parametrize("policy", ["on_demand", "prefetch_all", "pregate"])
@pytest.mark.parametrize("disk", [False, True])
def test_streams_wait_on_edges_between_lanes_only_and_compute_what_threads_do(
    policy: str, disk: bool, tmp_path: Path, arithmetic: None
) -> None:
    steps, schedule = schedule_of(policy, disk)
    api = StandIn()
    run = execute(CudaBackend(device="cpu", api=api), MODEL, steps, schedule, storage=tmp_path)
    reference = execute(CpuBackend(), MODEL, steps, schedule, storage=tmp_path)
    check_close_output(reference, run)
    lanes, on_streams = schedule.lane.tolist(), (Lane.COMPUTE, Lane.H2D, Lane.D2H)
    edges = [
        dep for op, waits in enumerate(order_of(schedule).waits) for dep in waits
        if lanes[op] in on_streams and lanes[dep] in on_streams
    ]  # fmt: skip
    assert api.n_waits == len(edges) < len(schedule.dep)
    assert run.timeline.source == "cuda"
    assert dict(run.moved_bytes) == dict(reference.moved_bytes)


def test_policies_of_one_back_end_agree_to_the_last_bit_and_with_another_back_end_closely(arithmetic: None) -> None:
    runs = {
        policy: execute(CudaBackend(device="cpu", api=StandIn()), MODEL, *schedule_of(policy))
        for policy in ("on_demand", "prefetch_all", "pregate")
    }
    check_same_output(runs)
    threads = execute(CpuBackend(), MODEL, *schedule_of("on_demand"))
    check_close_output(threads, runs["on_demand"])


def test_another_order_of_sums_is_close_and_not_the_same() -> None:
    """Else the tests beside another library's arithmetic could not fail."""
    steps, schedule = schedule_of("on_demand")
    plain = execute(CudaBackend(device="cpu", api=StandIn()), MODEL, steps, schedule)
    with Rounded():
        rounded = execute(CudaBackend(device="cpu", api=StandIn()), MODEL, steps, schedule)
    assert 0 < check_close_output(plain, rounded) < STATES_TOLERANCE
    with pytest.raises(OutputMismatch):
        check_same_output({"plain": plain, "rounded": rounded})


def test_the_process_has_its_attention_back_after_a_run() -> None:
    chosen, seen = torch.backends.cuda.cudnn_sdp_enabled, []

    class Looking(StandIn):
        def synchronize(self) -> None:
            seen.append(chosen())

    before = chosen()
    for enabled in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(enabled)
        try:
            execute(CudaBackend(device="cpu", api=Looking()), MODEL, *schedule_of("on_demand"))
            assert chosen() is enabled
        finally:
            torch.backends.cuda.enable_cudnn_sdp(before)
    assert False in seen


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", ["gpu_only", "on_demand", "pregate(2)"])
def test_sections_captured_as_graphs_compute_what_kernels_one_by_one_do(name: str, policy: str) -> None:
    model = MODELS[name]
    steps, chosen = list(routing(model, batch=2, seed=3).steps()), policy_named(policy)
    n_buffers = 0 if chosen.resident else 3 * model.n_experts
    schedule = decode(model, steps, chosen, EXECUTIONS["streams"], n_buffers=n_buffers).schedule
    initial, api = (resident_slots(model) if chosen.resident else {}), StandIn()
    graphs = CudaBackend(graphs=True, device="cpu", api=api)
    runs = {
        "kernels": execute(CudaBackend(device="cpu", api=StandIn()), model, steps, schedule, initial=initial),
        "graphs": execute(graphs, model, steps, schedule, initial=initial),
    }
    check_same_output(runs)
    n_sections = int((schedule.lane == Lane.COMPUTE).sum())
    assert len(api.graphs) == n_sections
    assert {graph.n_replays for graph in api.graphs} == {2}, "once to be uploaded, once in the run"
    assert not graphs._actions, "a closed back end holds no graph"
    assert not graphs._captured


@pytest.mark.parametrize("disk", [False, True])
def test_graphs_take_nothing_from_copies_and_storage(disk: bool, tmp_path: Path, arithmetic: None) -> None:
    steps, schedule = schedule_of("pregate", disk)
    run = execute(CudaBackend(graphs=True, device="cpu", api=StandIn()), MODEL, steps, schedule, storage=tmp_path)
    reference = execute(CpuBackend(), MODEL, steps, schedule, storage=tmp_path)
    check_close_output(reference, run)
    assert dict(run.moved_bytes) == dict(reference.moved_bytes)


def test_a_graph_reads_its_slot_when_it_is_replayed_not_when_it_was_captured() -> None:
    """A broken schedule is as visible as without graphs: what the FFN finds in its slot depends on the copies."""
    steps, schedule = schedule_of("on_demand")
    good = execute(CudaBackend(graphs=True, device="cpu", api=StandIn()), MODEL, steps, schedule)

    class Swapped(CudaBackend):
        """Copies zeros in place of the first expert."""

        def _copy(self, parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
            first = sum(len(source) for _, source in parts) == MODEL.expert_bytes and not hasattr(self, "swapped")
            if first:
                self.swapped = True
                parts = [(target, torch.zeros_like(source)) for target, source in parts]
            super()._copy(parts)

    bad = execute(Swapped(graphs=True, device="cpu", api=StandIn()), MODEL, steps, schedule)
    with pytest.raises(OutputMismatch):
        check_same_output({"good": good, "bad": bad})


def test_a_section_that_cannot_be_captured_ends_in_one_line_with_the_cause() -> None:
    """It has run once before it is captured, as libraries want it; what ends a capture says nothing of its own."""
    api, ran = StandIn(), []

    def fail() -> None:
        ran.append(Graph.capturing)
        if Graph.capturing is not None:
            api.broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with")

    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
    backend = CudaBackend(graphs=True, device="cpu", api=api)
    with pytest.raises(LaneFailure, match=r"cannot be captured: CUDA error: .* is capturing: try without graphs$"):
        backend.load(order_of(recorder.schedule()), [fail])
    assert ran == [None, api.graphs[0]]
    assert gc.isenabled()
    backend.close()


def test_no_memory_for_graphs_is_no_fault_of_a_driver() -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
    backend = CudaBackend(graphs=True, device="cpu", api=StandIn())
    with pytest.raises(CapacityExceeded, match=r"no memory left for them .*: try a smaller --hbm, or without graphs"):
        backend.load(order_of(recorder.schedule()), [fail])
    backend.close()


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
        CudaBackend(device="cpu", api=StandIn()).load(order_of(recorder.schedule()), [None])


@pytest.mark.parametrize("lane", [Lane.COMPUTE, Lane.DISK])
def test_a_fault_of_the_driver_ends_in_one_line_naming_the_op(lane: Lane) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    recorder = Recorder()
    first = recorder.issue(lane, Work(OpKind.EXPERTS), step=0)
    copy = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (first,), step=0)
    recorder.issue(Lane.HOST, Work(OpKind.WAIT), (copy,), step=0)
    backend = CudaBackend(device="cpu", api=StandIn())
    there = torch.zeros(4, dtype=torch.uint8)
    backend.load(order_of(recorder.schedule()), [fail, Copy(there, there), None])

    def replay() -> None:
        backend.issue(0)
        backend.issue(1)
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


def test_an_op_begins_with_an_event_only_where_its_lane_may_have_been_idle() -> None:
    """What comes right after another op of the compute lane begins when that ends."""
    recorder = Recorder()
    first = recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
    copy = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (first,), step=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (copy,), step=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.HEAD), step=0)
    recorder.issue(Lane.HOST, Work(OpKind.WAIT), (copy,), step=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    order = order_of(recorder.schedule())
    assert follows_of(order) == [False, True, False, False, True, False, False]
    there = torch.zeros(4, dtype=torch.uint8)
    nothing = lambda: None  # noqa: E731
    actions = [nothing, nothing, Copy(there, there), nothing, nothing, None, nothing]
    backend = CudaBackend(device="cpu", api=StandIn())
    backend.load(order, actions)
    for op, action in enumerate(actions):
        backend.wait(op) if action is None else backend.issue(op)
    backend.synchronise()
    times = backend.times()
    backend.close()
    assert times.start_s[1] == times.end_s[0]
    assert times.start_s[4] == times.end_s[3]
    assert times.start_s[3] > times.end_s[2]
    assert times.start_s[6] > times.end_s[4]


def test_an_op_runs_on_the_stream_of_its_lane_and_the_caller_has_its_own_back() -> None:
    steps, schedule = schedule_of("pregate")
    seen = set()

    class Looking(CudaBackend):
        """Notes the stream that is current when an op ends."""

        def _launch(self, op: int) -> None:
            super()._launch(op)
            seen.add((self._lanes[op], self._api.current[-1] is self._streams[self._lanes[op]]))

    api = StandIn()
    execute(Looking(device="cpu", api=api), MODEL, steps, schedule)
    assert seen == {(lane, True) for lane in (Lane.COMPUTE, Lane.H2D, Lane.D2H)}
    assert not api.current


def test_masks_made_before_the_clock_starts_are_those_that_a_pass_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MODELS:
        model = MODELS[name]
        steps = list(routing(model, batch=2, seed=1).steps())
        decoded = decode(model, steps, policy_named("pregate"), EXECUTIONS["streams"], n_buffers=model.n_experts)
        runs = {}
        for room in (0, 1 << 20):
            monkeypatch.setattr(loading, "_MASKS_BYTES", room)
            runs[str(room)] = execute(CudaBackend(device="cpu", api=StandIn()), model, steps, decoded.schedule)
        check_same_output(runs)
