"""What FIFO lanes cannot say: shared links and HBM, both ways at once, priorities, chunks, cancellation: the contract.

Times are float64; `des` and `event` do the same arithmetic in the same order, so both decide alike. Ops on HOST,
DISK and CPU, and all others unless a mode says otherwise, are served as `des` states it: in issue order, one at a time.

- **Issue.** The host goes through the ops in order. It runs its own; any other op keeps it busy for its issue cost and
  is *issued* after that. An issued op whose dependencies have ended is *ready*.
- **Links** (lanes H2D and D2H). `fifo`: in issue order. `priority`: a free lane serves, of its ready ops, the one with
  the lowest (priority, index); what cannot start blocks nobody. `shared`: every ready op starts at once; it spends its
  latency, `max(duration_s - link_s, 0)`, undisturbed, then `link_s` of transfer, the link being shared.
- **Chunks.** A FETCH of b bytes on a link is n = max(1, ceil(b / chunk_bytes)) chunks: n x issue_s on the host; each
  chunk takes the latency + link_s / n (one chunk: duration_s). `priority` chooses again after each chunk; `fifo` serves
  them one after the other; `shared` spends n x the latency, then link_s, as one whole.
- **Shared resources** (`simulator.resources`, in the order of its rows). A piece of work under way, an op or the
  transfer of a copy (`link_s` > 0, on a link), goes at a rate of 1 and draws on some resources, on none during its
  latency. Each resource in turn changes the rates of those that draw on it:
  - one that is *divided*, max-min fair: a piece demands u, its draw times its rate so far, and gets that or, if less,
    the level that uses all of the resource: then it goes on at rate x level / u. The level is the fixed point of
    (1 - sum of u <= level) / (count of u > level), from 0, sums in the order of the ops. The links under `shared` (a
    transfer draws all of its link) and, with `hbm_shared`, HBM: a transfer draws hbm_s / link_s, an op on COMPUTE or a
    link that is no transfer hbm_s / duration_s.
  - one with *measured factors*: while pieces of two lanes draw on it, each keeps its draw of its rate. With `both_ways`
    the two links together, link_s / crossed_s; with `dram_shared` host memory, `contended`: transfers on H2D and ops on
    CPU read it; with `beside_copies` the way to host memory, `beside_copies`: an op on COMPUTE keeps its share beside
    transfers on H2D, which keep all of theirs, and so, by itself, does an op on D2H that is no transfer.
- **Progress.** A piece of work at a changing rate is accounted for when its rate changes: remaining -= elapsed x rate,
  not below 0, and its end becomes now + remaining / rate. At a constant rate of 1 it ends at start + work exactly.
- **Cancellation.** Once the op `cancelled_by[i]` has ended, op i, if not started, takes no lane: it starts and ends as
  soon as it is ready, and FIFO successors and the host pass it by. Between two of its chunks it ends; else it runs on.
- **One instant.** First all ends that are due. Then the host, as far as it can. Then one lane, the lowest that can,
  chooses one op; again ends, host, lanes, until nothing moves. What takes no time (now + work == now) ends at once.
  Last, rates change: once an instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from offload.lanes import cards
from offload.ops import Lane, OpKind
from offload.schedule import Schedule
from traces.errors import InvalidInput, PregateError
from traces.foundation.type_checks import check_fields

Link = Literal["fifo", "shared", "priority"]
LINKS = (Lane.H2D, Lane.D2H)
"""The lanes that a link mode is of."""

MAX_CHUNK_BYTES = 1 << 50
"""Largest chunk: no copy is larger."""
MAX_CHUNKS = 1_000_000
"""Most chunks of one copy: more is a mistake, and would take as long as it reads."""


class NotFifo(PregateError):
    """Modes that the recurrence cannot express; the event engine can."""


@dataclass(frozen=True, slots=True)
class Modes:
    """How a machine serves what FIFO lanes cannot say; the module's docstring is the contract.

    `link`: how the lanes H2D and D2H serve copies. `chunk_bytes`: FETCH copies are cut in equal chunks of at most so
    many bytes. `hbm_shared`: copies and kernels share HBM bandwidth. `cancel`: `Schedule.cancelled_by` is honoured.
    `both_ways`: copies to the device and back slow each other down where the link says so. `dram_shared`: so do copies
    to the device and what the host's processor computes, where the host says so. `beside_copies`: kernels take longer
    while copies to the device are under way, and readbacks, where the stack says so.
    Raises `InvalidInput` for a link mode that does not exist or a chunk below one byte.
    """

    link: Link = "fifo"
    chunk_bytes: int | None = None
    hbm_shared: bool = False
    cancel: bool = False
    both_ways: bool = False
    dram_shared: bool = False
    beside_copies: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.link not in get_args(Link):
            raise InvalidInput(f"link = {self.link!r}: it is one of {', '.join(get_args(Link))}")
        if self.chunk_bytes is not None and not 1 <= self.chunk_bytes <= MAX_CHUNK_BYTES:
            raise InvalidInput(
                f"chunk_bytes = {self.chunk_bytes}: a chunk has 1 byte to {MAX_CHUNK_BYTES:,}; None leaves copies whole"
            )

    @property
    def is_fifo(self) -> bool:
        """Whether FIFO lanes alone say all of it."""
        return self == FIFO

    def describe(self) -> str:
        """In plain words: "links shared, HBM bandwidth shared"."""
        link = {"fifo": "", "shared": "links shared", "priority": "links by priority"}[self.link]
        chunk = f"copies in chunks of at most {self.chunk_bytes} bytes" if self.chunk_bytes is not None else ""
        hbm = "HBM bandwidth shared" if self.hbm_shared else ""
        cancel = "copies cancelled when pointless" if self.cancel else ""
        both = "one cap for both directions of a link" if self.both_ways else ""
        dram = "host memory shared by copies and the processor" if self.dram_shared else ""
        beside = "kernels slowed by copies" if self.beside_copies else ""
        return ", ".join(filter(None, (link, chunk, hbm, cancel, both, dram, beside))) or "FIFO lanes"

    def require_fifo(self) -> None:
        """Raise `NotFifo` unless FIFO lanes say all of it."""
        if not self.is_fifo:
            raise NotFifo(f"{self.describe()}: the recurrence knows FIFO lanes only, use the engine event or des")


def require_one_card(lane: NDArray[np.int8]) -> None:
    """Raise `InvalidInput` where ops, `lane` (n_ops,), compute on several cards: links and memories are of one."""
    if len(cards(lane)) > 1:
        raise InvalidInput(
            f"layers or experts on {len(cards(lane))} cards: modes of links and memories are of one card, those of "
            f"several are FIFO: leave out --modes"
        )


FIFO = Modes()
"""Every lane serves in issue order, one op at a time."""


def copied_bytes(
    schedule: Schedule, modes: Modes, n_chunks: NDArray[np.int32], n_left: NDArray[np.int32]
) -> NDArray[np.int64] | None:
    """Bytes that each op moved, (n_ops,), when `n_left` of its `n_chunks` were cancelled; None where nothing can be."""
    if not modes.cancel:
        return None
    copied: NDArray[np.int64] = schedule.bytes * (n_chunks - n_left).astype(np.int64) // n_chunks
    return copied


def chunks(schedule: Schedule, modes: Modes) -> NDArray[np.int32]:
    """Chunks of every op, (n_ops,), 1 for all but FETCH copies on a link. Raises `InvalidInput` beyond `MAX_CHUNKS`."""
    n_chunks = np.ones(len(schedule), dtype=np.int32)
    if modes.chunk_bytes is not None:
        cut = (schedule.kind == OpKind.FETCH) & np.isin(schedule.lane, LINKS)
        wanted = np.maximum(-(-schedule.bytes[cut] // modes.chunk_bytes), 1)
        if wanted.max(initial=1) > MAX_CHUNKS:
            raise InvalidInput(f"chunk_bytes = {modes.chunk_bytes}: {wanted.max()} chunks a copy, at most {MAX_CHUNKS}")
        n_chunks[cut] = wanted
    return n_chunks
