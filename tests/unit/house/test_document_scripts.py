"""Scripts that write documents: asked for help, or wrongly, they write nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("script", ["build.py", "notebooks.py"])
@pytest.mark.parametrize(("option", "status", "stream"), [("--help", 0, "stdout"), ("--chek", 2, "stderr")])
def test_a_question_or_a_wrong_option_gets_the_usage(script: str, option: str, status: int, stream: str) -> None:
    pytest.importorskip("nbclient", reason="executes notebooks (the extra 'notebooks')")
    watched = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    before = {path: path.stat().st_mtime_ns for path in watched}
    words = [sys.executable, str(ROOT / "docs" / script), option]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == status
    assert getattr(done, stream).startswith(f"usage: docs/{script}")
    assert {path: path.stat().st_mtime_ns for path in watched} == before
