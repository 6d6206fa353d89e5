"""The number formats that a card can have a rate for, and in which of them it multiplies what asks for another."""

from __future__ import annotations

from collections.abc import Collection

PEAK_DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4")
"""Number formats a peak rate can be stated for; only fp32 must be."""

_WIDER: dict[str, tuple[str, ...]] = {
    "fp4": ("fp8", "bf16", "fp16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"),
    "int4": ("int8", "bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
}
"""What a card that has no rate for a format computes it in: the first of these that it has. Weights of any format can
be stored and unpacked; a T4 has no bf16, so engines run such models in fp16 there."""


def computes_in(compute: str, stated: Collection[str]) -> str:
    """The format in which a card with rates for `stated` multiplies what asks for `compute`; fp32 at last."""
    if compute in stated:
        return compute
    return next((wider for wider in _WIDER.get(compute, ()) if wider in stated), "fp32")


UNPACKED_BITS = 4
"""The width of weights that a stack states the efficiency of unpacking for: the commonest."""

_BITS = {"fp32": 32, "tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}


def is_unpacked(weight_bits: float, computed: str) -> bool:
    """Whether weights stored in `weight_bits` are unpacked where they are multiplied in `computed`.

    Between formats of 16 and 32 bits engines convert when they load.
    """
    return weight_bits < min(16, _BITS[computed])
