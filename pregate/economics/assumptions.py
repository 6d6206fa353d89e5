"""The figures that costs rest on: each with its middle, its ends, its source and its date; or a user's own."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import NUMBER, Section, read_yaml
from traces.foundation.read_only import ReadOnly

SHIPPED = Path(__file__).parent / "assumptions.yaml"

GENERAL = (
    "electricity_usd_per_kwh", "pue", "utilisation", "years", "machine_usd", "upkeep_per_year",
    "engineering_usd_per_day", "host_idle_watts", "host_busy_watts", "busy_share", "idle_share",
    "transfer_joules_per_gb", "unfitted_error",
)  # fmt: skip
_SHARES = ("utilisation", "busy_share", "idle_share")
_CARD = ("limit_watts", "usd_per_hour", "price_usd")
_MOST = 1e9


@dataclass(frozen=True, slots=True)
class Assumption:
    """One figure: its middle `value` between `low` and `high`, as its `source` of `date` has it.

    Raises `InvalidInput` unless 0 <= low <= value <= high <= 1e9.
    """

    value: float
    low: float
    high: float
    unit: str
    source: str
    date: str

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.value <= self.high <= _MOST:
            raise InvalidInput(
                f"an assumption of {self.low:g} to {self.high:g} with {self.value:g} between: "
                f"low <= value <= high, from 0 to {_MOST:g}"
            )

    def __str__(self) -> str:
        ends = "" if self.low == self.high else f" ({self.low:g} to {self.high:g})"
        unit = "" if self.unit == "1" else f" {self.unit}"
        return "; ".join(filter(None, (f"{self.value:g}{ends}{unit}", self.source, self.date)))

    def draws(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """(n,) of a triangular distribution from `low` to `high` with its mode at `value`; all equal where both are."""
        if self.low == self.high:
            return np.full(n, self.value)
        return rng.triangular(self.low, self.value, self.high, n)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Assumptions by dotted name: `pue`, `engineering_days.pregate`, `cards.h100-sxm.limit_watts`."""

    by_name: Mapping[str, Assumption]

    def __getitem__(self, name: str) -> Assumption:
        """Raises `InvalidInput` for a name of which nothing is assumed, with the way to say it."""
        found = self.by_name.get(name)
        if found is None:
            raise InvalidInput(f"nothing is assumed of {name}: say --assume {name}=NUMBER")
        return found

    def get(self, name: str) -> Assumption | None:
        """The assumption called `name`; None when there is none."""
        return self.by_name.get(name)

    def days_of(self, design: str, is_offered: bool = False) -> str:
        """The name of the engineering days of a design: its own, its family's, or `other`. `is_offered`: an engine has
        flags for where `gpu_only` places weights, and runs it as it is installed.
        """
        family = design.partition("+")[0].partition("(")[0].partition(":")[0].partition("@")[0]
        plain = design in (family, f"{family}(1)") or (is_offered and design.startswith("gpu_only@"))
        known = f"engineering_days.{family}"
        wanted = family == "pregate" or plain
        return known if wanted and known in self.by_name else "engineering_days.other"

    def with_values(self, overrides: Mapping[str, str]) -> Assumptions:
        """These with a user's own: `0.31`, or `0.25:0.31:0.4` for low, middle and high.

        Raises `InvalidInput` for text that is neither, a name that is none, or a share above 1.
        """
        changed = dict(self.by_name)
        for name, text in overrides.items():
            _check_name(name)
            words = text.split(":")
            if len(words) not in (1, 3) or not all(NUMBER.fullmatch(word) for word in words):
                raise InvalidInput(f"--assume {name}={text}: a number, or low:middle:high")
            numbers = [float(word) for word in words]
            low, value, high = numbers if len(numbers) == 3 else numbers * 3
            try:
                changed[name] = Assumption(value, low, high, _unit(name, self), "as given", _today())
            except InvalidInput as error:
                raise InvalidInput(f"--assume {name}={text}: {error}") from None
            _check_share(name, changed[name])
        return Assumptions(ReadOnly(changed))


def load_assumptions(path: str | Path | None = None, overrides: Mapping[str, str] | None = None) -> Assumptions:
    """What ships, or of a file of the same form what it names in its place, then `overrides`.

    Raises `InvalidFile` for a file of another form, `InvalidInput` as `Assumptions.with_values`.
    """
    found = _read(SHIPPED)
    if path is not None:
        found |= _read(Path(path))
    return Assumptions(ReadOnly(found)).with_values(overrides or {})


def _read(path: Path) -> dict[str, Assumption]:
    section = read_yaml(path)
    found: dict[str, Assumption] = {}
    for group, prefix in (("general", ""), ("engineering_days", "engineering_days.")):
        table = section.optional_section(group)
        if table is not None:
            found |= _assumptions(table, prefix)
    cards = section.optional_section("cards")
    if cards is not None:
        for card in cards.remaining():
            found |= _assumptions(cards.section(card), f"cards.{card}.")
    section.done()
    return found


def _assumptions(table: Section, prefix: str) -> dict[str, Assumption]:
    return {f"{prefix}{name}": _assumption(table, name, f"{prefix}{name}") for name in table.remaining()}


def _assumption(table: Section, name: str, full: str) -> Assumption:
    entry = table.section(name)
    value, low, high = (entry.number(key) for key in ("value", "low", "high"))
    unit, source, date = entry.text("unit"), entry.text("source"), str(entry.take("date"))
    entry.done()
    try:
        _check_name(full)
        found = Assumption(value, low, high, unit, source, date)
        _check_share(full, found)
    except InvalidInput as error:
        raise InvalidFile(f"{entry.where}: {error}") from None
    return found


def _check_name(name: str) -> None:
    """Raise `UnknownName` unless costs look at an assumption called `name`."""
    group, _, rest = name.partition(".")
    if group == "engineering_days" and rest:
        return
    if group == "cards" and rest.rpartition(".")[2] in _CARD and rest.rpartition(".")[0]:
        return
    if name not in GENERAL:
        known = [*GENERAL, "engineering_days.DESIGN", *(f"cards.CARD.{figure}" for figure in _CARD)]
        raise unknown_name("assumption", name, known)


def _check_share(name: str, found: Assumption) -> None:
    if name in _SHARES and not 0 < found.low <= found.high <= 1:
        raise InvalidInput(f"{name} from {found.low:g} to {found.high:g}: a share is above 0, at most 1")
    if name == "pue" and found.low < 1:
        raise InvalidInput(f"pue from {found.low:g}: at least 1, all power over that of the machines")
    if name in ("years", "unfitted_error") and found.low <= 0:
        raise InvalidInput(f"{name} from {found.low:g}: above 0")


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _unit(name: str, known: Assumptions) -> str:
    found = known.get(name)
    last = name.rpartition(".")[2]
    units = {"limit_watts": "W", "usd_per_hour": "USD/h", "price_usd": "USD"}
    return found.unit if found is not None else units.get(last, "days" if name.startswith("engineering") else "")
