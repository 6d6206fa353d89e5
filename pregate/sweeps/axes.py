"""What can be swept: the name of an axis, its unit, and the values a user gives it, checked and in SI.

Nothing here knows a model, a machine or a trace: whether a value suits them is found when the points are planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import MEMORY_FIGURES, check_axis, figure_keys
from hwmodels.quantity import DIMENSIONS, parse_override
from hwmodels.specs.machine_fields import ALIASES, FIELDS
from hwmodels.specs.number_names import number_meant
from hwmodels.stacks.stack import CONSTANTS
from offload.policy_parts.speculation import MAX_GAMMA
from pregate.ask.capturing.tier_names import tier_named
from traces.errors import InvalidInput, unknown_name
from traces.foundation.type_checks import check_fields
from traces.model.dtypes import find_dtype
from traces.model.files.llama_mixes import is_mix
from traces.model.formats_by_part import FORMAT_PARTS, check_formats

MACHINE = ("hardware", "accelerator", "link", "host", "storage", "stack")
"""Axes that swap a part of the machine for another by name."""
FORMATS = tuple(f"formats.{part}" for part in FORMAT_PARTS)
"""Axes of the format of one part of the model, `all` among them."""
MODEL = ("dtype", "expert_dtype", *FORMATS, "top_k")
WORKLOAD = ("batch", "input_tokens", "output_tokens", "n_active")
TIER_SIZE = "tier_bytes"
"""What host memory keeps of experts above storage."""
POLICY = ("lookahead", "cache_ratio", "gamma", "acceptance")

NAMES = ("expert_tier", "dtype", "expert_dtype", *FORMATS, *MACHINE)
"""Axes whose values are names: in no order, with nothing between two."""

MAX_VALUES = 10_000_000
"""Most values of an axis."""
MAX_COUNT = 10_000_000
"""Largest count on an axis: what it would take is said of it where a trace is made."""

_COUNTS = ("top_k", "lookahead", "gamma", *WORKLOAD)
_SHARES = ("cache_ratio", "acceptance")

_WITHIN: Mapping[str, tuple[float, float, str]] = {
    "cache_ratio": (0, 1, "is outside 0 (no cache) to 1 (every expert)"),
    TIER_SIZE: (0, math.inf, "bytes is below 0 (nothing is kept)"),
    "acceptance": (0, 1, "is outside 0 (no proposal is taken) to 1 (all are)"),
    "gamma": (0, MAX_GAMMA, f"is outside 0 (nothing is drafted) to {MAX_GAMMA} tokens"),
}
"""The least and the most of an axis, and what is said of values beyond."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One thing that is varied. `values`: (n,) float64 in `unit` (SI, "1" for counts and ratios), or text for names.

    `key`: the name under which the rest of the project knows it (`hbm_bytes` is `accelerator.hbm_bytes`).
    """

    name: str
    key: str
    values: NDArray[Any]
    unit: str

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.values.dtype.kind == "f"

    @property
    def is_count(self) -> bool:
        """Whether its values are whole numbers of something."""
        return _is_count(self.key)

    @property
    def is_figure(self) -> bool:
        """Whether it is a number of the machine or the stack."""
        return "." in self.key and self.key not in FORMATS

    @property
    def is_price_only(self) -> bool:
        """Whether it changes no decision: every schedule stays as it is."""
        return self.is_figure and self.key not in MEMORY_FIGURES

    def value(self, i: int) -> Any:
        """Value `i` as plain Python: a count as an integer."""
        value = self.values[i].item()
        return int(value) if self.is_count or _dimension(self.key) == "size" else value


@dataclass(frozen=True, slots=True)
class LatinHypercube:
    """`n` points that fill the space of the axes evenly: each axis is cut in n strata and every stratum is met once.

    Axes are then ranges, `(low, high)` or `(low, high, "log")`, or lists of values, each met equally often. McKay,
    Beckman and Conover, Technometrics 21(2), 1979. Raises `InvalidInput` for fewer points than one.
    """

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.n <= MAX_VALUES or self.seed < 0:
            raise InvalidInput(
                f"a Latin hypercube of {self.n} points with seed {self.seed}: at least 1, at most {MAX_VALUES:,}, and 0"
            )

    def axes(self, given: Mapping[str, Any]) -> tuple[Axis, ...]:
        """The axes with a value for each of the `n` points. Raises `InvalidInput` or `UnknownName` as `read_axes`."""
        from scipy.stats import qmc

        if not given:
            raise InvalidInput("no axes to sample: give at least one, such as link.h2d_bytes_per_s: (8e9, 128e9)")
        columns = qmc.LatinHypercube(len(given), rng=np.random.default_rng(self.seed)).random(self.n).T
        return _distinct([_sampled(name, values, u) for (name, values), u in zip(given.items(), columns, strict=True)])


def read_axes(given: Mapping[str, Any]) -> tuple[Axis, ...]:
    """The axes of a grid, in the order given: each a list or array of numbers in SI, text with units, or names.

    Sizes are rounded down to whole bytes. Raises `UnknownName` for an axis, `InvalidInput` for a value that it cannot
    have or that is given twice.
    """
    axes = _distinct([_axis(name, _listed(name, values)) for name, values in given.items()])
    for axis in axes:
        found, counts = np.unique(axis.values, return_counts=True)
        if counts.max() > 1:
            raise InvalidInput(f"axis {axis.name}: {found[counts.argmax()]} is given twice")
    return axes


def spaced(name: str, how: str, low: float | str, high: float | str, n: int) -> NDArray[np.float64]:
    """(n,) values of axis `name` from `low` to `high`, `how` being "linear" or "log"; counts are rounded, each once.

    Raises `InvalidInput` for fewer values than one, names instead of numbers, or a logarithm of 0 or less.
    """
    if n < 1:
        raise InvalidInput(f"axis {name}: {n} values, at least 1 needed")
    if n > MAX_VALUES:
        raise InvalidInput(f"axis {name}: {n} values, at most {MAX_VALUES:,}: sample it (LatinHypercube, `sample:`)")
    values = _interpolated(name, how, low, high, np.linspace(0.0, 1.0, n) if n > 1 else np.zeros(1))
    return np.unique(values) if _is_count(find_axis(name)) else values


def rounded(key: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values nearest to `values`, (n,), that axis `key` can have: whole counts; sizes are rounded down to bytes."""
    if _is_count(key):
        return np.rint(values)
    return np.floor(values) if _dimension(key) == "size" else values


