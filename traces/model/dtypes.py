"""Storage formats of weights, and the bits that one parameter takes in each."""

from __future__ import annotations

import re
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

    @property
    def is_grouped(self) -> bool:
        """Whether these are integers with a scale a group, of weights alone: no engine multiplies them as they are."""
        return _GROUPED.fullmatch(self.name) is not None


_GROUPED = re.compile(r"int(?P<bits>\d{1,2})-g(?P<group>\d{1,7})(?P<scheme>-zp|-b|)", re.ASCII)
"""`int4-g128`, `int4-g128-zp` (AWQ, GPTQ: arXiv 2306.00978), `int4-g64-b` (MLX: a scale and a bias a group)."""

_MEAN = re.compile(r"w(?P<bits>[0-7](\.\d{1,4})?)", re.ASCII)
"""`w3.5`: 3.5 bits a weight on average, scales included, of methods that mix widths (EXL3, AQLM, MLX by layer)."""

DTYPES: dict[str, Dtype] = {
    "fp32": Dtype("fp32", 32.0),
    "bf16": Dtype("bf16", 16.0),
    "fp16": Dtype("fp16", 16.0),
    "fp8": Dtype("fp8", 8.0),
    "mxfp4": Dtype("mxfp4", 4.25),
    "nvfp4": Dtype("nvfp4", 4.5),
    "mxfp8": Dtype("mxfp8", 8.25),
    "int8": Dtype("int8", 8.0),
    "nf4": Dtype("nf4", 4.127),
}
"""Formats by name. nvfp4: 4-bit elements and one fp8 scale for 16 (NVIDIA, Introducing NVFP4, 2025). nf4: one 8-bit
constant for 64 elements and one fp32 for 256 of those (QLoRA, arXiv 2305.14314, section 3). mxfp4, mxfp8: elements and
one 8-bit scale for 32 of them (OCP Microscaling Formats v1.0, section 5.2). fp8 leaves out per-tensor and per-block
scales (DeepSeek-V3: 4 bytes for 128 x 128, 0.02 %), int8 those of a column."""


def find_dtype(name: str, where: str = "") -> Dtype:
    """The format called `name`. Raises `UnknownName` naming the nearest; `where` is the file it stood in."""
    grouped = _GROUPED.fullmatch(name)
    if grouped is not None:
        return _grouped(name, int(grouped["bits"]), int(grouped["group"]), grouped["scheme"])
    mean = _MEAN.fullmatch(name)
    if mean is not None:
        return Dtype(name, float(mean["bits"]))
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES, where)
    return DTYPES[name]


def _grouped(name: str, bits: int, group: int, scheme: str) -> Dtype:
    """Integers in groups with a 16-bit scale each; `zp`: and a zero point as wide as an element; `b`: a 16-bit bias."""
    beside = 16 + {"": 0, "-zp": bits, "-b": 16}[scheme]
    if not 1 <= bits <= 8 or not 8 <= group <= 1 << 20:
        raise InvalidInput(f"dtype {name!r}: 1 to 8 bits in groups of 8 to {1 << 20}, such as int4-g128")
    return Dtype(name, bits + beside / group)
