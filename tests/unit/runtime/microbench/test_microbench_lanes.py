"""Hand-made ops on a back end: times in, nothing left behind, and what could never run is refused before it hangs."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offload.ops import Lane
from tests.cuda_standin import StandIn
from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.backend import Action, Backend, Copy, LaneFailure, Times  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.backends.pacing import Link  # noqa: E402
from runtime.memory import aligned  # noqa: E402
from runtime.microbench import records  # noqa: E402
from runtime.microbench.lanes import copies_under_way, timed  # noqa: E402
from runtime.microbench.records import EACH, SEVERAL, record_samples  # noqa: E402

N_BYTES = 64 << 10
LINK = Link(20e6, latency_s=1e-4)


def nothing() -> None:
    pass


def a_copy() -> Copy:
    return Copy(aligned(N_BYTES), aligned(N_BYTES))


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pregate-")]


def test_ops_wait_for_the_ops_named_and_the_host_for_its_own() -> None:
    actions = [a_copy(), nothing, None, nothing]
    run = timed(CpuBackend(h2d=LINK), [Lane.H2D, Lane.COMPUTE, Lane.HOST, Lane.COMPUTE], actions, [(), (0,), (1,), ()])
    start_s, end_s = run.times.start_s, run.times.end_s
    assert end_s[0] - start_s[0] >= LINK.latency_s + N_BYTES / 20e6
    assert start_s[1] >= end_s[0]
    assert end_s[2] >= end_s[1]
    assert start_s[3] >= end_s[2], "issued before the host had waited"
    assert run.times.moved_bytes[Lane.H2D] == N_BYTES
    assert run.issue_s.shape == (4,)
    assert np.all(run.issue_s > 0)


def test_ops_of_one_lane_follow_each_other_and_are_over_when_the_host_has_synchronised() -> None:
    run = timed(CpuBackend(h2d=LINK), [Lane.H2D] * 2, [a_copy(), a_copy()])
    assert np.diff(run.times.end_s)[0] >= N_BYTES / 20e6 - 5e-5
    assert run.times.start_s[1] >= run.times.end_s[0]


@pytest.mark.parametrize(
    ("lanes", "actions", "waits", "message"),
    [
        ([Lane.COMPUTE], [nothing, nothing], None, r"^1 lanes, 2 actions, waits of 1 ops: give each op one"),
        ([Lane.COMPUTE], [nothing], [(), ()], r"^1 lanes, 1 actions, waits of 2 ops"),
        ([Lane.COMPUTE, Lane.D2H], [nothing, nothing], [(1,), ()], r"^op 0 waits for \[1\]: it can wait for ops be"),
        ([Lane.COMPUTE], [nothing], [(-1,)], r"^op 0 waits for \[-1\]"),
    ],
)  # fmt: skip
def test_what_could_never_run_is_refused_and_the_back_end_closed(
    lanes: list[Lane], actions: list[Action | None], waits: Any, message: str
) -> None:
    backend = CpuBackend()
    with pytest.raises(InvalidInput, match=message):
        timed(backend, lanes, actions, waits)
    with pytest.raises(InvalidInput, match="a back end serves one run"):
        timed(backend, [Lane.COMPUTE], [nothing])


def test_a_failure_leaves_no_thread_and_no_setting_behind() -> None:
    def fail() -> None:
        raise RuntimeError("no such kernel")

    assert gc.isenabled()
    with pytest.raises(LaneFailure, match=r"^op 1 on lane COMPUTE failed: no such kernel: nothing of this run"):
        timed(CpuBackend(), [Lane.H2D, Lane.COMPUTE, Lane.HOST], [a_copy(), fail, None], [(), (), (1,)])
    assert gc.isenabled()
    assert not lane_threads()


def test_no_garbage_is_collected_while_ops_are_timed() -> None:
    seen: list[bool] = []
    timed(CpuBackend(), [Lane.COMPUTE], [lambda: seen.append(gc.isenabled())])
    assert seen == [False]
    assert gc.isenabled()


def test_streams_are_driven_by_the_same_code() -> None:
    backend = CudaBackend(device="cpu", api=StandIn())
    run = timed(backend, [Lane.H2D, Lane.COMPUTE, Lane.HOST], [a_copy(), nothing, None], [(), (0,), (1,)])
    assert np.all(run.times.end_s >= run.times.start_s)
    assert run.times.start_s[1] >= run.times.end_s[0]
    assert run.times.moved_bytes[Lane.H2D] == N_BYTES


def test_a_copy_is_under_way_until_it_ends_and_copies_back_are_none() -> None:
    lanes = [Lane.COMPUTE, Lane.H2D, Lane.COMPUTE, Lane.COMPUTE, Lane.H2D, Lane.D2H, Lane.COMPUTE, Lane.COMPUTE]
    start_s = np.array([0.0, 1.0, 1.0, 2.0, 6.0, 8.0, 8.0, 6.0])
    end_s = np.array([1.0, 3.0, 2.0, 3.0, 7.0, 9.0, 8.5, 6.5])
    found = copies_under_way(lanes, Times(start_s, end_s, {}))
    assert np.flatnonzero(found).tolist() == [2, 7]
    assert not copies_under_way([Lane.COMPUTE], Times(np.zeros(1), np.ones(1), {})).any()


def told_times(monkeypatch: pytest.MonkeyPatch, copies_end_s: float) -> None:
    """Each run ends as it may, its times are these: copies are under way until `copies_end_s`, a kernel takes 1 s."""

    def told(backend: Backend, lanes: list[Lane], *rest: Any) -> Any:
        run = timed(backend, lanes, *rest)
        copying = np.array([lane is Lane.H2D for lane in lanes])
        kernels = np.cumsum(~copying).astype(float)
        start_s = np.where(copying, 0.0, kernels - 1.0)
        return replace(run, times=Times(start_s, np.where(copying, copies_end_s, kernels), {}))

    monkeypatch.setattr(records, "timed", told)


def test_kernels_are_timed_from_record_to_record_alone_and_beside_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    told_times(monkeypatch, copies_end_s=100.0)
    found = record_samples(CpuBackend, "fp32", sizes=(4096, 1 << 14), copy_bytes=64, n=8)
    assert [tuple(one.parameters.values()) for one in found] == [
        (n_bytes, kernels, beside)
        for n_bytes in (4096, 1 << 14)
        for kernels in (EACH, SEVERAL)
        for beside in ("nothing", "h2d")
    ]
    assert all((one.n, one.median_s) == (7, 1 / one.parameters["kernels"]) for one in found)


@pytest.mark.parametrize(("copies_end_s", "beside"), [(0.5, 0), (5.5, 4), (4.5, 0)])
def test_kernels_that_outlast_the_copies_are_not_beside_them(
    monkeypatch: pytest.MonkeyPatch, copies_end_s: float, beside: int
) -> None:
    told_times(monkeypatch, copies_end_s)
    found = record_samples(CpuBackend, "fp32", sizes=(4096,), copy_bytes=64, n=8)
    assert [one.n for one in found if one.parameters["beside"] == "h2d"] == [beside] * 2 * (beside > 0)


def test_kernels_are_timed_as_they_run() -> None:
    found = record_samples(CpuBackend, "fp32", sizes=(4096,), copy_bytes=64, n=8)
    alone = [one for one in found if one.parameters["beside"] == "nothing"]
    assert [one.n for one in alone] == [7, 7]
    assert all(one.median_s > 0 for one in alone)


def test_a_device_is_held_up_before_copies_and_kernels() -> None:
    held: list[int] = []
    record_samples(
        lambda: CudaBackend(device="cpu", api=StandIn()), "fp32", sizes=(4096,), copy_bytes=64, n=4,
        hold=lambda: held.append(1),
    )  # fmt: skip
    assert len(held) == 4
