"""Machine code that is kept is loaded without its compiler, and never where it is not what was written."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Barrier
from time import sleep

import numpy as np
import pytest

from compiled import machine_code
from compiled.machine_code import Kernel, loaded
from pregate.kernels import KERNELS
from simulator.explain import bounds
from simulator.explain.bounds import CHAINS, chains_s
from simulator.explain.critical_path import REVERSE

ROOT = Path(__file__).parents[3]
ROOMS = ("traces", "offload", "simulator", "runtime")

RUN = """
import sys
import numpy as np
from simulator.explain.bounds import CHAINS, chains_s
from compiled.machine_code import are_kept
before = are_kept(CHAINS)
found = chains_s(np.array([0, 0, 1, 3]), np.array([0, 0, 1]), np.array([1.0, 2.0, 4.0]), np.zeros(0), small=False)
print(before, are_kept(CHAINS), "compiled.translate" in sys.modules, found.tolist())
"""


FULL = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n" + RUN
"""A disk that has no room for a whole file of machine code."""

FORK = (
    RUN
    + """
import os, signal
signal.alarm(60)
child = os.fork()
if child == 0:
    found = chains_s(np.array([0, 0, 1]), np.array([0]), np.array([1.0, 2.0]), np.zeros(0), small=False)
    os._exit(int(found.tolist() != [1.0, 3.0]))
print(os.waitpid(child, 0)[1])
"""
)


FORK_AMID = """
import os, signal
from threading import Event, Thread
from compiled import machine_code
from compiled.machine_code import loaded
from simulator.explain.bounds import CHAINS
from simulator.explain.critical_path import REVERSE
begun, linked = Event(), machine_code._address
def slow(code):
    begun.set()
    Event().wait(0.3)
    return linked(code)
