"""Names of what ships with the project, from the files in its folders: nothing is read."""

from __future__ import annotations

from pathlib import Path

from traces.yaml_names import yaml_names as shipped

__all__ = ["FITS_DIR", "SPECS", "STACKS_DIR", "shipped"]

_HERE = Path(__file__).parent
SPECS, FITS_DIR, STACKS_DIR = (_HERE / name for name in ("specs", "fits", "stacks"))
