"""Storage formats of weights, and the bits that one parameter takes in each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from traces.errors import InvalidInput, unknown_name
from traces.model.files.ggml_blocks import GGML_BLOCKS, block_bits


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
    def most(self) -> str:
        """The format of most of the weights: itself, but where some are left wider (`fp8-w8.4`)."""
        return self.name if (partly := _PARTLY.fullmatch(self.name)) is None else partly["most"]

    @property
    def is_packed(self) -> bool:
        """Whether weights alone have it (blocks, groups, means of several): engines unpack them to multiply them."""
        return self.most not in _MULTIPLIED


_MULTIPLIED = ("fp32", "bf16", "fp16", "fp8", "fp8-b128", "mxfp8", "int8")
"""Formats that engines multiply as they are stored, or with scales applied on the way, where a card has them."""

_GROUPED = re.compile(r"int(?P<bits>\d{1,2})-g(?P<group>\d{1,7})(?P<scheme>-zp|-b|)", re.ASCII)
"""`int4-g128`, `int4-g128-zp` (AWQ, GPTQ: arXiv 2306.00978), `int4-g64-b` (MLX: a scale and a bias a group)."""

_HALF_QUADRATIC = re.compile(r"hqq(?P<bits>[12348])-g(?P<group>\d{1,7})(?P<meta>-m|)", re.ASCII)
"""`hqq4-g64`: a 16-bit scale and zero a group; `hqq2-g16-m`: these quantised to 8 bits themselves."""

_MEAN = re.compile(r"w(?P<bits>\d{1,2}(\.\d{1,4})?)", re.ASCII)
"""`w3.5`: 3.5 bits a weight on average, scales included, of files and methods that mix widths (GGUF, EXL3, AQLM)."""

_PARTLY = re.compile(r"(?P<most>[a-z]+\d+(-b128)?)-w(?P<bits>\d{1,2}(\.\d{1,4})?)", re.ASCII)
"""`fp8-w8.4`: most weights in fp8 and multiplied so, others wider, 8.4 bits a weight on average (layers left out of a
quantisation)."""

MAX_SHARES = 16
"""Most formats of a mix that says its shares."""

_SHARE = r"[a-z0-9_-]{1,16}\*0?\.\d{1,6}"
_SHARES = re.compile(rf"{_SHARE}(\+{_SHARE}){{1,{MAX_SHARES - 1}}}", re.ASCII)
"""`q4_k*0.75+q6_k*0.25`: three quarters of a part's weights in one format, a quarter in another."""

_MIX = re.compile(r"i?q\d_(k_)?(xxs|xs|s|m|l|xl|xxl)|ud-.*|.*_moe", re.ASCII)
"""`q4_k_m`, `iq2_m`, `ud-q2_k_xl`: names of whole files, whose tensors have several formats."""

DTYPES: dict[str, Dtype] = {
    "fp32": Dtype("fp32", 32.0),
    "bf16": Dtype("bf16", 16.0),
    "fp16": Dtype("fp16", 16.0),
    "fp8": Dtype("fp8", 8.0),
    "fp8-b128": Dtype("fp8-b128", 8 + 32 / (128 * 128)),
    "mxfp4": Dtype("mxfp4", 4.25),
    "nvfp4": Dtype("nvfp4", 4.5),
    "mxfp8": Dtype("mxfp8", 8.25),
    "int8": Dtype("int8", 8.0),
    "nf4": Dtype("nf4", 4.127),
}
"""Formats by name. nvfp4: 4-bit elements and one fp8 scale for 16 (NVIDIA, Introducing NVFP4, 2025). nf4: one 8-bit
constant for 64 elements and one fp32 for 256 of those (QLoRA, arXiv 2305.14314, section 3). mxfp4, mxfp8: elements and
one 8-bit scale for 32 of them (OCP Microscaling Formats v1.0, section 5.2). fp8-b128: one fp32 scale for 128 x 128
(DeepSeek-V3, arXiv 2412.19437, section 3.3.2). fp8 leaves out the scale of a tensor, int8 those of its columns: 32 bits
for some thousand weights. Those of GGUF files are derived from their blocks."""

DTYPES |= {name: Dtype(name, block_bits(block)) for name, block in GGML_BLOCKS.items() if name not in DTYPES}

