"""`pregate validate`: predict, run, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodels.platform import Platform, load_platform, platform_of
from hwmodels.quantity import parse_override
from pregate import extras
from pregate.cli import options
from pregate.cli.option_values import build_model, check_storage
from pregate.cli.output_paths import require_folder, require_ledger, say_written
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.whole_file import require_writable, whole_file
from traces.model.architecture import ModelArchitecture

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.check.cases import CaseGroup, CaseWorkload
    from pregate.check.outcome import Validation
    from pregate.check.session import ValidationPlan
    from runtime.microbench.session import Settings

FAILED, TOO_BUSY = 1, 3
"""Exit status: the gate stays shut; the machine was too busy to say."""


def validate(
    model: Annotated[str | None, typer.Option(help="One model instead of a suite: a name or a file.")] = None,
    trace: options.TraceFile = None,
    policies: Annotated[str | None, typer.Option(help="Designs, by comma.")] = None,
    suite: Annotated[str | None, typer.Option(help="quick, full, published or gpu.")] = None,
    hardware: Annotated[
        str | None, typer.Option("--fit", help="A fit by name or file; without, this machine is measured first.")
    ] = None,
    backend: options.BackendName = "auto",
    graphs: options.Graphs = False,
    link: Annotated[str | None, typer.Option(help="Link of the CPU back end with --model, such as 2GB/s.")] = None,
    tier: options.Tier = "dram",
    storage: Annotated[Path | None, typer.Option(help="A folder for the experts of --tier ssd.")] = None,
    batch: options.Batch = None,
    input_tokens: options.InputTokens = 32,
    output_tokens: options.OutputTokens = 16,
    active: options.Active = None,
    seed: options.Seed = 0,
    dtype: options.Dtype = None,
    repeats: Annotated[int, typer.Option(min=1, help="Valid runs of each configuration.")] = 3,
    budget: Annotated[
        float | None, typer.Option("--budget-s", min=1, help="Seconds; groups that no longer fit are left out.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Leave out groups that an earlier call has run into -o on the same --fit.")
    ] = False,
    recorded: Annotated[
        Path | None, typer.Option(help="A folder that a validation left: judge its runs anew, on no device.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for report.html, rows.csv and summary.json.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Write simulated over real timelines for ui.perfetto.dev (JSON).")
    ] = None,
    ledger: options.LedgerFile = None,
    max_mape: Annotated[float | None, typer.Option(help="Fail above this error of the time per token: 0.07.")] = None,
    busy: Annotated[
        bool, typer.Option("--even-if-busy", help="Judge what a busy machine did as if it had been quiet.")
    ] = False,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Predict configurations, write that down, run them for real, and say how right the predictions were.

    Example: pregate validate --suite quick -o report
    """
    extras.require_torch()
    _check_options(model, suite, max_mape, output)
    if recorded is not None:
        _check_recorded(recorded, output, ledger, complete=suite is not None and hardware is not None)
    if go_on and (output is None or hardware is None or ledger is not None):
        raise InvalidInput("--go-on: name the folder of the earlier call, -o, and its --fit, without --ledger")
    if ledger is not None:
        require_ledger(ledger)
    if timeline is not None:
        require_folder(timeline)
    name = extras.backend_named(backend)
    from pregate.check.cases import CaseWorkload
    from pregate.check.running.devices import require_graphs
    from pregate.check.session import ValidationPlan

    if recorded is None:
        require_graphs(name, graphs)
    if model is not None:
        workload = CaseWorkload(batch, input_tokens, output_tokens, seed, active, trace)
        groups = [_group(build_model(model, dtype, None), workload, policies, name, link, tier, storage)]
    else:
        groups = _suite(str(suite), name if recorded is None else "cuda")
    what = f" --suite {suite}" if suite else f" --model {model}"
    command = f"pregate validate{what}{' --graphs' * graphs}{f' --tier {tier}' * (tier != 'dram')}"
    with spinner("validating", lines=True) as update:
        if recorded is not None:
            found = _judged_anew(groups, recorded, str(hardware), command, update)
        else:
            plan = ValidationPlan(
                name, repeats, budget_s=budget, graphs=graphs, storage=storage, ledger=ledger, go_on=go_on
            )
            found = _run(groups, plan, hardware, command, output, update, quick=suite == "quick", insist=not busy)
        _write(found, output, timeline, update)
    say_written(timeline)
    raise typer.Exit(_told(found, max_mape, busy, format))


def _check_options(model: str | None, suite: str | None, max_mape: float | None, output: Path | None) -> None:
    """Raise `InvalidInput` for what would be found out minutes later, or for neither or both of suite and model."""
    if (model is None) == (suite is None):
        raise InvalidInput("say either --suite (quick, full, published, gpu) or --model NAME")
    if suite is not None:
        from pregate.check.cases import suite_named

        suite_named(suite)
    if max_mape is not None and not 0 < max_mape < 1:
        raise InvalidInput(f"--max-mape {max_mape:g}: a share between 0 and 1, such as 0.07 for 7 %")
    if output is not None and output.exists() and not output.is_dir():
        raise InvalidInput(f"-o {output}: it is a file, a report is a folder: name another")
    if output is not None:
        require_writable(output)


