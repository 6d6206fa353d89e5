"""Machine code is found again by another checkout of the same code, and by one that cannot be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

_RUN = """
import numpy as np
from runtime import pacing_kernel
pacing_kernel.spin(np.ones(1, np.int64), 0, 1, 1, np.zeros(2, np.int64))
stats = pacing_kernel.spin.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), pacing_kernel.__file__)
"""


def _run(checkout: Path, home: Path, **environment: str) -> tuple[int, int]:
    """Hits and misses of the cache in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHONPATH"))}
    clean |= {"HOME": str(home), "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", _RUN], check=True, capture_output=True, text=True, env=clean, cwd=checkout
    )
    n_hits, n_misses, path = done.stdout.split()
    assert Path(path).is_relative_to(checkout)
    return int(n_hits), int(n_misses)


def _checkout(at: Path) -> Path:
    for room in ("traces", "offload", "hwmodels", "simulator", "runtime", "pregate"):
        (at / room).mkdir(parents=True)
        for path in (ROOT / room).rglob("*.py"):
            to = at / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
    return at


def test_another_checkout_of_the_same_code_compiles_nothing(tmp_path: Path) -> None:
    first, second, home = _checkout(tmp_path / "first"), _checkout(tmp_path / "second"), tmp_path / "home"
    home.mkdir()
    assert _run(first, home) == (0, 1)
    assert _run(second, home) == (1, 0)
    kernel = second / "runtime" / "pacing_kernel.py"
    kernel.write_text(kernel.read_text() + "\n# changed\n")
    assert _run(second, home) == (0, 1)
    assert not list(second.rglob("*.nbi"))


def test_a_folder_that_is_named_is_obeyed(tmp_path: Path) -> None:
    checkout, home, named = _checkout(tmp_path / "here"), tmp_path / "home", tmp_path / "named"
    home.mkdir()
    assert _run(checkout, home, NUMBA_CACHE_DIR=str(named)) == (0, 1)
    assert list(named.rglob("*.nbi"))
    assert not list(home.rglob("*.nbi"))
