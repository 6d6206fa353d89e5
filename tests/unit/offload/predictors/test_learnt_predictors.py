"""Predictors that have learnt before a run, what sweeps say of guesses, curves behind an encoder, and who can win."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pregate
from offload.policies import policy_named
from offload.policy import RunFacts
from offload.predictors.catalogue import GUESSERS, guesser_named
from offload.predictors.curves import Curve, CurvePoint
from offload.predictors.judged_predictors import judge_predictors
from offload.predictors.learnt import lessons_named
from offload.predictors.next_gate import CurveGate
from pregate.ask.replays.predictors import learning_part
from pregate.ask.timing.prefetch_arrays import AHEAD
from tests.command_line import Run, runner
from tests.small_models import decoder_only, encoder_decoder
from traces.errors import InvalidFile, InvalidInput
from traces.phase import Phase
from traces.storage import save_trace

HARDWARE = "rtx-4090"
LEARNING = [name for name in GUESSERS if name != "uniform"]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def lessons_of(tmp_path: Path, n_output: int = 20, batch: int = 4) -> str:
    model = decoder_only()
    path = tmp_path / "lessons.safetensors"
    save_trace(pregate.synthesize(model, 3, n_output, batch, seed=8), path)
    return str(path)


def test_what_learns_is_what_the_judgement_learnt_from() -> None:
    trace = pregate.synthesize(decoder_only(), 3, 9, 5, seed=2)
    part = learning_part(trace)
    found = judge_predictors(trace, ["popular"], [1], [0])
    assert part.n_tokens == int(found.split.learns.sum())
    assert set(part.sequence.tolist()) == {0, 2, 4}
    assert np.all(part.phase == Phase.DECODE)
    alone = learning_part(pregate.synthesize(decoder_only(), 3, 9, 1, seed=2))
    assert alone.n_tokens == 4  # the first half of eight


@pytest.mark.parametrize("name", LEARNING)
def test_lessons_leave_a_predictor_as_passes_would(name: str, tmp_path: Path) -> None:
    model = decoder_only()
    lessons = lessons_named(lessons_of(tmp_path))
    facts = RunFacts(model.n_moe_layers, 0, model.n_experts, model.top_k)
    taught, fresh = (guesser_named(name, model.n_moe_layers, model.n_experts, (1,)) for _ in range(2))
    lessons.give(taught, facts)
    from offload.predictors.histories import Histories

    histories = Histories(model.n_moe_layers, model.n_experts)
    before = histories.before(np.array([100], np.int32), model.top_k)
    scores = []
    for one in (taught, fresh):
        one.begin(before)
        one.saw(0, lessons.trace.experts[:1, 0])
        scores.append(one.scores(1))
    assert np.all(np.isfinite(scores[0]))
    assert not np.array_equal(*scores)
    assert not np.any(scores[1])  # nothing learnt, nothing known of this sequence


def test_a_design_that_has_learnt_guesses_better_and_is_another_design(tmp_path: Path) -> None:
    model, path = decoder_only(), lessons_of(tmp_path, 40, 8)
    trace = pregate.synthesize(model, 3, 6, 2, seed=8)
    plain, learnt = (pregate.simulate(model, HARDWARE, trace, f"guess/popular{how}") for how in ("", f":from={path}"))
    assert plain.prefetches is not None
    assert learnt.prefetches is not None
    assert learnt.prefetches.n_ahead > plain.prefetches.n_ahead
    assert learnt.policy == f"guess/popular:from={path}"
    found = [pregate.simulate(model, HARDWARE, trace, learnt.policy, engine=e) for e in ("des", "recurrence", "stream")]
    assert len({(one.schedule_digest, one.makespan_s) for one in found}) == 1
    digest = lessons_named(path).digest
    assert lessons_named(lessons_of(tmp_path, 41, 8)).digest != digest  # another file is another design, in every key


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("guess/uniform:from={path}", "learns nothing"),
        ("guess/next_gate:from={path}", "only guess takes from="),
        ("pregate:from={path}", "takes from="),
        ("guess/markov:from=nosuch.safetensors", "no such file"),
        ("guess/markov:from={path}:from={path}", "says from twice"),
        ("guess/markov:from=", "cannot be read"),
    ],
)
def test_lessons_that_cannot_be_are_one_line(policy: str, said: str, tmp_path: Path) -> None:
    with pytest.raises((InvalidInput, InvalidFile), match=said):
        policy_named(policy.format(path=lessons_of(tmp_path)))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00" * 64, b"\x80\x04\x95", b"PK\x03\x04", b"\xff" * 4096,
        (8).to_bytes(8, "little") + b'{"a": 1}', (1 << 62).to_bytes(8, "little") + b"{}",
        b'cos\nsystem\n(S"touch run.txt"\ntR.',
    ],
)  # fmt: skip
def test_a_hostile_file_of_lessons_is_refused_and_runs_nothing(cli: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    status, out, err = cli(
        "simulate", "switch-mini-16", "--hardware", HARDWARE, "--output-tokens", "4", "--policy",
        "guess/markov:from=bad.safetensors",
    )  # fmt: skip
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert not (tmp_path / "run.txt").exists()


def test_lessons_of_another_model_are_refused(tmp_path: Path) -> None:
    path, other = lessons_of(tmp_path), decoder_only(n_experts=7)
    with pytest.raises(InvalidInput, match="experts = 6, the model that is asked about has 7"):
        pregate.simulate(other, HARDWARE, pregate.synthesize(other, 3, 4), f"guess/markov:from={path}")


def test_lessons_are_saved_and_used_from_the_command_line(cli: Run, tmp_path: Path) -> None:
    lessons_of(tmp_path)
    asked = ("predictors", "lessons.safetensors", "--predictors", "markov", "--lookahead", "1", "--more", "0")
    status, _, err = cli(*asked, "--save", "learnt.safetensors")
    assert status == 0, err
    assert "wrote learnt.safetensors" in err
    assert pregate.load_trace(tmp_path / "learnt.safetensors").n_sequences == 2
    for bad, said in (("learnt.npz", ".safetensors"), ("no/learnt.safetensors", "no folder"),
                      ("lessons.safetensors", "would be overwritten")):  # fmt: skip
        status, _, err = cli(*asked, "--save", bad)
        assert status == 2
        assert said in err


def test_a_sweep_says_of_guesses_what_simulations_say() -> None:
    model = decoder_only()
    trace = pregate.synthesize(model, 6, 8, 2)
    policies, rates = ["on_demand", "guess/markov+lru:4", "guess/next_gate:recall=0.8"], [4e9, 64e9]
    found = pregate.sweep(
        model, HARDWARE, trace, policies=policies, axes={"link.h2d_bytes_per_s": rates}, cache_dir=False
    )
    for i, policy in enumerate(policies):
        for j, rate in enumerate(rates):
            hw = pregate.load_hardware(HARDWARE, overrides={"link.h2d_bytes_per_s": rate})
            alone = pregate.simulate(model, hw, trace, policy).prefetches
            for name in AHEAD:
                here = float(found[f"prefetch_{name}"].isel(policy=i).values[j])
                due = None if alone is None else getattr(alone, name)
                assert np.isnan(here) if due is None else here == due, (policy, name)  # of nothing read ahead: None
    assert found["prefetch_early_s"].attrs["units"] == "s"
    assert found["prefetch_wasted_bytes"].attrs["units"] == "B"
    assert np.diff(found["prefetch_early_s"].values[2]) > 0  # a faster link brings it earlier


def test_shared_links_say_it_too_and_plain_sweeps_have_no_such_figures() -> None:
    model = decoder_only()
    trace = pregate.synthesize(model, 6, 6, 2)
    from simulator.modes import Modes

    modes = Modes(link="shared")
    with pytest.warns(UserWarning, match="event"):
        found = pregate.sweep(
            model, HARDWARE, trace, policies=["guess/markov"], axes={"batch": [1, 2]}, modes=modes, cache_dir=False
        )
    alone = pregate.simulate(model, HARDWARE, trace, "guess/markov", modes=modes).prefetches
    assert alone is not None
    assert float(found["prefetch_early_s"].values[0, 1]) == alone.early_s
    plain = pregate.sweep(model, HARDWARE, trace, policies=["pregate"], axes={"batch": [1]}, cache_dir=False)
    assert not [name for name in plain.data_vars if str(name).startswith("prefetch_")]


def test_a_share_of_nothing_is_a_dash(cli: Run) -> None:
    asked = ("olmoe-1b-7b", "--hardware", HARDWARE, "--input-tokens", "4", "--output-tokens", "3")
    status, out, _ = cli("compare", *asked, "--policies", "mixed_precision")
    assert status == 0
    line = next(line for line in out.splitlines() if "mixed_precision" in line and "wins" not in line and "GB" in line
                and line.count("│") == 9)  # fmt: skip
    assert [cell.strip() for cell in line.split("│")][2:4] == ["0", "-"]
    status, out, _ = cli("simulate", *asked, "--policy", "mixed_precision", "--format", "json")
    assert json.loads(out)["prefetches"]["precision"] is None


def test_curves_count_layers_from_the_decoders_first() -> None:
    model = encoder_decoder()
    n = model.n_moe_layers - model.n_encoder_moe_layers
    assert model.n_encoder_moe_layers > 0
    points = tuple(
        CurvePoint(1, 0, layer, 1.0 if layer < n else 0.0) for layer in range(n + model.n_encoder_moe_layers)
    )
    curve = Curve("ours", "made up", "recall", "here", "2025", points)
    asked: list[int] = []

    def watched(i_step: int, layer: int, chosen: np.ndarray, n_experts: int) -> np.ndarray:
        asked.append(layer)
        return CurveGate(curve)(i_step, layer, chosen, n_experts)

    from dataclasses import replace

    policy = replace(policy_named("guess/next_gate"), predictor=watched)
    found = pregate.simulate(model, HARDWARE, pregate.synthesize(model, 4, 6, 1), policy).prefetches
    assert asked
    assert set(asked) <= set(range(1, n))
    assert found is not None
    assert found.precision == 1.0


@pytest.mark.parametrize(
    ("policies", "best", "said"),
    [
        ("on_demand,oracle", "on_demand", ["oracle (", "knows what no gate has said"]),
        ("on_demand,on_demand+belady:0.5", "on_demand", ["on_demand+belady:0.5 (", "knows what no gate has said"]),
        ("on_demand,mixed_precision+lfu:4", "on_demand", ["skips or rounds experts"]),
        ("oracle,mixed_precision+lfu:4", "oracle", ["oracle knows what no gate has said", "skips or rounds"]),
        ("on_demand,pregate", None, []),
    ],
)
def test_the_winner_is_exact_and_can_be_built(policies: str, best: str | None, said: list[str]) -> None:
    model = decoder_only()
    found = pregate.compare(model, HARDWARE, pregate.synthesize(model, 4, 8), policies)
    verdict = found.verdict()
    assert best is None or verdict.startswith(f"{best} wins")
    assert all(words in verdict for words in said)
    assert bool(said) == ("." in verdict.split("). ", 1)[-1] and "). " in verdict)


def test_a_cache_given_to_all_may_know_the_future_too() -> None:
    model = decoder_only()
    from offload.policies import cache_named

    found = pregate.compare(
        model, HARDWARE, pregate.synthesize(model, 4, 8), ["on_demand", "gpu_only"], cache=cache_named("belady:0.5")
    )
    assert found.ceilings == ("on_demand",)
    assert found.verdict().startswith("gpu_only wins")


def test_a_ceiling_wins_no_stretch_of_an_axis() -> None:
    model = decoder_only()
    trace, axis = pregate.synthesize(model, 4, 8), "link.h2d_bytes_per_s"
    policies = ["on_demand", "oracle", "mixed_precision+lfu:4"]
    found = pregate.crossovers(model, HARDWARE, trace, policies, axis, 1e9, 64e9, n_scan=3)
    assert found.first == "on_demand"
    assert not len(found)
    assert found.not_ranked == ("oracle", "mixed_precision+lfu:4")
    assert "oracle knows what no gate has said" in found.verdict()
    among = pregate.crossovers(model, HARDWARE, trace, policies[1:], axis, 1e9, 64e9, n_scan=3)
    assert among.not_ranked == ("mixed_precision+lfu:4",)
    assert among.first == "oracle"
