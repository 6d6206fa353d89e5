"""Kernels as the benchmark of a table ran them: weights read in turn, keys and values again, rows spread evenly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.dispatch import FLASHINFER_CUTLASS, TRITON_DEFAULT, TRITON_TUNED
from hwmodels.laws.gemm import CYCLED_WEIGHTS, dense_gemm
from hwmodels.laws.latent_attention import latent_decode
from hwmodels.laws.law_forms import KERNELS
from hwmodels.laws.moe import ExpertGroup, expert_rows_of, fused_experts
from hwmodels.laws.rates import CardRates, KernelTime, Number, rounded_up, smaller_of

Shapes = Mapping[str, Number]
_Of = Callable[[Mapping[str, Number], CardRates, Shapes, float, str], KernelTime]
"""Of constants, rates, shapes, bits of a weight (of a number in the cache) and the kernel (`FittedLaw.kernel`)."""


def _gemm(c: Mapping[str, Number], rates: CardRates, shapes: Shapes, bits: float, kernel: str) -> KernelTime:
    m, n, k = (shapes[name] for name in ("m", "n", "k"))
    activation_bits = bits if "quantise" in c else 16.0
    cycled = CYCLED_WEIGHTS * n * k * bits / 8
    return dense_gemm(
        c, rates, m, n, k, weight_bits=bits, activation_bits=activation_bits, cycled_bytes=cycled, dispatch=kernel
    )


def _decode(c: Mapping[str, Number], rates: CardRates, shapes: Shapes, bits: float, kernel: str) -> KernelTime:
    """`window` where a table has it: as many tokens are read at most."""
    n_kv_heads, width, context = (shapes[name] for name in ("n_kv_heads", "head_width", "context"))
    window = shapes.get("window")
    token_bytes = 2 * n_kv_heads * width * bits / 8
    seen = context if window is None else smaller_of(context, window)
    sizes = shapes["n_sequences"], shapes["n_heads"], n_kv_heads, seen, token_bytes
    window = 0.0 if window is None else window
    return decode_attention(c, rates, KERNELS[kernel], *sizes, head_width=width, window=window, warm=True)


def _context(c: Mapping[str, Number], rates: CardRates, shapes: Shapes, bits: float, kernel: str) -> KernelTime:
    n_kv_heads, width = shapes["n_kv_heads"], shapes["head_width"]
    token_bytes = 2 * n_kv_heads * width * bits / 8
    sizes = shapes["n_sequences"], shapes["n_heads"], n_kv_heads, shapes["context"], width, width, token_bytes
    return context_attention(c, rates, KERNELS[kernel], *sizes, window=shapes.get("window", 0.0), warm=True)


def _latent_decode(c: Mapping[str, Number], rates: CardRates, shapes: Shapes, bits: float, kernel: str) -> KernelTime:
    sizes = shapes["n_sequences"], shapes["n_heads"], shapes["context"]
    widths, token_bytes = (shapes["key_width"], shapes["value_width"]), shapes["key_width"] * bits / 8
    return latent_decode(c, rates, KERNELS[kernel], *sizes, *widths, token_bytes, warm=True)


def _latent_context(c: Mapping[str, Number], rates: CardRates, shapes: Shapes, bits: float, kernel: str) -> KernelTime:
    """Latents were decompressed into keys and values of every head before; those are in 16 bits."""
    n_heads, widths = shapes["n_heads"], (shapes["key_width"], shapes["value_width"])
    token_bytes = n_heads * sum(widths) * 2
    sizes = shapes["n_sequences"], n_heads, n_heads, shapes["context"], *widths, token_bytes
    return context_attention(c, rates, KERNELS[kernel], *sizes, warm=True)


def _experts(c: Mapping[str, Number], rates: CardRates, shapes: Shapes, bits: float, kernel: str) -> KernelTime:
    """Tokens spread evenly, as the tables' balanced rows are."""
    n_rows = shapes["n_tokens"] * shapes["top_k"]
    active = smaller_of(shapes["n_experts"], n_rows)
    groups = [ExpertGroup(active, rounded_up(n_rows / active))]
    sizes = shapes["d_model"], shapes["d_ff"], shapes["n_up"]
    rows = expert_rows_of(groups, shapes["n_tokens"])
    by_default = kernel == TRITON_DEFAULT and ~_tuned(shapes["n_experts"], shapes["d_ff"])
    by_core = kernel == FLASHINFER_CUTLASS
    return fused_experts(c, rates, rows, *sizes, weight_bits=bits, warm=True, by_default=by_default, by_core=by_core)


def _tuned(n_experts: Number, d_ff: Number) -> Number:
    """Which products have a tile that was tuned for them, where the others have the default one."""
    tuned: Number = np.zeros(np.shape(d_ff), bool)
    for n, widths in TRITON_TUNED.items():
        tuned |= (np.real(n_experts) == n) & np.isin(np.real(d_ff), widths)
    return tuned


MEASURED: Mapping[str, _Of] = {
    "gemm": _gemm,
    "quantised_gemm": _gemm,
    "decode_attention": _decode,
    "context_attention": _context,
    "latent_decode": _latent_decode,
    "latent_context": _latent_context,
    "experts": _experts,
}
"""By the name of a law."""
