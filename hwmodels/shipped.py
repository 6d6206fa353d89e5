"""Names of what ships with the project, from the files in its folders: nothing is read."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FITS_DIR", "SPECS", "STACKS_DIR", "shipped"]

_HERE = Path(__file__).parent
SPECS, FITS_DIR, STACKS_DIR = (_HERE / name for name in ("specs", "fits", "stacks"))


def shipped(folder: Path) -> tuple[str, ...]:
    """The names of the YAML files in `folder`, in order."""
    return tuple(sorted(name.removesuffix(".yaml") for name in os.listdir(folder) if name.endswith(".yaml")))
