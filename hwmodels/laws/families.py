"""GPUs of one architecture, by NVIDIA's compute capability: what a law's constants are alike on."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FAMILIES", "family_of"]

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "8.0": ("a100-sxm4-80gb", "a100-pcie-40gb"),
    "8.6": (
        "a10", "rtx-a5000", "rtx-a6000", "rtx-3090", "rtx-3090-ti", "rtx-3060-12gb", "rtx-3080-mobile-16gb",
        "rtx-2050-mobile",
    ),
    "8.9": ("l40s", "l4", "l20", "rtx-4090", "rtx-4090d", "rtx-4080", "rtx-4060-mobile"),
    "9.0": ("h100-sxm", "h100-pcie", "h200-sxm", "h800-sxm", "gh200", "h20"),
    "10.x": ("b200", "gb200", "b300", "gb300"),
    "12.x": ("rtx-pro-6000", "rtx-5090", "rtx-5080", "rtx-5070-ti", "rtx-5060-ti-16gb", "dgx-spark"),
}  # fmt: skip
"""By compute capability, as developer.nvidia.com/cuda-gpus lists them."""


def family_of(accelerator: str) -> str | None:
    """The family of an accelerator; None for one that no table knows relatives of."""
    return next((family for family, names in FAMILIES.items() if accelerator in names), None)
