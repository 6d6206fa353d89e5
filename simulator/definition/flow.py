"""Work at a rate that changes: transfers that share a link, copies and kernels that share HBM. On SimPy.

How progress is accounted for is part of the contract in `simulator.modes`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

__all__ = ["Flow", "max_min_level"]


@dataclass(slots=True, eq=False)
class _Piece:
    """Work under way: `remaining_s` at a rate of 1 as of `since_s`, when `rate` became what it is.

    `demand`: share of the HBM bandwidth at its full rate. `link`: the link that it shares, None if it has its lane.
    `way`: the lane of a transfer, whose rate is `crossed` times as high while one goes the other way; None of a kernel.
    `reads`: the lane of what reads host memory, whose rate is `contended` times as high while another lane reads it.
    """

    remaining_s: float
    demand: float
    link: int | None
    way: int | None
    crossed: float
    reads: int | None
    contended: float
    since_s: float
    ended: simpy.Event
    rate: float = 0.0
    timer: simpy.Event | None = None


class Flow:
    """All pieces under way. Rates are worked out once an instant, when `last` says that nothing else will happen."""

    def __init__(self, env: simpy.Environment, last: Callable[[], simpy.Event]) -> None:
        self.env, self.last = env, last
        self.pieces: dict[int, _Piece] = {}
        self.settling = False

    def work(
        self,
        i: int,
        work_s: float,
        demand: float,
        link: int | None,
        way: int | None = None,
        crossed: float = 1.0,
        reads: int | None = None,
        contended: float = 1.0,
    ) -> Generator[simpy.Event, Any, None]:
        """Op `i` works for `work_s`, longer when it has to share; at once when that is no time."""
        if self.env.now + work_s > self.env.now:
            ended = simpy.Event(self.env)
            piece = _Piece(work_s, demand, link, way, crossed, reads, contended, self.env.now, ended)
            self.pieces[i] = piece
            self._changed()
            yield piece.ended

    def _changed(self) -> None:
        if not self.settling:
            self.settling = True
            self.last().callbacks.append(self._settle)

    def _settle(self, _: simpy.Event) -> None:
        """Give every piece its rate, and account for those whose rate is another than before."""
        self.settling = False
        n_sharing = Counter(piece.link for piece in self.pieces.values())
        order = sorted(self.pieces)
        crossing = len({piece.way for piece in self.pieces.values()} - {None}) == 2
        link_rates = {i: 1.0 / n_sharing[link] if (link := self.pieces[i].link) is not None else 1.0 for i in order}
        if crossing:
            link_rates |= {
                i: rate * p.crossed for i, rate in link_rates.items() if (p := self.pieces[i]).way is not None
            }
        if len({piece.reads for piece in self.pieces.values()} - {None}) == 2:
            link_rates |= {
                i: rate * p.contended for i, rate in link_rates.items() if (p := self.pieces[i]).reads is not None
            }
        demands = {i: self.pieces[i].demand * link_rates[i] for i in order}
        level = max_min_level(list(demands.values()))
        for i in order:
            rate = link_rates[i] if demands[i] <= level else link_rates[i] * level / demands[i]
            if rate != self.pieces[i].rate:
                self._set_rate(i, rate)

    def _set_rate(self, i: int, rate: float) -> None:
        piece, now = self.pieces[i], self.env.now
        piece.remaining_s = max(piece.remaining_s - (now - piece.since_s) * piece.rate, 0.0)
        piece.since_s, piece.rate = now, rate
        piece.timer = self.env.timeout(piece.remaining_s / rate)
        piece.timer.callbacks.append(lambda timer: self._end(i, timer))

    def _end(self, i: int, timer: simpy.Event) -> None:
        """Op `i` has done its piece, if `timer` is still the one that says so."""
        piece = self.pieces.get(i)
        if piece is not None and piece.timer is timer:
            del self.pieces[i]
            self._changed()
            piece.ended.succeed()


def max_min_level(demands: Sequence[float]) -> float:
    """The most that any demand gets of one unit divided max-min fair, infinite when all get what they ask.

    Bertsekas and Gallager, Data Networks, section 6.5.2: who asks for no more than the level gets it, the others
    share the rest alike.
    """
    level = 0.0
    while True:
        free, n_beyond = 1.0, 0
        for demand in demands:
            if demand <= level:
                free -= demand
            else:
                n_beyond += 1
        if not n_beyond:
            return math.inf
        if free / n_beyond <= level:
            return level
        level = free / n_beyond
