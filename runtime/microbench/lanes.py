"""Drive a back end with hand-made ops: lanes, actions and what each waits for in, times out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from offload.ops import Lane
from runtime.backends.backend import Action, Backend, Times
from runtime.backends.pacing import now_ns
from runtime.programs.precedence import Order
from traces.errors import InvalidInput
from traces.foundation.gc_pause import gc_paused


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """`times` of each op; `issue_s` (n_ops,) host time of each call that issued one, or that waited."""

    times: Times
    issue_s: NDArray[np.float64]


def timed(
    backend: Backend,
    lanes: Sequence[int],
    actions: Sequence[Action | None],
    waits: Sequence[Sequence[int]] | None = None,
) -> Timed:
    """Issue `actions` in order, each on its lane (None: the host waits), and close the back end.

    `waits`: for each the ops of other lanes that it waits for; nothing otherwise. Raises `InvalidInput` for ops that
    could never run, and what the back end raises.
    """
    issued_ns = np.zeros(len(lanes), dtype=np.int64)
    try:
        order = _order(lanes, len(actions), waits)
        with torch.inference_mode():
            backend.load(order, actions)
            with gc_paused():
                for op, action in enumerate(actions):
                    begin = now_ns()
                    if action is None:
                        backend.wait(op)
                    else:
                        backend.issue(op)
                    issued_ns[op] = now_ns() - begin
                backend.synchronise()
        return Timed(backend.times(), issued_ns.astype(np.float64) * 1e-9)
    finally:
        backend.close()


def copies_under_way(lanes: Sequence[int], times: Times) -> NDArray[np.bool_]:
    """Of each op, (n_ops,), whether a copy to the device was under way when it ended: begun before, ended later."""
    copies = np.flatnonzero(np.array(lanes) == Lane.H2D)
    if not len(copies):
        return np.zeros(len(lanes), np.bool_)
    start_s, end_s = times.start_s[copies], times.end_s[copies]  # a lane serves in order: both ascend
    last = np.searchsorted(start_s, times.end_s, side="left") - 1
    found: NDArray[np.bool_] = (last >= 0) & (end_s[np.maximum(last, 0)] > times.end_s)
    return found


def _order(lanes: Sequence[int], n_actions: int, waits: Sequence[Sequence[int]] | None) -> Order:
    """The order of hand-made ops. `ended` says nothing: no race is looked for here."""
    n = len(lanes)
    needed = tuple(tuple(one) for one in waits) if waits is not None else ((),) * n
    if not n == n_actions == len(needed):
        raise InvalidInput(f"{n} lanes, {n_actions} actions, waits of {len(needed)} ops: give each op one of all three")
    for op, deps in enumerate(needed):
        if not all(0 <= dep < op for dep in deps):
            raise InvalidInput(f"op {op} waits for {list(deps)}: it can wait for ops before it only")
    return Order(np.array([int(lane) for lane in lanes], dtype=np.int8), needed, np.full((n, len(Lane)), -1, np.int32))
