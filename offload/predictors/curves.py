"""How good a predictor was: recall of k + m guesses by layers ahead and layer, with its source."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from traces.errors import InvalidInput, unknown_name
from traces.foundation.type_checks import check_fields

_FILES = tuple(Path(__file__).with_name(name) for name in ("published.csv", "measured.csv"))
"""Figures that others published, and those that `pregate train` measured here; the same columns."""


class CurvePoint(NamedTuple):
    """`recall` of k + `more` experts guessed `ahead` layers before MoE layer `layer`; None: the mean of all layers."""

    ahead: int
    more: int
    layer: int | None
    recall: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One predictor on one model. `metric`: what was counted, in the source's words; `source`: where, `date`: when.

    Raises `InvalidInput` for a recall outside 0 to 1, or nothing at all.
    """

    name: str
    model: str
    metric: str
    source: str
    date: str
    points: tuple[CurvePoint, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.points:
            raise InvalidInput(f"curve {self.name} has no points")
        for point in self.points:
            if not 0 <= point.recall <= 1:
                raise InvalidInput(f"curve {self.name}: recall = {point.recall:g}: a share, from 0 to 1")

    def recall(self, layer: int, ahead: int = 1, more: int = 0) -> float:
        """Recall at a layer; of one that the curve does not have, the mean of those that it has.

        Raises `InvalidInput` where nothing was said of so many layers ahead, or so many guesses.
        """
        known = [point for point in self.points if (point.ahead, point.more) == (ahead, more)]
        if not known:
            said = ", ".join(f"{a} ahead with m = {m}" for a, m in sorted({(p.ahead, p.more) for p in self.points}))
            raise InvalidInput(f"curve {self.name} says nothing of {ahead} ahead with m = {more}, only of {said}")
        here = [point.recall for point in known if point.layer == layer]
        return here[0] if here else sum(point.recall for point in known) / len(known)


def curve_named(name: str) -> Curve:
    """A curve that ships. Raises `UnknownName`."""
    if name not in _shipped():
        raise unknown_name("curve", name, _shipped())
    return _shipped()[name]


@cache
def _shipped() -> dict[str, Curve]:
    rows: list[dict[str, str]] = []
    for path in _FILES:
        with path.open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    return {name: _curve(name, [row for row in rows if row["name"] == name]) for name in dict.fromkeys(_names(rows))}


def _names(rows: Iterable[dict[str, str]]) -> list[str]:
    return [row["name"] for row in rows]


def _curve(name: str, rows: list[dict[str, str]]) -> Curve:
    """One curve of the table, whose rows share model, metric, source and date."""
    points = tuple(
        CurvePoint(int(r["ahead"]), int(r["more"]), int(r["layer"]) if r["layer"] else None, float(r["recall"]))
        for r in rows
    )
    first = rows[0]
    return Curve(name, first["model"], first["metric"], first["source"], first["date"], points)
