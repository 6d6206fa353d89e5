"""GPUs of one architecture, by NVIDIA's compute capability: what a law's constants are alike on."""

from __future__ import annotations

_MINORS_APART = 9
"""Up to this capability the minor number names another architecture: 8.0 is A100's, 8.6 GA102's, 8.9 Ada's."""


def family_of(compute_capability: str) -> str | None:
    """The family of a card, such as 8.9 or 10.x (B200 is 10.0, B300 10.3); None for one that has none of NVIDIA's."""
    major = compute_capability.partition(".")[0]
    if not major.isdigit():
        return None
    return compute_capability if int(major) <= _MINORS_APART else f"{major}.x"