_ALIASES = {"f32": "fp32", "f16": "fp16", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def find_dtype(name: str, where: str = "") -> Dtype:
    """The format called `name`, in capitals or not: `Q4_K` is `q4_k`.

    Raises `UnknownName` naming the nearest, `InvalidInput` for the name of a mix; `where` is the file it stood in.
    """
    asked = name.lower()
    asked = _ALIASES.get(asked, asked)
    if asked in DTYPES:
        return DTYPES[asked]
    if (grouped := _GROUPED.fullmatch(asked)) is not None:
        return _grouped(asked, int(grouped["bits"]), int(grouped["group"]), grouped["scheme"])
    if (half := _HALF_QUADRATIC.fullmatch(asked)) is not None:
        return _half_quadratic(asked, int(half["bits"]), int(half["group"]), bool(half["meta"]))
    if (mean := _MEAN.fullmatch(asked)) is not None and 0 < float(mean["bits"]) <= 32:
        return Dtype(asked, float(mean["bits"]))
    if _SHARES.fullmatch(asked):
        return _shared(asked)
    if (partly := _PARTLY.fullmatch(asked)) is not None and partly["most"] in _MULTIPLIED:
        return _partly(asked, DTYPES[partly["most"]], float(partly["bits"]))
    if _MIX.fullmatch(asked):
        raise InvalidInput(
            f"{where}{': ' if where else ''}{name!r} names files whose tensors have several formats: give the file "
            "itself as the model, a format a part (--formats experts=q4_k,attention=q8_0), its size (--formats "
            "all=15.4GiB), or its bits a weight (w4.8)"
        )
    if re.fullmatch(r"u?int[1-7]", asked):
        raise unknown_name(
            "dtype", name, [f"{asked.removeprefix('u')}-g128", f"{asked.removeprefix('u')}-g128-zp"], where
        )
    raise unknown_name("dtype", name, DTYPES, where)


def shares_dtype(weights: Mapping[str, float], n_digits: int = 4) -> Dtype:
    """The format of a part of whose weights so many have each format, shares to `n_digits`; the one format where all
    have it.
    """
    whole = sum(weights.values())
    shares = {name: round(n / whole, n_digits) for name, n in weights.items()}
    if len(weights) == 1 or min(shares.values()) <= 0:
        weights = {name: n for name, n in weights.items() if shares[name] > 0}
        return find_dtype(next(iter(weights))) if len(weights) == 1 else shares_dtype(weights, n_digits)
    ordered = sorted(shares, key=lambda name: (-shares[name], name))
    return find_dtype("+".join(f"{name}*{shares[name]:.{n_digits}f}".rstrip("0") for name in ordered))


def format_shares(name: str) -> tuple[tuple[str, float], ...]:
    """(format, share of the weights) of a mix that says so, else the format itself."""
    if not _SHARES.fullmatch(name):
        return ((name, 1.0),)
    pairs = (word.split("*") for word in name.split("+"))
    return tuple((form, float(share)) for form, share in pairs)


def _shared(name: str) -> Dtype:
    """A mix by shares. Raises `InvalidInput` where these are none of a whole, or the formats none of one kind each."""
    shares = format_shares(name)
    total = sum(share for _, share in shares)
    if not abs(total - 1) <= 1e-3:
        raise InvalidInput(f"dtype {name!r}: its shares come to {total:g}, expected 1")
    return Dtype(name, sum(find_dtype(form).bits * share for form, share in shares) / total)


def mean_dtype(bits: float, most: Dtype | None = None) -> Dtype:
    """The format of a part whose weights take `bits` on average; multiplied as `most` of them are, where one can be."""
    mean = f"w{bits:.4f}".rstrip("0").rstrip(".")
    return find_dtype(mean if most is None or most.name not in _MULTIPLIED else f"{most.name}-{mean}")


def _partly(name: str, most: Dtype, bits: float) -> Dtype:
    """A mean of several formats of 8 to 32 bits. Raises `InvalidInput` for one that they cannot have."""
    if not 8 <= bits <= 32:
        raise InvalidInput(f"dtype {name!r}: {bits:g} bits on average, expected 8 to 32; w{bits:g} is any mean")
    return Dtype(name, bits)


def _grouped(name: str, bits: int, group: int, scheme: str) -> Dtype:
    """Integers in groups with a 16-bit scale each; `zp`: and a zero point as wide as an element; `b`: a 16-bit bias."""
    beside = 16 + {"": 0, "-zp": bits, "-b": 16}[scheme]
    _check_group(name, bits, group, "int4-g128")
    return Dtype(name, bits + beside / group)


def _half_quadratic(name: str, bits: int, group: int, meta: bool) -> Dtype:
    """HQQ (mobiusml/hqq): 3-bit weights ten to 32 bits, the others in bytes; with `meta` 8-bit zeros and 8-bit scales,
    128 of which share a 16-bit scale and zero (`hqq_base_quant_config`).
    """
    _check_group(name, bits, group, "hqq4-g64")
    return Dtype(name, (3.2 if bits == 3 else bits) + (8 + 8 + 32 / 128 if meta else 16 + 16) / group)


def _check_group(name: str, bits: int, group: int, example: str) -> None:
    if not 1 <= bits <= 8 or not 8 <= group <= 1 << 20:
        raise InvalidInput(f"dtype {name!r}: 1 to 8 bits in groups of 8 to {1 << 20}, such as {example}")
