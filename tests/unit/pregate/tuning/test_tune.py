"""Settings for a trace: the best is the best, the file is taken back, and drift is told from chance."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import pregate
from hwmodels.platform import load_platform
from pregate.ask.simulation import interpret
from pregate.card.designs import plan_design
from pregate.card.judged_design import judge
from pregate.tuning import tuned
from pregate.tuning.tuned import halves, tune
from simulator.modes import FIFO, Modes
from tests.command_line import Run, runner
from traces.phase import Phase
from traces.statistics.popularity import popularity_of
from traces.storage import save_trace

MODEL = pregate.load_model("mixtral-mini-8")
HW = load_platform("rtx-4090", overrides={"hbm_bytes": "1200MB", "link.h2d_bytes_per_s": 4e9})


def made(seed: int, skew: float = 0.6, batch: int = 6, tokens: int = 12) -> pregate.RoutingTrace:
    dials = pregate.Dials(zipf_exponent=skew, repeat_probability=0.15, layer_correlation=0.0)
    return pregate.synthesize(MODEL, tokens, tokens, batch, seed, dials=dials)


SHORT = made(1, tokens=6)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.mark.parametrize("objective", ["ttft", "throughput"])
def test_the_best_is_the_best_of_all_that_were_judged(objective: str) -> None:
    found = tune(MODEL, HW, SHORT, objective=objective, now="on_demand")
    costs = [one.judged.cost(objective) for one in found.ranked]
    assert costs == sorted(costs)
    assert len({one.policy for one in found.ranked}) == len(found.ranked) > 15
    now = next(one for one in found.ranked if one.policy == "on_demand")
    value, there = found.best.judged.estimate(objective).value, now.judged.estimate(objective).value
    times = value / there if objective == "throughput" else there / value
    assert found.gains["nothing"].times == pytest.approx(times)
    low, high = found.gains["nothing"].interval
    assert low <= times <= high
    assert found.gains["nothing"].abstains == (low <= 1 <= high)


def test_chunks_are_tried_where_weights_are_copied_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none are, chunks change no time at all."""
    roomy, timed = load_platform("rtx-4090"), list[str]()
    work, _ = halves(MODEL, SHORT)
    resident = judge(plan_design(MODEL, roomy, work, "gpu_only"), work.job)
    captured = resident.schedules.tokens
    plain, chunked = (
        interpret(captured, roomy, "event", modes=modes).tpot_s
        for modes in (FIFO, Modes(link="priority", chunk_bytes=1 << 18))
    )
    assert plain == chunked
    monkeypatch.setattr(tuned, "interpret", lambda *args, **named: timed.append(args[2]) or interpret(*args, **named))
    assert tuned._chunked(resident, roomy) == (None, 1.0)
    assert not timed
    tuned._chunked(judge(plan_design(MODEL, HW, work, "pregate"), work.job), HW)
    assert timed == ["event"] * 5


def test_of_one_sequence_experts_are_kept_by_its_first_prompt_whatever_is_read_later() -> None:
    trace = made(3, batch=1, tokens=40)
    later = (trace.position >= 50) & (trace.position < 55)  # of its answer, now a prompt in one step
    step = np.unique(np.where(later, trace.step[later].min(), trace.step), return_inverse=True)[1]
    turns = dataclasses.replace(trace, phase=np.where(later, Phase.PREFILL, trace.phase), step=step)
    for one in (trace, turns):
        work, in_view = halves(MODEL, one)
        assert not in_view
        assert work.popularity.digest == popularity_of(trace.first_steps(1)).digest


def test_the_prompt_of_an_encoder_says_nothing_of_a_decoder_so_that_all_is_in_view() -> None:
    model = pregate.load_model("switch-mini-16")
    trace = pregate.synthesize(model, 40, 4, 1, 0)
    work, in_view = halves(model, trace)
    assert in_view
    assert work.popularity.digest == popularity_of(trace).digest


def test_a_format_that_the_engine_does_not_read_is_the_reason_and_no_lack_of_memory() -> None:
    model, trace = pregate.load_model("mixtral-mini-8", dtype="fp8"), made(1, batch=1, tokens=4)
    with pytest.raises(pregate.InvalidInput, match="no setting runs on rtx-4090: llama-cpp reads no weights in fp8"):
        tune(model, load_platform("rtx-4090", "llama-cpp"), trace)


def test_what_was_found_of_settings_is_not_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["pregate", "on_demand+static:0.25", "prefetch_all"]
    plain = tune(MODEL, HW, SHORT, policies=few, now="on_demand")
    first = tune(MODEL, HW, SHORT, policies=few, now="on_demand", cache_dir=tmp_path)
    monkeypatch.setattr("pregate.card.design_schedules.capture_request", lambda asked: pytest.fail("written again"))
    again = tune(MODEL, HW, SHORT, policies=few, now="on_demand", cache_dir=tmp_path)
    assert again.to_dict() == first.to_dict() == plain.to_dict()


