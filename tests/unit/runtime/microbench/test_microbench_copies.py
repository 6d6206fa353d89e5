"""Copies that are timed take what their link takes, from memory that no cache has kept, within the time given."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.calibrate.measurements import Sample
from offload.ops import Lane
from offload.slots.memory import CapacityExceeded
from tests.cuda_standin import StandIn
from tests.unit.runtime.microbench.clockwork import Clockwork
from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.backend import Backend  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.backends.pacing import Link, now_ns  # noqa: E402
from runtime.microbench.copies import SIZES, Ring, copy_samples, planned_copies  # noqa: E402

KIB = 1 << 10
LINK = Link(200e6, latency_s=2e-4)
LATE_S = 51e-6
"""A copy in a queue may begin so much after its link could have, and catches up."""


def paced() -> CpuBackend:
    return CpuBackend(h2d=LINK, d2h=LINK)


def streams() -> CudaBackend:
    return CudaBackend(device="cpu", api=StandIn())


def few(make: Callable[[], Backend], **changed: object) -> list[Sample]:
    settings: dict[str, object] = {"sizes": (64 * KIB, 256 * KIB), "n": 6, "pool_bytes": 1 << 20}
    return copy_samples(make, **(settings | {"slowest_bytes_per_s": LINK.bytes_per_s} | changed))  # type: ignore[arg-type]


def test_a_paced_copy_takes_latency_and_bytes_over_the_rate_whatever_its_lane() -> None:
    samples = few(paced)
    assert {(s.what, s.parameters["n_bytes"]) for s in samples if s.parameters["beside"] == "nothing"} == {
        (what, n_bytes) for what in ("h2d", "d2h") for n_bytes in (64 * KIB, 256 * KIB)
    }
    for sample in samples:
        least_s = LINK.latency_s + sample.parameters["n_bytes"] / 200e6
        assert sample.p25_s >= least_s - LATE_S, sample.row
        assert sample.n <= 4, "the first copies of a size do not count"


def test_a_lane_that_is_preempted_after_a_copy_does_not_shorten_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Link and op have one reading of the end: whatever passes before the next reading is not taken from a copy."""

    def late() -> int:
        at_ns = now_ns()
        time.sleep(4e-4)
        return at_ns

    monkeypatch.setattr("runtime.backends.cpu.now_ns", late)
    for sample in few(paced, sizes=(256 * KIB, 1 << 20), n=5):
        assert sample.p25_s >= LINK.latency_s + sample.parameters["n_bytes"] / 200e6 - LATE_S, sample.row


def test_both_ways_at_once_is_said_beside_one_way_alone() -> None:
    samples = few(paced, sizes=(64 * KIB, 1 << 20), n=5)
    both = [s for s in samples if s.parameters["beside"] == "other way"]
    assert {s.what for s in both} == {"h2d", "d2h"}
    assert {s.parameters["n_bytes"] for s in both} == {1 << 20}, "small copies are over too soon"
    assert not [s for s in few(paced, both_ways=False) if s.parameters["beside"] != "nothing"]


def test_copies_while_the_other_way_has_nothing_left_do_not_count_as_beside_it() -> None:
    """One way is 2.2 times as fast: ten of its twelve copies count, and of the other's the third to the fifth."""
    samples = few(lambda: Clockwork(1e9, 1e9 / 2.2), sizes=(1 << 20, 2 << 20), n=12)
    large = [s for s in samples if s.parameters["beside"] == "other way" and s.parameters["n_bytes"] == 2 << 20]
    assert {s.what: (s.n, s.median_s) for s in large} == {
        "h2d": (10, pytest.approx((2 << 20) / 1e9)),
        "d2h": (3, pytest.approx(2.2 * (2 << 20) / 1e9)),
    }


def test_a_size_alone_is_timed_as_the_machine_takes_it() -> None:
    for sample in few(lambda: Clockwork(1e9, 0.5e9), sizes=(1000, 10_000, 2_000_000), n=10, both_ways=False):
        rate = 1e9 if sample.what == "h2d" else 0.5e9
        assert sample.median_s == pytest.approx(sample.parameters["n_bytes"] / rate), sample.row
        assert sample.spread == pytest.approx(0, abs=1e-6)
        assert sample.n == 8


def test_host_memory_that_is_all_alike_is_timed_once() -> None:
    assert {s.parameters["memory"] for s in few(paced)} == {"pinned"}
    samples = few(streams, memory=("pinned", "pageable", "mapped"), both_ways=False)
    assert {(s.what, s.parameters["memory"]) for s in samples} == {
        *((what, memory) for what in ("h2d", "d2h") for memory in ("pinned", "pageable")),
        ("h2d", "mapped"),
    }


