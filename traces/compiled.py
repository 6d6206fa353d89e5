"""numba's `njit`, with machine code that outlives a checkout: import `njit` from here, on first use.

Code lies in ~/.cache/pregate/compiled, named by the digest of all compiled source and of the versions of Python, numba
and NumPy: another checkout of the same code, or one that cannot be written to, finds it there, and a change of a callee
is never missed. `NUMBA_CACHE_DIR`, where set, is obeyed instead; a home that cannot be written to leaves numba's rules.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit
from numba.core import config

__all__ = ["KeptCode", "njit"]

ROOT = Path(__file__).parents[1]
ROOMS = ("traces", "offload", "hwmodels", "simulator", "runtime", "pregate")
FOLDER = Path("~/.cache/pregate/compiled")

_KEPT = 16
"""Versions of the code whose machine code is kept, the one in use included."""


@cache
def _folder() -> Path | None:
    """Where the machine code of this source lies; None where it cannot be written."""
    try:
        root = FOLDER.expanduser()
        folder = root / _digest()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
        for old in sorted(root.iterdir(), key=lambda path: -path.stat().st_mtime)[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError):
        return None
    return folder


def _digest() -> str:
    state = hashlib.sha256(f"{sys.version} {numba.__version__} {np.__version__}".encode())
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            source = path.read_bytes()
            name = path.relative_to(ROOT).as_posix()
            if b"traces.compiled" in source or b"njit" in source:
                state.update(name.encode() + source)
    return state.hexdigest()[:16]


class KeptCode:
    """Tells numba where to keep the machine code of one function: what numba calls a cache locator."""

    def __init__(self, function: Any, path: str, folder: Path) -> None:
        self._line, self._folder = function.__code__.co_firstlineno, folder
        self._file = hashlib.sha256(Path(path).resolve().relative_to(ROOT).as_posix().encode()).hexdigest()[:8]

    @classmethod
    def from_function(cls, function: Any, path: str) -> KeptCode | None:
        """None for a function of another project, or where nothing can be written."""
        folder = _folder() if Path(path).resolve().is_relative_to(ROOT) else None
        return None if folder is None else cls(function, path, folder)

    def ensure_cache_path(self) -> None:
        """Make the folder. Raises `OSError` where it cannot be."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """What the source is: the folder is named by it."""
        return self._folder.name

    def get_disambiguator(self) -> str:
        """Tells functions of one name apart."""
        return f"{self._file}-{self._line}"


def _keep() -> None:
    settings: Any = config
    if not settings.CACHE_DIR and getattr(settings, "CACHE_LOCATOR_CLASSES", None) == "":
        usual = ("UserProvidedCacheLocator", "InTreeCacheLocator", "UserWideCacheLocator", "IPythonCacheLocator")
        settings.CACHE_LOCATOR_CLASSES = ",".join((f"{__name__}.{KeptCode.__name__}", *usual, "ZipCacheLocator"))


_keep()
