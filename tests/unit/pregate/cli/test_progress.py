"""Lines that move while a command works do so on a terminal alone, whatever colours an environment asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pregate.cli.progress import spinner
from tests.command_line import Run

FORCED = pytest.mark.parametrize("forced", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
SWEEP = (
    "{model: switch-mini-16, hardware: t4, policies: [pregate], workload: {output_tokens: 2}, axes: {batch: [1, 2]}}"
)


@FORCED
@pytest.mark.parametrize("lines", [False, True])
def test_a_log_has_no_line_that_moves(
    forced: str, lines: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(forced, "1")
    with spinner("working", lines=lines) as update:
        update("on something")
    assert capsys.readouterr().err == "working: on something\n" * lines


@FORCED
def test_a_log_has_a_bar_once(forced: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(forced, "1")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    status, _, err = run("sweep", str(tmp_path / "sweep.yaml"), "--no-cache", "-o", str(tmp_path / "s.nc"))
    assert status == 0, err
    assert "\x1b" not in err
    assert (err.count("sweeping"), err.count("planning")) == (1, 0), "how it ended alone"