machine_code._address = slow
thread = Thread(target=loaded, args=(CHAINS,))
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    loaded(REVERSE)
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1])
"""
"""A process that is born while a thread of the other holds what lets one link at a time."""


def run(home: Path, text: str = RUN) -> str:
    """What `text` prints in a process of its own that keeps things in `home`."""
    return ended(begun(home, text))


def begun(home: Path, text: str = RUN) -> subprocess.Popen[str]:
    """A process of its own that keeps things in `home`."""
    clean = {name: value for name, value in os.environ.items() if name != "PREGATE_KERNELS"}
    clean |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=clean)


def ended(process: subprocess.Popen[str]) -> str:
    """What a process has printed that ended well."""
    told, _ = process.communicate()
    assert process.returncode == 0
    return told.strip()


def only_file(home: Path) -> Path:
    """The one object file that is kept in `home`."""
    (kept,) = (home / ".cache" / "pregate" / "kernels").iterdir()
    return kept


def test_kept_code_needs_no_compiler_and_what_was_changed_is_compiled_anew(tmp_path: Path) -> None:
    assert run(tmp_path) == "False True True [1.0, 3.0, 7.0]"
    assert run(tmp_path) == "True True False [1.0, 3.0, 7.0]"
    (kept,) = (tmp_path / ".cache" / "pregate" / "kernels").glob("*.o")
    code = bytearray(kept.read_bytes())
    code[len(code) // 2] ^= 1
    kept.write_bytes(code)
    assert run(tmp_path) == "True True True [1.0, 3.0, 7.0]"
    assert run(tmp_path) == "True True False [1.0, 3.0, 7.0]"


def test_a_file_that_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    kept = only_file(tmp_path)
    monkeypatch.setenv("PREGATE_KERNELS", str(kept.parent))
    whole = kept.read_bytes()
    assert len(whole) > 1000
    for left in (0, 31, 32, 33, 1000):
        kept.write_bytes(whole[:left])
        assert machine_code._kept(CHAINS) is None, left
    assert run(tmp_path) == "True True True [1.0, 3.0, 7.0]"
    assert kept.read_bytes() == whole
    assert machine_code._kept(CHAINS) == whole[32:]


def test_what_killed_processes_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREGATE_KERNELS", str(tmp_path))
    for i in range(12):
        left = tmp_path / f"a_kernel.{i}.part"
        left.write_bytes(b"half")
        os.utime(left, (i, i))
    machine_code._compiled(CHAINS)
    assert sorted(int(path.suffixes[0][1:]) for path in tmp_path.glob("*.part")) == list(range(4, 12))
    assert machine_code._kept(CHAINS) is not None


def test_machine_code_of_another_kernel_under_this_name_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREGATE_KERNELS", str(tmp_path))
    machine_code._compiled(REVERSE)
    machine_code._compiled(CHAINS)
    other = machine_code._path(REVERSE).read_bytes()
    assert machine_code._kept(REVERSE) == other[32:]
    machine_code._path(CHAINS).write_bytes(other)
    assert machine_code._kept(CHAINS) is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owner here")
def test_a_folder_that_everybody_can_write_to_is_neither_read_nor_written(tmp_path: Path) -> None:
    run(tmp_path)
    folder = only_file(tmp_path).parent
    folder.chmod(0o777)
    assert run(tmp_path) == "False False True [1.0, 3.0, 7.0]"
    only_file(tmp_path).unlink()
    assert run(tmp_path) == "False False True [1.0, 3.0, 7.0]"
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)
    assert run(tmp_path) == "False True True [1.0, 3.0, 7.0]"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owner here")
def test_a_folder_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREGATE_KERNELS", str(tmp_path))
    machine_code._compiled(CHAINS)
    assert machine_code.are_kept(CHAINS)
    owner = tmp_path.stat().st_uid
    if owner == 0:
        os.chown(tmp_path, 1234, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert not machine_code.are_kept(CHAINS)


def test_machine_code_is_of_one_processor_and_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite.binding as llvm

    names = [machine_code._processor.__wrapped__()]
    for wrong in ("get_host_cpu_name", "get_default_triple"):
        with monkeypatch.context() as changed:
            changed.setattr(llvm, wrong, lambda: "another")
            names.append(machine_code._processor.__wrapped__())
    with monkeypatch.context() as changed:
        fewer = llvm.get_host_cpu_features()
        fewer[next(name for name, has in fewer.items() if has)] = False
        changed.setattr(llvm, "get_host_cpu_features", lambda: fewer)
        names.append(machine_code._processor.__wrapped__())
    assert len(set(names)) == 4


def test_where_nothing_can_be_kept_it_is_compiled(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("no folder")
    assert run(tmp_path) == "False False True [1.0, 3.0, 7.0]"


def test_a_full_disk_keeps_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, FULL) == "False False True [1.0, 3.0, 7.0]"
    assert list((tmp_path / ".cache" / "pregate" / "kernels").iterdir()) == []


def test_processes_that_compile_at_once_keep_one_whole_file(tmp_path: Path) -> None:
    processes = [begun(tmp_path) for _ in range(3)]
    assert {ended(process).partition("[")[2] for process in processes} == {"1.0, 3.0, 7.0]"}
    (kept,) = (tmp_path / ".cache" / "pregate" / "kernels").iterdir()
    assert kept.suffix == ".o"
    assert run(tmp_path) == "True True False [1.0, 3.0, 7.0]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_is_forked_while_a_thread_links_links_too(tmp_path: Path) -> None:
    assert run(tmp_path, FORK_AMID).splitlines()[-1] == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_machine_code_runs_in_a_process_that_was_forked(tmp_path: Path) -> None:
    assert run(tmp_path, FORK).splitlines()[-1] == "0"


def test_a_change_of_the_source_or_of_the_arguments_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_of = machine_code._stem.__wrapped__
    kernel = Kernel("a.home", "name", ("int64[1]",), sources=("a.callee",))
    paths = ("a/home.py", "a/callee.py", "compiled/machine_code.py", "compiled/writer.py")
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    monkeypatch.setattr(machine_code, "ROOT", tmp_path)
    names = {name_of(kernel), name_of(Kernel("a.home", "name", ("int32[1]",), sources=("a.callee",)))}
    for path in paths:
        (tmp_path / path).write_text("changed")
        names.add(name_of(kernel))
    assert len(names) == 2 + len(paths)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.home}.{kernel.name}")
def test_the_sources_of_a_kernel_are_all_that_it_takes_names_from(kernel: Kernel) -> None:
    """Else machine code of before would be found again after a change there."""
    known, todo, used = {kernel.home, *kernel.sources}, [(kernel.home, kernel.name)], set[tuple[str, str]]()
    while todo:
        home, name = todo.pop()
        if (home, name) in used or home == "compiled.vector":
            continue
        used.add((home, name))
        taken, defined = _names_of(home)
        todo += [taken[name]] if name in taken else []
        todo += [taken.get(one, (home, one)) for one in defined.get(name, ())]
    assert {home for home, _ in used} == known


@cache
def _names_of(home: str) -> tuple[dict[str, tuple[str, str]], dict[str, set[str]]]:
    """What a module takes from others, and of each name that it gives a meaning the names that are used for it."""
    tree = ast.parse((ROOT / f"{home.replace('.', '/')}.py").read_text())
    taken = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ROOMS
        for alias in node.names
    }
    defined: dict[str, set[str]] = {}
    for node in tree.body:
        parts = node.body if isinstance(node, ast.FunctionDef) else [node]  # annotations are for readers
        names = {one.id for part in parts for one in ast.walk(part) if isinstance(one, ast.Name)}
        for name in _defined(node):
            defined[name] = defined.get(name, set()) | names
    return taken, defined


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module gives a meaning."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}


@pytest.mark.parametrize(
    "wrong", [np.zeros(2, np.float32), np.zeros((2, 1)), np.zeros(4)[::2]], ids=["dtype", "dimensions", "strides"]
)
def test_an_array_that_a_kernel_cannot_read_is_refused(wrong: np.ndarray) -> None:
    call = machine_code._function(CHAINS, 1)  # never called
    with pytest.raises(TypeError, match="_chains takes float64 of 1 dimensions"):
        call(np.zeros(3, np.int64), np.zeros(1, np.int32), wrong, np.zeros(2))


def test_compiled_chains_are_those_of_lists() -> None:
    rng = np.random.default_rng(0)
    dep_ptr = np.arange(51)
    dep = np.array([int(rng.integers(0, 3 + i)) for i in range(50)])
    carried = rng.random(3)
    both = [
        chains_s(dep_ptr, dep, rng_s, carried, small=small) for rng_s in [rng.random(50)] for small in (True, False)
    ]
    assert np.array_equal(*both)
    assert loaded(bounds.CHAINS) is loaded(CHAINS)


def test_threads_link_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, together = 0, 0, Barrier(4)

    def linked(code: bytes) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        sleep(0.002)
        at_once -= 1
        return 0

    def ask(i: int) -> None:
        together.wait()
        loaded(Kernel("simulator.explain.bounds", f"chain_{i}", ()))

    monkeypatch.setattr(machine_code, "_kept", lambda kernel: b"code")
    monkeypatch.setattr(machine_code, "_address", linked)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(4)))
    assert most == 1
