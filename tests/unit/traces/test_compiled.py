"""Machine code is found again by another checkout of the same code, and by one that cannot be written to."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

from traces import compiled

ROOT = Path(__file__).parents[3]

_RUN = """
import numpy as np
from offload.fast import replay_kernel
replay_kernel.next_uses(np.array([0, 1]), np.array([0], np.int32), 1)
stats = replay_kernel.next_uses.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), replay_kernel.__file__)
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
    kernel = second / "offload" / "fast" / "slots_kernel.py"  # another compiled module than the one that runs
    kernel.write_text(kernel.read_text() + "\n# changed\n")
    assert _run(second, home) == (0, 1)
    assert not list(second.rglob("*.nbi"))


def test_what_compiled_code_takes_from_another_module_is_known() -> None:
    """Else machine code of before would be found again after a change there. `machine_code` knows what it compiles."""
    paths = [*(ROOT / "offload" / "fast").glob("*.py"), *(ROOT / "simulator").glob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    kernels = {name: ast.parse(text).body for name, text in sources.items() if "\nfrom traces.compiled import" in text}
    assert len(kernels) >= 8
    known = {*kernels, *compiled._CONSTANTS, "traces/compiled.py"}
    for name, body in kernels.items():
        named = {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
        ours = {f"{module.replace('.', '/')}.py" for module in named if module.partition(".")[0] in compiled.ROOMS}
        assert ours <= known, name


def test_a_folder_that_is_named_is_obeyed(tmp_path: Path) -> None:
    checkout, home, named = _checkout(tmp_path / "here"), tmp_path / "home", tmp_path / "named"
    home.mkdir()
    assert _run(checkout, home, NUMBA_CACHE_DIR=str(named)) == (0, 1)
    assert list(named.rglob("*.nbi"))
    assert not list(home.rglob("*.nbi"))


def test_each_function_of_the_compiled_decoder_is_compiled_once(tmp_path: Path) -> None:
    code = (
        "import numba.core.compiler as compiler\n"
        "names, made = [], compiler.compile_extra\n"
        "def counted(context, target, function, *rest, **more):\n"
        "    names.append(f'{function.__module__}.{function.__name__}')\n"
        "    return made(context, target, function, *rest, **more)\n"
        "compiler.compile_extra = counted\n"
        "from offload.fast.decode_compiled import RUN_STEPS\n"
        "from traces.machine_code import loaded\n"
        "loaded(RUN_STEPS)\n"
        "mine = [name for name in names if name.startswith('offload.fast')]\n"
        "print(sorted({name for name in mine if mine.count(name) > 1}), len(mine) > 20)\n"
    )
    environment = dict(os.environ) | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
