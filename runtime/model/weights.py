"""Random weights of the true shapes: the same values for the same seed, on every back end and under every policy.

Matrices are uniform with variance 1 / (columns), so that hidden states neither vanish nor overflow; norms are near 1.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.memory import PAGE_BYTES, Carver, aligned, available_bytes, element_type, host_memory, round_up
from runtime.program import ExpertKey
from traces.model.architecture import Attention, LayerStack, ModelArchitecture

__all__ = ["Experts", "ModelWeights", "expert_shapes", "fill_expert", "fill_static", "static_shapes"]

Shapes = dict[str, tuple[int, ...]]


_WORTH_THREADS_BYTES = 16 << 20
"""ModelWeights that take longer to draw than threads to start."""


def static_shapes(model: ModelArchitecture) -> Shapes:
    """Every tensor outside the routed experts, by name: `model.non_expert_params` elements in all."""
    shapes: Shapes = {"embedding": (model.vocab_size, model.d_model)}
    if not model.tied_embeddings:
        shapes["head"] = (model.vocab_size, model.d_model)
    if model.head_bias:
        shapes["head.bias"] = (model.vocab_size,)
    for side, stack in zip(("encoder", "decoder")[-len(model.stacks) :], model.stacks, strict=True):
        for layer in range(stack.n_layers):
            shapes |= {f"{side}.{layer}.{name}": shape for name, shape in _layer(model, stack, layer)}
        shapes |= {f"{side}.{name}": shape for name, shape in _norm(model, "norm")}
        if stack.relative_position_buckets:
            shapes[f"{side}.positions"] = (stack.attention.n_heads, stack.relative_position_buckets)
    return shapes


def _norm(model: ModelArchitecture, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.scale", (model.d_model,)
    if model.norm_bias:
        yield f"{name}.bias", (model.d_model,)


def _layer(model: ModelArchitecture, stack: LayerStack, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for block in ("self", "cross")[: 2 if stack.cross_attention else 1]:
        yield from _norm(model, f"{block}.norm")
        attention = stack.attention_of(layer)
        yield from ((f"{block}.{name}", shape) for name, shape in _attention(attention, model.d_model))
    yield from _norm(model, "ffn.norm")
    if layer not in stack.moe_layers:
        shapes = _ffn(model.d_model, stack.d_ff_dense, stack.n_dense_matrices, stack.ffn_bias)
        yield from ((f"ffn.{name}", shape) for name, shape in shapes)
        return
    yield "gate", (model.n_experts, model.d_model)
    if model.gate_bias:
        yield "gate.bias", (model.n_experts,)
    if model.shared_expert_gate:
        yield "shared.gate", (1, model.d_model)
    for i in range(model.n_shared_experts):
        shapes = _ffn(model.d_model, model.d_ff_shared, model.n_expert_matrices, bias=False)
        yield from ((f"shared.{i}.{name}", shape) for name, shape in shapes)


def _attention(attention: Attention, d_model: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    matrices = attention.gemm_shapes(d_model)
    if attention.kind != "mla":
        names: tuple[str, ...] = ("query", "key", "value", "output")
        biased: tuple[str, ...] = ("query", "key", "value")
    elif attention.q_lora_rank:
        names = ("query_down", "query", "latent", "latent_up", "output")
        biased = ("query_down", "latent")
        yield "query_down.scale", (attention.q_lora_rank,)
    else:
        names = ("query", "latent", "latent_up", "output")
        biased = ("latent",)
    if attention.kind == "mla":
        yield "latent.scale", (attention.kv_lora_rank,)
    for name, shape in zip(names, matrices, strict=True):
        yield name, shape
        if (attention.qkv_bias and name in biased) or (attention.output_bias and name == "output"):
            yield f"{name}.bias", shape[:1]
    if attention.qk_norm != "none":
        full = attention.qk_norm == "full"
        for name, n_heads in (("query", attention.n_heads), ("key", attention.n_kv_heads)):
            yield f"{name}.scale", ((n_heads if full else 1) * attention.head_dim,)
    if attention.sinks:
        yield "sinks", (attention.n_heads,)


def _ffn(d_model: int, d_ff: int, n_matrices: int, bias: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Up (and gate, when there are three matrices) and down; then their biases."""
    shapes = [("gate", (d_ff, d_model))] if n_matrices == 3 else []
    shapes += [("up", (d_ff, d_model)), ("down", (d_model, d_ff))]
    yield from shapes
    if bias:
        yield from ((f"{name}.bias", shape[:1]) for name, shape in shapes)


def expert_shapes(model: ModelArchitecture) -> Shapes:
    """The tensors of one routed expert, in the order in which they lie in its `model.expert_bytes` bytes."""
    return dict(_ffn(model.d_model, model.d_ff_expert, model.n_expert_matrices, model.expert_bias))


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
        self._static: Tensor | None = None

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

    def copy_static(self, target: Tensor) -> None:
        """The weights outside experts into `target` (n,) uint8, on whatever device, as a `Carver` lays them out.

        Raises `CapacityExceeded` when they are to be kept and host memory is too small.
        """
        carver = Carver(static_shapes(self.model), element_type(self.model))
        if not self.keep_static:
            self._weights.static(carver.views(target))
            return
        if self._static is None:
            memory = self._allocate(carver.n_bytes, f"weights of {self.model.name} outside experts")
            self._weights.static(carver.views(memory))
            self._static = memory
        target.copy_(self._static)

    def copy_to(self, target: Tensor, key: ExpertKey) -> None:
        """The bytes of an expert into `target` (expert_bytes,) uint8, on whatever device; nothing more is kept."""
        if key in self._kept:
            target.copy_(self._kept[key])
            return
        made = aligned(self.model.expert_bytes)
        self._weights.expert(made, key)
        target.copy_(made)

    def __getitem__(self, key: ExpertKey) -> Tensor:
        """The bytes of an expert, (expert_bytes,) uint8. Raises `KeyError` for one that was not required."""
        return self._kept[key]
