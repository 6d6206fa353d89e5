"""`pregate validate`: predict, run, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodels.platform import Platform, load_platform, platform_of
from pregate import extras
from pregate.cli import options
from pregate.cli.option_groups import takes
from pregate.cli.output_paths import say_written
from pregate.cli.progress import spinner
from pregate.cli.validation_question import ValidationQuestion
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.validation.cases import CaseGroup
    from pregate.validation.outcome import Validation
    from pregate.validation.session import ValidationPlan
    from runtime.microbench.session import Settings

FAILED, TOO_BUSY = 1, 3
"""Exit status: the gate stays shut; the machine was too busy to say."""


@takes("question", ValidationQuestion)
def validate(
    *,
    question: ValidationQuestion,
    max_mape: Annotated[float | None, typer.Option(help="Fail above this error of the time per token: 0.07.")] = None,
    busy: Annotated[
        bool, typer.Option("--even-if-busy", help="Judge what a busy machine did as if it had been quiet.")
    ] = False,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Hold predictions against real runs: predict, write that down, run, and say how right the predictions were.

    Example: pregate validate --suite quick -o report
    """
    extras.require_torch()
    if max_mape is not None and not 0 < max_mape < 1:
        raise InvalidInput(f"--max-mape {max_mape:g}: a share between 0 and 1, such as 0.07 for 7 %")
    question.check()
    backend = extras.backend_named(question.backend)
    plan, groups = question.plan(backend), question.groups(backend)
    with spinner("validating", lines=True) as update:
        if question.recorded is not None:
            found = _judged_anew(groups, question, question.recorded, update)
        else:
            found = _run(groups, question, plan, update, insist=not busy)
        _write(found, question.output, question.timeline, update)
    say_written(question.output and question.output / "report.html", question.timeline)
    raise typer.Exit(_told(found, max_mape, busy, format))


def _run(
    groups: Sequence[CaseGroup], question: ValidationQuestion, plan: ValidationPlan, say: Callable[[str], None], *,
    insist: bool,
) -> Validation:  # fmt: skip
    """Predict `groups` on the fit, or on this machine measured first, and run them."""
    from pregate.validation.session import provenance_of, validate

    settings = _settings(plan.backend, plan.graphs, question.suite == "quick", plan.storage)
    hw, measured = _platform(question.hardware, settings, question.output, say, insist=insist)
    plan = replace(plan, provenance={**provenance_of(question.command()), "measurements": measured})
    return validate(groups, hw, plan, directory=question.output, say=say)


def _judged_anew(
    groups: Sequence[CaseGroup], question: ValidationQuestion, recorded: Path, say: Callable[[str], None]
) -> Validation:
    """The runs that `recorded` has, held against what is predicted now."""
    from pregate.validation.runs.recording import load_recording
    from pregate.validation.session import RUNS, provenance_of, rejudge

    made, again = load_recording(recorded / RUNS), provenance_of(question.command())
    return rejudge(groups, load_platform(str(question.hardware)), made, provenance=again, say=say)


def _write(found: Validation, output: Path | None, timeline: Path | None, say: Callable[[str], None]) -> None:
    """The files that were asked for."""
    if output is not None:
        from pregate.validation.report.report_files import write_report

        say("writing the report")
        write_report(found, output)
    if timeline is not None:
        from pregate.draw.perfetto import write_comparisons

        say("writing the timelines")
        write_comparisons(found.timelines(), timeline)


def _told(found: Validation, max_mape: float | None, busy: bool, format: options.OutputFormat) -> int:
    """Print what was found; the exit status."""
    from pregate.validation.scores.validation_summary import rows, summarise_validation
    from pregate.validation.scores.verdict import doubts, failures, verdict

    summary = summarise_validation(found)
    if not render.print_data(format, summary, rows(found)):
        render.print_table(_table(summary))
        print(verdict(summary))
    doubted = [] if busy else doubts(summary, max_mape)
    return _status(failures(summary, max_mape), failures(summary, None), doubted)


def _settings(backend: str, graphs: bool, quick: bool, storage: Path | None) -> Settings:
    """What to measure where no fit is given."""
    from runtime.microbench.session import Settings

    formats = ("fp32", "bf16") if backend == "cuda" else ("fp32",)
    return Settings(backend, formats, storage=storage, quick=quick, graphs=graphs)


def _platform(
    hardware: str | None, settings: Settings, output: Path | None, say: Callable[[str], None], *, insist: bool
) -> tuple[Platform, str]:
    """The fitted platform, and the digest of the measurements it was fitted on, which `output` keeps."""
    if hardware is not None:
        hw = load_platform(hardware)
        return hw, hw.fit.provenance.get("measurements", "") if hw.fit is not None else ""
    from hwmodels.calibrate.calibration import calibrate
    from pregate.validation.session import provenance_of
    from runtime.microbench.session import measure

    measured = measure(settings, provenance_of("pregate validate"), say=say, insist=insist)
    fit = calibrate(measured, {"command": "pregate validate", "measurements": measured.digest}, insist=insist)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        measured.save(output / "measurements.json")
        with whole_file(output / f"{fit.name}.yaml") as partial:
            partial.write_text(fit.to_yaml(), encoding="utf-8")
    return platform_of(fit), measured.digest


def _status(failed: list[str], failed_anyway: list[str], doubted: list[str]) -> int:
    """Print why the gate stays shut; the exit status. What fails however busy the machine was outweighs doubts."""
    reasons = failed if failed_anyway or not doubted else doubted
    for reason in reasons:
        print(f"error: {reason}")
    return 0 if not reasons else TOO_BUSY if reasons is doubted else FAILED


def _table(summary: dict[str, Any]) -> Table:
    table = render.new_table("Time per output token, predicted against measured")
    table.add_column("policy")
    for column in ("cases", "MAPE", "bias", "worst"):
        table.add_column(column, justify="right")
    for policy, scores in summary["metrics"]["tpot_s"]["by_policy"].items():
        cells = ((scores[name], sign) for name, sign in (("mape", ""), ("bias", "+"), ("worst", "")))
        table.add_row(policy, str(scores["n"]), *("-" if x is None else f"{x:{sign}.1%}" for x, sign in cells))
    return table
