"""The block types of GGUF files: how many weights a block holds, and how many bytes it takes.

From the block structures of ggml (ggml-org/llama.cpp, `GGML_QUANT_SIZES` in gguf-py/gguf/constants.py) and, from
number 133 on, of ikawrakow/ik_llama.cpp (the same file there; what a row has of its own: `row_meta_size`).
"""

from __future__ import annotations

from typing import NamedTuple

_SUPER = 256
"""Weights of a super-block: of the K formats and all but one of the IQ formats."""


class BlockType(NamedTuple):
    """`number`: as files state it. A block is `n_weights` in `n_bytes`; a row of blocks has `row_bytes` before it."""

    number: int
    n_weights: int
    n_bytes: int
    row_bytes: int = 0


GGML_BLOCKS: dict[str, BlockType] = {
    # ggml: a 16-bit scale (_1: and a 16-bit minimum) for 32 weights
    "q4_0": BlockType(2, 32, 2 + 32 * 4 // 8),
    "q4_1": BlockType(3, 32, 2 + 2 + 32 * 4 // 8),
    "q5_0": BlockType(6, 32, 2 + 32 * 5 // 8),
    "q5_1": BlockType(7, 32, 2 + 2 + 32 * 5 // 8),
    "q8_0": BlockType(8, 32, 2 + 32),
    "q1_0": BlockType(41, 128, 2 + 128 // 8),
    # ggml, K formats: one or two 16-bit scales for 256 weights, 4- to 8-bit scales for 16 or 32 of them
    "q2_k": BlockType(10, _SUPER, 2 + 2 + 16 + _SUPER * 2 // 8),
    "q3_k": BlockType(11, _SUPER, 2 + 12 + _SUPER * 3 // 8),
    "q4_k": BlockType(12, _SUPER, 2 + 2 + 12 + _SUPER * 4 // 8),
    "q5_k": BlockType(13, _SUPER, 2 + 2 + 12 + _SUPER * 5 // 8),
    "q6_k": BlockType(14, _SUPER, 2 + 16 + _SUPER * 6 // 8),
    # ggml, IQ formats: indices into tables, signs, scales
    "iq1_s": BlockType(19, _SUPER, 2 + 32 + 16),
    "iq1_m": BlockType(29, _SUPER, 32 + 16 + 8),
    "iq2_xxs": BlockType(16, _SUPER, 2 + 64),
    "iq2_xs": BlockType(17, _SUPER, 2 + 64 + 8),
    "iq2_s": BlockType(22, _SUPER, 2 + 64 + 8 + 8),
    "iq3_xxs": BlockType(18, _SUPER, 2 + 64 + 32),
    "iq3_s": BlockType(21, _SUPER, 2 + 64 + 32 + 8 + 4),
    "iq4_nl": BlockType(20, 32, 2 + 32 * 4 // 8),
    "iq4_xs": BlockType(23, _SUPER, 2 + 2 + 4 + _SUPER * 4 // 8),
    # ggml: three values a weight; microscaling formats with an 8-bit scale
    "tq1_0": BlockType(34, _SUPER, 2 + 48 + 4),
    "tq2_0": BlockType(35, _SUPER, 2 + 64),
    "mxfp4": BlockType(39, 32, 1 + 16),
    "nvfp4": BlockType(40, 64, 4 + 32),
    # ik_llama.cpp
    "q6_0": BlockType(133, 32, 2 + 32 * 6 // 8),
    "iq1_bn": BlockType(134, 64, 13, 2),
    "iq2_bn": BlockType(135, 64, 16, 4),
    "iq2_k": BlockType(137, _SUPER, 2 + 2 + 8 + 64),
    "iq3_k": BlockType(138, _SUPER, 2 + 2 + 2 + 8 + 64 + 32),
    "iq4_k": BlockType(139, _SUPER, 2 + 2 + 4 + 8 + 128),
    "iq5_k": BlockType(140, _SUPER, 2 + 2 + 4 + 8 + 128 + 32),
    "iq6_k": BlockType(141, _SUPER, 2 + 2 + 16 + 128 + 64),
    "iq4_ks": BlockType(144, _SUPER, 8 + 128, 4),
    "iq2_ks": BlockType(145, _SUPER, 2 + 4 + 64, 2),
    "iq4_kss": BlockType(146, _SUPER, 128, 4),
    "iq5_ks": BlockType(152, _SUPER, 8 + 128 + 32, 4),
    "iq2_kt": BlockType(153, _SUPER, 68, 4),
    "iq3_kt": BlockType(154, _SUPER, 100, 4),
    "iq4_kt": BlockType(155, _SUPER, 128, 4),
    "iq3_ks": BlockType(156, _SUPER, 2 + 4 + 64 + 32, 2),
    "iq2_kl": BlockType(157, _SUPER, 2 + 4 + 64 + 16, 2),
    "iq1_kt": BlockType(158, _SUPER, 56, 4),
    "q8_kv": BlockType(151, 32, 32, 8),
    "q8_kv_r8": BlockType(398, 32, 32, 4),
    "iq1_s_r4": BlockType(219, 32, 6, 2),
    "iq1_m_r4": BlockType(229, 32, 7, 2),
}
"""Block types by their name in lower case; those of activations alone (q8_1, q8_k) are not stored. What a row has of
its own is counted in files, not in `block_bits`: below 0.1 % for rows of 2,048 weights on."""

_INTERLEAVED: dict[str, tuple[int, str]] = {
    "q4_0_r8": (202, "q4_0"), "q5_0_r4": (206, "q5_0"), "q8_0_r8": (208, "q8_0"), "q2_k_r4": (210, "q2_k"),
    "q3_k_r4": (211, "q3_k"), "q4_k_r4": (212, "q4_k"), "q5_k_r4": (213, "q5_k"), "q6_k_r4": (214, "q6_k"),
    "iq2_xxs_r4": (216, "iq2_xxs"), "iq2_xs_r4": (217, "iq2_xs"), "iq3_xxs_r4": (218, "iq3_xxs"),
    "iq4_nl_r4": (220, "iq4_nl"), "iq3_s_r4": (221, "iq3_s"), "iq2_s_r4": (222, "iq2_s"), "iq4_xs_r8": (223, "iq4_xs"),
    "q6_0_r4": (233, "q6_0"), "iq2_bn_r4": (335, "iq2_bn"), "iq2_k_r4": (337, "iq2_k"), "iq3_k_r4": (338, "iq3_k"),
    "iq4_k_r4": (339, "iq4_k"), "iq5_k_r4": (340, "iq5_k"), "iq4_ks_r4": (344, "iq4_ks"), "iq5_ks_r4": (352, "iq5_ks"),
}  # fmt: skip
"""Rows of blocks interleaved for the CPU (ik_llama.cpp): as many bytes in another order."""

GGML_BLOCKS |= {name: GGML_BLOCKS[plain]._replace(number=number) for name, (number, plain) in _INTERLEAVED.items()}
GGML_BLOCKS["q8_k_r8"] = BlockType(399, _SUPER, 2 + _SUPER)

_PLAIN: dict[int, tuple[str, int]] = {
    0: ("fp32", 4), 1: ("fp16", 2), 30: ("bf16", 2), 230: ("bf16", 2), 28: ("fp64", 8),
    24: ("int8", 1), 25: ("int16", 2), 26: ("int32", 4), 27: ("int64", 8),
}  # fmt: skip
"""Numbers of types without blocks: our name, bytes of an element."""

_BY_NUMBER = {block.number: (name, block) for name, block in GGML_BLOCKS.items()} | {
    number: (name, BlockType(number, 1, size)) for number, (name, size) in _PLAIN.items()
}


def block_type(number: int) -> tuple[str, BlockType] | None:
    """(name, block) of the type that files number so; None for one that is not known."""
    return _BY_NUMBER.get(number)


def block_bits(block: BlockType) -> float:
    """Bits that a weight takes, scales included."""
    return 8 * block.n_bytes / block.n_weights
