"""Accelerators that people name and that are not described here, and what to do: one line for each kind."""

from __future__ import annotations

import re

_KINDS = (
    (r"gaudi|\bhpu\b|habana", "Intel Gaudi"),
    (r"\bdata center gpu\b|^max 1[15][05]0\b|^flex 1[47]0\b|ponte vecchio", "Intel's data center GPUs"),
    (r"\btpu\b|\bironwood\b|\btrillium\b", "Google TPU"),
    (r"trainium|inferentia|\btrn[12]\b|\binf[12]\b", "AWS Trainium or Inferentia"),
    (r"ascend|\b910[a-d]\b|\b310p\b|\batlas\b", "Huawei Ascend"),
    (r"\bmtt\b|moore threads|\bs[48]000\b", "Moore Threads"),
    (r"biren|\bbr10\d\b|cambricon|\bmlu\d+|kunlun|hygon|\bdcu\b|metax|enflame|iluvatar", "a Chinese maker's"),
    (r"groq|cerebras|\bwse\b|tenstorrent|wormhole|blackhole|sambanova|graphcore|\bipu\b|hailo", "no GPU"),
    (r"\bk(?:[1248]0m?|20x)\b|kepler|\bm20[579]0\b|fermi|\bc20[57]0\b", "older than what an engine here runs on"),
    (r"\b[678]\d0m\b|\b8\d\ds\b|iris|\buhd\b|vega \d{1,2}\b(?<!56)(?<!64)|adreno|snapdragon|mali|\brk\d{4}|raspberry",
     "graphics of a processor"),
)  # fmt: skip
_TWO_DIES = re.compile(r"^mi-?250x\b")
_BASEBOARD = re.compile(r"^(?:[dh]gx)-(?=[abh]\d{3})")


def why_undescribed(plain: str, n_cards: int, module_name: str) -> str:
    """What is to be done about an accelerator, by its `plain` name; empty where nothing is known of it.

    `module_name`: the module that the rest of a baseboard's name means, where it is one.
    """
    if _TWO_DIES.search(plain):
        return f"it is two dies, each a device to software: name {2 * n_cards}x mi250x-gcd"
    if _BASEBOARD.search(plain):
        return f"that is a machine of several modules: name how many, 8x {module_name or _BASEBOARD.sub('', plain)}"
    if re.search(r"^mi-?308x", plain):
        return (
            "no source of its rates was read: describe it in a YAML file, as `pregate hardware show mi300x` prints one"
        )
    spaced = plain.replace("-", " ")
    for pattern, what in _KINDS:
        if re.search(pattern, spaced):
            return (
                f"{what}: no engine here has constants for it: describe the machine and the software in YAML files "
                "(docs/extend.md)"
            )
    return ""
