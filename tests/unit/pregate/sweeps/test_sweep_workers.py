"""Worker processes of a sweep: they end with the process that has made them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from pregate.sweeps.runner import run_tasks

SCRIPT = """
import os, time
from pregate.sweeps.runner import opened

if __name__ == "__main__":
    with opened(None, 2, []) as pool:
        first, second = (pool.submit(time.sleep, 3600) for _ in range(2))
        while not (first.running() and second.running()):
            time.sleep(0.01)
        print(*pool._processes, flush=True)
        first.result()
"""

PATIENCE_S = 30.0
"""What a loaded machine may take; workers are gone within a fraction of a second."""


def is_there(pid: int) -> bool:
    """Whether a process runs; what has ended and nobody asks for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc to see processes by")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(how: signal.Signals, tmp_path: object) -> None:
    path = f"{tmp_path}/parent.py"
    with open(path, "w") as file:
        file.write(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    parent = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2
    assert all(is_there(worker) for worker in workers)
    parent.send_signal(how)
    parent.stdout.close()
    parent.wait()
    until = time.monotonic() + PATIENCE_S
    while any(is_there(worker) for worker in workers) and time.monotonic() < until:
        time.sleep(0.02)
    left = [worker for worker in workers if is_there(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left


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
