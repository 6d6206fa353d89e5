"""A number with its unit and where it was published: `{value, unit, source}` read into SI, unit-checked.

Nothing in here knows which machine a number belongs to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real

from traces.errors import InvalidFile, InvalidInput, UnknownName, unknown_name
from traces.foundation.documents import NUMBER, Section
from traces.foundation.read_only import ReadOnly

__all__ = [
    "DIMENSIONS",
    "PLAUSIBLE",
    "UNITS",
    "Quantity",
    "ReadOnly",
    "Unit",
    "check_plausible",
    "parse_override",
    "parse_quantity",
    "positive_number",
    "real_number",
]


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit measures (`dimension`, a key of `DIMENSIONS`) and how many SI units it is."""

    dimension: str
    factor: float


DIMENSIONS: dict[str, str] = {
    "size": "B",
    "bandwidth": "B/s",
    "compute": "FLOP/s",
    "time": "s",
    "frequency": "Hz",
    "price": "USD",
    "count": "count",
    "ratio": "1",
}
"""The SI unit that a `Quantity` of each dimension is held in."""

_DECIMAL = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

UNITS: dict[str, Unit] = {
    **{f"{prefix}B": Unit("size", factor) for prefix, factor in (_DECIMAL | _BINARY).items()},
    "bytes": Unit("size", 1.0),
    **{f"{prefix}B/s": Unit("bandwidth", factor) for prefix, factor in (_DECIMAL | _BINARY).items()},
    **{f"{prefix}FLOP/s": Unit("compute", factor) for prefix, factor in _DECIMAL.items()},
    **{f"{prefix}OP/s": Unit("compute", factor) for prefix, factor in _DECIMAL.items()},
    **{"s": Unit("time", 1.0), "ms": Unit("time", 1e-3), "us": Unit("time", 1e-6), "ns": Unit("time", 1e-9)},
    **{f"{prefix}Hz": Unit("frequency", factor) for prefix, factor in _DECIMAL.items()},
    "USD": Unit("price", 1.0),
    "count": Unit("count", 1.0),
    "1": Unit("ratio", 1.0),
}
"""Units by the text they are written as, case-sensitive: GB is 1e9 bytes, GiB 2**30, a gigabit neither.
OP/s counts integer operations, as FLOP/s counts floating-point ones (a fused multiply-add is two)."""

_NUMBER_AND_UNIT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z/]*)", re.ASCII)
_EXAMPLES = {
    "size": "24e9 or 24GiB",
    "bandwidth": "64e9 or 64GB/s",
    "compute": "312e12 or 312TFLOP/s",
    "time": "1e-5 or 10us",
    "frequency": "1.41e9 or 1.41GHz",
    "price": "1599 or 1599USD",
    "count": "108",
    "ratio": "0.5",
}


PLAUSIBLE: dict[str, tuple[float, float]] = {
    "size": (1e3, 1e17),
    "bandwidth": (1e5, 1e30),
    "compute": (1e7, 1e30),
    "time": (0.0, 100.0),
    "frequency": (1e6, 1e12),
    "price": (0.01, 1e9),
    "count": (1.0, 1e7),
    "ratio": (0.0, 1.0),
}
"""What a number of a machine can be, by dimension, in SI: far beyond any machine there is, so that what is outside was
written in another unit. A rate of 1e30 stands for one that limits nothing."""


def check_plausible(value: float, dimension: str, where: str) -> None:
    """Raise `InvalidInput` unless a machine can have `value` of `dimension`."""
    low, high = PLAUSIBLE[dimension]
    if not low <= value <= high:
        unit = DIMENSIONS[dimension] if dimension not in ("count", "ratio") else ""
        raise InvalidInput(
            f"{where} = {value:.12g} {unit}".rstrip()
            + f": no machine has that, {low:g} to {high:g} are taken: write it "
            f"with its unit, such as {_EXAMPLES[dimension]}"
        )


@dataclass(frozen=True, slots=True)
class Quantity:
    """A published number in SI: `value` in `unit`, the document it stands in, and its date if it ages.

    `unverified`: nobody has read it there, or anywhere else.

    Raises `InvalidInput` for a value that is not finite, a unit outside SI or an empty source.
    """

    value: float
    unit: str
    source: str
    date: str | None = None
    unverified: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise InvalidInput(f"quantity = {self.value}: must be finite")
        if self.unit not in DIMENSIONS.values():
            raise unknown_name("SI unit", self.unit, DIMENSIONS.values())
        if not self.source.strip():
            raise InvalidInput(f"quantity {self.value:g} {self.unit} has no source: name the document it is from")


