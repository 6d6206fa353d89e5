"""Fits as files: one YAML each in `fits/`, or anywhere, believed only as the digest in it says it was written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hwmodels.fits.conditions import read_conditions
from hwmodels.fits.fit import Fit, FittedConstant, LeftOut, digest_of
from hwmodels.fits.fit_limits import check_fit
from hwmodels.fits.shared_fit import check_shared, is_shared
from hwmodels.kernels.roofline import GemmTable, kernel_constant, read_gemm_table
from hwmodels.laws.fitted_law import FittedLaw, read_law
from hwmodels.quantity import DIMENSIONS, ReadOnly
from hwmodels.shipped import FITS_DIR
from hwmodels.specs.machine_fields import FIELDS, possible_figure
from hwmodels.specs.machine_files import read_machine
from hwmodels.specs.spec import MachineSpec
from hwmodels.stacks.stack import CONSTANTS
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section, read_yaml
from traces.foundation.yaml_names import yaml_names


def is_fit(path: Path) -> bool:
    """Whether a YAML file is a fit rather than a machine: it says which stack it is of. Raises `InvalidFile`."""
    section = read_yaml(path)
    return "log_covariance" in section or "constants" in section


def fit_names() -> tuple[str, ...]:
    """The fits that ship with the project, `hardware.stack`."""
    return tuple(name for name in yaml_names(FITS_DIR) if "." in name)


def load_fit(name_or_path: str | Path) -> Fit:
    """A shipped fit by name, or a fit file by path. Raises `UnknownName` or `InvalidFile`."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in fit_names():
            raise unknown_name("fit", str(name_or_path), fit_names())
        return _shipped_fit(FITS_DIR / f"{name_or_path}.yaml")
    return _fit_of_file(path)


@cache
def _shipped_fit(path: Path) -> Fit:
    """A fit that ships, read once."""
    return _fit_of_file(path)


def _fit_of_file(path: Path) -> Fit:
    section = read_yaml(path)
    written, found = section.text("digest", ""), digest_of(section.unread())
    try:
        fit = _read(path.stem, section)
        check_fit(fit)
        if is_shared(fit):
            check_shared(fit)
            if _digest_as_written(fit) != found:
                raise InvalidInput("it says more than a shared fit does: measure again, and change nothing in it")
    except InvalidInput as error:
        told = str(error)
        if told.startswith(section.where):
            raise
        raise InvalidFile(f"{section.where}: {told}") from None
    if is_shared(fit) and not written:
        raise InvalidFile(f"{section.where}: a shared fit without its digest: write it with pregate measure --share")
    if written not in ("", found):  # fits before there was a digest have none
        raise InvalidFile(
            f"{section.where}: digest = {written}, its content has {found}: it was changed after it was fitted: "
            f"calibrate again, or change a constant with --set stack.NAME=VALUE"
        )
    return fit


def _read(name: str, section: Section) -> Fit:
    provenance = section.section("provenance")
    order, covariance = _covariance(section.section("log_covariance"))
    fit = Fit(
        name=name,
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
        link=_link(section.optional_section("link")),
        conditions=ReadOnly(read_conditions(section.optional_section("conditions"))),
        laws=_laws(section),
    )
    section.done()
    return fit


def _digest_as_written(fit: Fit) -> str:
    """The digest of the text that a fit would be written as."""
    document = yaml.safe_load(fit.to_yaml())
    del document["digest"]
    return digest_of(document)


def _kernels(table: Section | None) -> Mapping[str, FittedConstant]:
    if table is None:
        return ReadOnly({})
    where = table.where
    for key in table.remaining():
        if kernel_constant(key) is None:
            raise InvalidFile(f"{where}: {key!r} is no constant of a kind of op, such as experts.fixed_s")
    entries = _entries(table, {key: kernel_constant(key) or "" for key in table.remaining()})
    return entries


def _tables(section: Section) -> tuple[GemmTable, ...]:
    raw = section.items("gemm_tables", optional=True)
    tables = []
    for i, one in enumerate(raw):
        if not isinstance(one, dict):
            raise InvalidFile(f"{section.where}: gemm_tables holds something that is no table")
        tables.append(read_gemm_table(Section(one, f"{section.where}: gemm_tables[{i}]")))
    return tuple(tables)


def _laws(section: Section) -> tuple[FittedLaw, ...]:
    laws = []
    for i, one in enumerate(section.items("laws", optional=True)):
        if not isinstance(one, dict):
            raise InvalidFile(f"{section.where}: laws holds something that is no law")
        laws.append(read_law(Section(one, f"{section.where}: laws[{i}]")))
    return tuple(laws)


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


def _link(table: Section | None) -> Mapping[str, float]:
    found = {}
    for key, entry in table.sections() if table is not None else ():
        if key not in FIELDS["link"]:
            raise unknown_name("figure of a link", key, FIELDS["link"], entry.where)
        rule, value, unit = FIELDS["link"][key], entry.number("value"), entry.text("unit")
        if unit != DIMENSIONS[rule.dimension]:
            raise InvalidFile(f"{entry.where}: unit {unit!r}, a fit is written in SI: {DIMENSIONS[rule.dimension]!r}")
        found[key] = float(possible_figure(value, rule, entry.where))
        entry.done()
    return ReadOnly(found)


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