def _check_recorded(recorded: Path, output: Path | None, ledger: Path | None, *, complete: bool) -> None:
    """Raise `InvalidInput` where the old report would be overwritten, or not both the suite and the fit are named
    (`complete`).
    """
    if not complete:
        raise InvalidInput("--recorded FOLDER: say of which --suite its runs are, and on which --fit to predict them")
    if output is not None and output.resolve() == recorded.resolve():
        raise InvalidInput(f"-o {output}: what was predicted before the runs is there, name another folder")
    if ledger is not None:
        raise InvalidInput("--recorded FOLDER: those runs were, nothing is predicted before them: leave out --ledger")


def _group(
    model: ModelArchitecture, workload: CaseWorkload, policies: str | None, backend: str, link: str | None, tier: str,
    storage: Path | None,
) -> CaseGroup:  # fmt: skip
    """The one group of `--model`."""
    from pregate.check.cases import SUITE_POLICIES, CaseGroup

    chosen = tuple(word.strip() for word in policies.split(",")) if policies else SUITE_POLICIES
    speed = _link_bytes_per_s(link, backend)
    return CaseGroup(model, workload, chosen, link_bytes_per_s=speed, expert_tier=_tier(tier, storage))


def _run(
    groups: Sequence[CaseGroup], plan: ValidationPlan, hardware: str | None, command: str, output: Path | None,
    say: Callable[[str], None], *, quick: bool, insist: bool,
) -> Validation:  # fmt: skip
    """Predict `groups` on the fit, or on this machine measured first, and run them."""
    from pregate.check.session import provenance_of, validate

    settings = _settings(plan.backend, plan.graphs, quick, plan.storage)
    hw, measured = _platform(hardware, settings, output, say, insist=insist)
    plan = replace(plan, provenance={**provenance_of(command), "measurements": measured})
    return validate(groups, hw, plan, directory=output, say=say)


def _judged_anew(
    groups: Sequence[CaseGroup], recorded: Path, hardware: str, command: str, say: Callable[[str], None]
) -> Validation:
    """The runs that `recorded` has, held against what is predicted now."""
    from pregate.check.running.recording import load_recording
    from pregate.check.session import RUNS, provenance_of, rejudge

    made, again = load_recording(recorded / RUNS), provenance_of(f"{command} --recorded")
    return rejudge(groups, load_platform(hardware), made, provenance=again, say=say)


def _write(found: Validation, output: Path | None, timeline: Path | None, say: Callable[[str], None]) -> None:
    """The files that were asked for."""
    if output is not None:
        from pregate.check.report.report_files import write_report

        say("writing the report")
        write_report(found, output)
    if timeline is not None:
        from pregate.draw.perfetto import write_comparisons

        say("writing the timelines")
        write_comparisons(found.timelines(), timeline)


def _told(found: Validation, max_mape: float | None, busy: bool, format: options.OutputFormat) -> int:
    """Print what was found; the exit status."""
    from pregate.check.scores.validation_summary import rows, summarise_validation
    from pregate.check.scores.verdict import doubts, failures, verdict

    summary = summarise_validation(found)
    if not render.print_data(format, summary, rows(found)):
        render.print_table(_table(summary))
        print(verdict(summary))
    doubted = [] if busy else doubts(summary, max_mape)
    return _status(failures(summary, max_mape), failures(summary, None), doubted)


def _link_bytes_per_s(link: str | None, backend: str) -> float | None:
    """The speed of the link that the CPU back end imitates; a CUDA device has its own."""
    speed = None if link is None else parse_override(link, "bandwidth")
    if backend == "cpu" and speed is None:
        raise InvalidInput("the CPU back end imitates a link: say how fast, such as --link 2GB/s")
    if backend == "cuda" and speed is not None:
        raise InvalidInput("--link is of the CPU back end: a CUDA device has its own")
    return speed


def _tier(tier: str, storage: Path | None) -> str:
    """Where experts wait. Raises `InvalidInput` for a tier that is none, or a folder missing or not asked for."""
    from pregate.check.running.devices import require_storage

    check_storage(tier, storage)
    require_storage(tier, storage)
    if storage is not None and not storage.is_dir():
        raise InvalidInput(f"--storage {storage}: there is no such folder")
    return tier


def _suite(name: str, backend: str) -> list[CaseGroup]:
    """The groups of a suite. Raises `InvalidInput` where it is not for this back end."""
    from pregate.check.cases import suite_named

    if name == "gpu" and backend != "cuda":
        raise InvalidInput("the suite gpu is of whole models on a CUDA device: try --suite full")
    return suite_named(name)


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
    from pregate.check.session import provenance_of
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
