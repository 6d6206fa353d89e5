"""A validation from end to end: predict and write the prediction down, then run, then put both side by side."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hwmodels.calibrate.measurements import workload_digest
from hwmodels.fits.trust import Trust, recorded_trust
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from pregate.ask.timing.policy_modes import modes_measured
from pregate.running.devices import Device, require_storage
from pregate.validation.cases import CaseGroup
from pregate.validation.ledger import Predicted, append_measured, append_predictions
from pregate.validation.outcome import CaseOutcome, Validation
from pregate.validation.predictions import PreparedCase, predict, predictions_document, prepare_cases
from pregate.validation.runs.case_runner import Runner
from pregate.validation.runs.group_runner import GroupErrors, PredictedGroup, TimeBudget, run_groups
from pregate.validation.runs.recording import Recording, save_recording
from pregate.validation.runs.resumption import earlier_recording, joined_recording, require_same_predictions
from runtime.machine.device import describe_device, software, stack_of
from runtime.microbench.session import cpu_link
from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file

PREDICTIONS = "predictions.json"
"""Where the predictions are written down before the first run."""

DRAWN = ("pregate", "on_demand")
"""Policies whose timelines are kept, of the first groups."""

RUNS = "runs.npz"
"""Where the start and end of every op of the runs are."""


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """How to validate. `backend`: "cpu" or "cuda"; `repeats`: quiet runs a case; `tries`: runs more for disturbed ones;
    `drawn`: groups whose timelines the report shows, those of `pregate` and `on_demand`. `budget_s`: groups that would
    take longer than what is left of it are not run (None: all are). `graphs`: sections of layers run as CUDA graphs.
    `storage`: a folder for experts of groups that keep them there. `ledger`: what predictions are written to before the
    first run, and medians afterwards (`pregate.validation.ledger`). `go_on`: groups that an earlier call has run into
    the same folder are not run again.
    """

    backend: str = "cpu"
    repeats: int = 3
    tries: int = 3
    drawn: int = 2
    budget_s: float | None = None
    graphs: bool = False
    storage: Path | None = None
    ledger: Path | None = None
    go_on: bool = False
    provenance: Mapping[str, str] = field(default_factory=lambda: ReadOnly({}))


_PLAN = ValidationPlan()


def validate(
    groups: Sequence[CaseGroup],
    hw: Platform,
    plan: ValidationPlan = _PLAN,
    *,
    directory: str | Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Predict every case of `groups` on `hw`, write that to `directory` (when given), then run them all.

    A group that fails is reported, and the others go on; where no other is left its error is raised: `CapacityExceeded`
    for a case that does not fit, `OutputMismatch` when policies end in different states, `LaneFailure`. `say` hears
    what is being done. Raises `InvalidInput` for a platform without a fit, a case that the fit was made on, and runs to
    go on from that were predicted otherwise.
    """
    _require_fit(hw, stack_of(plan.backend, plan.graphs))
    for group in groups:
        require_storage(group.expert_tier, plan.storage)
    budget, errors = TimeBudget(plan.budget_s, plan.repeats), GroupErrors()
    say("predicting")
    folder = None if directory is None else Path(directory)
    machine = ReadOnly(describe_device(plan.backend))
    assert hw.fit is not None
    earlier = earlier_recording(folder / RUNS, hw.fit.stack, machine) if plan.go_on and folder is not None else None
    predicted = _all_predicted(groups, hw, plan.drawn, errors, earlier)
    digest = _written_down(predicted, folder, earlier)
    written = _entered(plan.ledger, hw, [pair for pairs in predicted for pair in pairs])
    runner = Runner(device_of(plan), plan.repeats, plan.tries)
    made = Recording({}, hw.fit.stack, machine, plan.provenance)

    def keep() -> None:
        if folder is not None:
            save_recording(joined_recording(earlier, _ran(predicted, runner, made)), folder / RUNS)

    outcomes, skipped = run_groups(predicted, runner, budget, errors, say, earlier, keep)
    _scored(plan.ledger, written, outcomes)
    if errors.first is not None and not outcomes:
        raise errors.first
    told = ReadOnly({**plan.provenance, **_modes_told(hw)})
    return Validation(tuple(outcomes), told, machine, hw.fit.name, digest, errors.reasons, skipped, _trust_in_fit(hw))


