"""`pregate calibrate --from`: laws of kernels from a public table, and how well they say what they have not seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwmodels.calibrate.public_tables.from_tables import STACKS, TableFit, fit_of, fit_tables, law_rows
from hwmodels.calibrate.public_tables.kernel_tables import MACHINES, tables_folder, versions
from hwmodels.laws.families import family_of
from hwmodels.specs.machine_files import load_machine
from pregate.cli.output_paths import require_folder
from pregate.draw import render
from traces.errors import InvalidInput, unknown_name
from traces.foundation.atomic_files import whole_file

if TYPE_CHECKING:
    from rich.table import Table


SOURCES = ("aiconfigurator",)
"""Tables that are known."""

_FITS = Path("hwmodels/fits")
_RESULTS = Path("results/kernel_laws.json")


def calibrate_tables(
    source: str,
    gpus: Sequence[str],
    engine: str,
    version: str | None,
    tables: Path | None,
    output: Path | None,
    held_out: bool,
) -> None:
    """Fit `gpus` (none: all that are described), write a fit each; with `held_out` the errors of all instead."""
    if source not in SOURCES:
        raise unknown_name("source of tables", source, SOURCES)
    folder = tables_folder(tables)
    asked = list(gpus) or [gpu for gpu in MACHINES if (folder / gpu / "gemm" / engine).is_dir()]
    if not asked:
        raise unknown_name("engine", engine, STACKS)
    for gpu in asked:
        versions(folder, gpu, engine)
    if held_out:
        _write_errors(output or _RESULTS, [fit_tables(folder, gpu, engine, version) for gpu in asked])
        return
    target = output or (_FITS if _FITS.is_dir() else Path())
    if not target.is_dir():
        raise InvalidInput(f"{target}: fits are written into a folder, one for each GPU: make it, or name another")
    machines = [fit_tables(folder, gpu, engine, version) for gpu in _with_relatives(folder, asked, engine)]
    command = f"pregate calibrate --from {source}"
    for machine in machines:
        if machine.gpu not in asked:
            continue
        fit = fit_of(machine, machines, {"command": f"{command} --gpu {machine.gpu} --engine {engine}"})
        path = target / f"{fit.name}.yaml"
        with whole_file(path) as partial:
            partial.write_text(fit.to_yaml(), encoding="utf-8")
        print(f"{path}: {len(fit.laws)} laws of {engine} {machine.version}")
    render.print_table(_table([row for row in law_rows(machines) if row["gpu"] in {MACHINES[gpu] for gpu in asked}]))


def _with_relatives(folder: Path, asked: Sequence[str], engine: str) -> list[str]:
    """`asked`, and the GPUs of the tables that are of their families: how well laws do elsewhere needs them."""
    families = {gpu: family_of(load_machine(name).accelerator.compute_capability) for gpu, name in MACHINES.items()}
    wanted = {families[gpu] for gpu in asked}
    kin = [gpu for gpu, family in families.items() if family in wanted]
    return [*asked, *(gpu for gpu in kin if gpu not in asked and (folder / gpu / "gemm" / engine).is_dir())]


def _write_errors(path: Path, machines: Sequence[TableFit]) -> None:
    require_folder(path)
    rows = law_rows(machines)
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    render.print_table(_table(rows))
    missed = [row for row in rows if not row["met"]]
    print(f"{path}: {len(rows)} laws, {len(rows) - len(missed)} within their bar on families left out")


def _table(rows: Sequence[dict[str, object]]) -> Table:
    table = render.new_table("Errors on families of shapes left out, and by the law of the nearest relative")
    for column in ("GPU", "law", "format"):
        table.add_column(column)
    for column in ("MAPE", "bias", "tau", "bar", "unseen GPU", "roofline"):
        table.add_column(column, justify="right")
    for row in rows:
        families, machine, roofline = row["families"], row["machine"], row["roofline"]
        assert isinstance(families, dict)
        assert isinstance(roofline, dict)
        numbers = [f"{families['mape']:.1%}", f"{families['bias']:+.1%}", f"{families['tau']:.2f}", f"{row['bar']:.0%}"]
        numbers.append(f"{machine['mape']:.1%}" if isinstance(machine, dict) else "")
        table.add_row(*(str(row[key]) for key in ("gpu", "law", "stored")), *numbers, f"{roofline['mape']:.0%}")
    return table
