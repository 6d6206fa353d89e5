"""Runs tasks on whatever executor there is, keeps each outcome as soon as it is there, and loses none to a failure."""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import SimpleQueue
from threading import Thread, current_thread, main_thread
from typing import Any

from pregate.sweeps.checkpoint import Checkpoint
from pregate.sweeps.tasks import Task, TaskOutcome, run_task
from traces.errors import InvalidInput

_IN_FLIGHT = 64
"""Tasks handed to an executor at a time: enough for any cluster's queue, few enough to hold in memory."""

_MOST_PROCESSES = 64
_PROCESSES_A_CORE = 4
"""So many processes are started, whatever the machine, or so many a core where that is more."""

Progress = Callable[[int, int], None]
"""Called with the machines evaluated so far and in all, on the thread that called `sweep`."""


def run_tasks(
    tasks: Sequence[Task],
    digests: Sequence[str],
    executor: Executor,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> tuple[list[TaskOutcome | None], list[BaseException]]:
    """The outcome of each task, None where it failed, and the failures.

    What a checkpoint has is not run again; what ends goes into it at once. An interrupt stops what has not begun, waits
    for what has, keeps it and goes on; a second one waits for nothing.
    """
    run = _Run(tasks, digests, executor, checkpoint, progress)
    with _interrupts_as(run.interrupt):
        try:
            run.all()
        except BaseException:
            run.drain()
            raise
    return run.outcomes, run.failures


@contextmanager
def _interrupts_as(act: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C call `act`, the second time raise `KeyboardInterrupt`, where it would have raised that at once.

    Raised anywhere, it can leave a lock of a future taken, for which all would wait for ever.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def heard(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        act()

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Run:
    """The state of one call of `run_tasks`."""

    def __init__(
        self,
        tasks: Sequence[Task],
        digests: Sequence[str],
        executor: Executor,
        checkpoint: Checkpoint | None,
        progress: Progress | None,
    ) -> None:
        self.tasks, self.digests, self.executor, self.checkpoint = tasks, digests, executor, checkpoint
        self.progress = progress or (lambda done, total: None)
        self.outcomes: list[TaskOutcome | None] = [checkpoint.load(name) if checkpoint else None for name in digests]
        self.failures: list[BaseException] = []
        self.running: dict[Future[TaskOutcome], int] = {}
        self.interrupted = False
        self.ended: SimpleQueue[Future[TaskOutcome] | None] = SimpleQueue()  # None: an interrupt
        self.total = sum(task.n_machines for task in tasks)
        self.done = sum(task.n_machines for task, known in zip(tasks, self.outcomes, strict=True) if known)

    def all(self) -> None:
        """Run whatever has no outcome."""
        waiting = deque(i for i in _distinct_first(self.tasks) if self.outcomes[i] is None)
        self.progress(self.done, self.total)
        while waiting or self.running:
            while waiting and len(self.running) < _IN_FLIGHT:
                i = waiting.popleft()
                try:
                    future = self.executor.submit(run_task, self.tasks[i])
                    self.running[future] = i
                    future.add_done_callback(self.ended.put)
                except RuntimeError as error:  # the executor broke or was shut down
                    self.failures.append(error)
                    waiting.clear()
            if self.running:
                ended = self.ended.get()
                if ended is None:
                    break
                self._collect(ended)
        if self.interrupted:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Stop before the next outcome is taken."""
        self.interrupted = True
        self.ended.put(None)

    def drain(self) -> None:
        """Keep what was under way."""
        for future in list(self.running):
            if future.cancel():
                del self.running[future]
        for future in wait(self.running).done:
            self._collect(future)

    def _collect(self, future: Future[TaskOutcome]) -> None:
        i = self.running[future]
        error = CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self.failures.append(error)
        else:
            self.outcomes[i] = future.result()
            if self.checkpoint is not None:
                self.checkpoint.save(self.digests[i], future.result())
            self.done += self.tasks[i].n_machines
        del self.running[future]  # last: what an interrupt cuts short is collected again
        self.progress(self.done, self.total)


def _distinct_first(tasks: Sequence[Task]) -> list[int]:
    """An order in which every schedule is written early, and by one worker, before others ask for it too."""
    seen: Counter[str] = Counter()
    ranks = []
    for task in tasks:
        ranks.append(seen[task.key])
        seen[task.key] += 1
    return sorted(range(len(tasks)), key=lambda i: ranks[i])


def check_jobs(jobs: int | None) -> None:
    """Raise `InvalidInput` for fewer processes than one, or for more than a machine has any use for."""
    most = max(_MOST_PROCESSES, _PROCESSES_A_CORE * _n_cores())
    if jobs is not None and not 1 <= jobs <= most:
        raise InvalidInput(
            f"jobs = {jobs}: 1 to {most} processes on these {_n_cores()} cores; each takes memory of its own"
        )


@contextmanager
def opened(executor: Any, jobs: int | None, tasks: Sequence[Task]) -> Iterator[Executor]:
    """The executor that was asked for: one given (a Dask client offers one), `jobs` processes, or threads of this one.

    Only what is made here is shut down. Raises `InvalidInput` for both at once, for a number of `check_jobs`, or for a
    policy that cannot be sent to another process.
    """
    if executor is not None and jobs is not None:
        raise InvalidInput("executor and jobs are both given: choose one")
    if executor is not None and not (hasattr(executor, "submit") or hasattr(executor, "get_executor")):
        raise InvalidInput(f"executor = {executor!r} is neither a concurrent.futures.Executor nor a Dask client")
    check_jobs(jobs)
    if executor is None and jobs is None:
        with ThreadPoolExecutor(_n_cores(), thread_name_prefix="sweep") as threads:
            yield threads
        return
    if executor is None or isinstance(executor, ProcessPoolExecutor):
        _check_sendable(tasks)
    if executor is not None:
        yield executor.get_executor(pure=False) if hasattr(executor, "get_executor") else executor
        return
    pool = ProcessPoolExecutor(jobs, mp_context=_Uninterrupted(), initializer=_depend_on_parent)
    with pool:
        yield pool


def _n_cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker(SpawnProcess):
    """A process that is born deaf to Ctrl-C, which reaches a whole process group: it finishes what it has."""

    def start(self) -> None:
        """Start it with what it inherits: the signal blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Uninterrupted(SpawnContext):
    """How workers are started."""

    Process = _Worker


def _depend_on_parent() -> None:
    """A parent that was ended keeps nothing: its workers end with it."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_after, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    """End this process at once when what `sentinel` stands for is gone."""
    connection.wait([sentinel])
    os._exit(1)


def _check_sendable(tasks: Sequence[Task]) -> None:
    for policy in {repr(task.request.policy): task.request.policy for task in tasks}.values():
        try:
            pickle.dumps(policy)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise InvalidInput(
                f"policy {policy.name} has functions that cannot be sent to another process: define them at the top of "
                f"a module, or sweep in this process (no jobs, no executor)"
            ) from None
