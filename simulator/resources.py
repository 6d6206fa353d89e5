"""What work under way shares: a row a resource, and what each op draws on it. Both interpreters of modes read this.

A vector of draws an op, so that a further resource (NVLink between devices, say) is one row. How rates follow from it
is part of the contract in `simulator.modes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.ops import Lane
from simulator.modes import LINKS, Modes

WHOLE, TRANSFER, LATENCY = range(3)
"""What a piece of work is: an op that is no transfer, the transfer of one that is, the latency before that."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Resource:
    """What pieces share under modes that say so (`shared`). `transfers`, `others`: lanes of which the transfers, or the
    ops that are none, draw on it; `draw`: how much, of the costs and what a piece takes alone, (n_works,). `divided`:
    that is a share of the resource, which is divided max-min fair; else what a piece keeps of its rate beside others.
    """

    shared: Callable[[Modes], bool]
    transfers: tuple[Lane, ...]
    others: tuple[Lane, ...]
    draw: Callable[[Costs, _Floats], _Floats | float]
    divided: bool


RESOURCES = {
    "h2d": Resource(lambda modes: modes.link == "shared", (Lane.H2D,), (), lambda costs, alone_s: 1.0, True),
    "d2h": Resource(lambda modes: modes.link == "shared", (Lane.D2H,), (), lambda costs, alone_s: 1.0, True),
    "link": Resource(lambda modes: modes.both_ways, LINKS, (), lambda costs, alone_s: alone_s / costs.crossed_s, False),
    "dram": Resource(
        lambda modes: modes.dram_shared, (Lane.H2D,), (Lane.CPU,), lambda costs, alone_s: costs.contended, False
    ),
    "beside": Resource(
        lambda modes: modes.beside_copies,
        (Lane.H2D,),
        (Lane.COMPUTE,),
        lambda costs, alone_s: costs.beside_copies,
        False,
    ),
    "readback": Resource(
        lambda modes: modes.beside_copies,
        (Lane.H2D,),
        (Lane.D2H,),
        lambda costs, alone_s: costs.beside_copies,
        False,
    ),
    "hbm": Resource(
        lambda modes: modes.hbm_shared,
        LINKS,
        (Lane.COMPUTE, *LINKS),
        lambda costs, alone_s: costs.hbm_s / alone_s,
        True,
    ),
}
"""By name, in the order in which a rate passes through them."""


@dataclass(frozen=True, slots=True, eq=False)
class Demands:
    """The vector of draws of every work, on the resources that are shared under some modes.

    `divided` (n_resources,); `drawn` (3, n_lanes) bits of the resources that `WHOLE`, `TRANSFER` and `LATENCY` of a
    lane draw on; `draw` (n_resources, 3, n_works), without meaning for pieces that take no time or draw nothing.
    `flowing`: bits of the lanes whose work may go at a rate that changes.
    """

    divided: NDArray[np.int8]
    drawn: NDArray[np.int64]
    draw: _Floats
    flowing: int

    def of(self, lane: int, piece: int, work: int) -> list[float]:
        """The draws of one piece, 0 where it has none; a list of `n_resources`."""
        drawn, draw = int(self.drawn[piece, lane]), self.draw[:, piece, work].tolist()
        return [one if drawn >> resource & 1 else 0.0 for resource, one in enumerate(draw)]


def demands_of(costs: Costs, modes: Modes) -> Demands:
    """What every work draws under `modes`; `costs` as for `des.simulate`."""
    rows = [row for row in RESOURCES.values() if row.shared(modes)]
    drawn, flowing = [[0] * len(Lane) for _ in range(3)], 0
    draw = np.empty((len(rows), 3, len(costs.duration_s)))
    with np.errstate(all="ignore"):
        for at, row in enumerate(rows):
            for piece, lanes, alone_s in (WHOLE, row.others, costs.duration_s), (TRANSFER, row.transfers, costs.link_s):
                for lane in lanes:
                    drawn[piece][lane] |= 1 << at
                    flowing |= 1 << lane
                if lanes:
                    draw[at, piece] = row.draw(costs, alone_s)
    return Demands(np.array([row.divided for row in rows], dtype=np.int8), np.array(drawn), draw, flowing)
