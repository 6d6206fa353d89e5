"""Measured constants of a (machine, stack) pair: value, interval, covariance, and the rows each was fitted on.

One YAML a fit in `fits/`, written by a calibration command and never by hand; claims live in `stacks/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hwmodels.quantity import DIMENSIONS, ReadOnly
from hwmodels.stack import CONSTANTS, check_constant
from traces.documents import Section, read_yaml
from traces.errors import InvalidFile, unknown_name

__all__ = ["Fit", "FittedConstant", "fit_names", "load_fit"]

FITS_DIR = Path(__file__).parent / "fits"


@dataclass(frozen=True, slots=True)
class FittedConstant:
    """A measured constant in SI: `ci95` from the fit's covariance, `rows` it was fitted on (names in the fit)."""

    value: float
    ci95: tuple[float, float]
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """What was measured of `stack` on `hardware`.

    `constants` replace the stack's claims; `assumptions` are of the workload the rows were measured with (how many
    of a layer's experts the traffic uses), fitted beside them and counted with them. `covariance`: (n, n)
    of ln(value), all being positive, in the order of `order`. `provenance`: where the rows came from, when, by
    which command. `dtypes`: weight formats that the rows were measured in; others are extrapolated.
    """

    name: str
    hardware: str
    stack: str
    dtypes: tuple[str, ...]
    constants: Mapping[str, FittedConstant]
    assumptions: Mapping[str, FittedConstant]
    order: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    provenance: Mapping[str, str]

    def to_yaml(self) -> str:
        """The text of the fit file."""
        document: dict[str, Any] = {
            "hardware": self.hardware,
            "stack": self.stack,
            "dtypes": list(self.dtypes),
            "provenance": dict(self.provenance),
            "constants": {n: _entry(c, DIMENSIONS[CONSTANTS[n]]) for n, c in self.constants.items()},
            "assumptions": {n: _entry(c, "1") for n, c in self.assumptions.items()},
            "log_covariance": {"order": list(self.order), "matrix": [list(row) for row in self.covariance]},
        }
        return yaml.safe_dump(document, sort_keys=False, width=110, default_flow_style=None)


def _entry(constant: FittedConstant, unit: str) -> dict[str, Any]:
    return {
        "value": constant.value,
        "unit": unit,
        "ci95": list(constant.ci95),
        "n": len(constant.rows),
        "rows": list(constant.rows),
    }


def fit_names() -> tuple[str, ...]:
    """The fits that ship with the project, `hardware.stack`."""
    return tuple(sorted(path.name.removesuffix(".yaml") for path in FITS_DIR.glob("*.*.yaml")))


def load_fit(name_or_path: str | Path) -> Fit:
    """A shipped fit by name, or a fit file by path. Raises `UnknownName` or `InvalidFile`."""
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        if str(name_or_path) not in fit_names():
            raise unknown_name("fit", str(name_or_path), fit_names())
        path = FITS_DIR / f"{name_or_path}.yaml"
    section = read_yaml(path)
    provenance = section.section("provenance")
    order, covariance = _covariance(section.section("log_covariance"))
    fit = Fit(
        name=path.name.removesuffix(".yaml"),
        hardware=section.text("hardware"),
        stack=section.text("stack"),
        dtypes=tuple(str(name) for name in section.items("dtypes")),
        constants=_entries(section.section("constants"), CONSTANTS),
        assumptions=_entries(section.section("assumptions"), None),
        order=order,
        covariance=covariance,
        provenance=ReadOnly({key: str(provenance.take(key)) for key in provenance.remaining()}),
    )
    section.done()
    if sorted(order) != sorted([*fit.constants, *fit.assumptions]):
        raise InvalidFile(f"{section.where}: log_covariance is not of the constants and assumptions of this fit")
    for key, constant in fit.constants.items():
        check_constant(key, constant.value, section.where)
    return fit


def _entries(table: Section, known: Mapping[str, str] | None) -> Mapping[str, FittedConstant]:
    entries = {}
    for key, entry in table.sections():
        if known is not None and key not in known:
            raise unknown_name("constant", key, known, table.where)
        value, unit = entry.number("value"), entry.text("unit")
        wanted = DIMENSIONS[known[key]] if known is not None else "1"
        if unit != wanted:
            raise InvalidFile(f"{entry.where}: unit {unit!r}, a fit is written in SI: {wanted!r}")
        interval = _floats(entry.items("ci95"), f"{entry.where}: ci95")
        if len(interval) != 2 or not interval[0] <= value <= interval[1]:
            raise InvalidFile(f"{entry.where}: ci95 = {list(interval)} is not an interval around {value:g}")
        rows = tuple(str(row) for row in entry.items("rows"))
        if entry.integer("n") != len(rows):
            raise InvalidFile(f"{entry.where}: n is not the number of rows, {len(rows)}")
        entries[key] = FittedConstant(value, (interval[0], interval[1]), rows)
        entry.done()
    return ReadOnly(entries)


def _covariance(table: Section) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    order = tuple(str(name) for name in table.items("order"))
    matrix = tuple(_floats(row, f"{table.where}: matrix") for row in table.items("matrix"))
    table.done()
    if len(matrix) != len(order) or any(len(row) != len(order) for row in matrix):
        raise InvalidFile(f"{table.where}: the matrix is not {len(order)} x {len(order)}")
    return order, matrix


def _floats(raw: object, where: str) -> tuple[float, ...]:
    """A list of finite numbers. Raises `InvalidFile` for anything else."""
    numbers: list[Any] = raw if isinstance(raw, list) else [None]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
        raise InvalidFile(f"{where}: expected a list of finite numbers")
    return tuple(float(x) for x in numbers)
