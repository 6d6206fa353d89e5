"""A stand-in for `torch.cuda` on a CPU: streams, events and graphs that run all at once and check every wait."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402


class Event:
    """`n_recorded`: once before the clock starts, so that the first recording in the run allocates nothing."""

    clock = itertools.count()

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.n_recorded, self.at = 0, -1

    def record(self, stream: Any) -> None:
        self.n_recorded, self.at = self.n_recorded + 1, next(self.clock)

    def synchronize(self) -> None:
        assert self.n_recorded

    def elapsed_time(self, other: Event) -> float:
        return float(other.at - self.at)


class Stream:
    def __init__(self, api: StandIn) -> None:
        self.api = api

    def wait_event(self, event: Event) -> None:
        assert event.n_recorded == 2, "waits for an event that nobody has recorded: on a device, it would not wait"
        self.api.n_waits += 1


class Graph(TorchDispatchMode):
    """What a captured graph does, on a CPU: the operators of the capture, run again on the memory that it used then.

    Unlike a device it also runs them while it captures; replays are what counts, and nothing in between is undone.
    """

    capturing: Graph | None = None

    def __init__(self, api: StandIn) -> None:
        super().__init__()
        self.api, self.calls, self.n_replays = api, [], 0
        api.graphs.append(self)

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert pool == self.api.pool
        assert capture_error_mode == "thread_local"
        assert not gc.isenabled(), "a collection may release memory, which no capture survives"
        assert Graph.capturing is None, "one capture at a time"
        Graph.capturing = self
        self.__enter__()

    def capture_end(self) -> None:
        self.__exit__(None, None, None)
        Graph.capturing = None
        if self.api.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # no compiler is about, and loading it to leave it alone takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert "_local_scalar_dense" not in str(func), "a capture may not wait for the device"
        made = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, made))
        return made

    def replay(self) -> None:
        self.n_replays += 1
        self.api.n_replayed += 1
        for func, args, kwargs, made in self.calls:
            again = func(*args, **kwargs)
            for there, here in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(there, torch.Tensor) and there.data_ptr() != here.data_ptr():
                    there.copy_(here)


class StandIn:
    """The part of `torch.cuda` that the back end uses."""

    def __init__(self, free_bytes: int = 1 << 30, available: bool = True, pin_error: int = 0) -> None:
        self.free_bytes, self.available, self.n_waits = free_bytes, available, 0
        self.pinned: list[int] = []
        self.current: list[Stream] = []
        self.graphs: list[Graph] = []
        self.pool, self.n_replayed, self.broken = object(), 0, False
        self.runtime = SimpleNamespace(
            cudaHostRegister=lambda address, n, flags: pin_error or self.pinned.append(address) or 0,
            cudaHostUnregister=self.pinned.remove,
        )
        self.Event = Event

    def Stream(self) -> Stream:  # noqa: N802 (torch's name)
        return Stream(self)

    def set_stream(self, stream: Stream | None) -> None:
        self.current = [] if stream is None else [stream]

    def default_stream(self) -> None:
        return None

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.current.append(stream)
        yield
        self.current.pop()

    def CUDAGraph(self) -> Graph:  # noqa: N802 (torch's name)
        return Graph(self)

    def graph_pool_handle(self) -> object:
        return self.pool

    def is_available(self) -> bool:
        return self.available

    def mem_get_info(self) -> tuple[int, int]:
        return self.free_bytes, self.free_bytes

    def cudart(self) -> SimpleNamespace:
        return self.runtime

    def synchronize(self) -> None:
        pass

    def empty_cache(self) -> None:
        pass


class Rounded(TorchDispatchMode):
    """Another library's arithmetic: every matrix product is summed in double and rounded once."""

    PRODUCTS = ("aten.mm.", "aten.bmm.", "aten.addmm.")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not str(func).startswith(self.PRODUCTS):
            return func(*args, **kwargs)
        out = kwargs.pop("out", None)
        doubles = (arg.double() if isinstance(arg, torch.Tensor) else arg for arg in args)
        made = func.overloadpacket(*doubles, **kwargs).float()
        return made if out is None else out.copy_(made)
