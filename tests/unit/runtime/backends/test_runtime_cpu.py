"""The CPU back end: lanes are FIFO, waits are honoured, failures and interrupts leave nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.slots.memory import CapacityExceeded
from traces.errors import InvalidFile

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.backend import Action, Copy, LaneFailure, Times  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.pacing import Link  # noqa: E402
from runtime.memory import aligned  # noqa: E402
from runtime.programs.precedence import order_of  # noqa: E402

N_BYTES = 4096
Tensor = torch.Tensor


def finishes(work: Callable[[], None], at_most_s: float = 300) -> None:
    """Run `work` on a thread of its own, so that a deadlock fails the test instead of hanging it."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(at_most_s)
    assert not thread.is_alive(), "deadlock"
    if raised:
        raise raised[0]


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pregate-")]


def replay(backend: CpuBackend, schedule: Schedule, actions: list[Action | None]) -> Times:
    """As `runtime.run` does it."""
    try:
        backend.load(order_of(schedule), actions)
        for op, action in enumerate(actions):
            if action is None:
                backend.wait(op)
            else:
                backend.issue(op)
        backend.synchronise()
        return backend.times()
    finally:
        backend.close()


@dataclass
class SlotMachine:
    """A random schedule over few slots and one staging buffer: fetches, reads that look at every byte, host waits."""

    rng: np.random.Generator
    n_slots: int
    n_ops: int

    def __post_init__(self) -> None:
        self.recorder = Recorder()
        self.actions: list[Action | None] = []
        self.corrupt: list[int] = []
        self.slots = [aligned(N_BYTES) for _ in range(self.n_slots)]
        self.staging, self.read_back = aligned(N_BYTES), [aligned(N_BYTES) for _ in range(self.n_ops)]
        self.sources = [aligned(N_BYTES).fill_(value) for value in range(8)]
        self.filled: dict[int, tuple[int, int]] = {}  # slot -> op, value
        self.readers: dict[int, list[int]] = {slot: [] for slot in range(self.n_slots)}
        self.emptied = -1
        while len(self.actions) < self.n_ops:
            self.step()
        self.schedule = self.recorder.schedule()

    def add(self, lane: Lane, kind: OpKind, after: list[int], action: Action | None) -> int:
        copied = N_BYTES if kind in (OpKind.FETCH, OpKind.DISK_READ, OpKind.READBACK) else 0
        self.actions.append(action)
        known = sorted({op for op in after if op >= 0})
        return self.recorder.issue(lane, Work(kind, copy_bytes=copied), known, step=0)

    def step(self) -> None:
        slot, value = int(self.rng.integers(self.n_slots)), int(self.rng.integers(8))
        kind = self.rng.choice(["fetch", "disk", "read", "read", "cpu", "copy back", "wait"])
        filler, held = self.filled.get(slot, (-1, 0))
        if kind in ("fetch", "disk"):
            source, after = self.sources[value], [filler, *self.readers[slot]]
            if kind == "disk":
                read = self.add(Lane.DISK, OpKind.DISK_READ, [self.emptied], self.reading(value))
                source, after = self.staging, [*after, read]
            op = self.add(Lane.H2D, OpKind.FETCH, after, Copy(self.slots[slot], source))
            self.emptied = op if kind == "disk" else self.emptied
            self.filled[slot], self.readers[slot] = (op, value), []
        elif kind == "wait":
            recent = range(max(0, len(self.actions) - 4), len(self.actions))
            self.add(Lane.HOST, OpKind.WAIT, [op for op in recent if self.rng.random() < 0.5], None)
        elif kind == "copy back":
            target = self.read_back[len(self.actions)]
            self.readers[slot].append(
                self.add(Lane.D2H, OpKind.READBACK, [filler], Copy(target, self.slots[slot]))
            )  # fmt: skip
        else:
            lane = Lane.CPU if kind == "cpu" else Lane.COMPUTE
            op = self.add(lane, OpKind.EXPERTS, [filler], self.looking(len(self.actions), slot, held))
            self.readers[slot].append(op)

    def reading(self, value: int) -> Callable[[], int]:
        return lambda: self.staging.copy_(self.sources[value]).nbytes

    def looking(self, op: int, slot: int, value: int) -> Callable[[], None]:
        def look() -> None:
            if not bool((self.slots[slot] == value).all()):
                self.corrupt.append(op)

        return look

    def delays(self) -> Callable[[int], None]:
        """Most ops run at once, some are held up."""
        held_s = np.where(self.rng.random(self.n_ops + 1) < 0.05, self.rng.random(self.n_ops + 1) * 1e-3, 0.0).tolist()
        return lambda op: time.sleep(held_s[op]) if held_s[op] else None


