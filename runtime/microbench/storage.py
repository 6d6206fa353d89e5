"""Reads of whole experts from storage, past the page cache where the file system allows.

The file has no name while it is there, so that nothing of it is left whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwmodels.calibrate.measurements import Sample, sample_of
from runtime.memory import PAGE_BYTES, aligned
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.gc_pause import gc_paused

_FILE_BYTES = 512 << 20
_SIZES = (1 << 20, 4 << 20, 8 << 20, 16 << 20, 64 << 20)
_BLOCK_BYTES = 16 << 20
_LEAST = 3
"""Reads of a size, unless all the time is gone."""


def read_samples(
    folder: Path,
    *,
    sizes: Sequence[int] = _SIZES,
    orders: Sequence[str] = ("random",),
    file_bytes: int = _FILE_BYTES,
    budget_s: float = 4.0,
) -> list[Sample]:
    """Samples "disk_read": seconds to read n_bytes; order ("random", "sequential"), direct: whether past the cache.

    Sizes are whole pages, at most `file_bytes`, which are written first. `budget_s`: each size has an equal share of
    what the writing leaves, and is read once at least. Nothing stays in `folder`.

    Raises `InvalidInput` for other sizes or orders, `InvalidFile` when the folder has no room or cannot be used.
    """
    for n_bytes in sizes:
        if not 0 < n_bytes <= file_bytes or n_bytes % PAGE_BYTES:
            raise InvalidInput(
                f"{n_bytes} B cannot be read: name whole pages of {PAGE_BYTES} B, at most {file_bytes} B"
            )
    if not set(orders) <= {"random", "sequential"}:
        raise InvalidInput(f"orders = {', '.join(orders)}: reads are in random or in sequential order")
    until_s = time.monotonic() + budget_s
    try:
        free = shutil.disk_usage(folder).free
        if free < 2 * file_bytes:
            raise InvalidFile(
                f"{folder}: {2 * file_bytes / 1e9:.1f} GB are needed to measure storage, the disk has {free / 1e9:.1f} "
                f"GB free: name another folder"
            )
        with tempfile.TemporaryFile(dir=folder) as file:
            file_bytes = _write(file.fileno(), file_bytes, max(sizes, default=0), until_s - budget_s / 2)
            reader, direct = _reopened(file.fileno())
            try:
                samples = []
                turns = [(order, n_bytes) for order in orders for n_bytes in sizes]
                for i, (order, n_bytes) in enumerate(turns):
                    share_s = max(0.0, until_s - time.monotonic()) / (len(turns) - i)
                    taken = _read(reader, direct, _places(order, n_bytes, file_bytes), n_bytes, share_s)
                    samples.append(sample_of("disk_read", taken, n_bytes=n_bytes, direct=direct, order=order))
                return samples
            finally:
                os.close(reader)
    except OSError as error:
        raise InvalidFile(f"{folder}: storage cannot be measured there ({error.strerror or error})") from error


def _write(file: int, n_bytes: int, at_least: int, until_s: float) -> int:
    """Write `n_bytes` that do not compress, through to the disk; `at_least` so many once the time is up. How many."""
    block = aligned(min(_BLOCK_BYTES, n_bytes)).numpy()
    block[:] = np.frombuffer(np.random.default_rng(0).bytes(len(block)), dtype=np.uint8)
    done = 0
    while done < n_bytes and (done < at_least or time.monotonic() < until_s):
        done += os.write(file, block[: n_bytes - done].data)
        if done % len(block) == 0:
            os.fsync(file)
    os.fsync(file)
    return done


def _reopened(file: int) -> tuple[int, bool]:
    """The file opened again for reads that no cache serves, if that can be had: its handle, and whether."""
    unbuffered = getattr(os, "O_DIRECT", 0)  # Linux only, and not every file system has it
    with contextlib.suppress(OSError):
        reader = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | unbuffered)
        try:
            os.preadv(reader, [aligned(PAGE_BYTES).numpy().data], 0)
            return reader, unbuffered != 0
        except OSError:
            os.close(reader)
    return os.dup(file), False


def _places(order: str, n_bytes: int, file_bytes: int) -> list[int]:
    """Where to read, each place once."""
    places = list(range(0, file_bytes - n_bytes + 1, n_bytes))
    if order == "random":
        random.Random(n_bytes).shuffle(places)
    return places


def _read(reader: int, direct: bool, places: Sequence[int], n_bytes: int, share_s: float) -> list[float]:
    """Seconds of each read, until they are done or the time is up."""
    target = aligned(n_bytes).numpy().data
    durations: list[float] = []
    begin = time.perf_counter()
    with gc_paused():
        for place in places:
            if not direct and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(reader, place, n_bytes, os.POSIX_FADV_DONTNEED)
            start, done = time.perf_counter(), 0
            while done < n_bytes:
                n = os.preadv(reader, [target[done:]], place + done)
                if n <= 0:
                    raise OSError(0, "the file ends early")
                done += n
            end = time.perf_counter()
            durations.append(end - start)
            if end - begin > share_s and (len(durations) >= _LEAST or not share_s):
                break
    return durations
