"""Storage formats of weights, and the bits that one parameter takes in each."""

from __future__ import annotations

from dataclasses import dataclass

from traces.errors import InvalidInput, unknown_name


@dataclass(frozen=True, slots=True)
class Dtype:
    """A storage format: its name and the bits per parameter, shared scales included."""

    name: str
    bits: float

    def __post_init__(self) -> None:
        if not 0 < self.bits <= 64:
            raise InvalidInput(f"dtype {self.name!r}: {self.bits} bits per parameter, expected 0 < bits <= 64")

    @property
    def bytes_per_param(self) -> float:
        """Bytes that one parameter takes."""
        return self.bits / 8


DTYPES: dict[str, Dtype] = {
    "fp32": Dtype("fp32", 32.0),
    "bf16": Dtype("bf16", 16.0),
    "fp16": Dtype("fp16", 16.0),
    "fp8": Dtype("fp8", 8.0),
    "mxfp4": Dtype("mxfp4", 4.25),
}
"""Formats by name. mxfp4: 4-bit elements and one 8-bit scale for 32 of them (OCP Microscaling Formats v1.0,
section 5.2). fp8 leaves out per-tensor and per-block scales (DeepSeek-V3: 4 bytes for 128 x 128, 0.02 %)."""


def find_dtype(name: str, where: str = "") -> Dtype:
    """The format called `name`. Raises `UnknownName` naming the nearest; `where` is the file it stood in."""
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES, where)
    return DTYPES[name]