def test_a_setting_gains_nothing_over_itself() -> None:
    found = tune(MODEL, HW, SHORT, now="on_demand")
    again = tune(MODEL, HW, SHORT, now=found.best.policy)
    assert again.gains["nothing"].times == 1
    assert again.gains["nothing"].interval == (1, 1)


def test_experts_are_kept_by_sequences_that_do_not_judge() -> None:
    """Were they kept by those that judge, a static cache would hit more than by the others."""
    trace = made(3, skew=0.0, batch=2)
    own = pregate.simulate(MODEL, HW, trace.of_sequences([1]), "on_demand+static:0.25").hit_rate
    kept = ["on_demand+static:0.25"]
    found = tune(MODEL, HW, trace, policies=kept)
    judged = next(one for one in found.ranked if one.policy == "on_demand+static:0.25").judged
    assert judged.hit_rate < own
    assert not found.in_view
    assert tune(MODEL, HW, made(3, batch=1), policies=kept).in_view
    assert not tune(MODEL, HW, made(3, batch=1, tokens=40), policies=kept).in_view


def test_no_setting_is_begun_after_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 1e6, 100.0).tolist())
    monkeypatch.setattr("pregate.tuning.tuned.process_time", lambda: next(clock))
    told: list[str] = []
    found = tune(MODEL, HW, SHORT, budget_s=250, now="on_demand", say=told.append)
    assert 1 <= len(found.ranked) <= 4
    assert found.ranked[-1].policy
    assert len(found.left_out) > 15
    assert "at most" in told[0]
    assert "CPU seconds" in told[0]


def test_formats_are_tried_and_told_apart() -> None:
    small = pregate.load_model("mixtral-mini-8", formats={"all": "q4_k"})
    found = tune(MODEL, HW, SHORT, formats=[("all=q4_k", small)], now="on_demand")
    assert {one.formats for one in found.ranked} == {"", "all=q4_k"}
    mine, other = (next(x for x in found.ranked if (x.policy, x.formats) == ("on_demand", f)) for f in ("", "all=q4_k"))
    assert other.judged.tpot.value < mine.judged.tpot.value
    assert "(all=q4_k)" in str(other)


def rolled(trace: pregate.RoutingTrace, by: int) -> pregate.RoutingTrace:
    """The trace with every expert another one, the same for all tokens."""
    from dataclasses import replace

    experts = trace.experts.astype(np.int64)
    return replace(trace, experts=np.where(experts >= 0, (experts + by) % trace.n_experts, -1).astype(np.int16))


def test_the_file_is_a_sweep_and_the_next_tuning_starts_from_it(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_trace(made(1), tmp_path / "early.safetensors")
    save_trace(rolled(made(2), 3), tmp_path / "late.safetensors")
    words = ("tune", "mixtral-mini-8", "--hardware", "rtx-4090", "--hbm", "1200MB", "--set", "link.h2d_bytes_per_s=4e9")
    status, out, err = command(*words, "--trace", "early.safetensors", "-o", "tuned.yaml", "--now", "on_demand")
    assert status == 0, err
    assert "CPU seconds" in err
    chosen = yaml.safe_load((tmp_path / "tuned.yaml").read_text())["policies"][0]
    assert f": {chosen}." in out
    status, out, err = command("sweep", "tuned.yaml", "--no-cache", "--format", "json")
    assert status == 0, err
    assert chosen in {row["policy"] for row in json.loads(out)["policies"]}
    more = (*words, "--trace", "late.safetensors", "--after", "tuned.yaml")
    status, out, err = command(*more, "-o", "later.yaml", "--format", "json")
    assert status == 0, err
    found = json.loads(out)
    assert found["drift"]["p_value"] < 0.05
    assert found["gains"]["nothing"]["over"] == chosen
    for wrong, reason in (
        ((*more, "--now", "pregate"), "leave out --now"),
        ((*more, "-o", "tuned.yaml"), "tuned.yaml"),
        ((*words, "--trace", "late.safetensors", "--after", "none.yaml"), "none.yaml: cannot be read"),
        ((*words, "--trace", "late.safetensors", "--objective", "beauty"), "unknown objective 'beauty'"),
        ((*words, "--trace", "late.safetensors", "--policies", "pregat"), "did you mean"),
    ):
        status, out, err = command(*wrong)
        assert (status, out) == (2, "")
        assert reason in err.splitlines()[-1]
        assert "Traceback" not in err
