"""`pregate calibrate`: from measurements to a fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwmodels.calibrate.host_memory import memory_figures
from hwmodels.calibrate.measurements import load_measurements
from hwmodels.fits.fit import Fit
from pregate.cli.output_paths import require_folder, require_picture
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.atomic_files import refuse_overwriting, whole_file

if TYPE_CHECKING:
    from rich.table import Table


def calibrate(
    measurements: Annotated[Path | None, typer.Argument(help="What pregate measure wrote.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The fit to write (YAML); with --from the folder of fits.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the fit against the data (PNG or SVG).")] = None,
    busy: Annotated[
        bool, typer.Option("--even-if-busy", help="Fit measurements that say nothing all the same.")
    ] = False,
    source: Annotated[
        str | None, typer.Option("--from", help="A public table of kernels in their place: aiconfigurator.")
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option(help="A GPU of the table, repeatable; all that are described.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="The engine whose kernels the table has: vllm, sglang or trtllm.")
    ] = "vllm",
    engine_version: Annotated[str | None, typer.Option(help="Its version; the newest of each GPU.")] = None,
    tables: Annotated[Path | None, typer.Option(help="A folder of an unpacked table; the installed package.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Write how well laws say families and GPUs left out, and no fit.")
    ] = False,
) -> None:
    """Fit this machine and its software on what was measured: constants, their covariance, leave-one-out errors.

    The fit is a machine: --hardware FIT.yaml takes it in every command. With --from, laws of kernels are fitted on a
    public table of them, a fit for each GPU and the stack vllm: --from aiconfigurator --gpu h100_sxm -o FOLDER.

    Example: pregate calibrate measurements.json -o fit.yaml
    """
    if source is not None:
        from pregate.cli.commands.calibrate_tables import calibrate_tables

        if measurements is not None or plot is not None or busy:
            raise InvalidInput("--from takes the place of measurements: leave out MEASUREMENTS, --plot, --even-if-busy")
        calibrate_tables(source, gpu or [], engine, engine_version, tables, output, held_out)
        return
    if gpu or engine_version or tables or held_out:
        raise InvalidInput("--gpu, --engine-version, --tables and --held-out go with --from aiconfigurator")
    if measurements is None or output is None:
        raise InvalidInput("measurements and -o FIT.yaml are needed, or --from aiconfigurator")
    from hwmodels.calibrate.calibration import calibrate as run_calibrate

    if output.suffix not in (".yaml", ".yml"):
        raise InvalidInput(f"{output}: a fit is a YAML file, name it .yaml")
    require_folder(output)
    refuse_overwriting(output, measurements)
    if plot is not None:
        require_picture(plot)
    measured = load_measurements(measurements)
    provenance = {"command": "pregate calibrate", "measurements": measured.digest}
    if not measured.is_clean:
        provenance["disturbed"] = "; ".join(measured.disturbances)
    fit = run_calibrate(measured, provenance, insist=not busy)
    with whole_file(output) as partial:
        partial.write_text(fit.to_yaml(), encoding="utf-8")
    if plot is not None:
        from pregate.draw.calibration_plot import fit_against_data
        from pregate.draw.style import save_figure

        save_figure(fit_against_data(measured, fit), plot)
    render.print_table(_table(fit))
    print(f"Trust in the measurements: {measured.trust}")
    if fit.machine is None and (figures := memory_figures(measured)):
        settings = " ".join(f"--set link.{name}={value:.4g}" for name, value in figures.items())
        print(f"Weights in other host memory than pinned were copied as with {settings}")
    print(f"{output}: {fit.hardware} with {fit.stack}; use it as --hardware {output}")


def _table(fit: Fit) -> Table:
    table = render.new_table("Leave-one-out errors")
    table.add_column("what")
    for column in ("samples", "median", "p90"):
        table.add_column(column, justify="right")
    for name, error in fit.left_out.items():
        sizes = (f"{error.median:.1%}", f"{error.p90:.1%}") if error.n else ("too few", "")
        table.add_row(name, str(error.n), *sizes)
    return table
