"""Work at a rate that changes, because it shares what `simulator.resources` lists. On SimPy.

How progress is accounted for is part of the contract in `simulator.modes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy


@dataclass(slots=True, eq=False)
class _Piece:
    """Work under way on `lane`: `remaining_s` at a rate of 1 as of `since_s`, when `rate` became what it is.

    `draws`: what it draws on each resource at a rate of 1, 0 where it does not.
    """

    lane: int
    remaining_s: float
    draws: Sequence[float]
    since_s: float
    ended: simpy.Event
    rate: float = 0.0
    timer: simpy.Event | None = None


class Flow:
    """All pieces under way, sharing resources that are each `divided` or not (`simulator.resources.Resource`).

    Rates are worked out once an instant, when `last` says that nothing else will happen.
    """

    def __init__(self, env: simpy.Environment, divided: Sequence[bool], last: Callable[[], simpy.Event]) -> None:
        self.env, self.divided, self.last = env, divided, last
        self.pieces: dict[int, _Piece] = {}
        self.settling = False

    def work(self, i: int, lane: int, work_s: float, draws: Sequence[float]) -> Generator[simpy.Event, Any, None]:
        """Op `i` works for `work_s`, longer when it has to share; at once when that is no time."""
        if self.env.now + work_s > self.env.now:
            piece = _Piece(lane, work_s, draws, self.env.now, simpy.Event(self.env))
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
        rates = dict.fromkeys(sorted(self.pieces), 1.0)
        for row, divided in enumerate(self.divided):
            draws = {i: draw for i in rates if (draw := self.pieces[i].draws[row]) > 0}
            if divided:
                demands = {i: draw * rates[i] for i, draw in draws.items()}
                level = max_min_level(list(demands.values()))
                rates |= {i: rates[i] * level / demand for i, demand in demands.items() if demand > level}
            elif len({self.pieces[i].lane for i in draws}) > 1:
                rates |= {i: rates[i] * kept for i, kept in draws.items()}
        for i, rate in rates.items():
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
