"""The CUDA back end: a stream a lane, pinned host memory, times by CUDA events.

Edges between lanes are events. Each op ends with one; it begins with one of its own only where its lane may have been
idle, since a record is a write to host memory, which waits behind copies over the same link. Storage has no stream: a
reader thread reads into pinned staging buffers, and as a stream cannot wait for a thread, the same thread then issues
the copies that depend on what it read. Kernels are launched one by one, or section by section as CUDA graphs
(`runtime.backends.graphs`).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.ops import Lane
from offload.slots.memory import CapacityExceeded
from runtime.backends.backend import Action, Copy, DeviceBudget, LaneFailure, Times
from runtime.backends.graphs import capture_graphs
from runtime.backends.pacing import now_ns
from runtime.machine.cores import OnFastestCore
from runtime.memory import host_array
from runtime.programs.precedence import Order, follows_of
from traces.errors import InvalidInput

_STREAMS = (Lane.COMPUTE, Lane.H2D, Lane.D2H)

_SMALL_BYTES, _LARGE_BYTES = (1 << 20,) * 32, 128 << 20
"""Memory for temporaries of kernels, beside the budget."""


class CudaBackend:
    """`runtime.backends.backend.Backend` on one CUDA device.

    `hbm_bytes`: at most so much of it (None: what is free); `chunk_bytes`: copies in such parts (None: whole);
    `graphs`: what the compute stream runs is captured before the clock starts, an op a CUDA graph. `api` and `device`:
    the module that has streams and events, and where tensors live; tests pass a stand-in.

    Times on streams are CUDA events' (resolution about 0.5 us); the host's clock is aligned with them at the start, to
    within one launch, so an edge between host and device can seem some 10 us early. An op that follows another of its
    lane (`runtime.programs.precedence.follows_of`) begins when that has ended, whenever it was launched. Raises
    `InvalidInput` when there is no CUDA device.
    """

    name = "cuda"

    def __init__(
        self,
        hbm_bytes: int | None = None,
        chunk_bytes: int | None = None,
        graphs: bool = False,
        device: str = "cuda",
        api: Any = torch.cuda,
    ) -> None:
        if not api.is_available():
            raise InvalidInput("no CUDA device, or a PyTorch without CUDA: try the cpu back end")
        if chunk_bytes is not None and chunk_bytes < 1:
            raise InvalidInput(f"chunk_bytes = {chunk_bytes} is below 1: leave it out to copy experts whole")
        self._api, self._device, self._chunk_bytes, self._graphs = api, device, chunk_bytes, graphs
        api.empty_cache()  # what an earlier run has left counts as free
        free = int(api.mem_get_info()[0])
        self.budget = DeviceBudget(free if hbm_bytes is None else min(hbm_bytes, free))
        self._actions: list[Action | None] = []
        self._waits: list[tuple[int, ...]] = []
        self._lanes: list[Lane] = []
        self._events: dict[int, tuple[Any | None, Any]] = {}  # of ops on streams: of its start, if it has one, and end
        self._copies: dict[int, list[tuple[Tensor, Tensor]]] = {}  # of ops that copy: the parts, target and source
        self._core = OnFastestCore()  # the thread that issues
        self._grows = False  # ops come one by one, and what the caller does in between is none
        self._current = threading.local()  # the lane whose stream is this thread's
        self._captured: list[Action] = []  # what graphs work on, of which they hold the addresses only
        self._failure: tuple[int, BaseException] | None = None
        self._reader: threading.Thread | None = None
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._issued: dict[int, threading.Event] = {}
        self._stop = False
        self._restore: Callable[[], None] | None = None

    def allocate(self, n_bytes: int, what: str) -> Tensor:
        """Device memory, counted: (n_bytes,) uint8, zeros. Raises `CapacityExceeded` for more than there is."""
        self.budget.take(n_bytes, what)
        try:
            return torch.zeros(n_bytes, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:
            raise CapacityExceeded(f"{what}: the device refused {n_bytes / 1e9:.3f} GB", n_bytes) from error

    def allocate_host(self, n_bytes: int, what: str) -> Tensor:
        """Host memory, pinned while it lives, and no larger than asked for (torch rounds up to powers of 2).

        Raises `CapacityExceeded` where it cannot be pinned, or is not there.
        """
        array = host_array(n_bytes, what)
        if n_bytes:
            runtime, address = self._api.cudart(), array.ctypes.data
            code = runtime.cudaHostRegister(address, n_bytes, 0)
            if int(code):
                raise CapacityExceeded(
                    f"{what}: {n_bytes / 1e9:.1f} GB of host memory cannot be pinned ({code}): raise the limit of "
                    f"locked memory (ulimit -l), or try a smaller model",
                    n_bytes,
                    "DRAM",
                )
            weakref.finalize(array, runtime.cudaHostUnregister, address)
        return torch.from_numpy(array)

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        """`values` on the device."""
        return torch.from_numpy(np.array(values)).to(self._device)

    def load(self, order: Order, actions: Sequence[Action | None]) -> None:
        """Make streams, events that have been recorded once, since a first recording allocates, and graphs.

        Raises `InvalidInput` for experts that the host computes, and when the back end has had its run; `LaneFailure`
        for what cannot be captured.
        """
        lanes = [Lane(lane) for lane in order.lane.tolist()]
        self._begin(len(lanes), dict.fromkeys(lanes))
        self._actions, self._waits, self._lanes = list(actions), list(order.waits), lanes
        for op, follows in enumerate(follows_of(order)):
            self._prepare(op, has_start=not follows)
        for op in {dep for waits in order.waits for dep in waits if self._lanes[dep] in self._by_reader}:
            self._issued[op] = threading.Event()
        if self._graphs:
            self._capture()
        self._core.enter()
        self._start_clock()

    def open(self, most_ops: int, lanes: Iterable[Lane]) -> None:
        """As `load`, of ops that come one by one, at most so many and on these lanes: `add` each, then issue it.

        Raises `InvalidInput` for graphs, which are made of ops that are known beforehand, and as `load`.
        """
        if self._graphs:
            raise InvalidInput("graphs are captured of a routing that is known before the run: leave --graphs out")
        self._begin(most_ops, lanes)
        self._grows = True
        self._start_clock()

    def add(self, lane: Lane, waits: tuple[int, ...], action: Action | None) -> None:
        """The next op, with its events."""
        op = len(self._lanes)
        self._lanes.append(lane)
        self._waits.append(waits)
        self._actions.append(action)
        self._prepare(op, has_start=True)
        if lane in self._by_reader:
            self._issued[op] = threading.Event()

    def ended(self, op: int) -> None:
        """Block the caller until `op`, which was issued, has ended."""
        self._await_issue(op)
        if op in self._events:
            self._guarded(op, self._events[op][1].synchronize)

    def _begin(self, most_ops: int, lanes: Iterable[Lane]) -> None:
        """Streams, the reader, and what libraries take before the clock starts."""
        if self._stop:
            raise InvalidInput("a back end serves one run: make another for the next")
        used = set(lanes)
        if Lane.CPU in used:
            raise InvalidInput(
                "the schedule computes or files experts on the host: the cuda back end does not, since it says nothing "
                "of moving their inputs and results; try the cpu back end, or a policy that fetches all misses from a "
                "tier without filed"
            )
        api = self._api
        self._leave_cudnn_attention()
        self._streams = {lane: api.Stream() for lane in _STREAMS}
        self._moved = dict.fromkeys(Lane, 0)
        self._start_ns, self._end_ns = np.zeros(most_ops, dtype=np.int64), np.zeros(most_ops, dtype=np.int64)
        self._by_reader = {Lane.DISK, Lane.H2D} if Lane.DISK in used else set()
        if self._by_reader:
            self._reader = threading.Thread(target=self._read, name="pregate-disk", daemon=True)
            self._reader.start()
        with api.stream(self._streams[Lane.COMPUTE]):
            square = torch.ones(16, 16, device=self._device)
            torch.mm(square, square)  # the BLAS library takes its workspace before the clock starts
            if not self._graphs:  # theirs comes with them
                self._provide()
        api.synchronize()

    def _start_clock(self) -> None:
        self._zero = self._api.Event(enable_timing=True)
        self._zero.record(self._streams[Lane.COMPUTE])
        self._zero.synchronize()
        self._zero_ns = now_ns()

    def _leave_cudnn_attention(self) -> None:
        """Take attention from elsewhere until `close`: cuDNN plans its own anew for every length of context."""
        enabled = bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]
        self._restore = partial(torch.backends.cuda.enable_cudnn_sdp, enabled)
        torch.backends.cuda.enable_cudnn_sdp(False)

    def _capture(self) -> None:
        """Put the replay of a graph in the place of each action of the compute stream."""
        mine = {op: self._actions[op] for op, lane in enumerate(self._lanes) if lane is Lane.COMPUTE}
        computing = {op: action for op, action in mine.items() if action is not None and not isinstance(action, Copy)}
        try:
            for op, replay in capture_graphs(self._api, self._streams[Lane.COMPUTE], computing).items():
                self._actions[op] = replay
            self._captured = list(computing.values())
        except torch.OutOfMemoryError as error:
            raise CapacityExceeded(
                "CUDA graphs: the device has no memory left for them and their temporaries, which no budget counts: "
                "try a smaller --hbm, or without graphs",
                self._api.mem_get_info()[0],
            ) from error
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise LaneFailure(
                f"what the compute stream runs cannot be captured: {reason}: try without graphs"
            ) from error

    def _provide(self) -> None:
        """Have the framework keep memory for what kernels need for themselves: an allocation would stall the stream.

        It keeps memory by stream, small pieces apart from large ones; where too little is free, a run will see to it.
        """
        with suppress(torch.OutOfMemoryError):
            kept = [torch.empty(n, dtype=torch.uint8, device=self._device) for n in (*_SMALL_BYTES, _LARGE_BYTES)]
            del kept

    def _prepare(self, op: int, *, has_start: bool) -> None:
        """All that the host would spend time on when it issues `op`: events, and the parts of a copy."""
        lane, action = self._lanes[op], self._actions[op]
        if lane in _STREAMS:
            self._events[op] = self._event() if has_start else None, self._event()
        if isinstance(action, Copy):
            part = self._chunk_bytes or max(action.n_bytes, 1)
            target, source = action.target.view(torch.uint8), action.source.view(torch.uint8)
            spans = [slice(at, at + part) for at in range(0, action.n_bytes, part)]
            self._copies[op] = [(target[span], source[span]) for span in spans]

    def _event(self) -> Any:
        event = self._api.Event(enable_timing=True)
        event.record(self._streams[Lane.COMPUTE])
        return event

    def issue(self, op: int) -> None:
        """Launch `op` on its stream, or hand it to the reader."""
        if self._lanes[op] in self._by_reader:
            self._queue.put(op)
        else:
            self._guarded(op, partial(self._launch, op))

    def _launch(self, op: int) -> None:
        """Events first, then the action, on the stream of the op's lane."""
        lane, action = self._lanes[op], self._actions[op]
        stream, (start, end) = self._streams[lane], self._events[op]
        for dep in self._waits[op]:
            self._await_issue(dep)
            if dep in self._events:
                stream.wait_event(self._events[dep][1])
        if getattr(self._current, "lane", None) is not lane:  # a context manager would ask for the device each time
            self._api.set_stream(stream)
            self._current.lane = lane
        if start is not None:
            start.record(stream)
        if isinstance(action, Copy):
            self._copy(self._copies[op])
            self._moved[lane] += action.n_bytes
        else:
            assert action is not None
            self._moved[lane] += action() or 0
        end.record(stream)
        if self._grows:
            self._leave_streams()

    def _copy(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        for target, source in parts:
            target.copy_(source, non_blocking=True)

    def _await_issue(self, op: int) -> None:
        """An event that nobody has recorded yet holds nothing up: block until the reader has issued `op`."""
        issued = self._issued.get(op)
        if issued is not None and threading.current_thread() is not self._reader:
            issued.wait()
            self._raise_failure()

    def _read(self) -> None:
        """The reader: storage, and the copies of what it read, in the order they were issued."""
        with torch.inference_mode():
            while (op := self._queue.get()) is not None:
                try:
                    if not self._stop and self._failure is None:
                        if self._lanes[op] is Lane.DISK:
                            self._read_one(op)
                        else:
                            self._launch(op)
                except BaseException as error:  # whatever it was, the host must hear of it
                    self._failure = (op, error)
                if op in self._issued:
                    self._issued[op].set()

    def _read_one(self, op: int) -> None:
        action = self._actions[op]
        assert action is not None
        assert not isinstance(action, Copy)
        self._synchronise_with(op)
        self._start_ns[op] = now_ns()
        self._moved[Lane.DISK] += action() or 0
        self._end_ns[op] = now_ns()

    def _synchronise_with(self, op: int) -> None:
        for dep in self._waits[op]:
            self._await_issue(dep)
            if dep in self._events:
                self._events[dep][1].synchronize()

    def wait(self, op: int) -> None:
        """Block the caller; the op lasts from when it could have gone on until it does."""
        self._start_ns[op] = now_ns()
        self._guarded(op, partial(self._synchronise_with, op))
        self._end_ns[op] = now_ns()

    def synchronise(self) -> None:
        """Join the reader, then the device."""
        self._stop_reader()
        self._leave_streams()
        self._core.leave()
        self._raise_failure()
        self._guarded(len(self._lanes) - 1, self._api.synchronize)

    def _leave_streams(self) -> None:
        """What the caller does from now on is not an op: it gets its own stream back."""
        if getattr(self._current, "lane", None) is not None:
            self._api.set_stream(self._api.default_stream())
            self._current.lane = None

    def _guarded(self, op: int, act: Callable[[], None]) -> None:
        try:
            act()
        except RuntimeError as error:  # what torch raises for a fault of the driver, or memory that ran out
            self._failure = self._failure or (op, error)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            op, error = self._failure
            reason = str(error).partition("\n")[0]
            raise LaneFailure(
                f"op {op} on lane {self._lanes[op].name} failed: {reason}: nothing of this run is kept"
            ) from error

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._queue.put(None)
            self._reader.join()
            self._reader = None

    def times(self) -> Times:
        """From the start of the first op."""
        n = len(self._lanes)
        start_s, end_s = ((at[:n] - self._zero_ns) * 1e-9 for at in (self._start_ns, self._end_ns))
        last_s: dict[Lane, float] = {}
        for op, (start, end) in self._events.items():
            lane = self._lanes[op]
            start_s[op] = last_s[lane] if start is None else self._zero.elapsed_time(start) * 1e-3
            last_s[lane] = end_s[op] = self._zero.elapsed_time(end) * 1e-3
        for op, lane in enumerate(self._lanes):
            if lane is Lane.HOST:
                could = max([start_s[op], *(end_s[dep] for dep in self._waits[op])])
                start_s[op] = min(could, end_s[op])
        zero = start_s.min(initial=np.inf)
        return Times(start_s - zero, end_s - zero, dict(self._moved))

    def close(self) -> None:
        """Stop the reader, let the device finish what it has, give its memory and the process's settings back."""
        self._stop = True
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()
        self._stop_reader()
        self._leave_streams()
        self._core.leave()
        with suppress(RuntimeError):
            self._api.synchronize()
        self._actions.clear()
        self._copies.clear()
        self._captured.clear()
        with suppress(RuntimeError):
            self._api.empty_cache()
