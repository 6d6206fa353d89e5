"""Random weights of the true shapes: the same values for the same seed, on every back end and under every policy.

Matrices are uniform with variance 1 / (columns), so that hidden states neither vanish nor overflow; norms are near 1.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.memory import PAGE_BYTES, Carver, aligned, available_bytes, element_type, host_memory, round_up
from runtime.model.fewer_bits import PackedExpert, pack_expert, packed_bytes
from runtime.model.shapes import expert_shapes, static_shapes
from runtime.programs.touches import ExpertKey
from traces.model.architecture import ModelArchitecture

_WORTH_THREADS_BYTES = 16 << 20
"""ModelWeights that take longer to draw than threads to start."""


def fill_static(weights: dict[str, Tensor], seed: int) -> None:
    """Give every tensor of `static_shapes` its values; they may lie on a device."""
    n_bytes = sum(tensor.nbytes for tensor in weights.values())
    _in_threads((partial(_fill_named, tensor, name, seed) for name, tensor in weights.items()), n_bytes)


def _fill_named(tensor: Tensor, name: str, seed: int) -> None:
    _fill(tensor, name, np.random.default_rng([seed, zlib.crc32(name.encode())]))


def fill_expert(memory: Tensor, model: ModelArchitecture, seed: int, key: ExpertKey) -> None:
    """Give the expert `key` in `memory` (expert_bytes,) uint8 its values."""
    rng = np.random.default_rng([seed, *key])
    flat, at = memory.view(element_type(model)), 0
    for name, shape in expert_shapes(model).items():
        n = math.prod(shape)
        _fill(flat[at : at + n].view(shape), name, rng)
        at += n


def _fill(tensor: Tensor, name: str, rng: np.random.Generator) -> None:
    values = rng.random(tuple(tensor.shape), dtype=np.float32)
    values -= np.float32(0.5)
    if name.endswith("scale"):
        values *= np.float32(0.2)
        values += np.float32(1.0)
    elif tensor.dim() == 2:
        values *= np.float32(math.sqrt(12 / tensor.shape[1]))
    tensor.copy_(torch.from_numpy(values))


def _in_threads(jobs: Iterable[Callable[[], None]], n_bytes: int) -> None:
    """Do all `jobs`, which fill `n_bytes`; as many at a time as there are cores where that is worth threads."""
    if n_bytes < _WORTH_THREADS_BYTES:
        for job in jobs:
            job()
        return
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done in [pool.submit(_inferring, job) for job in jobs]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _inferring(job: Callable[[], None]) -> None:
    """Tensors made in inference mode, which is a thread's own, may be written in it only."""
    with torch.inference_mode():
        job()


class ModelWeights(Protocol):
    """Where the values of a model come from."""

    def static(self, weights: dict[str, Tensor]) -> None:
        """Give every tensor of `static_shapes` its values; they may lie on a device."""

    def expert(self, memory: Tensor, key: ExpertKey) -> None:
        """Give the expert `key` in `memory` (expert_bytes,) uint8 its values."""


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """Values of a seed, for a model whose weights nobody needs."""

    model: ModelArchitecture
    seed: int

    def static(self, weights: dict[str, Tensor]) -> None:
        """As of `ModelWeights`."""
        fill_static(weights, self.seed)

    def expert(self, memory: Tensor, key: ExpertKey) -> None:
        """As of `ModelWeights`."""
        fill_expert(memory, self.model, self.seed, key)


class Experts:
    """Experts in host memory, made when first asked for and kept: runs of one model and seed share them.

    `allocate` gives host memory, (n,) uint8 beginning on a page: pinned, for a device that copies from it by itself.
    `keep_static`: keep the weights outside experts there too, rather than make them anew for every run. `weights`: of a
    model that was trained (None: random, of `seed`).
    """

    def __init__(
        self,
        model: ModelArchitecture,
        seed: int = 0,
        allocate: Callable[[int, str], Tensor] = host_memory,
        *,
        keep_static: bool = False,
        weights: ModelWeights | None = None,
    ):
        self.model, self.seed, self.keep_static = model, seed, keep_static
        self._weights = RandomWeights(model, seed) if weights is None else weights
        self._allocate = allocate
        self._kept: dict[ExpertKey, Tensor] = {}
        self._packed: dict[tuple[ExpertKey, float], PackedExpert] = {}
        self._static: dict[str, Tensor] | None = None

    def require(self, keys: Iterable[ExpertKey]) -> None:
        """Make those of `keys` that are not there, in one piece of memory. Raises `CapacityExceeded`."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._kept]
        stride = round_up(self.model.expert_bytes, PAGE_BYTES)
        memory = self._allocate(len(missing) * stride, f"{len(missing)} experts of {self.model.name}")
        places = [memory[at : at + self.model.expert_bytes] for at in range(0, len(memory), stride)]
        pairs = zip(places, missing, strict=True)
        _in_threads((partial(self._weights.expert, place, key) for place, key in pairs), len(memory))
        self._kept.update(zip(missing, places, strict=True))

    def keep(self, keys: Iterable[ExpertKey]) -> None:
        """As `require`, where half of the host memory that is free has room: `copy_to` then makes nothing."""
        wanted = list(keys)
        if 2 * len(wanted) * self.model.expert_bytes <= available_bytes():
            self.require(wanted)

    def copy_static(self, targets: Mapping[str, Tensor]) -> None:
        """The weights outside experts into `targets`, some of `static_shapes` by name, on whatever device.

        Raises `CapacityExceeded` when they are to be kept and host memory is too small.
        """
        if not self.keep_static:
            self._weights.static(dict(targets))
            return
        if self._static is None:
            carver = Carver(static_shapes(self.model), element_type(self.model))
            made = carver.views(self._allocate(carver.n_bytes, f"weights of {self.model.name} outside experts"))
            self._weights.static(made)
            self._static = made
        for name, target in targets.items():
            target.copy_(self._static[name])

    def copy_to(self, target: Tensor, key: ExpertKey) -> None:
        """The bytes of an expert into `target` (expert_bytes,) uint8, on whatever device; nothing more is kept."""
        if key in self._kept:
            target.copy_(self._kept[key])
            return
        made = aligned(self.model.expert_bytes)
        self._weights.expert(made, key)
        target.copy_(made)

    def pack(self, keys: Iterable[ExpertKey], bits: float) -> None:
        """Make those of `keys` in fewer bits that are not there. Raises `CapacityExceeded`, and as `pack_expert`."""
        missing = [key for key in dict.fromkeys(keys) if (key, bits) not in self._packed]
        n_bytes = packed_bytes(self.model, bits)
        memory = self._allocate(len(missing) * n_bytes, f"{len(missing)} experts of {self.model.name} in {bits:g} bits")
        places = [memory[at : at + n_bytes] for at in range(0, len(memory), n_bytes)]
        whole = aligned(self.model.expert_bytes)
        for key, place in zip(missing, places, strict=True):
            self.copy_to(whole, key)
            self._packed[key, bits] = PackedExpert(place, pack_expert(whole, self.model, bits, place))

    def in_bits(self, key: ExpertKey, bits: float) -> PackedExpert:
        """An expert in fewer bits, made now where nobody has had it packed."""
        if (key, bits) not in self._packed:
            self.pack([key], bits)
        return self._packed[key, bits]

    def __getitem__(self, key: ExpertKey) -> Tensor:
        """The bytes of an expert, (expert_bytes,) uint8. Raises `KeyError` for one that was not required."""
        return self._kept[key]
