"""Where to search: policies, lists of values and ranges, on a subject; and the price of the machine at each point.

Machines without a price are taken out here where prices count: nothing treats a missing price as a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from offload.policy import Cache, Policy
from pregate.ask.ranked_designs import are_ranked, standing_of, told_apart
from pregate.named import load_model
from pregate.sweeps.axes import MACHINE, WORKLOAD, Axis, read_axes, spaced
from pregate.sweeps.designs import read_designs
from pregate.sweeps.machines import MachineRecipe, platform_at
from pregate.sweeps.planning import Subject, check_tier_axis
from pregate.sweeps.workloads import TraceRecipe, as_source, check_workload_axes, fills_memory, trace_at
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

_PRICE = "accelerator.price_usd"
_CARDS = "accelerator.n_cards"


@dataclass(frozen=True, slots=True)
class Range:
    """A number from `low` to `high`, SI, evenly in its logarithm when `log`. `whole`: it has no fractions."""

    name: str
    key: str
    unit: str
    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """`parameters`: what varies besides the policies of `subject`, in the order given.

    `priced_by`: the name of the axis that decides the accelerator, "" for none. By its values, without one by "":
    `prices` of one card in US dollars, None where unknown; `n_cards` of the machine. `left_out`: machines that are not
    searched for want of a price.
    `told_apart`: what is said of designs that know the future or change the output, ranked for want of others or not.
    """

    subject: Subject
    parameters: tuple[Axis | Range, ...]
    priced_by: str
    prices: Mapping[str, float | None]
    n_cards: Mapping[str, int]
    left_out: tuple[str, ...]
    told_apart: tuple[str, ...] = ()

    @property
    def n_evaluations(self) -> int | None:
        """Points x policies of the grid; None where a range has no end of them."""
        sizes = [len(axis.values) for axis in self.parameters if isinstance(axis, Axis)]
        return None if len(sizes) < len(self.parameters) else math.prod(sizes) * len(self.subject.designs)

    @property
    def hardware(self) -> str:
        """The accelerators searched."""
        choices = {p.key: p for p in self.parameters if isinstance(p, Axis) and p.key in MACHINE}
        for key in ("accelerator", "hardware"):
            if key in choices:
                return ", ".join(choices[key].values.tolist())
        return platform_at(self.subject.hw, {key: axis.value(0) for key, axis in choices.items()}).hardware

    def grid(self) -> tuple[Axis, ...]:
        """The axes, all lists. Raises `InvalidInput` where one is a range."""
        axes = tuple(axis for axis in self.parameters if isinstance(axis, Axis))
        for range_ in (parameter for parameter in self.parameters if isinstance(parameter, Range)):
            raise InvalidInput(f"axis {range_.name} is a range, which has no end of values: list some, or use optuna")
        return axes

    def price_usd(self, axes: Sequence[Axis], n: int) -> NDArray[np.float64]:
        """What all cards cost together at each point, (n,), of which `axes` have the values: NaN where unknown."""
        columns = {axis.key: axis.values for axis in axes if axis.key in (_PRICE, _CARDS)}
        names = next((axis.values for axis in axes if axis.name == self.priced_by), np.full(n, ""))
        found, place = np.unique(names, return_inverse=True)
        for key, by_name in ((_PRICE, self.prices), (_CARDS, self.n_cards)):
            if key not in columns:
                columns[key] = np.array([by_name[name] for name in found.tolist()], dtype=np.float64)[place]
        usd: NDArray[np.float64] = columns[_PRICE] * columns[_CARDS]
        return usd


def read_space(
    model: ModelArchitecture | str | Path,
    hw: Platform | MachineRecipe | str | Path | None,
    trace: RoutingTrace | TraceRecipe | str | Path | None,
    policies: Sequence[str | Policy],
    axes: Mapping[str, Any],
    *,
    expert_tier: str = "dram",
    cache: Cache | None = None,
    need_prices: bool = False,
) -> Space:
    """The space of the arguments of `pregate.optimize`, each checked as `pregate.sweep` does.

    Raises `UnknownName` or `InvalidInput`; with `need_prices` also when no machine has a price.
    """
    parameters = _parameters(axes)
    ends = {parameter.key: _ends(parameter) for parameter in parameters}
    architecture = model if isinstance(model, ModelArchitecture) else load_model(model)
    asked, source = read_designs(policies, cache, ends), as_source(trace, architecture)
    standings = [standing_of(design.policy.with_cache(design.cache)) for design in asked]
    designs = tuple(compress(asked, are_ranked(standings)))
    apart = tuple(told_apart(zip((design.policy.name for design in asked), standings, strict=True)))
    check_workload_axes(source, ends)
    check_tier_axis(ends, expert_tier)
    fills = fills_memory(trace, ends)
    if isinstance(source, TraceRecipe) and not fills and not ends.keys() & {*WORKLOAD, "top_k"}:
        source = trace_at(source, architecture, {})  # one for all points
    machine = hw if isinstance(hw, Platform | MachineRecipe) else MachineRecipe("" if hw is None else str(hw))
    priced_by, prices, n_cards = _prices(machine, ends)
    left_out = tuple(name for name, price in prices.items() if price is None) if need_prices else ()
    if left_out and len(left_out) == len(prices):
        named = ", ".join(left_out) if priced_by else platform_at(machine, {}).hardware
        raise InvalidInput(
            f"no price is known of {named}: give one ({_PRICE}=1500), a machine that has one (`pregate hardware "
            f"show NAME`), or goals without prices"
        )
    kept = tuple(
        _without(parameter, left_out) if isinstance(parameter, Axis) and parameter.name == priced_by else parameter
        for parameter in parameters
    )
    subject = Subject(architecture, machine, source, designs, expert_tier, fills)
    return Space(subject, kept, priced_by, prices, n_cards, left_out, apart)


def _parameters(axes: Mapping[str, Any]) -> tuple[Axis | Range, ...]:
    """Lists as axes, tuples as ranges: (low, high) or (low, high, "log")."""
    spacings: dict[str, str] = {}
    listed: dict[str, Any] = {}
    for name, values in axes.items():
        listed[name] = values
        if isinstance(values, tuple):
            if len(values) not in (2, 3):
                raise InvalidInput(f"axis {name} = {values!r}: a range is (low, high) or (low, high, 'log')")
            spacings[name] = values[2] if len(values) == 3 else "linear"
            low, high = (spaced(name, spacings[name], end, end, 1)[0] for end in values[:2])
            if not low < high:
                raise InvalidInput(f"axis {name} = {values!r}: a range must rise")
            listed[name] = [low, high]
    return tuple(_range(axis, spacings[axis.name]) if axis.name in spacings else axis for axis in read_axes(listed))


def _range(ends: Axis, spacing: str) -> Range:
    low, high = ends.values.tolist()
    return Range(ends.name, ends.key, ends.unit, low, high, spacing == "log", isinstance(ends.value(0), int))


def _ends(parameter: Axis | Range) -> Axis:
    """A parameter as an axis: a range by its two ends."""
    if isinstance(parameter, Axis):
        return parameter
    return Axis(parameter.name, parameter.key, np.array([parameter.low, parameter.high]), parameter.unit)


def _prices(
    hw: Platform | MachineRecipe, axes: Mapping[str, Axis]
) -> tuple[str, dict[str, float | None], dict[str, int]]:
    """The axis that decides the accelerator; what a card of each of its values costs, unless an axis says that; and how
    many there are.
    """
    usual = {key: axes[key].value(0) for key in MACHINE if key in axes}
    deciding = next((axes[key] for key in ("accelerator", "hardware") if key in axes), None)
    choices = {"": usual}
    if deciding is not None:
        choices = {name: {**usual, deciding.key: name} for name in deciding.values.tolist()}
    machines = {name: platform_at(hw, choice).machine for name, choice in choices.items()}
    prices = {} if _PRICE in axes else {name: one.accelerator.price_usd for name, one in machines.items()}
    return "" if deciding is None else deciding.name, prices, {name: one.n_cards for name, one in machines.items()}


def _without(axis: Axis, names: Sequence[str]) -> Axis:
    return Axis(axis.name, axis.key, axis.values[~np.isin(axis.values, names)], axis.unit)