def find_axis(name: str) -> str:
    """The key of an axis. Raises `UnknownName` with the nearest."""
    key = ALIASES.get(name, name)
    known = [*figure_keys(), *ALIASES, *_COUNTS, *NAMES, *_SHARES, TIER_SIZE]
    if key not in known:
        raise unknown_name("axis", name, known, spelled=number_meant(name, known))
    return key


def axis_unit(name: str) -> str:
    """The SI unit of an axis: "1" for counts and ratios, "" for names. Raises `UnknownName` with the nearest."""
    key = find_axis(name)
    return "" if key in NAMES else DIMENSIONS[_dimension(key)]


def _distinct(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    keys = [axis.key for axis in axes]
    for i, axis in enumerate(axes):
        if axis.key in keys[:i]:
            raise InvalidInput(f"axis {axis.name} is given twice, as {axes[keys.index(axis.key)].name} too")
    return tuple(axes)


def _is_count(key: str) -> bool:
    return key in _COUNTS or _dimension(key) == "count"


def _dimension(key: str) -> str:
    """A key of `DIMENSIONS`: what a numeric axis measures."""
    kind, _, field = key.partition(".")
    if key == TIER_SIZE:
        return "size"
    if kind == "stack" and field:
        return CONSTANTS[field]
    return FIELDS[kind][field].dimension if kind in FIELDS and field else "ratio"


def _listed(name: str, values: Any) -> list[Any]:
    array = np.asarray(values) if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim != 1:
        raise InvalidInput(f"axis {name} has shape {array.shape}: it must be one list of values")
    if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
        raise InvalidInput(f"axis {name} = {values!r} is not a list of values")
    items: list[Any] = list(islice(values, MAX_VALUES + 1)) if array is None else array.tolist()
    if len(items) > MAX_VALUES:
        raise InvalidInput(f"axis {name} has more than {MAX_VALUES:,} values: sample it (LatinHypercube, `sample:`)")
    if not items:
        raise InvalidInput(f"axis {name} has no values: give at least one, or leave it out")
    return items


def _axis(name: str, items: Sequence[Any]) -> Axis:
    """An axis from the values as given."""
    key = find_axis(name)
    if key in NAMES:
        for item in items:
            if not isinstance(item, str):
                rate = "; the rate of a link is link.h2d_bytes_per_s" * (key == "link")
                raise InvalidInput(f"axis {name}: {item!r} is not a name{rate}")
        return _checked(Axis(name, key, np.array(items, dtype=np.str_), ""))
    numbers = np.array([_si_value(name, key, item) for item in items])
    return _checked(Axis(name, key, _whole(name, key, numbers), DIMENSIONS[_dimension(key)]))


def _checked(axis: Axis) -> Axis:
    """Raise for the first value that no point can have."""
    axis.values.flags.writeable = False
    if axis.is_figure:
        check_axis(axis.key, axis.values)
    elif axis.key in _WITHIN:
        least, most, what = _WITHIN[axis.key]
        for value in axis.values[~((axis.values >= least) & (axis.values <= most))].tolist():
            raise InvalidInput(f"axis {axis.name}: {value:g} {what}")
    elif axis.key in _COUNTS:
        for value in axis.values[~(axis.values >= 1)].tolist():
            raise InvalidInput(f"axis {axis.name}: {value:g} is below 1")
        for value in axis.values[axis.values > MAX_COUNT].tolist():
            raise InvalidInput(f"axis {axis.name}: {value:g} is above {MAX_COUNT:,}")
    else:
        _check_names(axis)
    return axis


def _check_names(axis: Axis) -> None:
    """Raise for the first tier or format that is none; names of models and machines are read where they are loaded."""
    for value in axis.values.tolist() if axis.key == "expert_tier" else ():
        try:
            tier_named(value)
        except InvalidInput as error:
            raise type(error)(f"axis {axis.name}: {error}") from None
    for value in axis.values.tolist() if axis.key in ("dtype", "expert_dtype") else ():
        if axis.key != "dtype" or not is_mix(value):
            find_dtype(value, f"axis {axis.name}")
    for value in axis.values.tolist() if axis.key in FORMATS else ():
        check_formats({axis.key.partition(".")[2]: value}, f"axis {axis.name}")


def _si_value(name: str, key: str, item: Any) -> float:
    """One value in SI."""
    if isinstance(item, str):
        try:
            return parse_override(item, _dimension(key))
        except InvalidInput as error:
            raise type(error)(f"axis {name}: {error}") from None
    if isinstance(item, bool) or not isinstance(item, int | float | np.integer | np.floating):
        raise InvalidInput(f"axis {name}: {item!r} is not a number")
    try:
        number = float(item)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidInput(f"axis {name}: {item} is not finite")
    return number


def _whole(name: str, key: str, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sizes in whole bytes; a count that is whole but for rounding (np.geomspace) as that count, or refused."""
    near = rounded(key, numbers)
    for value in numbers[np.abs(numbers - near) > 1e-9 * np.abs(near)].tolist() if _is_count(key) else ():
        raise InvalidInput(f"axis {name}: {value:.12g} is not a whole number")
    return near


def _interpolated(name: str, how: str, low: Any, high: Any, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at the shares `u` (0..1) of the way from `low` to `high`; whole ones where only these make sense."""
    key = find_axis(name)
    if key in NAMES:
        raise InvalidInput(f"axis {name} takes names, not a range: give a list")
    if how not in ("linear", "log"):
        raise InvalidInput(f"axis {name}: spacing {how!r} is neither linear nor log")
    first, last = _si_value(name, key, low), _si_value(name, key, high)
    if how == "log":
        if not (first > 0 and last > 0):
            raise InvalidInput(f"axis {name}: a log space from {first:g} to {last:g} needs both above 0")
        values = first * (last / first) ** u
        values[u == 1] = last
    else:
        values = first + (last - first) * u
    return rounded(key, values)


def _sampled(name: str, values: Any, u: NDArray[np.float64]) -> Axis:
    """An axis with a value for each share in `u`: within a range, or one of a list."""
    if isinstance(values, tuple):
        if len(values) not in (2, 3):
            raise InvalidInput(f"axis {name} = {values!r}: a range to sample is (low, high) or (low, high, 'log')")
        how = values[2] if len(values) == 3 else "linear"
        return _axis(name, _interpolated(name, how, values[0], values[1], u).tolist())
    listed = _axis(name, _listed(name, values))
    chosen = np.minimum((u * len(listed.values)).astype(np.int64), len(listed.values) - 1)
    return Axis(name, listed.key, listed.values[chosen], listed.unit)
