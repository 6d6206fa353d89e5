"""What is wrong is said before the work, what is large is asked about, and what came to nothing has its own status."""

from __future__ import annotations

from pathlib import Path

import pytest

import pregate
from tests.command_line import runner

SMALL = ("switch-base-8", "--hardware", "a100-sxm4-80gb", "--input-tokens", "4", "--output-tokens", "3")


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status, _, error = runner(monkeypatch, capsys)(*words)
    return status, error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("simulate", *SMALL, "--gantt", "g.txt"), "pictures are written as .png, .svg or .pdf"),
        (("tune", *SMALL[:3], "--trace", "gpt-oss-20b-mmlu", "-o", "/dev/full"), "it is not a regular file"),
        (("simulate", *SMALL, "--gantt", "nowhere/g.png"), "there is no folder nowhere"),
        (("simulate", *SMALL, "--timeline", "nowhere/t.json"), "there is no folder nowhere"),
        (("simulate", *SMALL, "--timeline", "x.png", "--gantt", "x.png"), "are both x.png"),
        (("optimize", "switch-base-8", "--plot", "front.txt"), "pictures are written as"),
        (("calibrate", "m.yaml", "-o", "m.yaml"), "would be overwritten"),
        (("calibrate", "m.json", "-o", "f.yaml", "--plot", "f.txt"), "pictures are written as"),
        (("validate", "--suite", "quick", "--max-mape", "7"), "a share between 0 and 1"),
        (("validate", "--suite", "quick", "--max-mape", "nan"), "a share between 0 and 1"),
        (("validate", "--suite", "quick", "-o", "m.yaml"), "it is a file, a report is a folder"),
        (("reproduce", "isca24", "--refit", "nowhere/f.yaml"), "there is no folder nowhere"),
        (("reproduce", "field", "--spreads", "nowhere/s.yaml"), "there is no folder nowhere"),
        (("compare", *SMALL[:3], "--output-tokens", "3000000"), "add --yes, or take fewer tokens"),
        (("simulate", *SMALL[:3], "--batch", "100000"), "add --yes, or take fewer tokens"),
    ],
)
def test_it_is_said_in_one_line_and_nothing_is_written(
    words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, no_large_work: None,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text("{}")
    status, err = run(monkeypatch, capsys, *words)
    assert (status, told in err, err.count("\n")) == (2, True, 1), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.yaml"]
    assert (tmp_path / "m.yaml").read_text() == "{}"


def test_nothing_that_fits_is_an_answer_with_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", *SMALL, "--policies", "gpu_only", "--hbm", "1GB")
    assert run(monkeypatch, capsys, *words)[0] == 1
    assert run(monkeypatch, capsys, *words, "--format", "json")[0] == 1
    assert run(monkeypatch, capsys, *words[:-2])[0] == 0


def test_results_show_themselves_in_a_line_and_as_a_table() -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    trace = pregate.synthesize(model, 4, 3)
    result = pregate.simulate(model, hw, trace, "pregate")
    table = pregate.compare(model, hw, trace, ["gpu_only", "pregate"])
    assert len(repr(result)) < 500
    assert "tokens_per_s=" in repr(result)
    assert "gpu_only" in repr(table)
    assert table._repr_html_().count("<tr>") == 3
    assert "<td>pregate</td>" in result._repr_html_()


def test_a_sweep_without_axes_is_one_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(
        "{model: switch-base-8, hardware: t4, policies: [on_demand, pregate], workload: {output_tokens: 3}, axes: {}}"
    )
    status, err = run(monkeypatch, capsys, "sweep", "s.yaml", "-o", "s.nc", "--no-cache")
    assert status in (0, 2), err
    assert "Traceback" not in err
    assert (tmp_path / "s.nc").exists() is (status == 0)


def test_a_fit_that_is_stopped_half_way_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing clears up after a process that was ended: while it fits, there is nothing to clear."""
    there = []

    def stopped(*_: object) -> None:
        there.extend(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("pregate.measured.isca24.machine_fit.fit_published", stopped)
    assert run(monkeypatch, capsys, "reproduce", "isca24", "--refit", str(tmp_path / "f.yaml"))[0] == 130
    assert not there
    assert not list(tmp_path.iterdir())