def test_mapped_memory_is_pages_of_a_file_that_is_gone_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ring = Ring(CpuBackend(), Lane.H2D, 3 * (1 << 20) + 5, "mapped")
    assert not list(tmp_path.iterdir())
    at = ring._host.data_ptr()
    rows = [row.split() for row in Path("/proc/self/maps").read_text().splitlines()]
    mine = [row for row in rows if int(row[0].split("-")[0], 16) <= at < int(row[0].split("-")[1], 16)]
    assert [str(tmp_path) in " ".join(row) for row in mine] == [True]
    assert ring._host[:513].tolist() == [i % 256 for i in range(513)]
    assert len(ring._host) == 3 * (1 << 20) + 5


def test_no_room_for_a_file_to_map_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(CapacityExceeded, match=r"0\.0 GB of a file to map: No space left on device: set TMPDIR"):
        Ring(CpuBackend(), Lane.H2D, 1 << 20, "mapped")


def test_what_a_link_is_paced_to_stands_in_its_samples() -> None:
    assert all(s.parameters["link_bytes_per_s"] == 200e6 for s in few(paced, link_bytes_per_s=200e6))
    assert not any("link_bytes_per_s" in s.parameters for s in few(paced))


@given(
    sizes=st.lists(st.integers(1, 1 << 30), min_size=1, max_size=12),
    n=st.integers(1, 200),
    budget_s=st.floats(1e-3, 100),
    bytes_per_s=st.floats(1e6, 1e12),
)
def test_planned_copies_fit_the_time_and_give_up_the_largest_first(
    sizes: list[int], n: int, budget_s: float, bytes_per_s: float
) -> None:
    try:
        plan = planned_copies(sizes, n, budget_s, bytes_per_s)
    except InvalidInput:
        assert 5 * min(sizes) / bytes_per_s + 5 * 40e-6 > budget_s
        return
    assert sum(number * n_bytes / bytes_per_s for n_bytes, number in plan) <= budget_s * (1 + 1e-9)
    assert [n_bytes for n_bytes, _ in plan] == sorted(set(sizes))[: len(plan)]
    assert all(5 <= number <= max(5, n) for _, number in plan)


def test_a_fast_link_gets_every_size_and_a_slow_one_those_it_has_time_for() -> None:
    assert [n_bytes for n_bytes, _ in planned_copies(SIZES, 60, 2.0, 25e9)] == list(SIZES)
    assert 0 < len(planned_copies(SIZES, 60, 2.0, 100e6)) < len(SIZES)
    message = r"^5 copies of 4096 B at 1e-06 GB/s do not fit 1 s: give more time, or smaller sizes$"
    with pytest.raises(InvalidInput, match=message):
        planned_copies(SIZES, 60, 1.0, 1e3)


@pytest.mark.parametrize("lane", [Lane.H2D, Lane.D2H])
@pytest.mark.parametrize("memory", ["pinned", "pageable", "mapped"])
def test_no_byte_is_copied_again_before_the_pool_has_been(lane: Lane, memory: str) -> None:
    ring = Ring(CpuBackend(), lane, 1 << 20, memory)
    copies = [ring.copy(n_bytes) for n_bytes in (4 * KIB, 64 * KIB, 64 * KIB, 256 * KIB, 512 * KIB)]
    for end in ("source", "target"):
        spans = sorted((getattr(copy, end).data_ptr(), copy.n_bytes) for copy in copies)
        assert all(a + n <= b for (a, n), (b, _) in pairwise(spans)), end
    again = ring.copy(512 * KIB)
    assert again.source.data_ptr() == copies[0].source.data_ptr()
    assert again.n_bytes == 512 * KIB
    assert ring.copy(2 << 20).n_bytes == 1 << 20, "there is no more"


def test_bytes_go_the_way_that_their_lane_says() -> None:
    backend = CpuBackend()
    up, down = Ring(backend, Lane.H2D, 4 * KIB), Ring(backend, Lane.D2H, 4 * KIB)
    for ring, name in ((up, "target"), (down, "source")):
        device = getattr(ring.copy(4 * KIB), name)
        assert device.data_ptr() == ring._device.data_ptr(), name
    assert backend.budget.taken == {"H2D copies to time": 4 * KIB, "D2H copies to time": 4 * KIB}


def test_a_device_too_small_for_the_pool_is_said_and_closed() -> None:
    made: list[CpuBackend] = []

    def small() -> CpuBackend:
        made.append(CpuBackend(hbm_bytes=1000))
        return made[0]

    with pytest.raises(CapacityExceeded, match=r"^H2D copies to time: 0.001 GB do not fit"):
        few(small)
    with pytest.raises(InvalidInput, match="a back end serves one run"):
        made[0].open(0, [])


def test_streams_are_timed_by_the_same_code() -> None:
    samples = few(streams)
    assert {s.what for s in samples} == {"h2d", "d2h"}


def test_the_same_settings_ask_for_the_same_samples() -> None:
    rows = partial(few, partial(CpuBackend))
    assert [s.row for s in rows()] == [s.row for s in rows()]
