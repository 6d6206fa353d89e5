"""What was measured of a (machine, stack) pair: constants with interval, covariance and the rows each was fitted on.

One YAML a fit in `fits/`, written by a calibration command and never by hand; claims live in `stacks/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hwmodels.kernels import GemmTable, kernel_constant, read_table
from hwmodels.machine_files import machine_document, read_machine
from hwmodels.quantity import DIMENSIONS, ReadOnly
from hwmodels.spec import MachineSpec
from hwmodels.stack import CONSTANTS, check_constant
from traces.documents import Section, read_yaml
from traces.errors import InvalidFile, unknown_name

__all__ = ["Fit", "FittedConstant", "LeftOut", "fit_names", "is_fit", "load_fit"]

FITS_DIR = Path(__file__).parent / "fits"


@dataclass(frozen=True, slots=True)
class FittedConstant:
    """A measured constant in SI: `ci95` from the fit's covariance, `rows` it was fitted on (names in the fit)."""

    value: float
    ci95: tuple[float, float]
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How well the other samples predict one that is left out: over `n` of them, median and 90th percentile of
    |error|, relative, and `scatter`, the root mean square of the logarithm of predicted over measured.
    """

    n: int
    median: float
    p90: float
    scatter: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What was measured of `stack` on `hardware`.

    `constants` replace the stack's claims; `assumptions` are of the workload the rows were measured with (how many
    of a layer's experts the traffic uses), fitted beside them and counted with them. `covariance`: (n, n)
    of ln(value), all being positive, in the order of `order`. `provenance`: where the rows came from, when, by
    which command. `dtypes`: weight formats that the rows were measured in; others are extrapolated.

    A fit of microbenchmarks has more: `kernels`, constants of each kind of op ("self_attention.fixed_s"), and
    `gemm_tables`, in place of a roofline with one efficiency; `left_out`, the leave-one-out error of each kind, and of
    "rounds", how far the same samples lay from each other from one round of the session to the next;
    `machine`, the machine itself where no maker describes it; `probes`, digests of what must not be validated on it.
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
    kernels: Mapping[str, FittedConstant] = field(default_factory=lambda: ReadOnly({}))
    gemm_tables: tuple[GemmTable, ...] = ()
    left_out: Mapping[str, LeftOut] = field(default_factory=lambda: ReadOnly({}))
    machine: MachineSpec | None = None
    probes: tuple[str, ...] = ()

    def drawn(self, key: str) -> FittedConstant | None:
        """The constant behind a figure (`stack.sync_s`, `kernel.experts.fixed_s`); None where it was not fitted."""
        kind, _, name = key.partition(".")
        return {"stack": self.constants, "kernel": self.kernels}.get(kind, {}).get(name)

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
        if self.kernels:
            document["kernels"] = {n: _entry(c, _unit(n)) for n, c in self.kernels.items()}
            document["gemm_tables"] = [table.to_dict() for table in self.gemm_tables]
        if self.left_out:
            document["leave_one_out"] = {
                kind: {name: round(getattr(one, name), 4) for name in ("n", "median", "p90", "scatter")}
                for kind, one in self.left_out.items()
            }
        if self.machine is not None:
            document["machine"] = machine_document(self.machine)
        if self.probes:
            document["probes"] = list(self.probes)
        return yaml.safe_dump(document, sort_keys=False, width=110, default_flow_style=None)


def _entry(constant: FittedConstant, unit: str) -> dict[str, Any]:
    return {
        "value": constant.value,
        "unit": unit,
        "ci95": list(constant.ci95),
        "n": len(constant.rows),
        "rows": list(constant.rows),
    }


def _unit(kernel: str) -> str:
    return DIMENSIONS[kernel_constant(kernel) or "ratio"]


def is_fit(path: Path) -> bool:
    """Whether a YAML file is a fit rather than a machine: it says which stack it is of. Raises `InvalidFile`."""
    return "log_covariance" in read_yaml(path)


def fit_names() -> tuple[str, ...]:
    """The fits that ship with the project, `hardware.stack`."""
    return tuple(sorted(path.name.removesuffix(".yaml") for path in FITS_DIR.glob("*.*.yaml")))


def load_fit(name_or_path: str | Path) -> Fit:
    """A shipped fit by name, or a fit file by path. Raises `UnknownName` or `InvalidFile`."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in fit_names():
            raise unknown_name("fit", str(name_or_path), fit_names())
        path = FITS_DIR / f"{name_or_path}.yaml"
    section = read_yaml(path)
    provenance = section.section("provenance")
    order, covariance = _covariance(section.section("log_covariance"))
    fit = Fit(
        name=path.stem,
        hardware=section.text("hardware"),
        stack=section.text("stack"),
        dtypes=tuple(str(name) for name in section.items("dtypes")),
        constants=_entries(section.section("constants"), CONSTANTS),
        assumptions=_entries(section.section("assumptions"), None),
        order=order,
        covariance=covariance,
        provenance=ReadOnly({key: str(provenance.take(key)) for key in provenance.remaining()}),
        kernels=_kernels(section.optional_section("kernels")),
        gemm_tables=_tables(section),
        left_out=_left_out(section.optional_section("leave_one_out")),
        machine=_machine(section),
        probes=tuple(str(digest) for digest in section.items("probes", optional=True)),
    )
    section.done()
    issue = [name for name in fit.kernels if name.endswith(".issue_s")]
    if sorted(order) != sorted([*fit.constants, *fit.assumptions, *(set(fit.kernels) - set(issue))]):
        raise InvalidFile(f"{section.where}: log_covariance is not of the constants and assumptions of this fit")
    if fit.kernels and not fit.gemm_tables:
        raise InvalidFile(f"{section.where}: kernels without gemm_tables: calibrate again")
    for key, constant in fit.constants.items():
        check_constant(key, constant.value, section.where)
    return fit


def _kernels(table: Section | None) -> Mapping[str, FittedConstant]:
    if table is None:
        return ReadOnly({})
    where = table.where
    for key in table.remaining():
        if kernel_constant(key) is None:
            raise InvalidFile(f"{where}: {key!r} is no constant of a kind of op, such as experts.fixed_s")
    entries = _entries(table, {key: kernel_constant(key) or "" for key in table.remaining()})
    for key, constant in entries.items():
        if constant.value <= 0:
            raise InvalidFile(f"{where}: {key} = {constant.value:g} is not above 0")
    return entries


def _tables(section: Section) -> tuple[GemmTable, ...]:
    raw = section.items("gemm_tables", optional=True)
    tables = []
    for i, one in enumerate(raw):
        if not isinstance(one, dict):
            raise InvalidFile(f"{section.where}: gemm_tables holds something that is no table")
        tables.append(read_table(Section(one, f"{section.where}: gemm_tables[{i}]")))
    return tuple(tables)


def _left_out(table: Section | None) -> Mapping[str, LeftOut]:
    found = {}
    for key, entry in table.sections() if table is not None else ():
        errors = (entry.number(name, minimum=0) for name in ("median", "p90", "scatter"))
        found[key] = LeftOut(entry.integer("n"), *errors)
        entry.done()
    return ReadOnly(found)


def _machine(section: Section) -> MachineSpec | None:
    table = section.optional_section("machine")
    return None if table is None else read_machine(table.name("name"), table)


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
