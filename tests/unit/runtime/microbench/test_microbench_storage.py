"""Reads from storage: real ones, bounded, and nothing left in the folder whatever happens."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from traces.errors import InvalidFile, InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.microbench import storage  # noqa: E402
from runtime.microbench.storage import read_samples  # noqa: E402

KIB = 1 << 10
NO_END_S = 1e9
"""Time for all reads, however long each takes."""

Usage = namedtuple("Usage", "total used free")


def test_every_size_is_read_in_every_order_and_nothing_stays(tmp_path: Path) -> None:
    orders = ("random", "sequential")
    samples = read_samples(tmp_path, sizes=(64 * KIB, 256 * KIB), orders=orders, file_bytes=1 << 20, budget_s=NO_END_S)
    found = [(s.what, s.parameters["n_bytes"], s.parameters["order"]) for s in samples]
    assert found == [("disk_read", n_bytes, order) for order in orders for n_bytes in (64 * KIB, 256 * KIB)]
    assert [s.n for s in samples] == [16, 4, 16, 4], "every place once"
    assert all(isinstance(s.parameters["direct"], bool) and s.median_s > 0 for s in samples)
    assert not list(tmp_path.iterdir())


def test_places_are_drawn_at_random_the_same_every_time() -> None:
    places = storage._places("random", 64 * KIB, 1 << 20)
    assert places == storage._places("random", 64 * KIB, 1 << 20) != storage._places("sequential", 64 * KIB, 1 << 20)
    assert sorted(places) == list(range(0, 1 << 20, 64 * KIB))


def test_without_time_a_size_is_read_once(tmp_path: Path) -> None:
    samples = read_samples(tmp_path, sizes=(4 * KIB, 64 * KIB), file_bytes=1 << 20, budget_s=0.0)
    assert [s.n for s in samples] == [1, 1]


@pytest.mark.parametrize(
    ("sizes", "orders", "message"),
    [
        ((1000,), ("random",), r"^1000 B cannot be read: name whole pages of 4096 B, at most 1048576 B$"),
        ((2 << 20,), ("random",), r"^2097152 B cannot be read"),
        ((0,), ("random",), r"^0 B cannot be read"),
        ((4096,), ("backward",), r"^orders = backward: reads are in random or in sequential order$"),
    ],
)
def test_what_cannot_be_read_is_refused(
    sizes: tuple[int, ...], orders: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_samples(tmp_path, sizes=sizes, orders=orders, file_bytes=1 << 20)


def test_a_folder_without_room_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 5, 5))
    with pytest.raises(
        InvalidFile, match=r"^.*: 1.1 GB are needed to measure storage, the disk has 0.0 GB free: name.*$"
    ):
        read_samples(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidFile, match=r"^.*nowhere: storage cannot be measured there \(No such file or directory\)$"
    ):
        read_samples(tmp_path / "nowhere", sizes=(4096,), file_bytes=4096)


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    n_open = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidFile, match=r"storage cannot be measured there \(No space left on device\)$"):
        read_samples(tmp_path, sizes=(4096,), file_bytes=1 << 20)
    assert not list(tmp_path.iterdir())
    assert not n_open or len(os.listdir("/proc/self/fd")) <= n_open


def test_a_file_system_without_direct_reads_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def buffered_only(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", buffered_only)
    samples = read_samples(tmp_path, sizes=(64 * KIB,), file_bytes=1 << 20)
    assert [s.parameters["direct"] for s in samples] == [False]