def _ran(predicted: Sequence[PredictedGroup], runner: Runner, made: Recording) -> Recording:
    """`made` with the runs so far, and the routing of their groups."""
    routings = {
        pairs[0][0].case.group: pairs[0][0].captured.trace
        for pairs in predicted
        if any(one.case.name in runner.recorded for one, _ in pairs)
    }
    return replace(made, cases=ReadOnly(runner.recorded), routings=ReadOnly(routings))


def _all_predicted(
    groups: Sequence[CaseGroup], hw: Platform, n_drawn: int, errors: GroupErrors, earlier: Recording | None
) -> list[PredictedGroup]:
    """What is predicted of each group that can be, as it ran where it has; timelines of the first `n_drawn`."""
    predicted: list[PredictedGroup] = []
    for group in groups:
        with errors.noted(group.name):
            known = earlier is not None and earlier.has(group)
            cases = _prepared_again(group, hw, earlier) if earlier is not None and known else prepare_cases(group, hw)
            predicted.append(_predicted(cases, hw, drawn=len(predicted) < n_drawn))
    return predicted


def _prepared_again(group: CaseGroup, hw: Platform, recording: Recording) -> list[PreparedCase]:
    """The cases of a group as they ran: link, slots and routing."""
    link, slots = recording.link_bytes_per_s(group), recording.slots(group)
    return prepare_cases(group, hw, link, slots, recording.routings.get(group.name))


def _written_down(predicted: Sequence[PredictedGroup], directory: Path | None, earlier: Recording | None) -> str:
    """Write what is predicted to `directory`, when given; returns the digest of it."""
    text, digest = predictions_document([pair for pairs in predicted for pair in pairs])
    if directory is not None and earlier is not None:
        require_same_predictions(directory / PREDICTIONS, earlier, text)
    if directory is not None and predicted:
        directory.mkdir(parents=True, exist_ok=True)
        with whole_file(directory / PREDICTIONS) as partial:
            partial.write_text(text, encoding="utf-8")
    return digest


def _entered(ledger: Path | None, hw: Platform, predicted: PredictedGroup) -> dict[str, str]:
    """Write predictions to a ledger, before any run; the name of each there by case."""
    if ledger is None or not predicted:
        return {}
    assert hw.fit is not None
    fit = hw.fit.name
    entries = [
        (
            {"case": one.case.name, "fit": fit, "schedule": said.schedule_digest},
            {name: Predicted(value, said.intervals.get(name), "fitted") for name, value in said.metrics.items()},
        )
        for one, said in predicted
    ]
    names = append_predictions(ledger, entries)
    return {one.case.name: name for (one, _), name in zip(predicted, names, strict=True)}


def _scored(ledger: Path | None, written: Mapping[str, str], outcomes: Sequence[CaseOutcome]) -> None:
    """Write the medians of what was measured to the ledger that has the predictions."""
    if ledger is None:
        return
    found = [
        (written[one.case.name], metric, one.valid.median(metric))
        for one in outcomes
        if one.valid is not None
        for metric in one.prediction.metrics
    ]
    if found:
        append_measured(ledger, found)


