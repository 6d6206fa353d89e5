"""Worker processes of a sweep: they end with the process that has made them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pregate.sweeps.runner import run_tasks

SCRIPT = """
import time
from pregate.sweeps.runner import opened

def long():
    time.sleep(600)
    print("has ended by itself", flush=True)

if __name__ == "__main__":
    with opened(None, 2, []) as pool:
        first, second = (pool.submit(long) for _ in range(2))
        while not (first.running() and second.running()):
            time.sleep(0.01)
        print(*pool._processes, flush=True)
        first.result()
"""
ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(how: signal.Signals, tmp_path: Path) -> None:
    """What they print to is closed once all have ended, however long a loaded machine takes for it."""
    path = tmp_path / "parent.py"
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        assert len(parent.stdout.readline().split()) == 2
        parent.send_signal(how)
        assert parent.stdout.read() == ""


def test_an_interrupt_is_taken_between_two_tasks_and_never_inside_a_lock() -> None:
    """It comes while a future is being read, at every place where Python would take it."""
    taken: list[str] = []

    class Reading(Future[Any]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            with self._condition:
                signal.raise_signal(signal.SIGINT)
                taken.append("inside")
            return super().exception(timeout)

    class AtOnce(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            future: Future[Any] = Reading()
            future.set_exception(ValueError("a task that fails"))
            return future

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    tasks: Any = [SimpleNamespace(key="k", n_machines=1)] * 3
    try:
        with pytest.raises(KeyboardInterrupt):
            run_tasks(tasks, ["a", "b", "c"], AtOnce())
        assert taken
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupts_of_others_are_left_to_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert run_tasks([], [], pool) == ([], [])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
