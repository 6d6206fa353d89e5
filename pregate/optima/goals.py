"""What is wanted: objectives and constraints as text ("tokens_per_s:max", "tpot_p99_s<=50ms"), read into numbers.

Nothing here knows how a figure comes about.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.quantity import parse_override
from pregate.ask.simulation import SimulationResult
from pregate.draw import render
from pregate.spellings.figure_words import figure_named
from pregate.sweeps.dataset import unit_of
from traces.errors import InvalidInput

PRICES = ("price_usd", "usd_per_token_per_s")
"""Figures that are of a machine's price: that of its accelerators, and that over tokens/s."""

_MEASURED = tuple(field.name for field in dataclasses.fields(SimulationResult) if field.type in ("float", "int"))
_UNITS = {name: unit_of(name) for name in _MEASURED} | dict.fromkeys(PRICES, "USD")
_DIMENSIONS = {"s": "time", "B": "size", "USD": "price"}
_CONSTRAINT = re.compile(r"([^<>=\s]+)\s*(<=|>=)\s*([^<>=]+)")

Values = Callable[[str], NDArray[np.float64]]
"""A figure by name at every point, (n,), NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A figure that is to be small or, `maximise`, large."""

    field: str
    maximise: bool

    @property
    def text(self) -> str:
        """As one writes it."""
        return f"{self.field}:{'max' if self.maximise else 'min'}"

    def cost(self, values: Values) -> NDArray[np.float64]:
        """The figure, or its negative: what is to be small, (n,)."""
        return -values(self.field) if self.maximise else values(self.field)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A figure that may not be above `limit` (SI) or, `at_least`, below it. `text`: as it was written."""

    field: str
    at_least: bool
    limit: float
    text: str

    def excess(self, values: Values) -> NDArray[np.float64]:
        """How far the figure is on the wrong side, in its unit: at most 0 where it is met, (n,)."""
        return self.limit - values(self.field) if self.at_least else values(self.field) - self.limit

    def met(self, values: Values) -> NDArray[np.bool_]:
        """Where it is met, (n,); nowhere that the figure is missing."""
        figure = values(self.field)
        return figure >= self.limit if self.at_least else figure <= self.limit


@dataclass(frozen=True, slots=True)
class Goals:
    """What is optimised, the first objective first, and what has to hold."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    @property
    def need_prices(self) -> bool:
        """Whether a machine without a price cannot be judged."""
        fields = [objective.field for objective in self.objectives]
        return any(field in PRICES for field in [*fields, *(constraint.field for constraint in self.constraints)])

    def costs(self, values: Values) -> NDArray[np.float64]:
        """What is to be small, (n, n_objectives)."""
        return np.stack([objective.cost(values) for objective in self.objectives], axis=1)

    def met(self, values: Values) -> list[NDArray[np.bool_]]:
        """Where each constraint is met, (n,) each."""
        return [constraint.met(values) for constraint in self.constraints]


def figure_names() -> tuple[str, ...]:
    """Every figure that can be an objective or a constraint: the numbers of a `SimulationResult`, and prices."""
    return tuple(_UNITS)


def read_goals(objectives: str | Sequence[str], constraints: str | Sequence[str]) -> Goals:
    """Objectives `FIGURE:min` or `FIGURE:max`, constraints `FIGURE<=NUMBER` or `FIGURE>=NUMBER` with or without a unit.

    Raises `UnknownName` for a figure that does not exist, `InvalidInput` for text of another form, no objective, or one
    twice.
    """
    wanted = tuple(_objective(text) for text in ([objectives] if isinstance(objectives, str) else objectives))
    held = tuple(_constraint(text) for text in ([constraints] if isinstance(constraints, str) else constraints))
    if not wanted:
        raise InvalidInput("no objective: give at least one, such as price_usd:min or tokens_per_s:max")
    fields = [objective.field for objective in wanted]
    for field in fields:
        if fields.count(field) > 1:
            raise InvalidInput(f"objective {field} is given twice: leave one out")
    return Goals(wanted, held)


def unit(field: str) -> str:
    """What a figure is in: "s", "B", "1/s", "USD", or "1" for ratios and counts."""
    return _UNITS[field]


def shown(field: str, value: float) -> str:
    """A figure in a unit people read."""
    if unit(field) == "USD":
        return f"${value:,.0f}" if field == "price_usd" else f"${value:,.4g} a token/s"
    if unit(field) in ("s", "B"):
        return render.si(value, unit(field))
    return f"{value:.4g} tokens/s" if unit(field) == "1/s" else f"{value:.4g}"


def _objective(text: Any) -> Objective:
    field, _, direction = str(text).strip().partition(":")
    field = figure_named("objective", field, figure_names())
    if direction not in ("min", "max"):
        raise InvalidInput(f"objective {text!r}: write {field}:min or {field}:max")
    return Objective(field, direction == "max")


def _constraint(text: Any) -> Constraint:
    match = _CONSTRAINT.fullmatch(str(text).strip())
    if match is None:
        raise InvalidInput(f"constraint {text!r}: write FIGURE<=NUMBER or FIGURE>=NUMBER, such as tpot_p99_s<=50ms")
    field, sign, number = match.groups()
    field = figure_named("constraint on", field, figure_names())
    try:
        limit = parse_override(number, _DIMENSIONS.get(_UNITS[field], "ratio"))
    except InvalidInput as error:
        raise type(error)(f"constraint {text!r}: {error}") from None
    if limit < 0:
        raise InvalidInput(f"constraint {text!r}: no figure is below 0, so it says nothing: give a limit above")
    return Constraint(field, sign == ">=", limit, str(text).strip())
