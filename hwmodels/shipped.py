"""The folders of what ships with the project: machines, fits, stacks. `yaml_names` lists what is in one."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
SPECS, FITS_DIR, STACKS_DIR = (_HERE / name for name in ("specs", "fits", "stacks"))
