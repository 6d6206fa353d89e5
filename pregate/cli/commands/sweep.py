"""`pregate sweep`: a grid, or a sample, of machines, models, workloads and policies from a YAML file."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pregate.cli import options
from pregate.cli.consent import require_consent_along, require_consent_to_points
from pregate.cli.option_values import distinct
from pregate.cli.output_paths import require_folder_to_be
from pregate.cli.progress import progress_console
from pregate.draw import render
from traces.errors import InvalidInput, PregateError
from traces.foundation.atomic_files import refuse_overwriting

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.sweeps.sweep_table import SweepTable


_ADDRESS = re.compile(r"[a-z]+://\S+|\S+:\d+")


def sweep(
    file: Annotated[Path, typer.Argument(help="What to sweep, as YAML: model, hardware, policies, axes, ...")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Result: .nc or .parquet; default: FILE.nc, here.")
    ] = None,
    policies: Annotated[str | None, typer.Option(help="Designs, by comma, in place of those of the file.")] = None,
    jobs: options.Jobs = None,
    dask: Annotated[str | None, typer.Option(help="Scheduler of a Dask cluster to run on: tcp://HOST:PORT.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder for pictures along the first two numeric axes.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder that keeps finished tasks; default: one beside the result, until done.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder that keeps schedules; default: ~/.cache/pregate/schedules.")
    ] = None,
    no_cache: options.NoSchedules = False,
    speculative: options.Speculative = None,
    yes: options.Yes = False,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Sweep machines and workloads: write the dataset, say which policy wins where. A rerun goes on where one stopped.

    Example: pregate sweep sweep.yaml -o sweep.nc --jobs 2 --plot pictures
    """
    from pregate.sweeps.dataset_files import write_table

    target = output if output is not None else Path(file.with_suffix(".nc").name)
    _check_where(target, file, (plot, checkpoint, cache_dir), dask)
    from pregate.sweeps.sweep_file import read_sweep

    arguments = read_sweep(file, None if policies is None else distinct(policies, "--policies"))
    if speculative is not None:
        _add_drafting(arguments, speculative)
    if plot is not None and arguments["sample"] is not None:
        raise InvalidInput("--plot draws along axes, which a sample does not have: leave it out, or sweep a grid")
    if no_cache and cache_dir is not None:
        raise InvalidInput("--no-cache and --cache-dir are both given: choose one")
    if not yes:
        require_consent_along(arguments["model"], arguments["trace"], arguments["axes"])
        require_consent_to_points(arguments["axes"], arguments["sample"], len(arguments["policies"]))
    from offload.policies import policy_named
    from pregate.ask.capturing.schedule_cache import is_lasting
    from pregate.sweeps.checkpoint import Checkpoint
    from pregate.sweeps.sweep import sweep_table

    kept: Path | None = checkpoint if checkpoint is not None else target.with_name(f"{target.name}.partial")
    designs = [policy_named(one) if isinstance(one, str) else one for one in arguments["policies"]]
    if checkpoint is None and not all(map(is_lasting, designs)):
        kept = None  # nobody could go on from what it keeps
    where: dict[str, Any] = {"jobs": jobs, "checkpoint": kept, "cache_dir": False if no_cache else cache_dir}
    with _resumable(kept) as count, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        with _client(dask) as executor, _bar(count) as progress:
            table = sweep_table(**arguments, **where, executor=executor, progress=progress)
        write_table(table, target)
    if checkpoint is None and kept is not None:
        Checkpoint(kept, table.attrs["sweep_digest"]).clear()
    _tell(table, notes, format)
    written = [target]
    if plot is not None:
        from pregate.draw.sweep_plot import draw_sweep

        written += draw_sweep(table, plot)
    for path in written:
        typer.echo(f"wrote {path}", err=True)


def _check_where(target: Path, file: Path, folders: Iterable[Path | None], dask: str | None) -> None:
    """Raise for a result, a folder or a scheduler that cannot be, before anything is computed."""
    from pregate.sweeps.dataset_files import check_output

    check_output(target)
    refuse_overwriting(target, file)
    for folder in folders:
        if folder is not None:
            require_folder_to_be(folder)
    if dask is not None and not _ADDRESS.fullmatch(dask):
        raise InvalidInput(f"--dask {dask}: not of the form tcp://HOST:PORT, where a scheduler listens")


