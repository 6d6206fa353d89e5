"""What the host and the edges between lanes take, on back ends whose slowness is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hwmodels.calibrate.measurements import Sample
from tests.cuda_standin import StandIn
from tests.unit.runtime.microbench.clockwork import Clockwork, tiny

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.backend import Times  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.backends.pacing import Link  # noqa: E402
from runtime.microbench.host import _is_full, host_samples  # noqa: E402
from runtime.microbench.lanes import Timed  # noqa: E402

SLOW_S = 5e-4


def slow() -> CpuBackend:
    """Every op takes half a millisecond."""
    return CpuBackend(h2d=Link(4e9), disturb=lambda op: time.sleep(SLOW_S))


def named(samples: list[Sample], what: str) -> dict[tuple[object, ...], Sample]:
    return {tuple(s.parameters.values()): s for s in samples if s.what == what}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return host_samples(slow, tiny, n=20)


def test_issuing_is_timed_on_the_lanes_that_constants_are_of(samples: list[Sample]) -> None:
    issued = named(samples, "issue")
    assert set(issued) == {(lane, 0, "busy") for lane in ("compute", "h2d")}
    assert all(s.n == 15 and s.median_s > 0 for s in issued.values())


def test_kernels_start_no_sooner_than_the_one_before_has_ended() -> None:
    launched = named(host_samples(slow, tiny, n=20, hold=lambda: time.sleep(1.0)), "launch")
    assert set(launched) <= {("compute", "full")}
    assert all(s.p25_s >= SLOW_S for s in launched.values())


@pytest.mark.parametrize(
    ("held_s", "issue_s", "full"),
    [(2e-3, [1e-4] * 19, True), (2e-3, [1e-4] * 21, False), (2e-3, [2e-3, 1e-4], False)],
)
def test_a_queue_is_full_when_the_first_op_outlasts_the_issue_of_all(
    held_s: float, issue_s: list[float], full: bool
) -> None:
    """The last case is a host that sleeps in the issue of what was to hold its lane up."""
    times = Times(np.zeros(len(issue_s)), np.full(len(issue_s), held_s), {})
    assert _is_full(Timed(times, np.array(issue_s))) == full


def test_a_lane_that_was_not_held_up_is_not_said_to_have_a_full_queue() -> None:
    """In virtual time nothing holds a lane up."""
    found = host_samples(lambda: Clockwork(1e9, 1e9), tiny, n=20)
    assert not named(found, "launch")


def test_less_time_means_fewer_ops() -> None:
    found = host_samples(CpuBackend, tiny, budget_s=0.0, hold=lambda: time.sleep(5e-3))
    assert {s.n for s in named(found, "issue").values()} == {15}


def test_streams_are_timed_by_the_same_code() -> None:
    found = host_samples(lambda: CudaBackend(device="cpu", api=StandIn()), tiny, n=20, hold=lambda: None)
    assert {s.what for s in found} <= {"issue", "launch"}
