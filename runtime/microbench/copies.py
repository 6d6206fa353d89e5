"""Copies against size: to the device and back, from every kind of host memory, one way and both ways at once.

Copies queue in one lane, so that one begins where the last has ended: what a queue of fetches achieves. No byte is
copied again before a whole pool has been, so that no cache has kept it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from hwmodels.calibrate.measurements import Sample, sample_of
from offload.ops import Lane
from runtime.backends.backend import Action, Backend, Copy
from runtime.machine.numa import on_node
from runtime.memory import aligned, mapped
from runtime.microbench.lanes import timed
from traces.errors import InvalidInput

KIB, MIB = 1 << 10, 1 << 20

SIZES = (
    4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB,
    1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 32 * MIB, 64 * MIB,
)  # fmt: skip

POOL_BYTES = 192 * MIB
"""Memory that copies go through in turn: far more than a last-level cache keeps for one reader."""

_LARGE_BYTES = 1 * MIB
"""Copies both ways at once are timed from here on: smaller ones are over before the other way has got going."""

_WARM = 2
"""Copies of a size, beside what fills the queue, that are not counted."""

_LEAST = _WARM + 3
"""Fewer copies of a size say nothing."""

_ISSUE_S = 20e-6
"""More than a host takes to issue a copy: shorter ones find their lane idle unless it is held up before them."""

_LATENCY_S = 20e-6
"""What a copy is supposed to take beside its bytes when its number is chosen."""


class Ring:
    """Memory of the host and of the device that the copies of one lane go through in turn, (n_bytes,) each.

    `memory`: the host's: "pinned", the back end's own; "pageable"; "mapped", pages of a file that are in memory;
    "remote", pinned, on the node `remote_node`.
    """

    def __init__(
        self, backend: Backend, lane: Lane, n_bytes: int, memory: str = "pinned", remote_node: int | None = None
    ) -> None:
        what = f"{lane.name} copies to time"
        self._lane, self._at = lane, 0
        self._host: Tensor
        match memory:
            case "pageable":
                self._host = aligned(n_bytes)
            case "mapped":
                self._host = mapped(n_bytes)
            case "remote":
                assert remote_node is not None
                with on_node(remote_node):
                    self._host = backend.allocate_host(n_bytes, what)
                    self._host.numpy()[:: 4 * KIB] = 0  # by this thread, whatever the back end does to pin it
            case _:
                self._host = backend.allocate_host(n_bytes, what)
        self._device = backend.allocate(n_bytes, what)

    def copy(self, n_bytes: int) -> Copy:
        """A copy of the next `n_bytes` (of all there is, if that is less), along the lane."""
        if self._at + n_bytes > len(self._host):
            self._at = 0
        here = slice(self._at, self._at + n_bytes)
        self._at += n_bytes
        host, device = self._host[here], self._device[here]
        return Copy(device, host) if self._lane is Lane.H2D else Copy(host, device)


@dataclass(frozen=True, slots=True)
class _Counted:
    """The ops of one size on one lane that count, `ops[-1]` being the last of that size."""

    n_bytes: int
    lane: Lane
    ops: range


def copy_samples(
    make: Callable[[], Backend],
    *,
    sizes: Sequence[int] = SIZES,
    n: int = 60,
    budget_s: float = 3.0,
    slowest_bytes_per_s: float = 4e9,
    link_bytes_per_s: float | None = None,
    memory: Sequence[str] = ("pinned",),
    remote_node: int | None = None,
    both_ways: bool = True,
    pool_bytes: int = POOL_BYTES,
    hold: Action | None = None,
) -> list[Sample]:
    """Samples "h2d" and "d2h", seconds a copy: n_bytes, memory (of `HOST_MEMORY`), beside ("nothing", "other way").

    At most `n` copies a size; fewer, and none of the largest sizes, where all would take more than `budget_s` on a link
    of `slowest_bytes_per_s` (taking memory comes on top). `link_bytes_per_s`: what a link is paced to, added to the
    samples. `memory`: the kinds of host memory, only those that are not alike; pages of a file are read, not written;
    `remote_node`: where the memory called "remote" lies.
    Both ways at once from pinned memory. `pool_bytes`: of the host and of the device. `hold`: run on the compute lane,
    it keeps the copies of a size waiting until all are issued.

    Raises `InvalidInput` when not even the smallest size fits the budget, `CapacityExceeded` without room for a pool.
    """
    sweeps: list[tuple[tuple[Lane, ...], str]] = []
    for kind in memory:
        sweeps += [((lane,), kind) for lane in (Lane.H2D, Lane.D2H) if lane is Lane.H2D or kind != "mapped"]
    sweeps += [((Lane.H2D, Lane.D2H), "pinned")] if both_ways else []
    paced = {} if link_bytes_per_s is None else {"link_bytes_per_s": link_bytes_per_s}
    samples = []
    for lanes, kind in sweeps:
        wanted = sizes if len(lanes) == 1 else [size for size in sizes if size >= _LARGE_BYTES] or sizes
        plan = planned_copies(wanted, n, budget_s / len(sweeps), slowest_bytes_per_s)
        alike = {
            "memory": kind,
            "beside": "nothing" if len(lanes) == 1 else "other way",
        } | paced
        with closing(make()) as backend:
            rings = {lane: Ring(backend, lane, max(pool_bytes, plan[-1][0]), kind, remote_node) for lane in lanes}
            for lane, n_bytes, taken in _durations(backend, rings, plan, slowest_bytes_per_s, hold):
                samples.append(sample_of(lane.name.lower(), taken, n_bytes=n_bytes, **alike))
    return samples


def planned_copies(sizes: Sequence[int], n: int, budget_s: float, bytes_per_s: float) -> list[tuple[int, int]]:
    """How many copies of which size, ascending, take no longer than `budget_s` at `bytes_per_s`: (n_bytes, number).

    Sizes share the time evenly, and what small ones leave goes to large ones; what does not fit is left out. Raises
    `InvalidInput` when nothing fits.
    """
    plan: list[tuple[int, int]] = []
    ascending, left_s = sorted(set(sizes)), budget_s
    for i, n_bytes in enumerate(ascending):
        each_s = _ISSUE_S + _LATENCY_S + n_bytes / bytes_per_s
        number = max(_LEAST, min(n, int(left_s / (len(ascending) - i) / each_s)))
        if number * each_s > left_s:
            break
        plan.append((n_bytes, number))
        left_s -= number * each_s
    if not plan:
        raise InvalidInput(
            f"{_LEAST} copies of {ascending[0] if ascending else 0} B at {bytes_per_s / 1e9:g} GB/s do not fit "
            f"{budget_s:g} s: give more time, or smaller sizes"
        )
    return plan


def _durations(
    backend: Backend,
    rings: dict[Lane, Ring],
    plan: Sequence[tuple[int, int]],
    bytes_per_s: float,
    hold: Action | None,
) -> Iterator[tuple[Lane, int, list[float]]]:
    """Seconds of the copies that count, by lane and size.

    Lanes begin a size together, and count while all are busy with it. So that their queues fill up, copies wait for
    `hold`; without one, queues of copies shorter than their issue begin with a longer one.
    """
    lanes: list[Lane] = []
    actions: list[Action] = []
    waits: list[tuple[int, ...]] = []
    counted: list[list[_Counted]] = []
    n_lanes = len(rings)
    for n_bytes, number in plan:
        short = hold is None and n_bytes < _ISSUE_S * bytes_per_s
        ahead_bytes = int(number * _ISSUE_S * bytes_per_s) if short else n_bytes
        before = tuple(range(len(lanes) - n_lanes, len(lanes))) if lanes else ()
        if hold is not None:
            lanes.append(Lane.COMPUTE)
            actions.append(hold)
            waits.append(before)
            before = (len(lanes) - 1,)
        begin = len(lanes)
        for i in range(number):
            for lane, ring in rings.items():
                lanes.append(lane)
                actions.append(ring.copy(n_bytes if i else ahead_bytes))
                waits.append(() if i else tuple(op for op in before if lanes[op] is not lane))
        warm = begin + _WARM * n_lanes
        counted.append(
            [_Counted(n_bytes, lane, range(warm + i, len(lanes), n_lanes)) for i, lane in enumerate(rings)]
        )  # fmt: skip
    times = timed(backend, lanes, actions, waits).times
    taken, ends = times.ran_s.tolist(), times.end_s.tolist()
    for together in counted:
        until = min(ends[one.ops[-1]] for one in together)
        for one in together:
            busy = [op for op in one.ops if ends[op] <= until] or one.ops[:1]
            yield one.lane, one.n_bytes, [taken[op] for op in busy]