def positive_number(value: object, where: str, *, zero_ok: bool = False) -> float:
    """`value` as a finite float above 0 (or at least 0). Raises `InvalidInput` naming `where` otherwise."""
    number = real_number(value, where)
    limit = "must be 0 or above" if zero_ok else "must be above 0"
    if not math.isfinite(number):
        raise InvalidInput(f"{where} = {number}: must be a finite number, {limit.removeprefix('must be ')}")
    if number < 0 or (number == 0 and not zero_ok):
        raise InvalidInput(f"{where} = {number:.12g}: {limit}")
    return number


def real_number(value: object, where: str) -> float:
    """`value` as a float, infinite where it is too large for one. Raises `InvalidInput` for what is no number."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidInput(f"{where} = {_shown(value)}: must be a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def parse_quantity(raw: object, where: str, dimension: str, sources: Mapping[str, str] | None = None) -> Quantity:
    """The `{value, unit, source, date?, note?, unverified?}` mapping `raw`, in SI; `where` opens every message.

    `source` is a key of `sources` (the file's table of documents) or, when it has a space in it, the
    document's name itself; `note` is appended to it. Raises `InvalidInput` for a value that is not finite
    and above 0 or a unit of another dimension, `InvalidFile` for missing keys, `UnknownName` for typos.
    """
    if not isinstance(raw, dict):
        raise InvalidFile(f"{where} is not a mapping: write {{value: ..., unit: ..., source: ...}}")
    section = Section(raw, where)
    value = section.take("value")
    if isinstance(value, str):  # YAML 1.1 reads 64e9 as text
        value = _number(value, where)
    unit, source = section.text("unit"), section.text("source").strip()
    date, note = section.take("date", optional=True), section.text("note", "").strip()
    unverified = section.flag("unverified")
    section.done()
    if sources and source not in sources and " " not in source:
        raise unknown_name("source", source, sources, where)
    source = (sources or {}).get(source, source)
    if not source:
        raise InvalidFile(f"{where}: source is empty: name the document that the number stands in")
    si_value = _scaled(positive_number(value, where), _factor(unit, dimension, where))
    return Quantity(
        value=positive_number(si_value, where),
        unit=DIMENSIONS[dimension],
        source=f"{source} ({note})" if note else source,
        date=None if date is None else str(date),
        unverified=unverified,
    )


def parse_override(text: str, dimension: str) -> float:
    """The SI value of `text`: a bare number is SI already (`64e9`), else its unit is checked (`64GB/s`).

    The sign is not checked: only the caller knows whether 0 is allowed. Raises `InvalidInput` for text that
    is no finite number or has a unit of another dimension; the message shows a spelling that works.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{_shown(text)} is not a number: write {_EXAMPLES[dimension]}")
    number, unit = match.groups()
    factor = _factor(unit, dimension, _shown(text)) if unit else 1.0
    value = _scaled(float(number), factor)
    if not math.isfinite(value):
        raise InvalidInput(f"{_shown(text)} is not finite: write {_EXAMPLES[dimension]}")
    return value


def _factor(unit: str, dimension: str, where: str) -> float:
    """SI units in one `unit`. Raises `InvalidInput` unless it measures `dimension`."""
    if unit not in UNITS:
        raise UnknownName(f"unknown unit {_shown(unit)} in {where}: write {_EXAMPLES[dimension]}, case matters")
    found = UNITS[unit]
    if found.dimension != dimension:
        raise InvalidInput(
            f"{where}: {unit} is a unit of {found.dimension}, expected one of {dimension}: write {_EXAMPLES[dimension]}"
        )
    return found.factor


def _scaled(value: float, factor: float) -> float:
    """`value * factor` rounded once, as written in decimal: 10 us is 1e-5 s, not 9.999999999999999e-06."""
    if not math.isfinite(value):
        return value
    return float(Decimal(repr(value)) * Decimal(repr(factor)))


def _number(text: str, where: str) -> float:
    if NUMBER.fullmatch(text.strip()) is None:
        raise InvalidInput(f"{where} = {_shown(text)}: must be a number")
    return float(text)


def _shown(value: object) -> str:
    """A short text for a message: never the expansion of a nested document."""
    return repr(value if len(value) <= 40 else value[:40] + "...") if isinstance(value, str) else type(value).__name__
