"""Laws of round ranges on a card that has no other, and kernels compared part by part."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hwmodels.figures import Figures, figures_of
from hwmodels.laws.fitted_law import FittedLaw, HeldOut
from hwmodels.laws.gemm import dense_gemm
from hwmodels.laws.law_forms import FORMS
from hwmodels.laws.rates import CardRates, KernelTime
from hwmodels.platform import load_platform
from offload.ops import OpKind

ERRORS = HeldOut(10, 0.1, 0.1, 0.1, 0.0, 0.9, 0.1)
START = {form: {name: at for name, (_, at) in FORMS[form].constants.items()} for form in FORMS}
KERNEL_S = 1e-6
_PLAIN = figures_of(load_platform("h100-sxm", "vllm"))


def law(
    form: str, stored: str = "bf16", compute: str = "bf16", kernel: str = "", scale: float = 1.0, **within: Any
) -> FittedLaw:
    """A law whose constants are all `scale` times where a fit starts."""
    values = {name: at * scale for name, at in START[form].items()}
    n = len(values)
    spans = {name: within.get(name, (1.0, 1e6)) for name in FORMS[form].axes}
    covariance = tuple(tuple(float(i == j) for j in range(n)) for i in range(n))
    if not kernel and FORMS[form].is_attention:
        kernel = "flash-mla" if form == "latent_decode" else "flash-attention-3"
    return FittedLaw(form, compute, stored, kernel, values, covariance, spans, ERRORS, None, None, {})


def machine(*laws: FittedLaw, **launches: int) -> Figures:
    """An H100 with these laws, whose kernels without a law take a microsecond."""
    counts = {OpKind[name.upper()]: n for name, n in launches.items()}
    stack = dataclasses.replace(_PLAIN.stack, launches={**_PLAIN.stack.launches, **counts})
    figures = dataclasses.replace(_PLAIN, stack=stack, laws=laws)
    return figures.with_values({"stack.kernel_s": KERNEL_S})


FIGURES = machine()
CARD = CardRates(
    *(FIGURES[f"accelerator.{name}"] for name in ("peak_flop_per_s.bf16", "hbm_bytes_per_s", "n_sm", "l2_bytes"))
)
FP8 = CARD._replace(flop_per_s=FIGURES["accelerator.peak_flop_per_s.fp8"])
DENSE, DENSE_FP8 = law("gemm"), law("quantised_gemm", "fp8", "fp8", scale=1.1)


def alike(found: KernelTime, wanted: KernelTime) -> None:
    assert [float(part) for part in found] == pytest.approx([float(part) for part in wanted], rel=1e-12)


def product(m: int, n: int, k: int, **more: Any) -> KernelTime:
    return dense_gemm(DENSE.values, CARD, m, n, k, **more)