def _tell(table: SweepTable, notes: Iterable[warnings.WarningMessage], format: options.Format) -> None:
    """Print which policy is best where; notes beside data, where that is for a program."""
    from pregate.sweeps.summary import apart, summarise

    rows = summarise(table)
    if not render.print_data(format, {"policies": rows, "attributes": dict(table.attrs)}, rows):
        render.print_table(_table(rows, f"{table.attrs['model']} on {table.attrs['hardware']}"))
        print(" ".join([f"Machine constants: {table.attrs['calibration']}.", *apart(table)]))
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr if format is not options.Format.table else sys.stdout)


def _add_drafting(arguments: dict[str, Any], text: str) -> None:
    """Each design of the file drafts too. Raises `InvalidInput` where the file states the time of a draft as well."""
    from pregate.ask.speculative import drafting_named, with_and_without

    drafting, machine = drafting_named(text), arguments["hw"]
    stated = machine.overrides or {}
    for key in drafting.overrides:
        if key in stated:
            raise InvalidInput(f"--speculative draft_s and {key} of the file are the same: give one")
    arguments["hw"] = dataclasses.replace(machine, overrides={**stated, **drafting.overrides})
    arguments["policies"] = with_and_without(arguments["policies"], drafting)


@contextmanager
def _resumable(kept: Path | None) -> Iterator[Callable[[int, int], None]]:
    """An interrupt ends in one line, with what the progress that is yielded was told last, and status 130."""
    done = total = 0

    def count(now: int, all_of_them: int) -> None:
        nonlocal done, total
        done, total = now, all_of_them

    try:
        yield count
    except KeyboardInterrupt:
        goes_on = f"are kept in {kept}, the same command goes on" if kept is not None else "were done, nothing is kept"
        typer.echo(f"interrupted: {done} of {total} machines {goes_on}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _bar(count: Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error: machines evaluated, how many a second, and how long the rest will take."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn(),
               TextColumn("left"), Remaining())  # fmt: skip
    with Progress(*columns, console=progress_console()) as progress:
        task = progress.add_task("planning", total=None, rate="")
        first = started_s = 0.0

        def draw(done: int, total: int) -> None:
            nonlocal first, started_s
            elapsed_s = progress.tasks[0].elapsed or 0.0
            if progress.tasks[0].total is None:  # planned; what a checkpoint had counts for no rate
                first, started_s = done, elapsed_s
            rate = f"{(done - first) / (elapsed_s - started_s):,.0f} machines/s" if elapsed_s > started_s else ""
            progress.update(task, description="sweeping", completed=done, total=total, rate=rate)
            count(done, total)

        try:
            yield draw
        except PregateError:
            progress.live.transient = True  # the reason is one line, and no bar stays above it
            progress.console.quiet = not progress.console.is_interactive
            raise


@contextmanager
def _client(address: str | None) -> Iterator[Any]:
    """A client of a Dask scheduler, or None. Raises `InvalidInput` when there is none at the address."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise InvalidInput("--dask needs distributed: pip install 'pregate[cluster]', or leave it out") from None
    try:
        client: Any = Client(address, timeout="5s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--dask {address}: no scheduler answers there ({error})") from None
    with client:
        yield client


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    table = render.new_table(f"{title}: {rows[0]['n_points']:,} points")
    table.add_column("policy")
    for column in ("fits", "best", "tokens/s", "MoE layer", "TTFT", "peak HBM"):
        table.add_column(column, justify="right")
    fills = any(row["batch_size_min"] != row["batch_size_max"] for row in rows)
    if fills:
        table.add_column("batch", justify="right")
    for row in rows:
        spans = (("tokens_per_s", ""), ("moe_layer_latency_s", "s"), ("ttft_s", "s"), ("peak_hbm_bytes", "B"))
        table.add_row(
            row["policy"], f"{row['fits_share']:.1%}", row["standing"] or f"{row['best_share']:.1%}",
            *(_span(row[f"{name}_min"], row[f"{name}_max"], unit) for name, unit in spans),
            *([_span(row["batch_size_min"], row["batch_size_max"], "")] if fills else ()),
        )  # fmt: skip
    return table


def _span(low: float, high: float, unit: str) -> str:
    first, last = render.si(low, unit), render.si(high, unit)
    return first if first == last else f"{first} to {last}"
