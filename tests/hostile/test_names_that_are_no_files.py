"""Names of models and machines that stand for something which is no file, and formats that name none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.command_line import Run


@pytest.mark.parametrize("kind", ["pipe", "loop", "dangling"])
@pytest.mark.parametrize("column", ["model", "hardware"])
def test_what_is_no_file_is_told_so(
    kind: str, column: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "pipe":
        os.mkfifo("thing")
    else:
        os.symlink("thing" if kind == "loop" else "nowhere", "thing")
    words = (
        ("plan", "thing", "--hardware", "rtx-3090")
        if column == "model"
        else ("plan", "olmoe-1b-7b", "--hardware", "thing")
    )
    status, out, text = run(*words)
    assert (status, out) == (2, "")
    assert f"unknown {column} 'thing': what is there is no file" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("command", ["plan", "compare", "explain"])
def test_formats_of_no_letters_are_not_taken_for_none(command: str, run: Run) -> None:
    """As a shell passes a variable that is not set."""
    status, out, text = run(command, "olmoe-1b-7b", "--hardware", "rtx-3090", "--formats", "")
    assert (status, out) == (2, "")
    assert "--formats '': no format is named" in text
