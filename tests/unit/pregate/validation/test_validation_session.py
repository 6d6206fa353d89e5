"""Predict, write that down, run for real, put side by side: on models so small that only the bookkeeping matters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hwmodels.calibrate.measurements import workload_digest
from hwmodels.fits.trust import Trust
from hwmodels.platform import load_platform
from hwmodels.quantity import ReadOnly
from offload.ops import Lane, OpKind
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator.modes import Modes
from tests.small_fits import platform
from tests.small_models import MODELS
from tests.told_watch import QUIET, Watch
from traces.errors import InvalidInput, UnknownName

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.validation import session as session_module  # noqa: E402
from pregate.validation.cases import SUITE_POLICIES, SUITES, CaseGroup, CaseWorkload, suite_named  # noqa: E402
from pregate.validation.outcome import Measurement  # noqa: E402
from pregate.validation.predictions import PreparedCase, predict, predictions_document, prepare_cases  # noqa: E402
from pregate.validation.runs import case_runner as runs_module  # noqa: E402
from pregate.validation.runs.recording import achieved_bound_s, load_recording  # noqa: E402
from pregate.validation.scores.validation_summary import summarise_validation  # noqa: E402
from pregate.validation.session import PREDICTIONS, RUNS, ValidationPlan, rejudge, validate  # noqa: E402
from runtime.machine.watch import Seen  # noqa: E402
from runtime.run import OutputMismatch  # noqa: E402

SMALL = MODELS["decoder-only"]
GROUP = CaseGroup(SMALL, CaseWorkload(1, 4, 4, seed=3), SUITE_POLICIES, link_bytes_per_s=20e6, hbm_share=0.5)
LOUD = Seen(foreign=1.0, steal=0.0, clock=1.0)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "LoadWatch", Watch)


@pytest.mark.parametrize("name", MODELS)
def test_bytes_and_residency_are_exact_and_policies_agree(name: str, quiet: None, tmp_path: Path) -> None:
    group = dataclasses.replace(GROUP, model=MODELS[name])
    found = validate([group], platform(), ValidationPlan(repeats=1), directory=tmp_path)
    assert [outcome.case.policy for outcome in found.outcomes] == list(SUITE_POLICIES)
    for outcome in found.outcomes:
        assert outcome.measurement is not None
        assert outcome.measurement.exact == outcome.prediction.exact
        assert {kind: op.n for kind, op in outcome.measurement.ops.items()} == {
            kind: op.n for kind, op in outcome.prediction.ops.items()
        }
    summary = summarise_validation(found)
    assert summary["valid"]
    assert summary["bytes_exact"]
    assert summary["residency_exact"]
    assert summary["outputs_equal"]
    written = json.loads((tmp_path / PREDICTIONS).read_text())
    assert [row["metrics"]["tpot_s"] for row in written] == [o.prediction.metrics["tpot_s"] for o in found.outcomes]


def test_recorded_runs_are_judged_again_without_a_device(quiet: None, tmp_path: Path) -> None:
    paced = dataclasses.replace(GROUP, link_bytes_per_s=None, ratio=1.0, policies=("on_demand", "pregate"))
    live = validate([paced], platform(), ValidationPlan(repeats=2), directory=tmp_path)
    recording = load_recording(tmp_path / RUNS)
    other = dataclasses.replace(GROUP, policies=("lru",))
    again = rejudge([paced, other], platform(), recording)
    assert again.predicted_first == ""
    assert dict(again.skipped) == {other.name: "not recorded"}
    for here, there in zip(live.outcomes, again.outcomes, strict=True):
        assert here.prediction.metrics == there.prediction.metrics
        assert here.measurement is not None
        assert there.measurement is not None
        assert there.measurement.median("tpot_s") == pytest.approx(here.measurement.median("tpot_s"), rel=1e-12)
        assert there.measurement.exact == here.measurement.exact
    assert recording.routings[paced.name].digest == paced.workload.trace(SMALL).digest
    with pytest.MonkeyPatch.context() as changed:  # a generator that is another by now
        changed.setattr(CaseWorkload, "trace", lambda self, model: pytest.fail("made anew"))
        assert (
            rejudge([paced], platform(), recording).outcomes[0].prediction.metrics
            == live.outcomes[0].prediction.metrics
        )
    with pytest.raises(InvalidInput, match="the recording has runs of none of these groups"):
        rejudge([other], platform(), recording)
    with pytest.raises(InvalidInput, match="what would run is streams"):
        rejudge([paced], platform(), dataclasses.replace(recording, stack="streams"))


def test_a_validation_goes_on_where_an_earlier_call_ended(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataclasses.replace(GROUP, policies=("on_demand", "pregate"))
    other = dataclasses.replace(first, workload=CaseWorkload(2, 4, 4, seed=3))
    plan = ValidationPlan(repeats=1, provenance=ReadOnly({"date": "one"}))
    whole = validate([first], platform(), plan, directory=tmp_path)
    ran: list[str] = []
    real = runs_module.Runner.measure

    def measure(self: runs_module.Runner, group: list[PreparedCase], drawn: list[str]) -> list[Measurement]:
        ran.append(group[0].case.group)
        return real(self, group, drawn)

    monkeypatch.setattr(runs_module.Runner, "measure", measure)
    further = dataclasses.replace(plan, go_on=True, provenance=ReadOnly({"date": "two"}))
    for _ in range(2):  # the second time nothing is left to run
        found = validate([first, other], platform(), further, directory=tmp_path)
        assert ran == [other.name]
        assert [one.case.group for one in found.outcomes] == [first.name] * 2 + [other.name] * 2
        recording = load_recording(tmp_path / RUNS)
        assert list(recording.routings) == [first.name, other.name]
        assert (recording.provenance["date"], recording.provenance["begun"]) == ("two", "one")
    before, after = (one.outcomes[0].measurement for one in (whole, found))
    assert before is not None
    assert after is not None
    assert after.median("tpot_s") == pytest.approx(before.median("tpot_s"), rel=1e-12)
    slower = dataclasses.replace(platform(), overridden={"sync_s": 1e-3})
    with pytest.raises(InvalidInput, match="would be predicted otherwise now: give the fit of then"):
        validate([first], slower, further, directory=tmp_path)
    monkeypatch.setattr(session_module, "describe_device", lambda _: {"name": "another"})
    with pytest.raises(InvalidInput, match="here is threads on another: name another folder"):
        validate([first], platform(), further, directory=tmp_path)


def test_a_call_that_is_ended_keeps_the_groups_that_ran(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataclasses.replace(GROUP, policies=("on_demand",))
    other = dataclasses.replace(first, workload=CaseWorkload(2, 4, 4, seed=3))
    real = runs_module.Runner.measure

    def measure(self: runs_module.Runner, group: list[PreparedCase], drawn: list[str]) -> list[Measurement]:
        if group[0].case.group == other.name:
            raise KeyboardInterrupt
        return real(self, group, drawn)

    monkeypatch.setattr(runs_module.Runner, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        validate([first, other], platform(), ValidationPlan(repeats=1), directory=tmp_path)
    recording = load_recording(tmp_path / RUNS)
    assert recording.has(first)
    assert not recording.has(other)


def test_a_report_says_what_was_predicted_beyond_fifo_lanes(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    group = dataclasses.replace(GROUP, policies=("on_demand",))
    assert "predicted with" not in validate([group], platform(), ValidationPlan(repeats=1)).provenance
    monkeypatch.setattr(session_module, "modes_measured", lambda _: Modes(beside_copies=True))
    found = validate([group], platform(), ValidationPlan(repeats=1))
    assert found.provenance["predicted with"] == "kernels slowed by copies"


def test_experts_on_storage_are_read_as_often_as_predicted(quiet: None, tmp_path: Path) -> None:
    group = dataclasses.replace(GROUP, expert_tier="ssd", policies=("gpu_only", "on_demand", "pregate", "lru"))
    assert group.name == f"{SMALL.name}/b1/ssd/0.02GBps"
    found = validate([group], platform(), ValidationPlan(repeats=1, storage=tmp_path))
    summary = summarise_validation(found)
    assert summary["bytes_exact"]
    assert summary["residency_exact"]
    assert summary["outputs_equal"]
    read = {outcome.case.policy: outcome.prediction.exact["disk_bytes"] for outcome in found.outcomes}
    assert read["gpu_only"] == 0
    assert 0 < read["lru"] <= read["on_demand"] == read["pregate"]
    assert not list(tmp_path.iterdir()), "nothing stays"
    with pytest.raises(InvalidInput, match=r"on storage \(--tier ssd\): name a folder for them, --storage DIR"):
        validate([group], platform(), ValidationPlan(repeats=1))


def test_predictions_are_written_before_anything_runs(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert (tmp_path / PREDICTIONS).exists()
        raise OutputMismatch("a run went wrong")

    monkeypatch.setattr(runs_module, "execute_captured", lambda *args, **rest: fail())
    with pytest.raises(OutputMismatch):
        validate([GROUP], platform(), ValidationPlan(repeats=1), directory=tmp_path)


class Script(Watch):
    """A watch that sees one thing after another."""

    def __init__(self, *seen: Seen) -> None:
        self.script = iter(seen)

    def __call__(self, clock: object) -> Script:
        return self

    def __enter__(self) -> Script:
        self.seen = next(self.script)
        return self


def test_a_machine_that_is_never_quiet_is_measured_and_the_summary_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    louder = Seen(foreign=1.5, steal=0.0, clock=1.0)
    monkeypatch.setattr(runs_module, "LoadWatch", Script(louder, LOUD, LOUD))
    group = dataclasses.replace(GROUP, policies=("on_demand",))
    found = validate([group], platform(), ValidationPlan(repeats=3, tries=5))  # five more would be no quieter
    measurement = found.outcomes[0].valid
    assert measurement is not None
    assert (len(measurement.runs), measurement.load) == (2, LOUD.load())
    assert found.outcomes[0].disturbances == (louder.disturbance(),)
    assert measurement.exact == found.outcomes[0].prediction.exact  # load changes no byte
    summary = summarise_validation(found)
    assert (summary["n"], summary["bytes_exact"]) == (1, True)
    assert summary["trust"]["level"] in ("low", "none")  # by how far apart the two runs are, which the machine decides
    assert summary["trust"]["reasons"][-1] == "1 of 1 configurations were timed beside other work"
    assert not summary["valid"]


def test_the_fit_of_a_busy_machine_is_trusted_no_more_for_quiet_runs(quiet: None) -> None:
    hw = platform()
    assert hw.fit is not None
    doubtful = dataclasses.replace(hw.fit, provenance={**hw.fit.provenance, **Trust("low", ("busy",)).recorded()})
    hw = dataclasses.replace(hw, fit=doubtful)
    found = validate([dataclasses.replace(GROUP, policies=("on_demand",))], hw, ValidationPlan(repeats=1))
    assert summarise_validation(found)["trust"] == {"level": "low", "scatter": None, "reasons": ["the fit: busy"]}


def test_a_disturbed_run_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "LoadWatch", Script(LOUD, QUIET, LOUD, QUIET))
    found = validate(
        [dataclasses.replace(GROUP, policies=("pregate",))], platform(), ValidationPlan(repeats=2, tries=2)
    )
    assert len(found.outcomes[0].disturbances) == 2
    measurement = found.outcomes[0].valid
    assert measurement is not None
    assert (len(measurement.runs), measurement.load) == (2, 0.0)


def test_a_policy_that_computes_something_else_is_fatal(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runs_module.execute_captured
    calls = []

    def other_every_time(*args: object, **rest: object) -> object:
        calls.append(1)
        return dataclasses.replace(real(*args, **rest), digest=f"{len(calls)}")  # type: ignore[arg-type]

    monkeypatch.setattr(runs_module, "execute_captured", other_every_time)
    with pytest.raises(OutputMismatch, match="different hidden states"):
        validate([dataclasses.replace(GROUP, policies=("on_demand", "pregate"))], platform(), ValidationPlan(repeats=1))


def test_a_fit_is_not_judged_by_what_it_was_made_on(quiet: None) -> None:
    seen = workload_digest(SMALL, GROUP.workload.trace(SMALL))
    with pytest.raises(InvalidInput, match="made on this very workload"):
        validate([GROUP], platform(probes=(seen,)), ValidationPlan(repeats=1))


def test_without_a_fit_nothing_is_validated() -> None:
    with pytest.raises(InvalidInput, match="has no fit: pregate measure"):
        validate([GROUP], load_platform("rtx-4090", "streams"), ValidationPlan())


@pytest.mark.parametrize("ratio", [0.3, 1.0, 10.0])
def test_a_ratio_says_what_the_link_is(ratio: float) -> None:
    """With the link it gives, on-demand decoding moves experts for `ratio` times as long as it computes."""
    hw = platform()
    prepared = prepare_cases(
        dataclasses.replace(GROUP, link_bytes_per_s=None, ratio=ratio, policies=("on_demand",)), hw
    )[0]
    prediction = predict(prepared)
    kernels = ("self_attention", "gate", "experts", "dense_ffn", "head")
    compute_s = sum(prediction.ops[kind].total_s for kind in kernels if kind in prediction.ops)
    n_bytes = prediction.ops["fetch"].n * SMALL.expert_bytes
    assert n_bytes / prepared.link_bytes_per_s / compute_s == pytest.approx(ratio, rel=1e-9)  # type: ignore[operator]


def test_naive_baselines_are_what_they_say() -> None:
    hw = platform()
    on_demand, resident = prepare_cases(dataclasses.replace(GROUP, policies=("on_demand", "gpu_only")), hw)
    moved, still = predict(on_demand).naive, predict(resident).naive
    assert moved["serialised"] == pytest.approx(moved["roofline"] + moved["bandwidth"])
    assert still["bandwidth"] == 0
    assert still["roofline"] == pytest.approx(moved["roofline"])
    n_steps = 3  # four tokens, the first of which is the prefill's
    fetched = predict(on_demand).ops["fetch"].n * SMALL.expert_bytes
    assert moved["bandwidth"] == pytest.approx(fetched / 20e6 / n_steps)


def test_the_document_of_predictions_names_every_schedule() -> None:
    prepared = prepare_cases(GROUP, platform())
    text, digest = predictions_document([(one, predict(one)) for one in prepared])
    assert [row["schedule"] for row in json.loads(text)] == [one.captured.decoded.schedule.digest for one in prepared]
    assert len(digest) == 16


def test_suites_have_distinct_cases_and_policies_that_exist() -> None:
    for name in SUITES:
        groups = suite_named(name)
        names = [f"{group.name}/{policy}" for group in groups for policy in group.policies]
        assert len(names) == len(set(names))
    with pytest.raises(UnknownName, match="quick"):
        suite_named("quik")


def test_the_bound_of_a_run_by_hand() -> None:
    """Passes bound by compute and the first fetch, by all fetches, by a block of two experts, by compute alone."""
    gate, fetch, expert = (Lane.COMPUTE, OpKind.GATE), (Lane.H2D, OpKind.FETCH), (Lane.COMPUTE, OpKind.EXPERTS)
    ops = [  # step, layer, op, seconds
        (0, 0, gate, 2.0), (0, 0, fetch, 3.0), (0, 0, expert, 4.0),
        (1, 0, expert, 1.0), (1, 0, fetch, 5.0), (1, 1, fetch, 6.0),
        (2, 0, gate, 9.0), (2, 0, fetch, 5.0), (2, 0, fetch, 5.0), (2, 0, expert, 2.0), (2, 0, expert, 3.0),
        (3, 0, gate, 1.0),
    ]  # fmt: skip
    schedule = _schedule([op[2][0] for op in ops], [op[2][1] for op in ops], [op[0] for op in ops])
    schedule = dataclasses.replace(schedule, layer=np.array([op[1] for op in ops], dtype=schedule.layer.dtype))
    took, start = np.array([op[3] for op in ops]), np.zeros(len(ops))
    bounds = (2 + 4 + 3) + (5 + 6) + (9 + 2 + 5 + 5) + 1  # of the third pass's experts, 3 s run beside a fetch
    assert achieved_bound_s(Timeline(schedule, start, start + took, "by hand")) == bounds


def _schedule(lanes: list[Lane], kinds: list[OpKind], steps: list[int]) -> Schedule:
    prepared = prepare_cases(dataclasses.replace(GROUP, policies=("on_demand",)), platform())[0]
    whole = prepared.captured.decoded.schedule
    n = len(lanes)
    columns = {
        name: getattr(whole, name)[:n]
        for name in ("cost", "layer", "expert", "slot", "bytes", "hbm_acquired", "hbm_released", "priority")
    }
    return dataclasses.replace(
        whole,
        lane=np.array(lanes, dtype=np.int8),
        kind=np.array(kinds, dtype=np.int8),
        step=np.array(steps, dtype=np.int32),
        dep_ptr=np.zeros(n + 1, dtype=np.int64),
        dep=np.zeros(0, dtype=np.int32),
        cancelled_by=np.full(n, -1, dtype=np.int32),
        **columns,
    )
