"""Memory of another socket: told by what the kernel shows, first touched by a thread that runs there, timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from hwmodels.calibrate.host_memory import memory_figures  # noqa: E402
from offload.ops import Lane  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.machine import numa  # noqa: E402
from runtime.machine.numa import cpus_of_node, nodes, on_node, other_node  # noqa: E402
from runtime.microbench import parts  # noqa: E402
from runtime.microbench.copies import Ring, copy_samples  # noqa: E402
from runtime.microbench.session import Settings  # noqa: E402
from tests.measured_copies import copies, with_copies  # noqa: E402

ALLOWED = sorted(os.sched_getaffinity(0))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine whose kernel shows a node for each list of processors."""

    def make(*cpulists: str) -> None:
        for node, cpulist in enumerate(cpulists):
            (tmp_path / f"node{node}").mkdir()
            (tmp_path / f"node{node}" / "cpulist").write_text(f"{cpulist}\n", encoding="ascii")
        (tmp_path / "nodes_of_no_number").mkdir()

    monkeypatch.setattr(numa, "_NODES", tmp_path)
    return make


def test_the_other_node_has_processors_and_is_not_the_devices(machine: Callable[..., None]) -> None:
    first, last = str(ALLOWED[0]), f"{ALLOWED[-1]}-{ALLOWED[-1] + 4000}"
    machine(first, "", last)
    assert nodes() == [0, 1, 2]
    assert [other_node(0), other_node(1), other_node(2)] == [2, 0, 0]  # node 1 has memory only
    assert other_node(None) is other_node(-1) is None
    assert cpus_of_node(2) == {ALLOWED[-1]}
    assert cpus_of_node(7) == frozenset()


def test_one_node_or_none_is_no_other(machine: Callable[..., None]) -> None:
    assert nodes() == []
    machine(f"0-{ALLOWED[-1]}")
    assert other_node(0) is None


def test_a_list_that_nobody_can_read_is_no_processor(machine: Callable[..., None]) -> None:
    machine("all of them")
    assert cpus_of_node(0) == frozenset()


def test_the_thread_comes_back_from_a_node_whatever_happens(machine: Callable[..., None]) -> None:
    machine("", str(ALLOWED[-1]))
    seen: list[set[int]] = []

    def fail() -> None:
        with on_node(1):
            seen.append(os.sched_getaffinity(0))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [{ALLOWED[-1]}]
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


class _Watched(CpuBackend):
    """Notes where the thread runs when host memory is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_on: list[set[int]] = []

    def allocate_host(self, n_bytes: int, what: str) -> Tensor:
        self.taken_on.append(os.sched_getaffinity(0))
        return super().allocate_host(n_bytes, what)


def test_remote_memory_is_taken_by_a_thread_of_that_node(machine: Callable[..., None]) -> None:
    machine("", str(ALLOWED[-1]))
    backend = _Watched()
    Ring(backend, Lane.H2D, 1 << 16, "remote", 1)
    Ring(backend, Lane.H2D, 1 << 16, "pinned", 1)
    assert backend.taken_on == [{ALLOWED[-1]}, set(ALLOWED)]


def test_copies_from_it_are_timed_beside_the_others_and_become_figures_of_the_link(
    machine: Callable[..., None],
) -> None:
    machine("", str(ALLOWED[-1]))
    samples = copy_samples(
        CpuBackend, sizes=(1 << 12, 1 << 14, 1 << 16), n=8, memory=("pinned", "remote"), remote_node=1,
        both_ways=False, pool_bytes=1 << 18,
    )  # fmt: skip
    assert {(s.what, s.parameters["memory"]) for s in samples} == {
        (what, memory) for what in ("h2d", "d2h") for memory in ("pinned", "remote")
    }
    assert {"remote_h2d_bytes_per_s", "remote_d2h_bytes_per_s"} <= set(memory_figures(with_copies(*samples)))
    exact = memory_figures(with_copies(*copies("remote", 1e-5, 3.78e9)))
    assert exact["remote_h2d_bytes_per_s"] == pytest.approx(3.78e9, rel=1e-6)
    assert exact["remote_copy_latency_s"] == pytest.approx(1e-5, rel=1e-6)


def test_a_session_times_it_where_there_is_one_only() -> None:
    cuda = Settings("cuda", ("fp32",), quick=True)
    assert parts._kinds_of_memory(cuda, None) == ("pinned", "pageable", "mapped")
    assert parts._kinds_of_memory(cuda, 1) == ("pinned", "pageable", "mapped", "remote")
