"""What a validation leaves behind: a page for people, rows and a summary for programs, reasons for a gate.

All three files are made in memory first; then each takes the place of the old one, or none does.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pregate.validation.outcome import Validation
from pregate.validation.report.page import page
from pregate.validation.scores.validation_summary import rows, summarise_validation
from pregate.validation.scores.verdict import failures, verdict
from traces.errors import InvalidFile
from traces.foundation.atomic_files import whole_file

__all__ = ["FILES", "gate", "verdict", "write_report"]

FILES = ("report.html", "rows.csv", "summary.json")
"""What `write_report` leaves in a folder."""


def write_report(validation: Validation, directory: str | Path) -> None:
    """Write report.html (self-contained), rows.csv and summary.json into `directory`, which is made when missing.

    Other files in it are left alone. A failure while they are made or written leaves the old files, and no new folder.
    Raises `InvalidFile` when the folder cannot be written.
    """
    folder = Path(directory)
    summary = summarise_validation(validation)
    texts = dict(zip(FILES, (page(validation, summary), _csv(rows(validation)), _json(summary)), strict=True))
    made = _make(folder)
    try:
        with ExitStack() as files:
            for name, text in texts.items():
                files.enter_context(whole_file(folder / name)).write_text(text, encoding="utf-8", newline="")
    except BaseException:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _make(folder: Path) -> list[Path]:
    """Make a folder; returns which folders were not there before, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidFile(f"{folder}: cannot be made a folder ({error.strerror or error})") from error
    return missing


def gate(validation: Validation, max_mape: float | None = None) -> list[str]:
    """Reasons to fail, in plain lines; none: the validation passes. `max_mape`: of `tpot_s`, a fraction.

    MAPE above the limit, bytes or residency that do not match, policies of a group with different outputs, nothing
    measured. Raises `InvalidInput` for a limit that is not above 0.
    """
    return failures(summarise_validation(validation), max_mape)


def _csv(found: Sequence[Mapping[str, Any]]) -> str:
    """Empty for None; floats to the last digit; true and false."""
    text = io.StringIO()
    if found:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(found[0])
        writer.writerows([_cell(value) for value in row.values()] for row in found)
    return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _json(summary: Mapping[str, Any]) -> str:
    return json.dumps(_plain(summary), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Only what JSON has: what is not a number is null, what it does not know is said in words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
