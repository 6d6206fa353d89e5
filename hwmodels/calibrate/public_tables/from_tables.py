"""Fits of GPUs from public tables of kernels, and how well laws say families and machines that they have not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwmodels.calibrate.public_tables.clock_ticks import RankAgreement
from hwmodels.calibrate.public_tables.kernel_tables import MACHINES, PACKAGE, KernelTable, kernel_tables, versions
from hwmodels.calibrate.public_tables.law_fits import (
    drawn_rows,
    errors_of,
    fit_law,
    predicted,
    rates_of,
    table_roofline_s,
)
from hwmodels.fits.fit import Fit, law_errors
from hwmodels.fits.fit_limits import check_fit
from hwmodels.laws.families import family_of
from hwmodels.laws.fitted_law import FittedLaw, HeldOut
from hwmodels.quantity import ReadOnly
from hwmodels.specs.machine_files import load_machine
from hwmodels.specs.spec import Accelerator
from traces.errors import unknown_name

STACKS: Mapping[str, str] = {"vllm": "vllm", "sglang": "vllm", "trtllm": "vllm"}
"""The stack that each engine of the tables is: they serve alike, one fused op for the experts of a layer."""

BARS: Mapping[str, tuple[float, float]] = {
    "gemm": (0.08, 0.15),
    "quantised_gemm": (0.12, 0.20),
    "decode_attention": (0.12, 0.20),
    "context_attention": (0.15, 0.25),
    "latent_decode": (0.12, 0.20),
    "latent_context": (0.15, 0.25),
    "experts": (0.12, 0.16),
}
"""The mean error that a law is to stay below: of families left out, of a machine left out."""


@dataclass(frozen=True, slots=True, eq=False)
class TableFit:
    """What the tables have of one GPU: rows drawn of each kernel, the law fitted on them and how it ranks, in order."""

    gpu: str
    accelerator: Accelerator
    engine: str
    version: str
    tables: tuple[KernelTable, ...]
    laws: tuple[FittedLaw, ...]
    rankings: tuple[RankAgreement | None, ...]

    def law(self, key: tuple[str, str, str]) -> FittedLaw | None:
        """The law of the kernels `key` (`KernelTable.key`)."""
        return next((law for law in self.laws if (law.form, law.compute, law.stored) == key), None)


def fit_tables(folder: Path, gpu: str, engine: str, version: str | None = None) -> TableFit:
    """Every law that one engine's tables of a GPU tell; of the newest version unless another is named.

    Raises `UnknownName` for a version that is not there, else as `kernel_tables`.
    """
    known = versions(folder, gpu, engine)
    if version is not None and version not in known:
        raise unknown_name(f"version of {engine} on {gpu}", version, known)
    chosen = known[-1] if version is None else version
    accelerator = load_machine(MACHINES[gpu]).accelerator
    tables = kernel_tables(folder, gpu, engine, chosen)
    laws, rankings = zip(*(fit_law(table, rates_of(table, accelerator)) for table in tables), strict=True)
    return TableFit(gpu, accelerator, engine, chosen, tuple(drawn_rows(table) for table in tables), laws, rankings)


def nearest(mine: TableFit, others: Sequence[TableFit], *, relatives: bool) -> TableFit | None:
    """The machine most like `mine` that the same version of the engine ran on; of its family, if `relatives`."""
    family = family_of(mine.accelerator.compute_capability)
    alike = [
        other
        for other in others
        if other.gpu != mine.gpu
        and other.version == mine.version
        and (not relatives or family_of(other.accelerator.compute_capability) == family)
    ]
    return min(alike, key=lambda other: unlike(mine.accelerator, other.accelerator), default=None)


def unlike(one: Accelerator, other: Accelerator) -> float:
    """How far two cards lie apart: the ratio of their memory's rates, as a number from 0."""
    rates = one.hbm_bytes_per_s, other.hbm_bytes_per_s
    return max(rates) / min(rates) - 1


def by_law_of(mine: TableFit, i: int, other: TableFit | None) -> HeldOut | None:
    """How well another machine's law says the kernels of table `i`: constants are shares of what each claims."""
    table = mine.tables[i]
    law = None if other is None else other.law(table.key)
    if law is None:
        return None
    lent = dataclasses.replace(table, kernel=law.kernel)
    return errors_of(predicted(law.values, lent, rates_of(table, mine.accelerator)), table.seconds)


def fit_of(mine: TableFit, others: Sequence[TableFit], provenance: Mapping[str, str]) -> Fit:
    """The fit file of a GPU, with the errors of its relatives' laws on it."""
    donor = nearest(mine, others, relatives=True)
    laws = tuple(dataclasses.replace(law, elsewhere=by_law_of(mine, i, donor)) for i, law in enumerate(mine.laws))
    stack = STACKS[mine.engine]
    package = {"package": PACKAGE, "engine": mine.engine, "version": mine.version}
    fit = Fit(
        name=f"{mine.accelerator.name}.{stack}",
        hardware=mine.accelerator.name,
        stack=stack,
        dtypes=tuple(dict.fromkeys(law.stored for law in laws if "attention" not in law.form)),
        constants=ReadOnly({}),
        assumptions=ReadOnly({}),
        order=(),
        covariance=(),
        provenance=ReadOnly({**package, "licence": "Apache-2.0", **provenance}),
        left_out=ReadOnly(law_errors(laws)),
        laws=laws,
    )
    check_fit(fit)
    return fit


def law_rows(machines: Sequence[TableFit]) -> list[dict[str, Any]]:
    """How well each law says what it has not seen, beside a plain roofline: a row a law, JSON-ready."""
    rows = []
    for mine in machines:
        relative, other = (nearest(mine, machines, relatives=one) for one in (True, False))
        for i, (table, law) in enumerate(zip(mine.tables, mine.laws, strict=True)):
            ranking = mine.rankings[i]
            roofline = errors_of(table_roofline_s(table, rates_of(table, mine.accelerator)), table.seconds)
            kin, stranger = by_law_of(mine, i, relative), by_law_of(mine, i, other)
            bar, far = _bars(mine.accelerator.name, law.form)
            rows.append(
                {
                    "gpu": mine.accelerator.name,
                    "engine": mine.engine,
                    "version": mine.version,
                    "law": law.form,
                    "compute": law.compute,
                    "stored": law.stored,
                    "rows": int(law.source["rows"]),
                    "windows": None if law.windows is None else law.windows.to_dict(),
                    "families": law.families.to_dict(),
                    "ranking": None if ranking is None else ranking.to_dict(),
                    "bar": bar,
                    "met": law.families.mape <= bar,
                    "machine": None if kin is None else kin.to_dict(),
                    "machine_by": None if kin is None or relative is None else relative.accelerator.name,
                    "machine_bar": far,
                    "machine_met": None if kin is None else kin.mape <= far,
                    "any_machine": None if stranger is None else stranger.to_dict(),
                    "any_machine_by": None if stranger is None or other is None else other.accelerator.name,
                    "roofline": roofline.to_dict(),
                }
            )
    return rows


def _bars(accelerator: str, form: str) -> tuple[float, float]:
    """Of an L40S's dense GEMMs 12 % in place of 8."""
    bar, far = BARS[form]
    return (0.12, far) if (accelerator, form) == ("l40s", "gemm") else (bar, far)
