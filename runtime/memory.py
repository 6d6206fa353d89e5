"""Flat memory and what is carved from it: aligned, so that sums never depend on where a buffer happens to lie."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.slots.memory import CapacityExceeded
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.layer_models import models_by_layer

PAGE_BYTES = 4096
"""Alignment of every buffer that experts move between: a page, which unbuffered reads ask for."""

_LINE_BYTES = 64
"""Alignment of every tensor: a cache line, on which vectorised kernels choose their path."""

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def element_type(model: ModelArchitecture) -> torch.dtype:
    """The one format that all weights and activations of a run have.

    Raises `InvalidInput` unless the model is stored in fp32, bf16 or fp16 throughout.
    """
    formats = {stored.name for one in (model, *models_by_layer(model)) for stored in one.formats.values()}
    if len(formats) > 1 or not formats <= TYPES.keys():
        raise InvalidInput(
            f"{model.name} is stored in {', '.join(sorted(formats))}: the runtime computes in one of "
            f"{', '.join(TYPES)}, try --dtype bf16"
        )
    return TYPES[formats.pop()]


def round_up(n: int, step: int) -> int:
    """The least multiple of `step` that is not below `n`."""
    return -(-n // step) * step


def aligned(n_bytes: int) -> Tensor:
    """`n_bytes` of zeroed host memory, (n_bytes,) uint8, that begin on a page and have been touched."""
    return torch.from_numpy(_aligned_array(n_bytes))


def mapped(n_bytes: int) -> Tensor:
    """`n_bytes` of a file mapped into memory, (n_bytes,) uint8, every page of it read once: weights as `mmap` has them.

    The file is gone when the tensor is. Raises `CapacityExceeded` where temporary files have no room for it.
    """
    try:
        with tempfile.TemporaryFile(prefix="pregate-") as file:
            block = bytes(range(256)) * 4096
            for at in range(0, n_bytes, len(block)):
                file.write(block[: n_bytes - at])
            file.flush()
            pages = np.memmap(file, dtype=np.uint8, mode="c", shape=(n_bytes,))
    except OSError as error:
        raise CapacityExceeded(f"{n_bytes / 1e9:.1f} GB of a file to map: {error.strerror}: set TMPDIR") from None
    pages[::PAGE_BYTES].max()
    return torch.from_numpy(pages)


def _aligned_array(n_bytes: int) -> NDArray[np.uint8]:
    raw = np.empty(n_bytes + PAGE_BYTES, dtype=np.uint8)
    torch.from_numpy(raw).zero_()  # on all threads that torch has: gigabytes take seconds to be touched by one
    start = -raw.ctypes.data % PAGE_BYTES
    return raw[start : start + n_bytes]


def pieces(memory: Tensor, n_bytes: int) -> list[Tensor]:
    """`memory` in equal parts of `n_bytes`."""
    return [memory[at : at + n_bytes] for at in range(0, len(memory), n_bytes)]


def host_array(n_bytes: int, what: str) -> NDArray[np.uint8]:
    """As `aligned`, the array itself, (n_bytes,). Raises `CapacityExceeded` with both sizes where there is less."""
    there = available_bytes()
    if n_bytes > there:
        raise CapacityExceeded(
            f"{what}: {n_bytes / 1e9:.1f} GB of host memory are needed, {there / 1e9:.1f} GB are free: try a smaller "
            f"model, or --tier ssd",
            n_bytes,
            "DRAM",
        )
    try:
        return _aligned_array(n_bytes)
    except MemoryError as error:
        raise CapacityExceeded(f"{what}: the machine refused {n_bytes / 1e9:.1f} GB", n_bytes, "DRAM") from error


def host_memory(n_bytes: int, what: str) -> Tensor:
    """As `host_array`, a tensor."""
    return torch.from_numpy(host_array(n_bytes, what))


def available_bytes() -> int:
    """Memory that can be taken without swapping (Linux); elsewhere, all there is."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Carver:
    """Names and shapes first, then one flat memory, then a view for each: no other memory is taken."""

    def __init__(self, shapes: Mapping[str, Sequence[int]] | Iterable[tuple[str, Sequence[int]]], dtype: torch.dtype):
        self.shapes = {name: tuple(shape) for name, shape in dict(shapes).items()}
        self.dtype = dtype

    def _bytes_of(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * self.dtype.itemsize

    @property
    def n_bytes(self) -> int:
        """What all of them take, each on a line of its own."""
        return sum(round_up(self._bytes_of(shape), _LINE_BYTES) for shape in self.shapes.values())

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """A tensor for each name in `memory`, (at least n_bytes,) uint8."""
        views, at = {}, 0
        for name, shape in self.shapes.items():
            size = self._bytes_of(shape)
            views[name] = memory[at : at + size].view(self.dtype).view(shape)
            at += round_up(size, _LINE_BYTES)
        return views
