"""What the host and the edges between lanes take, on back ends whose slowness is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hwmodels.calibrate.measurements import Sample
from tests.unit.test_microbench_copies import Clockwork
from tests.unit.test_runtime_cuda import StandIn

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backend import Action, Backend, Times  # noqa: E402
from runtime.cpu import CpuBackend  # noqa: E402
from runtime.cuda import CudaBackend  # noqa: E402
from runtime.microbench.host import _queue, host_samples  # noqa: E402
from runtime.microbench.lanes import Timed  # noqa: E402
from runtime.pacing import Link  # noqa: E402

SLOW_S = 5e-4


def tiny(backend: Backend) -> Action:
    numbers = backend.allocate(64, "a few numbers")

    def kernel() -> None:
        numbers.add_(0)

    return kernel


def slow() -> CpuBackend:
    """Every op takes half a millisecond."""
    return CpuBackend(h2d=Link(4e9), disturb=lambda op: time.sleep(SLOW_S))


def named(samples: list[Sample], what: str) -> dict[tuple[object, ...], Sample]:
    return {tuple(s.parameters.values()): s for s in samples if s.what == what}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return host_samples(slow, tiny, n=20)


def test_issuing_is_timed_on_every_lane_with_and_without_something_to_wait_for(samples: list[Sample]) -> None:
    issued = named(samples, "issue")
    assert set(issued) == {
        (lane, n, found) for lane in ("compute", "h2d", "d2h") for n in (0, 1) for found in ("busy", "idle")
    }
    assert all(s.n == 15 and s.median_s > 0 for s in issued.values())


def test_kernels_start_no_sooner_than_the_one_before_has_ended(samples: list[Sample]) -> None:
    launched = named(samples, "launch")
    assert ("compute", "as issued") in launched
    assert all(s.p25_s >= SLOW_S for s in launched.values())


def test_a_hop_between_lanes_takes_the_op_at_its_end(samples: list[Sample]) -> None:
    hops = named(samples, "edge")
    assert {between for between, _ in hops} == {"compute and h2d", "compute and d2h"}
    assert all(s.p25_s >= SLOW_S for s in hops.values())


def test_the_host_waits_for_what_runs_and_for_what_has_ended(samples: list[Sample]) -> None:
    waited = named(samples, "wait")
    assert set(waited) == {("running",), ("ended",)}
    assert all(s.n == 19 for s in waited.values())
    assert [s.n for s in named(samples, "sync").values()] == [10]


@pytest.mark.parametrize(
    ("held_s", "issue_s", "queue"),
    [(2e-3, [1e-4] * 19, "full"), (2e-3, [1e-4] * 21, "as issued"), (2e-3, [2e-3, 1e-4], "as issued")],
)
def test_a_queue_is_full_when_the_first_op_outlasts_the_issue_of_all(
    held_s: float, issue_s: list[float], queue: str
) -> None:
    """The last case is a host that sleeps in the issue of what was to hold its lane up."""
    times = Times(np.zeros(len(issue_s)), np.full(len(issue_s), held_s), {})
    assert _queue(Timed(times, np.array(issue_s), 0.0), held=True) == queue
    assert _queue(Timed(times, np.array(issue_s), 0.0), held=False) == "as issued"


def test_a_lane_that_was_not_held_up_is_not_said_to_have_a_full_queue() -> None:
    """In virtual time nothing holds a lane up."""
    found = host_samples(lambda: Clockwork(1e9, 1e9), tiny, n=20)
    assert {s.parameters["queue"] for s in found if "queue" in s.parameters} == {"as issued"}
    assert len(named(found, "launch")) == 1


def test_less_time_means_fewer_ops() -> None:
    found = host_samples(CpuBackend, tiny, budget_s=0.0, hold=lambda: time.sleep(5e-3))
    assert {s.n for s in named(found, "issue").values()} == {15}


def test_streams_are_timed_by_the_same_code() -> None:
    found = host_samples(lambda: CudaBackend(device="cpu", api=StandIn()), tiny, n=20, hold=lambda: None)
    assert {s.what for s in found} == {"issue", "launch", "edge", "wait", "sync"}
