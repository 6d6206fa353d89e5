"""Small architectures and routings for tests: every shape the decode loop has to deal with, in a few layers."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np

from offload.execution import EXECUTIONS
from offload.policies import PRESETS, policy_named
from offload.policy import Policy
from offload.policy_parts.miss_costs import MissCosts
from pregate.routing_traces import synthesize
from traces.model.architecture import DTYPES, Attention, LayerStack, ModelArchitecture
from traces.model.layer_formats import BY_LAYER, LayerFormats
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.synthesis.dials import Dials


def decoder_only(*, n_shared: int = 0, n_matrices: int = 2, top_k: int = 2, n_experts: int = 6) -> ModelArchitecture:
    """Four layers: dense, MoE, MoE, MoE."""
    attention = Attention("gqa", n_heads=4, n_kv_heads=2, head_dim=8)
    return ModelArchitecture(
        name="small-decoder",
        d_model=32,
        vocab_size=64,
        tied_embeddings=False,
        encoder=None,
        decoder=LayerStack(4, (1, 2, 3), attention, False, d_ff_dense=64, n_dense_matrices=n_matrices),
        n_experts=n_experts,
        top_k=top_k,
        d_ff_expert=48,
        n_expert_matrices=n_matrices,
        n_shared_experts=n_shared,
        d_ff_shared=48 if n_shared else 0,
        dtype=DTYPES["fp32"],
        expert_dtype=DTYPES["fp32"],
        sources=("a test",),
    )


def encoder_decoder(*, n_experts: int = 5) -> ModelArchitecture:
    """Two encoder layers and four decoder layers, every other one MoE, top-1."""
    attention = Attention("mha", n_heads=4, n_kv_heads=4, head_dim=8)
    return ModelArchitecture(
        name="small-switch",
        d_model=32,
        vocab_size=64,
        tied_embeddings=True,
        encoder=LayerStack(2, (1,), attention, False, d_ff_dense=64, n_dense_matrices=2),
        decoder=LayerStack(6, (1, 3, 5), attention, True, d_ff_dense=64, n_dense_matrices=2),
        n_experts=n_experts,
        top_k=1,
        d_ff_expert=48,
        n_expert_matrices=2,
        n_shared_experts=0,
        d_ff_shared=0,
        dtype=DTYPES["fp32"],
        expert_dtype=DTYPES["fp32"],
        sources=("a test",),
    )


def stored_apart(model: ModelArchitecture) -> ModelArchitecture:
    """`model` with every part of its layers stored in three formats, each part in its own order."""
    names, n = ("fp32", "q8_0", "q4_k"), model.decoder.n_layers
    by_part = {part: tuple(DTYPES[names[(i + at) % 3]] for i in range(n)) for at, part in enumerate(BY_LAYER)}
    return dataclasses.replace(model, name=f"{model.name}-apart", layer_formats=LayerFormats(**by_part))


TRIED = ("fastertransformer", "streams")
"""Executions that differ in all that a policy meets: who waits, what is staged, how experts become ops."""

DIFFERING = list({dataclasses.replace(one, name=""): name for name, one in EXECUTIONS.items()}.values())
"""Of executions that differ in nothing but their name, one."""

MISSES_KNOW = MissCosts(0.4, host_token=0.15, device=0.05, handover=0.1)
"""What designs that weigh the host against the link are told of their machine."""

IN_PART = ("/within", "mixed_precision")
"""What presets that move experts in part have in their name: they compute expert by expert only."""

WHOLE = [name for name in PRESETS if not name.endswith(IN_PART)]
"""Presets that move whole experts, on every stack."""

GUESSING = ("prefetch_all", "lru_next_gate", "guess/", "adap_moe", "activation_aware", "finemoe", "chunked_learned")
"""Policies that bring what turns out not to be needed."""

MODELS = {
    "decoder-only": decoder_only(),
    "shared experts, three matrices": decoder_only(n_shared=1, n_matrices=3),
    "encoder-decoder": encoder_decoder(),
}


def told(text: str) -> Policy:
    """The policy called `text`, which knows its machine."""
    return policy_named(text).on_machine(MISSES_KNOW)


def in_parts(trace: RoutingTrace, n_tokens: int) -> RoutingTrace:
    """`trace` with its prompts read `n_tokens` of each sequence a step."""
    reads = trace.phase == Phase.PREFILL
    part = np.where(reads, trace.position // n_tokens, 0)
    order = np.lexsort((np.arange(trace.n_tokens), part, trace.step))
    label = trace.step[order].astype(np.int64) * (int(part.max()) + 1) + part[order]
    return trace.reordered(order, label)


@lru_cache(1024)
def routing(
    model: ModelArchitecture, *, seed: int = 0, batch: int = 1, output_tokens: int = 5, input_tokens: int = 4
) -> RoutingTrace:
    """Uniform routing with some repeats; the same trace for whoever asks for the same."""
    return synthesize(model, input_tokens, output_tokens, batch, seed, dials=Dials(0.3, 0.3, 0.0))