def rejudge(
    groups: Sequence[CaseGroup],
    hw: Platform,
    recording: Recording,
    *,
    provenance: Mapping[str, str] = ReadOnly({}),
    say: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Predict those of `groups` that were recorded on `hw`, and compare: needs no device, but predicts afterwards.

    `Validation.predicted_first` is empty therefore. `provenance`: of this judgement, beside that of the runs. Raises
    `InvalidInput` for a platform without a fit or with one of another stack, a case that the fit was made on, schedules
    other than those recorded, and where nothing was recorded.
    """
    _require_fit(hw, recording.stack)
    assert hw.fit is not None
    outcomes: list[CaseOutcome] = []
    skipped: dict[str, str] = {}
    for group in groups:
        if not recording.has(group):
            skipped[group.name] = "not recorded"
            continue
        say(f"predicting {group.name}")
        cases = _prepared_again(group, hw, recording)
        pairs = _predicted(cases, hw, drawn=len(outcomes) == 0)
        measured = recording.measure(cases, [one.case.name for one, said in pairs if said.timeline is not None])
        outcomes += [CaseOutcome(one.case, said, run) for (one, said), run in zip(pairs, measured, strict=True)]
    if not outcomes:
        raise InvalidInput("the recording has runs of none of these groups: name the suite that was run")
    again = {f"judged again: {name}": text for name, text in provenance.items()}
    told = {**recording.provenance, **again, **_modes_told(hw)}
    return Validation(
        tuple(outcomes), ReadOnly(told), recording.machine, hw.fit.name, "", {}, ReadOnly(skipped), _trust_in_fit(hw)
    )


def _require_fit(hw: Platform, stack: str) -> None:
    """Raise `InvalidInput` unless `hw` was fitted on the stack that runs."""
    if hw.fit is None:
        raise InvalidInput(f"{hw.hardware} has no fit: pregate measure and pregate calibrate make one")
    if hw.fit.stack != stack:
        raise InvalidInput(
            f"the fit {hw.fit.name} is of the stack {hw.fit.stack}, what would run is {stack}: give a fit of that, or "
            f"another --backend, with --graphs or without"
        )


def _modes_told(hw: Platform) -> dict[str, str]:
    """What was predicted beyond FIFO lanes, for a report."""
    modes = modes_measured(hw)
    return {} if modes.is_fifo else {"predicted with": modes.describe()}


def _trust_in_fit(hw: Platform) -> Trust:
    """In what the fit was made on."""
    assert hw.fit is not None
    return recorded_trust(hw.fit.provenance) or Trust("high")


def _predicted(cases: Sequence[PreparedCase], hw: Platform, *, drawn: bool) -> PredictedGroup:
    """The cases of a group with what is predicted of them; timelines of `DRAWN` where they are to be `drawn`, or of
    the first policy."""
    for one in cases:
        _require_unseen(one, hw)
    policies = [one.case.policy for one in cases]
    shown = (set(DRAWN) & set(policies) or {*policies[:1]}) if drawn else set()
    return [(one, predict(one, keep_timeline=one.case.policy in shown)) for one in cases]


def _require_unseen(prepared: PreparedCase, hw: Platform) -> None:
    """Raise `InvalidInput` for a workload that the fit was made on."""
    captured = prepared.captured
    if hw.fit is not None and workload_digest(captured.model, captured.trace) in hw.fit.probes:
        raise InvalidInput(
            f"{prepared.case.name}: the fit {hw.fit.name} was made on this very workload, so it cannot be judged by "
            f"it: validate another model or trace"
        )


def device_of(plan: ValidationPlan) -> Callable[[float | None], Device]:
    """The device of a plan, with a link of so many bytes/s where links are imitated."""

    def device(link_bytes_per_s: float | None) -> Device:
        if plan.backend == "cuda":
            return Device("cuda", storage=plan.storage, graphs=plan.graphs)
        link = cpu_link(link_bytes_per_s)
        return Device("cpu", h2d=link, d2h=link, storage=plan.storage)

    return device


def provenance_of(command: str) -> dict[str, str]:
    """Who made a file: command, date, this release, its commit, the software below it."""
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "simpy", "scipy")}
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        **software(),
        **packages,
        "platform": sys.platform,
    }


def _commit() -> str:
    """The commit of the checkout this runs from, "+" when files differ from it; "unknown" outside of one."""
    root = Path(__file__).parents[2]
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes else "")
