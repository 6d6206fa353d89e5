"""A ledger of predictions: append only, scored, and suspicious of every byte that is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pregate.validation.ledger import Predicted, append_measured, append_predictions, load_ledger
from tests.command_line import Run, runner
from traces.errors import InvalidFile, InvalidInput, UnknownName

DATE = "2026-11-28 12:00 UTC"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def written(path: Path) -> list[str]:
    metrics = {"tpot_s": Predicted(0.03, (0.02, 0.04), "claimed"), "ttft_s": Predicted(1.0, None, "claimed")}
    return append_predictions(path, [({"design": name}, metrics) for name in ("a", "b")], date=DATE)


def test_what_is_measured_is_held_or_failed_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first, last = written(path)
    append_measured(path, [(first, "tpot_s", 0.05), (last, "tpot_s", 0.025), (last, "ttft_s", 2.0)], date=DATE)
    scores = {(one.prediction.id, one.metric): one for one in load_ledger(path).scores()}
    assert scores[first, "tpot_s"].verdict == "failed"
    assert scores[first, "tpot_s"].error == pytest.approx(0.03 / 0.05 - 1)
    assert scores[first, "ttft_s"].verdict == "open"
    assert scores[last, "tpot_s"].verdict == "held"
    assert scores[last, "ttft_s"].verdict == "no interval"
    append_measured(path, [(first, "tpot_s", 0.03)], date=DATE)
    both = [one.verdict for one in load_ledger(path).scores() if one.prediction.id == first and one.metric == "tpot_s"]
    assert both == ["failed", "held"]
    assert "2 held, 1 failed" in load_ledger(path).verdict()


def test_what_was_written_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    before = path.read_bytes()
    written(path)
    assert path.read_bytes().startswith(before)
    assert len(load_ledger(path).predictions) == 4


@pytest.mark.parametrize("at", [0, 1])
def test_a_line_taken_out_or_changed_is_found(tmp_path: Path, at: int) -> None:
    path = tmp_path / "ledger.jsonl"
    first, _ = written(path)
    append_measured(path, [(first, "tpot_s", 0.05)], date=DATE)
    lines = path.read_text().splitlines(keepends=True)
    without = [line for i, line in enumerate(lines) if i != at]
    changed = [line.replace("0.04", "0.06") if i == at else line for i, line in enumerate(lines)]
    for wrong in (without, changed):
        path.write_text("".join(wrong))
        with pytest.raises(InvalidFile, match="changed or taken out"):
            load_ledger(path)


def line(**entry: object) -> str:
    return json.dumps({"previous": "0" * 16, "kind": "predicted", "date": DATE, "release": "0", "subject": {}, **entry})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not json\n", "no JSON"),
        ("[" * 20_000 + "\n", "no JSON"),
        ("[]\n", "neither a prediction"),
        ('{"kind": "guess"}\n', "neither a prediction"),
        (line(metrics={"a": [1, None, "claimed"]}), "cut off"),
        (line() + "\n", "has a subject and metrics"),
        (line(metrics={"a": 1}) + "\n", "not a number with its interval"),
        (line(metrics={"a": ["x", None, "claimed"]}) + "\n", "not a number"),
        (line(metrics={"a": [True, None, "claimed"]}) + "\n", "not a number"),
        (line(metrics={"a": [1e400, None, "claimed"]}) + "\n", "not a number"),
        (line(metrics={"a": [-1, None, "claimed"]}) + "\n", "not a number"),
        (line(metrics={"a": [1, [2, 1], "claimed"]}) + "\n", "upside down"),
        (line(metrics={"a": [1, [1], "claimed"]}) + "\n", "not a number"),
        (line(metrics={"a": [1, None, 1]}) + "\n", "no text"),
        (line(metrics={"a": [1, None, ""]}, subject={"a": 1}) + "\n", "are texts"),
        (line(metrics={"a": [1, None, ""]}, date=1) + "\n", "are texts"),
        (line(kind="measured", of="x", metric="a", value=1) + "\n", "never predicted"),
        (line(kind="measured", of="x", metric="a", value=None) + "\n", "no measurement"),
        (line(previous="f" * 16, metrics={"a": [1, None, ""]}) + "\n", "changed or taken out"),
        ("x" * 70_000 + "\n", "at most"),
    ],
)
def test_a_hostile_file_is_one_line(run: Run, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    status, out, err = run("ledger", str(path))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err
    with pytest.raises(InvalidFile):
        append_measured(path, [("a", "b", 1.0)])
    assert path.read_text() == text


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nosuch" / "ledger.jsonl"):
        with pytest.raises(InvalidFile):
            written(path)
    with pytest.raises(InvalidFile):
        load_ledger(tmp_path / "nosuch.jsonl")


def test_keys_name_a_prediction_or_the_last(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first, last = written(path)
    found = load_ledger(path)
    assert found.find("tpot_s") == (last, "tpot_s")
    assert found.find(f"{first}.ttft_s") == (first, "ttft_s")
    with pytest.raises(UnknownName, match="tpot_s"):
        found.find("tpot")
    with pytest.raises(UnknownName, match="prediction"):
        found.find("nosuch.tpot_s")
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InvalidInput):
            append_measured(path, [(first, "tpot_s", value)])


def test_the_command_appends_and_scores(run: Run, tmp_path: Path) -> None:
    path, table = tmp_path / "ledger.jsonl", tmp_path / "measured.csv"
    first, _ = written(path)
    table.write_text(f"key,value\n{first}.tpot_s,0.05\nttft_s,1.5\n")
    status, out, _ = run("ledger", str(path), "--measured", str(table), "--measured", "tpot_s=0.03")
    assert status == 0
    assert "1 held, 1 failed" in out
    assert "30 ms" in out
    assert " ".join(out.split()).count(load_ledger(path).scores()[0].prediction.id) == 1
    status, out, _ = run("ledger", str(path), "--format", "json")
    assert [row["verdict"] for row in json.loads(out)["scores"]] == ["failed", "open", "held", "no interval"]


@pytest.mark.parametrize("word", ["tpot_s=", "tpot_s=fast", "tpot_s=0x10", "nosuch=1", "/nosuch.csv", "tpot_s=1e400"])
def test_what_is_no_measurement_is_one_line_and_changes_nothing(run: Run, tmp_path: Path, word: str) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    before = path.read_bytes()
    status, out, err = run("ledger", str(path), "--measured", word)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert path.read_bytes() == before


def test_a_plan_writes_what_it_shows(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    words = ("plan", "mixtral-mini-8", "--hardware", "rtx-4090", "--stack", "llama-cpp", "--input-tokens", "8",
             "--output-tokens", "4", "--ledger", str(path))  # fmt: skip
    assert run(*words)[0] == 0
    found = load_ledger(path)
    assert "llama-cpp/" in found.predictions[-1].subject["design"]
    assert set(found.predictions[-1].metrics) == {"ttft_s", "tpot_s", "request_s", "tokens_per_s"}
    path.write_text("no ledger\n")
    status, _, err = run(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert path.read_text() == "no ledger\n"