def test_hundreds_of_random_schedules_neither_deadlock_nor_corrupt_nor_leak() -> None:
    before = set(threading.enumerate())

    def stress() -> None:
        for seed in range(200):  # one forgotten wait of a hundred is noticed by the fifteenth
            rng = np.random.default_rng(seed)
            machine = SlotMachine(rng, int(rng.integers(1, 4)), int(rng.integers(5, 30)))
            link = Link(1e9, 1e-6) if seed % 2 else Link()
            times = replay(CpuBackend(h2d=link, disturb=machine.delays()), machine.schedule, machine.actions)
            assert not machine.corrupt, f"seed {seed}: op {machine.corrupt[0]} read another expert's bytes"
            assert_in_order(machine.schedule, times, seed)

    finishes(stress)
    assert not lane_threads()
    assert set(threading.enumerate()) <= before


def assert_in_order(schedule: Schedule, times: Times, seed: int) -> None:
    for lane in Lane:
        mine = np.flatnonzero(schedule.lane == lane)
        assert np.all(times.start_s[mine][1:] >= times.end_s[mine][:-1]), (seed, lane)
        assert times.moved_bytes[lane] == schedule.bytes[mine].sum(), (seed, lane)
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    assert np.all(times.start_s[owner] >= times.end_s[schedule.dep]), seed


def test_a_failing_op_on_any_lane_ends_the_run_in_one_line_naming_it() -> None:
    def fail() -> None:
        raise InvalidFile("the disk went away")

    def stress() -> None:
        for seed in range(100):
            rng = np.random.default_rng(seed)
            machine = SlotMachine(rng, 2, 20)
            op = int(rng.choice([i for i, action in enumerate(machine.actions) if action is not None]))
            if isinstance(machine.actions[op], Copy):
                continue
            machine.actions[op] = fail
            with pytest.raises(LaneFailure, match=f"^op {op} on lane .* failed: the disk went away: nothing .*$"):
                replay(CpuBackend(disturb=machine.delays()), machine.schedule, machine.actions)

    finishes(stress)
    assert not lane_threads()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts as a terminal's: whoever started the tests may have had them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_an_interrupt_joins_all_lanes_and_gives_the_process_its_settings_back(interruptible: None) -> None:
    def settings() -> tuple[object, ...]:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        return cores, sys.getswitchinterval(), torch.get_num_threads()

    recorder = Recorder()
    copy = recorder.issue(Lane.H2D, Work(OpKind.FETCH, copy_bytes=N_BYTES), step=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (copy,), step=0)
    recorder.issue(Lane.HOST, Work(OpKind.WAIT), (copy,), step=0)
    actions: list[Action | None] = [Copy(aligned(N_BYTES), aligned(N_BYTES)), lambda: None, None]
    before, host = settings(), threading.get_ident()

    def interrupt_soon(op: int) -> None:
        if op == copy:
            threading.Timer(0.2, lambda: signal.pthread_kill(host, signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        replay(CpuBackend(h2d=Link(10.0), disturb=interrupt_soon), recorder.schedule(), actions)  # 400 s a copy
    assert not lane_threads()
    assert settings() == before


def test_the_device_holds_no_more_than_its_budget() -> None:
    backend = CpuBackend(hbm_bytes=10_000)
    backend.allocate(6_000, "expert slots")
    message = r"^KV cache: 0.000 GB do not fit, 0.000 of 0.000 GB of HBM are taken: try a larger --hbm.*$"
    with pytest.raises(CapacityExceeded, match=message) as error:
        backend.allocate(4_001, "KV cache")
    assert error.value.needed_bytes == 10_001
    assert backend.allocate(4_000, "KV cache").data_ptr() % 4096 == 0
    assert backend.budget.taken == {"expert slots": 6_000, "KV cache": 4_000}


def test_pools_are_freed_with_the_run() -> None:
    machine = SlotMachine(np.random.default_rng(0), 2, 10)
    pool = weakref.ref(machine.slots[0])
    replay(CpuBackend(), machine.schedule, machine.actions)
    del machine
    gc.collect()
    assert pool() is None
