"""Small models whose only purpose is that their ops are timed: every kind of op, over tokens, context and shape.

They are run as any model is, all experts resident, so that an op is timed where it will run: after the op before it,
on weights last read a forward pass ago. No validation may run one of them (`Measurements.probes`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from traces.model.architecture import DTYPES, Attention, LayerStack, ModelArchitecture
from traces.routing import RoutingTrace
from traces.synthesis.forced import forced_active_routing


class _Use(NamedTuple):
    """How a model is used; the fields of a `Probe`."""

    batch: int
    input_tokens: int
    n_active: int
    offloaded: bool = False
    quick: bool = False


_OUTPUT_TOKENS = 10

_DECODER = (
    _Use(1, 16, 2, offloaded=True, quick=True), _Use(1, 256, 2), _Use(1, 1024, 2),
    _Use(4, 64, 4, quick=True), _Use(16, 64, 8), _Use(64, 16, 8),
)  # fmt: skip
_WIDE = (
    _Use(1, 32, 1, offloaded=True, quick=True), _Use(1, 512, 1), _Use(2, 32, 1), _Use(8, 32, 3, offloaded=True),
    _Use(32, 8, 4, quick=True),
)  # fmt: skip
_LARGE_HEADS = (_Use(1, 48, 2), _Use(8, 32, 4, quick=True), _Use(32, 24, 2, offloaded=True))
_ENCODER_DECODER = (
    _Use(1, 16, 1, quick=True), _Use(1, 128, 1), _Use(1, 512, 1), _Use(2, 64, 2, offloaded=True),
    _Use(16, 16, 8, quick=True), _Use(64, 16, 8),
)  # fmt: skip

_SOURCE = ("a probe of pregate's microbenchmarks: no published model",)


@dataclass(frozen=True, slots=True)
class Probe:
    """A model and how it is used: `batch` sequences of `input_tokens`, forced to `n_active` experts a layer.

    `offloaded`: run with experts in host memory as well; `quick`: also by a session that has little time.
    """

    model: ModelArchitecture
    batch: int
    input_tokens: int
    output_tokens: int
    n_active: int
    offloaded: bool = False
    quick: bool = False

    @property
    def name(self) -> str:
        """Model, batch and context."""
        return f"{self.model.name}-b{self.batch}-c{self.input_tokens}"

    @property
    def trace(self) -> RoutingTrace:
        """Its routing: as many experts as forced, other ones every step and layer, so that none is still in a cache."""
        model = self.model
        forced = forced_active_routing(
            n_moe_layers=model.n_moe_layers,
            n_encoder_moe_layers=model.n_encoder_moe_layers,
            n_experts=model.n_experts,
            top_k=model.top_k,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            batch=self.batch,
            n_active=self.n_active,
        )
        shift = np.random.default_rng(0).integers(
            model.n_experts, size=(int(forced.step.max()) + 1, model.n_moe_layers)
        )
        moved = (forced.experts + shift[forced.step][:, :, None]) % model.n_experts
        return dataclasses.replace(forced, experts=np.where(forced.experts < 0, -1, moved).astype(np.int16))


def probes(dtype: str, width_factor: int = 1) -> Iterator[Probe]:
    """The probes of one number format; `width_factor`: how many times as wide they are, for fast devices."""
    models = (
        (_decoder(dtype, width_factor), _DECODER),
        (_wide(dtype, width_factor), _WIDE),
        (_large_heads(dtype, width_factor), _LARGE_HEADS),
        (_encoder_decoder(dtype, 384 * width_factor), _ENCODER_DECODER),
        (_encoder_decoder(dtype, 640 * width_factor), _ENCODER_DECODER),
    )
    for model, uses in models:
        yield from (Probe(model, output_tokens=_OUTPUT_TOKENS, **use._asdict()) for use in uses)


def _decoder(dtype: str, width_factor: int) -> ModelArchitecture:
    """Grouped queries, three matrices an expert, top-2, dense layers between."""
    d_model = 512 * width_factor
    attention = Attention("gqa", n_heads=8 * width_factor, n_kv_heads=4 * width_factor, head_dim=64)
    stack = LayerStack(12, tuple(range(1, 12, 2)), attention, False, d_ff_dense=4 * d_model, n_dense_matrices=3)
    return _model("probe-decoder", dtype, None, stack, d_model, 8, 2, 2 * d_model, 3, vocab_size=16384)


def _large_heads(dtype: str, width_factor: int) -> ModelArchitecture:
    """Heads of 128 that four share, three narrow matrices an expert, top-2 in every layer."""
    d_model = 640 * width_factor
    attention = Attention("gqa", n_heads=8 * width_factor, n_kv_heads=2 * width_factor, head_dim=128)
    stack = LayerStack(16, tuple(range(16)), attention, False, d_ff_dense=0, n_dense_matrices=3)
    return _model("probe-heads", dtype, None, stack, d_model, 8, 2, 512 * width_factor, 3, vocab_size=8192)


def _wide(dtype: str, width_factor: int) -> ModelArchitecture:
    """Full attention, two matrices an expert, top-1 in every layer."""
    d_model = 1024 * width_factor
    attention = Attention("mha", n_heads=16 * width_factor, n_kv_heads=16 * width_factor, head_dim=64)
    stack = LayerStack(8, tuple(range(8)), attention, False, d_ff_dense=0, n_dense_matrices=2)
    return _model("probe-wide", dtype, None, stack, d_model, 4, 1, 2 * d_model, 2, vocab_size=4096)


def _encoder_decoder(dtype: str, d_model: int) -> ModelArchitecture:
    """T5's layout: cross-attention, every other layer dense."""
    n_heads = d_model // 64
    attention = Attention("mha", n_heads=n_heads, n_kv_heads=n_heads, head_dim=64)
    encoder = LayerStack(2, (1,), attention, False, d_ff_dense=4 * d_model, n_dense_matrices=2)
    n_layers = 8 if d_model >= 512 else 20  # more weights than a cache keeps from one pass to the next
    moe_layers = tuple(range(1, n_layers, 2))
    decoder = LayerStack(n_layers, moe_layers, attention, True, d_ff_dense=4 * d_model, n_dense_matrices=2)
    return _model(f"probe-t5-{d_model}", dtype, encoder, decoder, d_model, 8, 1, 4 * d_model, 2, vocab_size=8192)


def _model(
    name: str,
    dtype: str,
    encoder: LayerStack | None,
    decoder: LayerStack,
    d_model: int,
    n_experts: int,
    top_k: int,
    d_ff_expert: int,
    n_matrices: int,
    vocab_size: int,
) -> ModelArchitecture:
    return ModelArchitecture(
        name=name,
        d_model=d_model,
        vocab_size=vocab_size,
        tied_embeddings=True,
        encoder=encoder,
        decoder=decoder,
        n_experts=n_experts,
        top_k=top_k,
        d_ff_expert=d_ff_expert,
        n_expert_matrices=n_matrices,
        n_shared_experts=0,
        d_ff_shared=0,
        dtype=DTYPES[dtype],
        expert_dtype=DTYPES[dtype],
        sources=_SOURCE,
    )
