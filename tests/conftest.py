"""What holds for every test: no deadline, whatever else the machine does, and in CI the same examples every time.

Libraries compute on one thread in each process that runs tests: threads that wait for each other at every product are
slow where the machine has other work. What collecting the tests, loading libraries and the files of tests before have
made and left is never garbage: none is looked for meanwhile, and later it is left out of every search, of which runs of
the real runtime make one each.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is loaded, which nothing has done yet

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.command_line import Run, runner

settings.register_profile(
    "suite",
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.register_profile("thorough", settings.get_profile("suite"), derandomize=False, max_examples=400)
settings.register_profile(  # to find out whether a test fails at all (benchmarks/mutation.py)
    "mutants", settings.get_profile("suite"), derandomize=True, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave cells marked `thorough` out, unless `-m` names the mark."""
    if "thorough" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("thorough") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.get_closest_marker("thorough") is None]


_LIBRARY = 50
"""Modules more than before, by which a library is noticed that was loaded on first use."""

_N_MODULES = pytest.StashKey[int]()
_FILE = pytest.StashKey[Path]()


def pytest_collection(session: pytest.Session) -> None:
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    _leave_out(session.config)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    is_of_another_file = item.config.stash.get(_FILE, None) != item.path
    if is_of_another_file or len(sys.modules) > item.config.stash[_N_MODULES] + _LIBRARY:
        item.config.stash[_FILE] = item.path
        _leave_out(item.config)


def _leave_out(config: pytest.Config) -> None:
    gc.collect()
    gc.freeze()
    config.stash[_N_MODULES] = len(sys.modules)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`pregate WORDS` in this process."""
    return runner(monkeypatch, capsys)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the code of policies to `mine.py` in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(code)
        return path

    return write
