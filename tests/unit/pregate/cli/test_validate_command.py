"""`pregate validate` as users type it: one model or a suite, a report, and an exit status as a gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pregate.cli.commands import validate as command
from pregate.cli.main import application
from tests.small_fits import fit
from tests.small_models import MODELS
from tests.small_validations import outcome, validation
from tests.told_watch import Watch, watch_of
from traces.errors import InvalidInput, PregateError

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.validation import cases  # noqa: E402
from pregate.validation.ledger import load_ledger  # noqa: E402
from pregate.validation.runs import case_runner  # noqa: E402
from pregate.validation.scores.validation_summary import summarise_validation  # noqa: E402
from pregate.validation.scores.verdict import doubts, failures  # noqa: E402
from runtime.machine.watch import Seen  # noqa: E402


@pytest.fixture
def fitted(tmp_path: Path) -> str:
    path = tmp_path / "fit.yaml"
    path.write_text(fit().to_yaml(), encoding="utf-8")
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.yaml"
    path.write_text(MODELS["decoder-only"].to_yaml(), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_runner, "LoadWatch", Watch)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(application(), ["validate", *words], catch_exceptions=True)
    if isinstance(result.exception, PregateError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


SMALL = ("--input-tokens", "4", "--output-tokens", "4", "--repeats", "1", "--link", "20MB/s", "--backend", "cpu")


def test_one_model_with_a_report(model: str, fitted: str, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    status, text = run("--model", model, "--fit", fitted, *SMALL, "-o", str(folder), "--policies", "on_demand,pregate")
    assert status == 0
    assert "match exactly" in text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n"] == 2
    assert summary["bytes_exact"] is True
    assert summary["provenance"]["command"].startswith("pregate validate --model")
    names = {"report.html", "rows.csv", "summary.json", "predictions.json", "runs.npz"}
    assert {path.name for path in folder.iterdir()} == names


def test_predictions_are_in_the_ledger_before_the_first_run(
    model: str, fitted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    seen: list[int] = []
    whole = case_runner.Runner.measure

    def watched(self: case_runner.Runner, *arguments: Any) -> Any:
        seen.append(len(load_ledger(path).predictions))
        return whole(self, *arguments)

    monkeypatch.setattr(case_runner.Runner, "measure", watched)
    words = ("--model", model, "--fit", fitted, *SMALL, "--policies", "on_demand,pregate", "--ledger", str(path))
    assert run(*words)[0] == 0
    assert seen == [2]
    scores = load_ledger(path).scores()
    assert {one.prediction.subject["case"].rpartition("/")[2] for one in scores} == {"on_demand", "pregate"}
    assert {one.verdict for one in scores} <= {"held", "failed", "no interval"}


def test_experts_may_wait_on_storage(model: str, fitted: str, tmp_path: Path) -> None:
    words = ("--model", model, "--fit", fitted, *SMALL, "--policies", "on_demand", "--tier", "ssd")
    status, text = run(*words, "--storage", str(tmp_path))
    assert status == 0
    assert "match exactly" in text
    for more, message in (
        ((), "name a folder for them, --storage DIR"),
        (("--storage", "/no/such"), "--storage /no/such: there is no such folder"),
    ):
        with pytest.raises(InvalidInput, match=message):
            run(*words, *more)
    with pytest.raises(InvalidInput, match="add --tier ssd, or leave it out"):
        run("--model", model, "--fit", fitted, *SMALL, "--storage", str(tmp_path))


def test_the_gate_shuts_on_an_error_above_the_limit(model: str, fitted: str) -> None:
    status, text = run("--model", model, "--fit", fitted, *SMALL, "--policies", "on_demand", "--max-mape", "1e-6")
    assert status == command.FAILED
    assert "MAPE of tpot_s is" in text


def test_a_busy_machine_is_judged_and_its_error_has_a_status_of_its_own(
    model: str, fitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_runner, "LoadWatch", watch_of(lambda: Seen(foreign=1.0, steal=0.0, clock=1.0)))
    words = ("--model", model, "--fit", fitted, *SMALL, "--policies", "on_demand")
    status, text = run(*words)
    assert status == 0
    assert "match exactly" in text
    assert "Trust in the times is low: nothing was timed twice; 1 of 1 configurations were timed beside" in text
    assert run(*words, "--max-mape", "0.999")[0] == 0
    status, text = run(*words, "--max-mape", "1e-6")
    assert status == command.TOO_BUSY
    assert "may be the machine's, trust is low" in text
    assert "(--even-if-busy)" in text
    status, text = run(*words, "--max-mape", "1e-6", "--even-if-busy")
    assert status == command.FAILED
    assert "MAPE of tpot_s is" in text


def test_times_that_say_nothing_are_refused_and_what_is_exact_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    wild = outcome("lru", 1.0, (1.0, 9.0))
    summary = summarise_validation(validation(wild))
    (doubt,) = doubts(summary, None)
    assert doubt.startswith("the times say nothing (the same thing takes 155 % more or less when timed again): stop")
    assert failures(summary, None) == []
    assert command._status([], [], [doubt]) == command.TOO_BUSY
    assert command._status(["bytes not exact"], ["bytes not exact"], [doubt]) == command.FAILED
    assert "say nothing" not in capsys.readouterr().out.splitlines()[-1]
    assert doubts(summarise_validation(validation(outcome("lru", 2.0, (1.0, 1.0)))), 0.1) == []


def test_json_has_the_summary(model: str, fitted: str) -> None:
    words = ("validate", "--model", model, "--fit", fitted, *SMALL, "--policies", "pregate", "--format", "json")
    done = CliRunner().invoke(application(), [*words])
    assert json.loads(done.stdout)["policies"]["pregate"]["n"] == 1
    assert "validating: predicting" in done.stderr.splitlines()


def test_a_suite_runs_its_own_groups(fitted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = cases.CaseGroup(MODELS["encoder-decoder"], cases.CaseWorkload(1, 4, 3), ("pregate",), link_bytes_per_s=20e6)
    monkeypatch.setitem(cases.SUITES, "quick", lambda: [group])
    status, text = run("--suite", "quick", "--fit", fitted, "--repeats", "1", "--backend", "cpu")
    assert status == 0
    assert "pregate" in text


def test_runs_that_were_kept_are_judged_again(fitted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = cases.CaseGroup(MODELS["encoder-decoder"], cases.CaseWorkload(1, 4, 3), ("pregate",), link_bytes_per_s=20e6)
    monkeypatch.setitem(cases.SUITES, "quick", lambda: [group])
    live, again = tmp_path / "live", tmp_path / "again"
    run("--suite", "quick", "--fit", fitted, "--repeats", "1", "--backend", "cpu", "-o", str(live))
    both = tmp_path / "both.json"
    words = ("--suite", "quick", "--fit", fitted, "--recorded", str(live), "-o", str(again), "--timeline", str(both))
    status, _ = run(*words)
    assert status == 0
    timelines = json.loads(both.read_text())
    (said,) = timelines["otherData"]["cases"].values()
    slices = [sum(e["ph"] == "X" and e["pid"] == pid for e in timelines["traceEvents"]) for pid in (1, 2)]
    assert slices == [said["ops"], said["ops"]]
    assert sum("cname" in event for event in timelines["traceEvents"]) == 2 * said["n_mismatches"]
    found = [json.loads((folder / "summary.json").read_text())["mape"] for folder in (live, again)]
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert not (again / "runs.npz").exists()
    provenance = json.loads((again / "summary.json").read_text())["provenance"]
    assert provenance["command"] == "pregate validate --suite quick"
    assert provenance["judged again: command"] == "pregate validate --suite quick --recorded"
    kept = (live / "rows.csv").read_bytes()
    with pytest.raises(InvalidInput, match="name another folder"):
        run("--suite", "quick", "--fit", fitted, "--recorded", str(live), "-o", str(live))
    assert (live / "rows.csv").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "quick", "--recorded", "x"), "say of which --suite its runs are, and on which --fit"),
        (("--suite", "quick", "--recorded", "x", "--fit", "t4", "--budget-s", "9"), "nothing is run, leave out"),
        (("--suite", "quick", "--go-on", "--fit", "t4"), "--go-on: name the folder of the earlier call, -o, and its"),
        ((), r"either --suite \(quick, full, published, gpu\)"),
        (("--suite", "quick", "--model", "x"), r"either --suite \(quick, full, published, gpu\)"),
        (("--suite", "quick", "--policies", "lru"), "a suite has its own"),
        (("--suite", "quick", "--backend", "cpu", "--dtype", "bf16"), "a suite has its own"),
        (("--suite", "quick", "--backend", "cpu", "--batch", "2"), "a suite has its own"),
        (("--suite", "quick", "--backend", "cpu", "--input-tokens", "7"), "a suite has its own"),
        (("--suite", "quick", "--backend", "cpu", "--input-tokens", "32"), "--input-tokens: a suite has its own"),
        (("--suite", "quick", "--backend", "cpu", "--tier", "dram"), "--tier: a suite has its own"),
        (("--suite", "quick", "--recorded", "x", "--fit", "t4", "--backend", "auto"), "nothing is run, leave out"),
        (("--suite", "slow", "--backend", "cpu"), "unknown suite 'slow'"),
        (("--model", "switch-base-8", "--backend", "cpu"), "say how fast"),
        (("--model", "switch-base-8", "--backend", "tpu"), "unknown back end 'tpu'"),
        (("--model", "switch-base-8", "--backend", "cuda"), "no CUDA device"),
    ],
)
def test_what_cannot_be_asked_for(words: tuple[str, ...], message: str) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InvalidInput, match=message):
        run(*words)
