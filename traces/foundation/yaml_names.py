"""Names of the YAML files in a folder, which is read again where it has changed."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path


def yaml_names(folder: Path) -> tuple[str, ...]:
    """The names of the YAML files in `folder`, in order: a table of machines and models asks for each row."""
    return _names(str(folder), os.stat(folder).st_mtime_ns)


@lru_cache(64)
def _names(folder: str, changed: int) -> tuple[str, ...]:
    return tuple(sorted(name.removesuffix(".yaml") for name in os.listdir(folder) if name.endswith(".yaml")))
