"""The CPU back end: a thread a lane, "device" memory as a second pool, and links paced to a stated bandwidth.

Bytes move, matrices multiply and overlap is real. A lane waits for ops of other lanes, one lock each, and blocks; only
the compute lane, which has a core of its own, spins for a while first, as an idle accelerator keeps its clock.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import count
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.ops import Lane
from runtime.backends.backend import Action, Copy, DeviceBudget, LaneFailure, Times
from runtime.backends.interruptions import AWAKE_NS, Interruptions, RunQueue, interrupted_ns
from runtime.backends.pacing import Link, now_ns, paced_copy, spin_until_set, without_timer_slack
from runtime.memory import aligned, host_memory
from runtime.programs.precedence import Order
from traces.errors import InvalidInput

_SPIN_NS = 2_000_000
"""A compute lane that blocks takes 30 to 50 us to wake up, and starts cold: it spins through short transfers, and while
the host makes up its mind."""

_LATE_NS = 50_000
"""A paced copy that ends no later than this after its link would have leaves the link free at the link's own time, so
that the lateness of timers does not add up over a queue of copies."""

_ENDS = 2
"""The end is handed to a lane when all was issued, and when the back end is closed."""

_SWITCH_S = 2e-5
"""How long a thread may keep the interpreter lock that another wants, while a run lasts."""


class _Abandoned(Exception):
    """What an op waits for will not come: another lane has failed, or the run was stopped."""


class CpuBackend:
    """`runtime.backends.backend.Backend` on threads.

    `hbm_bytes`: of the "device" (None: unbounded); `h2d`, `d2h`: its links. `disturb`: called on an op's lane with the
    op before it runs, for tests that need bad luck. An op starts when lane, host and dependencies allow it, as the
    simulator defines it: what a thread takes to wake up and to get going belongs to the op.
    """

    name = "cpu"
    copies_on_host_core = False
    """Whether links, which a thread each imitates, and the host have one core between them."""

    def __init__(
        self,
        hbm_bytes: int | None = None,
        h2d: Link = Link(),  # noqa: B008 (frozen)
        d2h: Link = Link(),  # noqa: B008 (frozen)
        disturb: Callable[[int], None] | None = None,
    ) -> None:
        self.budget = DeviceBudget(hbm_bytes)
        self._links = {Lane.H2D: h2d, Lane.D2H: d2h}
        self._disturb = disturb
        self._stop = np.zeros(1, dtype=np.int64)
        self._actions: list[Action | None] = []
        self._waits: list[tuple[int, ...]] = []
        self._lanes: list[Lane] = []
        self._failure: tuple[int, BaseException] | None = None
        self._threads: list[threading.Thread] = []
        self._queues: dict[Lane, SimpleQueue[int | None]] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._restore: list[Callable[[], None]] = []

    def allocate(self, n_bytes: int, what: str) -> Tensor:
        """Memory of the "device", counted."""
        self.budget.take(n_bytes, what)
        return host_memory(n_bytes, what)

    def allocate_host(self, n_bytes: int, what: str) -> Tensor:
        """Memory of the host."""
        return host_memory(n_bytes, what)

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        """A copy of `values`, aligned as all memory is."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        there = aligned(tensor.nbytes).view(tensor.dtype).view(tensor.shape)
        return there.copy_(tensor)

    def load(self, order: Order, actions: Sequence[Action | None]) -> None:
        """Start a thread a lane, each on its cores; the caller's becomes the host lane.

        Raises `InvalidInput` when the back end has had its run.
        """
        lanes = [Lane(lane) for lane in order.lane.tolist()]
        self.open(len(lanes), dict.fromkeys(lanes))
        self._actions, self._waits, self._lanes = list(actions), list(order.waits), lanes
        for op in {op for waits in order.waits for op in waits}:
            self._lock(op)

    def open(self, most_ops: int, lanes: Iterable[Lane]) -> None:
        """As `load`, of ops that come one by one, at most so many and on these lanes: `add` each, then issue it.

        Raises `InvalidInput` for a second run.
        """
        if self._stop[0]:
            raise InvalidInput("a back end serves one run: make another for the next")
        self._issued_ns, self._start_ns, self._end_ns, self._worked_ns = np.zeros((4, most_ops), dtype=np.int64)
        self._on_lane_ns, self._host_ns = np.zeros((2, most_ops), dtype=np.int64)  # kept from running
        self._moved = dict.fromkeys(Lane, 0)
        self._given = np.zeros(most_ops + _ENDS, dtype=np.int64)  # what the compute lane was handed so far, each 1
        self._n_given = 0
        self._free_ns = dict.fromkeys(Lane, 0)  # when each link has served what it was given, by its own clock
        self._last_end_ns = dict.fromkeys(Lane, 0)
        self._host_seen = 0, 0  # when the host last issued or waited, and its processor time then
        spin_until_set(np.ones(1, dtype=np.int64), 0, 0)  # compiled before the clock starts
        paced_copy(0, 0, 0, 0, Link(), self._stop)
        own, others = self._quieten()
        self.copies_on_host_core = len(others) == 1
        for lane in lanes:
            if lane is not Lane.HOST:
                self._queues[lane] = SimpleQueue()
                cores = own if lane is Lane.COMPUTE else others
                name = f"pregate-{lane.name.lower()}"
                thread = threading.Thread(target=self._serve, args=(lane, cores), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def add(self, lane: Lane, waits: tuple[int, ...], action: Action | None) -> None:
        """The next op, which others may come to wait for."""
        self._lock(len(self._lanes))
        self._lanes.append(lane)
        self._waits.append(waits)
        self._actions.append(action)

    def _lock(self, op: int) -> None:
        """A lock that is held until `op` has ended."""
        lock = threading.Lock()
        lock.acquire()
        self._locks[op] = lock

    def ended(self, op: int) -> None:
        """Block the caller until `op` has ended, which is no op itself."""
        try:
            self._await(op, 0)
        except _Abandoned:
            self._raise_failure()
            raise

    def _quieten(self) -> tuple[set[int], set[int]]:
        """Set the process up for timing, to be undone by `close`; the cores of the compute lane and of the others."""
        interval, n_threads = sys.getswitchinterval(), torch.get_num_threads()
        self._restore += [lambda: sys.setswitchinterval(interval), lambda: torch.set_num_threads(n_threads)]
        sys.setswitchinterval(_SWITCH_S)
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._spin_ns = _SPIN_NS if len(cores) > 1 else 0
        if len(cores) < 2:
            return cores, cores
        own = {max(cores)}
        host = threading.get_native_id()
        os.sched_setaffinity(host, cores - own)
        self._restore.append(partial(_give_cores_back, host, cores))
        return own, cores - own

    def issue(self, op: int) -> None:
        """Hand `op` to its lane's thread."""
        self._host_at(op)
        self._hand(self._lanes[op], op)

    def _host_at(self, op: int) -> int:
        """The host has come to `op`: when, and what kept it from running since it was last seen."""
        at_ns, worked_ns = now_ns(), time.thread_time_ns()
        before_ns, before_worked_ns = self._host_seen
        if before_ns:
            self._host_ns[op] = interrupted_ns(at_ns - before_ns - (worked_ns - before_worked_ns))
        self._host_seen = at_ns, worked_ns
        self._issued_ns[op] = at_ns
        return at_ns

    def _hand(self, lane: Lane, op: int | None) -> None:
        """Put `op`, None for the end, into the queue of its lane; a compute lane may be spinning for it."""
        self._queues[lane].put(op)
        if lane is Lane.COMPUTE:
            self._given[self._n_given] = 1
            self._n_given += 1

    def wait(self, op: int) -> None:
        """Block the caller; the op lasts from when it could have gone on until it does."""
        begin_ns = self._host_at(op)
        try:
            for dep in self._waits[op]:
                self._await(dep, 0)
        except _Abandoned:
            self._raise_failure()
            raise
        start_ns = max([begin_ns, *(int(self._end_ns[dep]) for dep in self._waits[op])])
        end_ns = now_ns()
        self._start_ns[op], self._on_lane_ns[op] = start_ns, interrupted_ns(end_ns - start_ns, AWAKE_NS)
        self._ended(op, end_ns)
        self._host_seen = end_ns, time.thread_time_ns()

    def synchronise(self) -> None:
        """Let the lanes run dry, and join them."""
        for lane in self._queues:
            self._hand(lane, None)
        for thread in self._threads:
            thread.join()
        self._raise_failure()

    def times(self) -> Times:
        """From the start of the first op."""
        zero, n = self._zero_ns(), len(self._lanes)
        start_s, end_s = (1e-9 * (found[:n] - zero).astype(np.float64) for found in (self._start_ns, self._end_ns))
        on_lane_s, host_s = (1e-9 * lost[:n].astype(np.float64) for lost in (self._on_lane_ns, self._host_ns))
        return Times(start_s, end_s, dict(self._moved), Interruptions(on_lane_s, host_s, self.issued_s()))

    def issued_s(self) -> NDArray[np.float64]:
        """(n_ops,): when each op was issued, or the host began to wait, from the same zero."""
        return 1e-9 * (self._issued_ns[: len(self._lanes)] - self._zero_ns()).astype(np.float64)

    def worked_s(self) -> NDArray[np.float64]:
        """(n_ops,): processor time of each copy, pacing, waking up and going to sleep included; 0 of other ops."""
        return 1e-9 * self._worked_ns[: len(self._lanes)].astype(np.float64)

    def _zero_ns(self) -> int:
        return int(self._start_ns[: len(self._lanes)].min(initial=np.iinfo(np.int64).max))

    def close(self) -> None:
        """Stop and join the lanes, give back the process's settings and the pools."""
        self._abandon()
        for lane in self._queues:
            self._hand(lane, None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._actions = []
        self._queues.clear()
        self._locks.clear()
        while self._restore:
            self._restore.pop()()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            op, error = self._failure
            lane = self._lanes[op].name
            raise LaneFailure(f"op {op} on lane {lane} failed: {error}: nothing of this run is kept") from error

    def _abandon(self) -> None:
        """Wake whoever waits; from here on every wait ends in `_Abandoned`."""
        self._stop[0] = 1
        for lock in self._locks.values():
            with suppress(RuntimeError):  # released already
                lock.release()

    def _await(self, op: int, spin_ns: int) -> None:
        """Block until `op` has ended. Raises `_Abandoned` when it never will."""
        if not self._end_ns[op] and not (spin_ns and spin_until_set(self._end_ns, op, spin_ns)):
            lock = self._locks[op]
            lock.acquire()  # a turnstile: whoever comes through lets the next one in
            with suppress(RuntimeError):
                lock.release()
        if self._stop[0]:
            raise _Abandoned

    def _ended(self, op: int, end_ns: int) -> None:
        self._end_ns[op] = end_ns
        lock = self._locks.get(op)
        if lock is not None:
            with suppress(RuntimeError):
                lock.release()

    def _serve(self, lane: Lane, cores: set[int]) -> None:
        """The thread of one lane: its ops in the order they were issued, until there are no more."""
        if cores:
            os.sched_setaffinity(0, cores)
        without_timer_slack()
        torch.set_num_threads(1)
        spin_ns = self._spin_ns if lane is Lane.COMPUTE else 0
        worked_ns, queue = time.thread_time_ns(), RunQueue()
        with torch.inference_mode(), closing(queue):
            for n in count():
                op = self._next(lane, n, spin_ns)
                if op is None:
                    return
                if self._stop[0]:
                    continue
                try:
                    for dep in self._waits[op]:
                        self._await(dep, spin_ns)
                    if self._disturb is not None:
                        self._disturb(op)
                    self._run(lane, op, queue)
                    if lane in self._links:
                        before_ns, worked_ns = worked_ns, time.thread_time_ns()
                        self._worked_ns[op] = worked_ns - before_ns
                except _Abandoned:
                    continue
                except BaseException as error:  # whatever it was, the host must hear of it
                    self._failure = self._failure or (op, error)
                    self._abandon()

    def _next(self, lane: Lane, n: int, spin_ns: int) -> int | None:
        """What a lane is handed after `n` others, None for the end."""
        if spin_ns and not self._given[n]:
            spin_until_set(self._given, n, spin_ns)
        return self._queues[lane].get()

    def _run(self, lane: Lane, op: int, queue: RunQueue) -> None:
        """An op starts when lane, host and what it waits for let it; getting going is part of it, as on a device."""
        issued_ns, ends_ns = int(self._issued_ns[op]), (int(self._end_ns[dep]) for dep in self._waits[op])
        ready_ns = max(issued_ns, *ends_ns) if self._waits[op] else issued_ns
        self._start_ns[op] = start_ns = max(ready_ns, self._last_end_ns[lane])
        action = self._actions[op]
        assert action is not None
        begin_ns = now_ns()
        if isinstance(action, Copy):
            end_ns, late_ns = self._copy(lane, action, ready_ns)
            self._moved[lane] += action.n_bytes
            lost_ns = interrupted_ns(min(late_ns, queue.waited_ns()))
        else:
            worked_ns = time.thread_time_ns()
            self._moved[lane] += action() or 0
            worked_ns = time.thread_time_ns() - worked_ns
            end_ns = now_ns()
            if lane is Lane.COMPUTE:  # other lanes read files, or have several threads
                late_ns = interrupted_ns(begin_ns - start_ns, AWAKE_NS)
                lost_ns = late_ns + interrupted_ns(end_ns - begin_ns - worked_ns)
            else:
                lost_ns = interrupted_ns(queue.waited_ns())
        self._on_lane_ns[op] = min(lost_ns, end_ns - start_ns)
        self._last_end_ns[lane] = end_ns
        self._ended(op, end_ns)

    def _copy(self, lane: Lane, action: Copy, ready_ns: int) -> tuple[int, int]:
        """Copy at the pace of the lane's link, which is a virtual clock of its own; when it ended, how late.

        Link and op have one reading of that end: a lane that is preempted between two would shorten the next copy.
        """
        link, n_bytes = self._links[lane], action.n_bytes
        start_ns = max(ready_ns, self._free_ns[lane])
        paced_copy(action.target.data_ptr(), action.source.data_ptr(), n_bytes, start_ns, link, self._stop)
        if self._stop[0]:
            raise _Abandoned
        end_ns = now_ns()
        due_ns = start_ns + int((link.latency_s + n_bytes / (link.bytes_per_s or float("inf"))) * 1e9)
        self._free_ns[lane] = due_ns if end_ns - due_ns <= _LATE_NS else end_ns
        return end_ns, max(end_ns - due_ns, 0)


def _give_cores_back(thread: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):  # whoever loaded the run has ended since
        os.sched_setaffinity(thread, cores)
