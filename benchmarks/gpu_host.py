"""What calls cost the host of a CUDA device, and how fast each of its cores is over time.

    python -m benchmarks.gpu_host

Printed: the same loop on every core, again and again for six seconds, over the fastest of all; microseconds of a call
that the CUDA back end makes, the least and the median of five runs of some hundred calls behind a busy stream; and
from event to event around a kernel that does next to nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from runtime.machine.cores import loop_s_by_core

WATCHED_S = 6.0
RUNS, CALLS = 5, 200
HOLD_CYCLES = 40_000_000
"""Longer than the calls of a run take."""

NODES = (1, 4, 16)


def main() -> None:
    """Print both tables."""
    cores()
    calls()


def cores() -> None:
    """How each core did beside the fastest of all, and how much of that is still so a round later."""
    mine, rounds = sorted(os.sched_getaffinity(0)), []
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < WATCHED_S or len(rounds) < RUNS:
        found = loop_s_by_core(mine)
        rounds.append([found[core] for core in mine])
    ratio = np.array(rounds) / np.min(rounds)
    print(f"a loop of {np.min(rounds) * 1e6:.0f} us at its fastest, {len(rounds)} rounds of {len(mine)} cores")
    for name, row in (("median", np.median(ratio, axis=0)), ("p90", np.quantile(ratio, 0.9, axis=0))):
        print(f"{name:6s} of a core: {' '.join(f'{x:.2f}' for x in row)}")
    print(f"fastest core of a round, p90 over rounds: {np.quantile(ratio.min(axis=1), 0.9):.2f}")
    print(f"correlation with a round later: {np.corrcoef(ratio[:-1].ravel(), ratio[1:].ravel())[0, 1]:.2f}")


def calls() -> None:
    """Microseconds of each call."""
    here = torch.cuda.Stream()
    other = torch.cuda.Stream()
    event: Any = torch.cuda.Event(enable_timing=True)
    event.record(here)
    few = torch.ones(64, device="cuda")
    x, weights = torch.ones(1, 512, device="cuda"), torch.ones(512, 512, device="cuda")
    out = torch.empty(1, 512, device="cuda")
    host = torch.empty(1 << 20, dtype=torch.uint8).pin_memory()
    device = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
    part, source = device[:64], host[:64]
    timed: dict[str, Callable[[], object]] = {
        "enter and leave a stream": partial(_within, here),
        "set the stream": partial(torch.cuda.set_stream, here),
        "record an event": partial(event.record, here),
        "wait for an event": partial(other.wait_event, event),
        "launch a kernel": partial(few.add_, 0),
        "launch a GEMV": partial(torch.mm, x, weights, out=out),
        "copy a part": lambda: device[:64].copy_(host[:64], non_blocking=True),
        "copy a part made before": partial(part.copy_, source, non_blocking=True),
    }
    timed |= {f"replay {n} kernels": _graph(few, n).replay for n in NODES}
    torch.cuda.set_stream(here)
    for name, call in timed.items():
        taken = [_a_call_s(call) * 1e6 for _ in range(RUNS)]
        print(f"{name:26s} {min(taken):6.2f} {np.median(taken):6.2f} us")
    print(f"{'event to event':26s} {_event_to_event_s(few, here) * 1e6:6.2f} us")


def _within(stream: torch.cuda.Stream) -> None:
    with torch.cuda.stream(stream):
        pass


def _graph(few: torch.Tensor, n: int) -> Any:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(n):
            few.add_(0)
    return graph


def _hold() -> None:
    torch.cuda.synchronize()
    torch.cuda._sleep(HOLD_CYCLES)  # type: ignore[no-untyped-call]  # no public name for it


def _a_call_s(call: Callable[[], object]) -> float:
    _hold()
    begin_s = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begin_s) / CALLS


def _event_to_event_s(few: torch.Tensor, stream: torch.cuda.Stream) -> float:
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2 * CALLS)]
    _hold()
    for start, end in zip(events[::2], events[1::2], strict=True):
        start.record(stream)
        few.add_(0)
        end.record(stream)
    torch.cuda.synchronize()
    pairs = zip(events[::2], events[1::2], strict=True)
    return float(np.median([start.elapsed_time(end) * 1e-3 for start, end in pairs]))


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
