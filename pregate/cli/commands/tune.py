"""`pregate tune`: settings for a model, a machine and a trace, and whether an earlier choice still holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwmodels.specs.set_options import parse_sets
from pregate.cli import options
from pregate.cli.option_values import build_machine, build_model, distinct, formats_asked
from pregate.cli.output_paths import require_folder, say_written
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.atomic_files import refuse_overwriting

if TYPE_CHECKING:
    from pregate.tuning.tuned import Tuned
    from traces.statistics.drift import DriftTest

_SHOWN = 8
SIGNIFICANT = 0.05
"""p-value below which popularity is said to have moved."""


def tune(
    model: options.Model,
    hardware: options.Hardware,
    trace: Annotated[Path, typer.Option("--trace", help="Routing trace to tune for: a name or a file.")],
    objective: Annotated[str, typer.Option(help="tpot, ttft, request or throughput.")] = "tpot",
    now: Annotated[
        str | None, typer.Option("--now", help="Design that runs now; default: all in HBM, else whole layers outside.")
    ] = None,
    policies: Annotated[str | None, typer.Option(help="Designs to try beside the usual ones, by comma.")] = None,
    try_formats: Annotated[
        list[str] | None,
        typer.Option("--try-formats", help="Formats to try too: all=q4_k_m; the answers of a model change with them."),
    ] = None,
    after: Annotated[
        Path | None, typer.Option("--after", help="An earlier result: say what drifted, and what to change.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result as YAML.")] = None,
    budget: Annotated[float, typer.Option("--budget-s", min=1, help="CPU seconds; nothing is begun after them.")] = 300,
    batch: options.Batch = None,
    hbm: options.Hbm = None,
    sets: options.Sets = None,
    stack: options.Stack = None,
    dtype: options.Dtype = None,
    formats: options.Formats = None,
    top_k: options.TopK = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep nothing on disk of what is found.")] = False,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Tune a design for a trace: policy, lookahead, caches, chunks, precision, placement; whether it still holds.

    Example: pregate tune switch-base-8 --hardware a100-sxm4-80gb --trace trace.safetensors --budget-s 20 -o tuned.yaml
    """
    architecture = build_model(model, dtype, top_k, formats)
    machine = build_machine(hardware, stack, hbm, sets)
    if output is not None:
        require_folder(output)
        if after is not None and not output.is_symlink():
            refuse_overwriting(output, after)
    from pregate.routing_traces import load_trace
    from pregate.tuning.tuned import tune as run_tune
    from pregate.tuning.tuned_file import read_tuned, write_tuned
    from traces.recorded import recorded_path

    before = None
    if after is not None:
        if now is not None:
            raise InvalidInput("--after FILE says what runs now: leave out --now")
        now, earlier = read_tuned(after)
        before = load_trace(earlier, batch=batch, model=architecture)
    tried = [(text, build_model(model, None, top_k, text)) for text in try_formats or ()]
    recorded = load_trace(trace, batch=batch, model=architecture)
    found = run_tune(
        architecture, machine, recorded, objective=objective, now=now, before=before, budget_s=budget, formats=tried,
        policies=[] if policies is None else distinct(policies, "--policies"),
        say=lambda line: typer.echo(line, err=True), cache_dir=not no_cache,
    )  # fmt: skip
    if output is not None:
        write_tuned(
            found, output,
            model=_absolute(model) if top_k is None else f"{_absolute(model)}?top_k={top_k}",
            hardware=_absolute(hardware), trace=str(trace) if recorded_path(str(trace)) else str(trace.resolve()),
            formats=formats_asked(found.best.formats or formats, model) or {},
            sets={**parse_sets(sets), **({"hbm_bytes": hbm} if hbm else {})},
        )  # fmt: skip
    if not render.print_data(format, found.to_dict(), found.to_dict()["ranked"]):
        _print(found)
    say_written(output)


def _absolute(name: str) -> str:
    """A file by its whole path; a name as it is."""
    return str(Path(name).resolve()) if Path(name).is_file() else name


def _drifted(drift: DriftTest) -> str:
    what = "has moved" if drift.p_value < SIGNIFICANT else "cannot be told from chance"
    units = "sequences" if drift.by_sequence else "blocks of tokens"
    return (
        f"Drift: popularity {what}: distance {drift.distance:.3f}, {drift.by_chance:.3f} by chance, p = "
        f"{drift.p_value:.3f} over {drift.n_reference} and {drift.n_observed} {units}."
    )


def _print(found: Tuned) -> None:
    table = render.new_table(f"{found.model} on {found.hardware} ({found.stack}), by {found.objective}")
    for column in ("setting", "first token", "a token", "tokens/s", "hits", "peak HBM"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for one in found.ranked[:_SHOWN]:
        judged = one.judged
        table.add_row(
            str(one), render.si(judged.ttft.value, "s"), render.si(judged.tpot.value, "s"),
            f"{judged.throughput.value:.4g}", f"{judged.hit_rate:.1%}", render.si(judged.peak_hbm_bytes, "B"),
        )  # fmt: skip
    render.print_table(table)
    print(f"Best of {len(found.ranked)} that fit: {found.best}.")
    words = {"nothing": "doing nothing", "default": "the default"}
    for name, gain in found.gains.items():
        print(f"It is {gain.told(words[name])}.")
    if found.chunk_mib is not None:
        print(f"Copies in chunks of {found.chunk_mib:g} MiB, urgent ones first: {found.chunk_gain:.3f} times as fast.")
    else:
        print("Copies in chunks, urgent ones first, gain less than 1 %.")
    print(found.best.judged.token_binds[0].upper() + found.best.judged.token_binds[1:] + ".")
    if found.drift is not None:
        print(_drifted(found.drift))
    if found.in_view:
        print("One sequence: experts were kept by the popularity of the very tokens that judge them.")
    if found.left_out:
        print(f"The budget had no time for {len(found.left_out)} settings, {found.left_out[0]} first.")
