"""What an op takes by laws that were fitted of its kernels: each GEMM, the attention, the experts of a layer.

In a model weights, keys and values are read from memory: a layer's own are long out of the cache when its turn comes
again. What is left of an op's launches (norms, activations, residuals) takes the stack's time of a kernel each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.kernels.fused_counts import RowCounts, row_counts
from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.dispatch import FLASHINFER_CUTLASS, MARLIN_TILES, TRITON_DEFAULT
from hwmodels.laws.fitted_law import FittedLaw
from hwmodels.laws.gemm import TILES, dense_gemm
from hwmodels.laws.latent_attention import latent_decode
from hwmodels.laws.law_forms import KERNELS
from hwmodels.laws.moe import ALIGNED, fused_experts
from hwmodels.laws.rates import CardRates, KernelTime, Number, larger_of, smooth_maximum
from offload.ops import Attending, Gemm, OpKind, Work

if TYPE_CHECKING:
    from hwmodels.figures import Figures


PricedKernel = tuple[KernelTime, Any]
"""A kernel, and whether its shape and format lie within what its law was fitted on: of ops priced together, of each."""

_GEMMS = ("gemm", "quantised_gemm")
_WIDE, _WIDE_BITS = ("fp32", "bf16", "fp16"), 16
"""Formats of rows that no kernel quantises: weights alone are narrow then (AWQ, GPTQ), and unpacked where they are
multiplied (`MARLIN_TILES`)."""

_ALIKE = 1e-6
"""Formats are the same where the logarithms of their bits differ by no more."""

_OTHER_ARITHMETIC = 0.01
"""How much a law of another format of arithmetic stands behind, as logarithm of bits."""

_WHOLE = KernelTime(0.0, 0.0, 0.0)


def law_kernel(work: Work, figures: Figures, counts: RowCounts | None = None) -> KernelTime:
    """The whole op; of fused ops like it with `counts`, each of them."""
    total = _WHOLE
    for kernel, _ in kernels_of(work, figures, counts):
        total = total.plus(kernel)
    return total


def kernels_of(work: Work, figures: Figures, counts: RowCounts | None = None) -> Iterator[PricedKernel]:
    """Its kernels one after the other; what is left of its launches comes last, and counts as within."""
    gemms, n_covered, n_kernels = work.gemms, 0, figures.stack.launches_of(work)
    if work.fused is not None and (law := _law(figures, ("experts",), work.compute, work.weight_bits)) is not None:
        yield _experts(work, law, figures, row_counts([work]).of_one() if counts is None else counts)
        gemms, n_covered = gemms[work.fused.n_gemms :], n_kernels
    for gemm in _joined(gemms, work):
        yield _dense(gemm, work, figures)
        n_covered += gemm.n_gemms
    if work.attending is not None or np.any(work.flop) or np.any(work.hbm_bytes):
        yield _attention(work, figures)
        n_covered += 1 if work.attending is None else 2  # appending to the cache is in its law
    n_left = 0 if work.kind is OpKind.GATE else max(n_kernels - n_covered, 0)
    if n_left:
        yield KernelTime(n_left * figures.stack_constant("kernel_s"), 0.0, 0.0), True


def _joined(gemms: tuple[Gemm, ...], work: Work) -> tuple[Gemm, ...]:
    """`gemms` with queries, keys and values in one product, as engines with laws have them (vLLM's QKVParallelLinear).

    The last is the output's. Latents stay apart.
    """
    if work.attending is None or work.attending.is_latent or len(gemms) < 2:
        return gemms
    *of_tokens, output = gemms
    first = of_tokens[0]
    if any((one.m, one.k, one.n_gemms) != (first.m, first.k, 1) for one in of_tokens):
        return gemms
    return first._replace(n=sum(one.n for one in of_tokens)), output


def _law(figures: Figures, forms: tuple[str, ...], compute: str, bits: float) -> FittedLaw | None:
    """The law whose format comes next to weights of `bits` that are multiplied in `compute`; None without any."""
    known = [law for law in figures.laws if law.form in forms]
    return min(known, key=lambda law: _apart(law, bits) + _OTHER_ARITHMETIC * (law.compute != compute), default=None)


def _apart(law: FittedLaw, bits: float) -> float:
    return abs(math.log(bits / law.bits))


def _rates(law: FittedLaw, figures: Figures) -> CardRates:
    return CardRates(
        figures.peak_flop_per_s(law.compute),
        figures["accelerator.hbm_bytes_per_s"],
        figures["accelerator.n_sm"],
        figures["accelerator.l2_bytes"],
    )


def _within(law: FittedLaw, bits: float, shape: Mapping[str, Number], also: Any = True) -> Any:
    """Whether each of the shapes lies within, `also` what else has to hold of it."""
    if _apart(law, bits) > _ALIKE:
        return False
    within = also & law.covers(shape)
    return within if np.ndim(within) else bool(within)


def _gemm_law(work: Work, figures: Figures) -> FittedLaw:
    """Where rows stay wide the law of products of that arithmetic, however narrow the weights are."""
    law = _law(figures, ("gemm",), work.compute, work.weight_bits) if work.compute in _WIDE else None
    if law is None:
        law = _law(figures, _GEMMS, work.compute, work.weight_bits)
    assert law is not None  # a fit of laws has one of GEMMs
    return law


def _dense(gemm: Gemm, work: Work, figures: Figures) -> PricedKernel:
    law, bits = _gemm_law(work, figures), work.weight_bits
    weights_alone = law.form == "gemm" and bits < _WIDE_BITS
    kernel = dense_gemm(
        law.values,
        _rates(law, figures),
        gemm.m,
        gemm.n,
        gemm.k,
        weight_bits=bits,
        activation_bits=law.bits if law.form == "quantised_gemm" else 16.0,
        tiles=MARLIN_TILES if weights_alone else TILES,
        dispatch="" if weights_alone else law.kernel,
    )
    return kernel.times(gemm.n_gemms), _within(law, bits, {"m": gemm.m, "n": gemm.n, "k": gemm.k})


def _experts(work: Work, law: FittedLaw, figures: Figures, counts: RowCounts) -> PricedKernel:
    assert work.fused is not None
    up, down = work.gemms[:2]
    n_up = up.n_gemms // down.n_gemms
    kernel = fused_experts(
        law.values, _rates(law, figures), counts.rows, up.k, up.n, n_up, weight_bits=work.weight_bits,
        by_default=law.kernel == TRITON_DEFAULT, by_core=law.kernel == FLASHINFER_CUTLASS,
    )  # fmt: skip
    shape = {"d_model": up.k, "d_ff": up.n, "n_up": n_up}
    most = law.within["n_tokens"][1] * law.within["top_k"][1]
    aligned = up.k % ALIGNED == 0 and up.n % ALIGNED == 0
    return kernel, _within(law, work.weight_bits, shape, also=(counts.rows.n_rows <= most) & aligned)


def _at_least(found: KernelTime, flop_s: Number) -> KernelTime:
    """`found`, but no faster than its scores multiply: many heads that share keys do more with a byte of them."""
    bound = np.real(flop_s) > np.real(found.compute_s + found.hbm_s)
    return KernelTime(found.fixed_s, np.where(bound, flop_s, found.compute_s), np.where(bound, 0.0, found.hbm_s))


def _attention(work: Work, figures: Figures) -> PricedKernel:
    """Keys and values of the context: one new token for each sequence, or several."""
    dense = _law(figures, _GEMMS, work.flop_format, 16.0)
    assert dense is not None
    flop_s = work.flop / (figures.peak_flop_per_s(work.flop_format) * dense.values["peak"])
    found = None if work.attending is None else _attention_law(work.attending, figures)
    if work.attending is not None and found is not None:
        law, bits = found
        kernel, shape, seen = _attending(work.attending, work.hbm_bytes, law, _rates(law, figures))
        picked = work.attending.is_latent and work.attending.window > 0  # its law knows of no indexer
        if law.form == "decode_attention" or picked:
            kernel = _at_least(kernel, flop_s)
        return kernel, _within(law, bits, shape, also=seen)
    read_s = work.hbm_bytes / (figures["accelerator.hbm_bytes_per_s"] * dense.values["memory"])
    both = smooth_maximum(flop_s, read_s)
    bound = np.real(flop_s) >= np.real(read_s)
    return KernelTime(0.0, np.where(bound, both, 0.0), np.where(bound, 0.0, both)), False


def _attention_law(at: Attending, figures: Figures) -> tuple[FittedLaw, float] | None:
    """The law of an attention's kernel, and the bits of a number that it reads; None where there is none.

    Latents absorbed have a law for one new token, latents decompressed one for prompts; others are as any attention.
    """
    one_each, bits = at.n_tokens <= at.n_sequences, 8 * at.token_bytes / (at.n_kv_heads * _numbers_read(at))
    if not one_each and _is_decompressed(at):
        bits = 16.0
    form = "latent_decode" if one_each and at.is_latent else "latent_context"
    if form == "latent_decode" or (not one_each and _is_decompressed(at)):
        law = _law(figures, (form,), "bf16", bits)
        if law is not None:
            return law, bits
    law = _law(figures, ("decode_attention" if one_each else "context_attention",), "bf16", bits)
    return None if law is None else (law, bits)


def _numbers_read(at: Attending) -> int:
    """Of a cached token, for each head of keys: a latent serves as key and value at once."""
    return at.key_width if at.is_latent else at.key_width + at.value_width


def _is_decompressed(at: Attending) -> bool:
    """Whether these are keys and values of every head that were made of latents, keys wider than values."""
    return at.n_kv_heads == at.n_heads and at.key_width > at.value_width


def _attending(
    at: Attending, hbm_bytes: Number, law: FittedLaw, rates: CardRates
) -> tuple[KernelTime, dict[str, Number], Any]:
    """An attention that reads `hbm_bytes` by its law; its shape, and whether the law has seen its like otherwise."""
    kernel, context = KERNELS[law.kernel], larger_of(hbm_bytes / at.token_bytes / at.n_sequences, 1.0)
    shape: dict[str, Number] = {"n_sequences": at.n_sequences, "n_heads": at.n_heads}
    if law.form.startswith("latent"):
        shape |= {"key_width": at.key_width, "value_width": at.value_width}
    else:
        shape |= {"n_kv_heads": at.n_kv_heads, "head_width": max(at.key_width, at.value_width)}
    if law.form == "latent_decode":
        widths = at.key_width, at.value_width
        found = latent_decode(law.values, rates, kernel, at.n_sequences, at.n_heads, context, *widths, at.token_bytes)
        return found, {**shape, "context": context}, True
    if law.form == "decode_attention":
        sizes = at.n_sequences, at.n_heads, at.n_kv_heads, context, at.token_bytes
        found = decode_attention(law.values, rates, kernel, *sizes, head_width=at.key_width, window=at.window)
        return found, {**shape, "context": context}, True
    new = at.n_tokens / at.n_sequences
    before = larger_of(context - new, 0.0)
    token_bytes = at.token_bytes
    if law.form == "latent_context":  # what was decompressed, in 16 bits; making it is a GEMM of its own
        token_bytes = 2.0 * at.n_heads * (at.key_width + at.value_width)
    found = context_attention(
        law.values, rates, kernel, at.n_sequences, at.n_heads, at.n_kv_heads, new, at.key_width, at.value_width,
        token_bytes, before=before, window=at.window,
    )  # fmt: skip
    return found, {**shape, "context": new}, np.real(before) <= new
