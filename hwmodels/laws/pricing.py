"""What an op takes by laws that were fitted of its kernels: each GEMM, the attention, the experts of a layer.

In a model weights, keys and values are read from memory: a layer's own are long out of the cache when its turn comes
again. What is left of an op's launches (norms, activations, residuals) takes the stack's time of a kernel each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.fitted import FittedLaw
from hwmodels.laws.forms import KERNELS
from hwmodels.laws.gemm import dense_gemm
from hwmodels.laws.moe import ExpertGroup, fused_experts
from hwmodels.laws.rates import CardRates, KernelTime, Number, larger_of, smooth_maximum
from offload.ops import Gemm, OpKind, Work

if TYPE_CHECKING:
    from hwmodels.figures import Figures

__all__ = ["PricedKernel", "kernels_of", "law_kernel"]

PricedKernel = tuple[KernelTime, bool]
"""A kernel, and whether its shape and format lie within what its law was fitted on."""

_GEMMS = ("gemm", "quantised_gemm")
_ALIKE = 1e-6
"""Formats are the same where the logarithms of their bits differ by no more."""

_OTHER_ARITHMETIC = 0.01
"""How much a law of another format of arithmetic stands behind, as logarithm of bits."""

_WHOLE = KernelTime(0.0, 0.0, 0.0)


def law_kernel(work: Work, figures: Figures) -> KernelTime:
    """The whole op."""
    total = _WHOLE
    for kernel, _ in kernels_of(work, figures):
        total = total.plus(kernel)
    return total


def kernels_of(work: Work, figures: Figures) -> Iterator[PricedKernel]:
    """Its kernels one after the other; what is left of its launches comes last, and counts as within."""
    gemms, n_covered = work.gemms, 0
    if work.fused is not None and (law := _law(figures, ("experts",), work.compute, work.weight_bits)) is not None:
        yield _experts(work, law, figures)
        gemms, n_covered = gemms[work.fused.n_gemms :], figures.stack.launches.get(work.kind, 0)
    for gemm in gemms:
        yield _dense(gemm, work, figures)
        n_covered += gemm.n_gemms
    if work.attending is not None or np.any(work.flop) or np.any(work.hbm_bytes):
        yield _attention(work, figures)
        n_covered += 1
    n_left = 0 if work.kind is OpKind.GATE else max(figures.stack.launches.get(work.kind, 0) - n_covered, 0)
    if n_left:
        yield KernelTime(n_left * figures.stack_constant("kernel_s"), 0.0, 0.0), True


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


def _within(law: FittedLaw, bits: float, shape: Mapping[str, Number]) -> bool:
    """Of several shapes at once all have to lie within."""
    ends = {name: (float(np.min(np.real(x))), float(np.max(np.real(x)))) for name, x in shape.items()}
    corners = ({name: end[i] for name, end in ends.items()} for i in (0, 1))
    return _apart(law, bits) <= _ALIKE and all(law.covers(corner) for corner in corners)


def _dense(gemm: Gemm, work: Work, figures: Figures) -> PricedKernel:
    law = _law(figures, _GEMMS, work.compute, work.weight_bits)
    assert law is not None  # a fit of laws has one of GEMMs
    bits = work.weight_bits
    kernel = dense_gemm(
        law.values,
        _rates(law, figures),
        gemm.m,
        gemm.n,
        gemm.k,
        weight_bits=bits,
        activation_bits=law.bits if law.form == "quantised_gemm" else 16.0,
    )
    return kernel.times(gemm.n_gemms), _within(law, bits, {"m": gemm.m, "n": gemm.n, "k": gemm.k})


def _experts(work: Work, law: FittedLaw, figures: Figures) -> PricedKernel:
    assert work.fused is not None
    pairs = work.gemms[: work.fused.n_gemms]
    groups = [ExpertGroup(down.n_gemms, down.m) for down in pairs[1::2]]
    up, down = pairs[0], pairs[1]
    n_up = up.n_gemms // down.n_gemms
    kernel = fused_experts(law.values, _rates(law, figures), groups, up.k, up.n, n_up, weight_bits=work.weight_bits)
    shape = {"d_model": up.k, "d_ff": up.n, "n_up": n_up}
    most = law.within["n_tokens"][1] * law.within["top_k"][1]
    return kernel, work.fused.n_rows <= most and _within(law, work.weight_bits, shape)


def _at_least(found: KernelTime, flop_s: Number) -> KernelTime:
    """`found`, but no faster than its scores multiply: many heads that share keys do more with a byte of them."""
    bound = np.real(flop_s) > np.real(found.compute_s + found.hbm_s)
    return KernelTime(found.fixed_s, np.where(bound, flop_s, found.compute_s), np.where(bound, 0.0, found.hbm_s))


def _attention(work: Work, figures: Figures) -> PricedKernel:
    """Keys and values of the context: one new token for each sequence, or several."""
    at = work.attending
    form = "decode_attention" if at is not None and at.n_tokens <= at.n_sequences else "context_attention"
    bits = 16.0
    if at is not None:
        bits = 8 * at.token_bytes / (at.n_kv_heads * (at.key_width + at.value_width))
    law = _law(figures, (form,), "bf16", max(bits, 1.0))
    dense = _law(figures, _GEMMS, work.flop_format, 16.0)
    assert dense is not None
    peak = figures.peak_flop_per_s(work.flop_format) * dense.values["peak"]
    flop_s, read_s = (
        work.flop / peak,
        work.hbm_bytes / (figures["accelerator.hbm_bytes_per_s"] * dense.values["memory"]),
    )
    if at is None or law is None:
        both = smooth_maximum(flop_s, read_s)
        bound = np.real(flop_s) >= np.real(read_s)
        return KernelTime(0.0, np.where(bound, both, 0.0), np.where(bound, 0.0, both)), False
    context = work.hbm_bytes / at.token_bytes / at.n_sequences
    shape = {"n_sequences": at.n_sequences, "n_heads": at.n_heads, "n_kv_heads": at.n_kv_heads}
    shape |= {"head_width": max(at.key_width, at.value_width)}
    rates, kernel = _rates(law, figures), KERNELS[law.kernel]
    if form == "decode_attention":
        context = larger_of(context, 1.0)
        sizes = at.n_sequences, at.n_heads, at.n_kv_heads, context, at.token_bytes
        found = decode_attention(law.values, rates, kernel, *sizes)
        return _at_least(found, flop_s), _within(law, bits, {**shape, "context": context})
    new = at.n_tokens / at.n_sequences
    before = larger_of(context - new, 0.0)
    found = context_attention(
        law.values, rates, kernel, at.n_sequences, at.n_heads, at.n_kv_heads, new, at.key_width, at.value_width,
        at.token_bytes, before=before,
    )  # fmt: skip
    return found, _within(law, bits, {**shape, "context": new}) and not np.any(np.real(before) > new)
