"""A validation that goes on where an earlier call ended: its recording, held against what would be predicted now."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwmodels.quantity import ReadOnly
from pregate.validation.runs.recording import Recording, load_recording
from traces.errors import InvalidFile, InvalidInput


def earlier_recording(path: Path, stack: str, machine: Mapping[str, Any]) -> Recording | None:
    """The runs of earlier calls, None where there are none. Raises `InvalidInput` for those of another device or stack,
    `InvalidFile` for a file that is none.
    """
    if not path.exists():
        return None
    found = load_recording(path)
    here, there = (stack, machine.get("name")), (found.stack, found.machine.get("name"))
    if here != there:
        raise InvalidInput(
            f"{path}: runs of {there[0]} on {there[1]}, here is {here[0]} on {here[1]}: name another folder"
        )
    return found


def require_same_predictions(path: Path, recording: Recording, text: str) -> None:
    """Raise `InvalidInput` where a case that has run was predicted otherwise than it is now, in `text`."""
    try:
        before = {row["case"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidFile(f"{path}: no predictions as they were written before the runs beside it ({error})") from None
    now = {row["case"]: row for row in json.loads(text)}
    for name in recording.cases:
        if name in now and now[name] != before.get(name):
            raise InvalidInput(
                f"{name}: it ran in {path.parent} and would be predicted otherwise now: give the fit of then, or name "
                f"another folder"
            )


def joined_recording(earlier: Recording | None, now: Recording) -> Recording:
    """Runs of both; how they came about is said of the last call, and when the first was."""
    if earlier is None:
        return now
    begun = earlier.provenance.get("begun", earlier.provenance.get("date", ""))
    return dataclasses.replace(
        now,
        cases=ReadOnly({**earlier.cases, **now.cases}),
        routings=ReadOnly({**earlier.routings, **now.routings}),
        provenance=ReadOnly({**now.provenance, "begun": begun}),
    )
