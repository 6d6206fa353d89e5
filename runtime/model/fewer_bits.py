"""Experts in fewer bits: every matrix rounded to the nearest of evenly spaced levels, packed, with one scale a matrix.

Level q of 2**bits is (q + 1/2) * scale, q from -2**(bits - 1) on. The scale is that of the least squared error among
shares of the largest weight. Scales stay with whoever unpacks: what crosses a link is `bits` a parameter, no more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.memory import element_type
from runtime.model.shapes import expert_shapes
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

_BITS = (1, 2, 4, 8, 16)

_SHARES = torch.linspace(0.3, 1.0, 15).tolist()
"""Of the largest weight, what the outermost level may be: few bits serve a bell of weights better if its tails clip."""


class PackedExpert(NamedTuple):
    """`packed` (n,) uint8, the codes of all tensors in the order of their bytes; `scales`: one a tensor."""

    packed: Tensor
    scales: tuple[float, ...]


def check_bits(model: ModelArchitecture, bits: float) -> int:
    """`bits` as a whole number. Raises `InvalidInput` for bits that no byte divides into, or not fewer than stored."""
    n_params = sum(map(math.prod, expert_shapes(model).values()))
    if bits not in _BITS or bits >= model.expert_dtype.bits or n_params * bits % 8:
        allowed = ", ".join(str(one) for one in _BITS if one < model.expert_dtype.bits)
        raise InvalidInput(
            f"an expert of {model.name} in {bits:g} bits: the runtime packs {n_params:,} parameters in whole bytes, of "
            f"{allowed} bits each"
        )
    return int(bits)


def packed_bytes(model: ModelArchitecture, bits: float) -> int:
    """What an expert takes in so many bits. Raises as `check_bits`."""
    return sum(map(math.prod, expert_shapes(model).values())) * check_bits(model, bits) // 8


def pack_expert(expert: Tensor, model: ModelArchitecture, bits: float, target: Tensor) -> tuple[float, ...]:
    """The bytes of an expert, (expert_bytes,) uint8, in fewer bits into `target` (packed_bytes,) uint8; its scales."""
    whole, flat = check_bits(model, bits), expert.view(element_type(model)).float()
    codes, scales, at = torch.empty(len(flat), dtype=torch.int32), [], 0
    for shape in expert_shapes(model).values():
        n = math.prod(shape)
        scales.append(_scale(flat[at : at + n], whole))
        codes[at : at + n] = _codes(flat[at : at + n], whole, scales[-1])
        at += n
    if whole >= 8:
        kind = {8: torch.int8, 16: torch.int16}[whole]
        target.copy_(codes.to(kind).view(torch.uint8))
    else:
        unsigned = (codes + (1 << (whole - 1))).view(-1, 8 // whole)
        target.copy_((unsigned << _shifts(whole)).sum(1).to(torch.uint8))
    return tuple(scales)


def _scale(x: Tensor, bits: int) -> float:
    largest = float(x.abs().max()) / ((1 << (bits - 1)) - 0.5) or 1.0
    tried = [largest * share for share in (_SHARES if bits < 8 else [1.0])]
    errors = [float((x - (_codes(x, bits, one) + 0.5) * one).square().sum()) for one in tried]
    return tried[errors.index(min(errors))]


def _codes(x: Tensor, bits: int, scale: float) -> Tensor:
    half = 1 << (bits - 1)
    return (x / scale).floor().clamp(-half, half - 1).to(torch.int32)


def _shifts(bits: int) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.int32)


def unpack(packed: PackedExpert, model: ModelArchitecture, bits: float, target: Tensor) -> None:
    """Values of an expert into `target` (expert_bytes,) uint8, on whatever device both lie."""
    whole, flat, at = check_bits(model, bits), target.view(element_type(model)), 0
    if whole >= 8:
        codes = packed.packed.view({8: torch.int8, 16: torch.int16}[whole])
        flat.copy_(codes)
    else:
        shifts = _shifts(whole).to(packed.packed.device)
        mask, half = (1 << whole) - 1, 1 << (whole - 1)
        flat.copy_((((packed.packed.unsqueeze(1) >> shifts) & mask) - half).view(-1))
    for shape, scale in zip(expert_shapes(model).values(), packed.scales, strict=True):
        n = math.prod(shape)
        flat[at : at + n].add_(0.5).mul_(scale)
        at += n
