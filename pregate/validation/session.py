"""A validation from end to end: predict and write the prediction down, then run, then put both side by side."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hwmodels.measurements import workload_digest
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from pregate.validation.cases import Group
from pregate.validation.outcome import Outcome, Validation
from pregate.validation.predictions import Prepared, predict, predictions_document, prepare
from pregate.validation.runs import Runner
from runtime.backend import Backend
from runtime.cpu import CpuBackend
from runtime.cuda import CudaBackend
from runtime.device import describe, software
from runtime.microbench.session import cpu_link
from traces.errors import InvalidInput
from traces.whole_file import whole_file

__all__ = ["PREDICTIONS", "Plan", "backend_maker", "provenance_of", "validate"]

PREDICTIONS = "predictions.json"
"""Where the predictions are written down before the first run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to validate. `backend`: "cpu" or "cuda"; `repeats`: valid runs a case; `tries`: disturbed ones beside them;
    `drawn`: groups whose timelines the report shows, those of `pregate` and `on_demand`.
    """

    backend: str = "cpu"
    repeats: int = 3
    tries: int = 6
    drawn: int = 2
    provenance: Mapping[str, str] = field(default_factory=lambda: ReadOnly({}))


_PLAN = Plan()


def validate(
    groups: Sequence[Group],
    hw: Platform,
    plan: Plan = _PLAN,
    *,
    directory: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Predict every case of `groups` on `hw`, write that to `directory` (when given), then run them all.

    `say` hears what is being done. Raises `InvalidInput` for a platform without a fit, or a case that the fit was made
    on; `CapacityExceeded` for a case that does not fit; `OutputMismatch` when policies end in different states.
    """
    if hw.fit is None:
        raise InvalidInput(f"{hw.hardware} has no fit: pregate measure and pregate calibrate make one")
    prepared = [prepare(group, hw) for group in groups]
    for one in (case for cases in prepared for case in cases):
        _require_unseen(one, hw)
    drawn = {
        one.case.name
        for cases in prepared[: plan.drawn]
        for one in cases
        if one.case.policy in ("pregate", "on_demand")
    }
    say("predicting")
    predicted = [(one, predict(one, keep_timeline=one.case.name in drawn)) for cases in prepared for one in cases]
    text, digest = predictions_document(predicted)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        with whole_file(directory / PREDICTIONS) as partial:
            partial.write_text(text, encoding="utf-8")
    runner = Runner(backend_maker(plan.backend), plan.repeats, plan.tries)
    outcomes = []
    predictions = dict((one.case.name, prediction) for one, prediction in predicted)
    for cases in prepared:
        say(f"running {cases[0].case.group}")
        for one, measured in zip(cases, runner.measure(cases, drawn), strict=True):
            outcomes.append(Outcome(one.case, predictions[one.case.name], measured))
    return Validation(tuple(outcomes), plan.provenance, ReadOnly(describe(plan.backend)), hw.fit.name, digest)


def _require_unseen(prepared: Prepared, hw: Platform) -> None:
    """Raise `InvalidInput` for a workload that the fit was made on."""
    captured = prepared.captured
    if hw.fit is not None and workload_digest(captured.model, captured.trace) in hw.fit.probes:
        raise InvalidInput(
            f"{prepared.case.name}: the fit {hw.fit.name} was made on this very workload, so it cannot be judged by "
            f"it: validate another model or trace"
        )


def backend_maker(backend: str) -> Callable[[float | None], Backend]:
    """Makes a back end for one run, with a link of so many bytes/s where links are imitated."""
    if backend == "cuda":
        return lambda _: CudaBackend()

    def make(link_bytes_per_s: float | None) -> Backend:
        link = cpu_link(link_bytes_per_s)
        return CpuBackend(h2d=link, d2h=link)

    return make


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
