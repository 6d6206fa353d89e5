"""Predictors: what they may know, what they learn, and how they are judged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pregate
from offload.predictors import judged_predictors as judging
from offload.predictors.catalogue import GUESSERS, guesser_named
from offload.predictors.guesser import Scores, one_hot, ranked
from offload.predictors.histories import Histories, tokens_of_sequences
from offload.predictors.judged_predictors import judge_predictors
from offload.predictors.judged_unions import batches_of
from pregate.routing_traces import load_trace
from tests.command_line import runner
from traces.errors import InvalidInput, UnknownName
from traces.importers import import_trace
from traces.routing import RoutingTrace
from traces.statistics.bootstrap import ratio_intervals
from traces.transforms.splits import split_tokens

WHOLE = Path(__file__).resolve().parents[5] / "shared" / "traces" / "gptoss20b" / "gptoss20b_mmlu_decode.npz"
N_LAYERS, N_EXPERTS, TOP_K = 5, 8, 2


def chosen_of(n_tokens: int, seed: int = 0) -> NDArray[np.int16]:
    """(n_tokens, N_LAYERS, TOP_K): any experts, none twice in a layer."""
    rank = np.random.default_rng(seed).random((n_tokens, N_LAYERS, N_EXPERTS))
    return np.argsort(rank, axis=2)[:, :, :TOP_K].astype(np.int16)


def following(n_tokens: int, seed: int = 0) -> NDArray[np.int16]:
    """Each layer's experts are those of the layer before, one further on."""
    first = chosen_of(n_tokens, seed)[:, :1]
    return ((first + np.arange(N_LAYERS)[None, :, None]) % N_EXPERTS).astype(np.int16)


def all_scores(name: str, learnt: NDArray[np.int16], asked: NDArray[np.int16]) -> dict[tuple[int, int], Scores]:
    """What a predictor says of every (last layer seen, layer asked for), sequences being of seven tokens."""
    guesser = guesser_named(name, N_LAYERS, N_EXPERTS, (1, 2))
    found = {}
    for chosen, learns in ((learnt, True), (asked, False)):
        sequence = (np.arange(len(chosen)) // 7 + 100 * learns).astype(np.int32)
        for tokens in tokens_of_sequences(sequence, chosen, N_EXPERTS, np.ones(len(chosen), np.bool_)):
            guesser.begin(tokens.before)
            for layer in range(N_LAYERS):
                guesser.saw(layer, chosen[tokens.at, layer])
                for ahead in (1, 2) if not learns else ():
                    if layer + ahead < N_LAYERS:
                        found[layer, layer + ahead] = guesser.scores(layer + ahead)
            if learns:
                guesser.learn()
    return found


@pytest.mark.parametrize("name", GUESSERS)
def test_the_future_of_a_trace_never_changes_a_past_guess(name: str) -> None:
    """Whatever a token chooses at later layers, and whatever later tokens choose, its guesses stay bit for bit."""
    learnt, asked = chosen_of(40), chosen_of(21, seed=1)
    before = all_scores(name, learnt, asked)
    for token, layer in ((0, 1), (9, 2), (20, 4)):
        changed = asked.copy()
        changed[token, layer:] = (changed[token, layer:] + 1) % N_EXPERTS
        changed[token + 1 :] = chosen_of(21, seed=2)[token + 1 :]
        after = all_scores(name, learnt, changed)
        for (last, target), scores in before.items():
            assert np.array_equal(scores[:token], after[last, target][:token])
            if last < layer:
                assert np.array_equal(scores[token], after[last, target][token])


@pytest.mark.parametrize("name", ["markov", "maps", "learned"])
def test_what_follows_from_the_layer_before_is_learnt(name: str) -> None:
    learnt, asked = following(200), following(60, seed=1)
    for (_, target), scores in all_scores(name, learnt, asked).items():
        assert (ranked(scores, TOP_K)[:, :, None] == asked[:, target, None]).any(axis=1).mean() > 0.97


def test_layer_to_layer_counts_are_those_by_hand() -> None:
    learnt, asked = chosen_of(30), chosen_of(5, seed=1)
    scores = all_scores("markov", learnt, asked)[1, 2]
    hot = [one_hot(learnt[:, layer], N_EXPERTS) for layer in (1, 2)]
    popular = hot[1].sum(axis=0) / len(learnt)
    for row, experts in zip(scores, asked[:, 1], strict=True):
        by_hand = sum((hot[0][:, e] @ hot[1] + popular / 2) / (hot[0][:, e].sum() + 1) for e in experts.tolist())
        assert row == pytest.approx(by_hand, rel=1e-5)


def test_the_nearest_other_sequence_says_what_comes() -> None:
    """Two kinds of sequence that differ at layer 0 already: the rest is known from the like one, never from itself."""
    kinds = np.stack([np.full((N_LAYERS, TOP_K), [0, 1]), np.full((N_LAYERS, TOP_K), [6, 7])]).astype(np.int16)
    learnt = np.concatenate([np.repeat(kinds[:1], 7, axis=0), np.repeat(kinds[1:], 7, axis=0)])
    asked = np.repeat(kinds[1:], 7, axis=0)
    for scores in all_scores("matrices", learnt, asked).values():
        assert np.sort(ranked(scores, TOP_K), axis=1).tolist() == [[6, 7]] * 7


def test_what_came_before_is_the_same_pass_by_pass_and_at_once() -> None:
    chosen, sequence = chosen_of(12), np.repeat([4, 9, 30], 4).astype(np.int32)
    (whole,) = tokens_of_sequences(sequence, chosen, N_EXPERTS, np.ones(12, np.bool_))
    histories = Histories(N_LAYERS, N_EXPERTS)
    for i in range(4):
        rows = [i, 4 + i, 8 + i]  # a batch of three
        before = histories.before(sequence[rows], TOP_K)
        assert np.array_equal(before.previous, whole.before.previous[rows])
        assert np.array_equal(before.counts[before.group], whole.before.counts[rows])
        histories.after(sequence[rows], chosen[rows])


def test_some_tokens_at_a_time_know_what_all_at_once_do(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, sequence, wanted = chosen_of(23), np.repeat([0, 1], [11, 12]).astype(np.int32), np.arange(23) % 3 > 0
    (whole,) = tokens_of_sequences(sequence, chosen, N_EXPERTS, wanted)
    monkeypatch.setattr("offload.predictors.histories._CELLS", 5 * N_LAYERS * N_EXPERTS)
    parts = list(tokens_of_sequences(sequence, chosen, N_EXPERTS, wanted))
    assert len(parts) == 5
    assert np.concatenate([part.at for part in parts]).tolist() == np.flatnonzero(wanted).tolist()
    for name in ("previous", "counts", "sequence"):
        assert np.array_equal(np.concatenate([getattr(p.before, name) for p in parts]), getattr(whole.before, name))


def test_tokens_of_a_prompt_do_not_know_each_other() -> None:
    histories = Histories(N_LAYERS, N_EXPERTS)
    before = histories.before(np.array([3, 3, 5], np.int32), TOP_K)
    assert (before.previous == -1).all()
    histories.after(np.array([3, 3, 5], np.int32), chosen_of(3))
    again = histories.before(np.array([3, 5], np.int32), TOP_K)
    assert np.array_equal(again.previous, chosen_of(3)[1:])
    assert again.counts[0].sum() == 2 * N_LAYERS * TOP_K


def test_sequences_are_split_whole() -> None:
    sequence = np.repeat([2, 5, 7, 9, 11], [3, 1, 4, 1, 5]).astype(np.int32)
    alternate, halves = split_tokens(sequence), split_tokens(sequence, "halves")
    assert set(sequence[alternate.learns]) == {2, 7, 11}
    assert set(sequence[halves.learns]) == {2, 5}
    assert (alternate.n_learnt, alternate.n_judged, halves.n_learnt, halves.n_judged) == (3, 2, 2, 3)
    one = split_tokens(np.zeros(9, np.int32))
    assert one.by == "time"
    assert one.learns.tolist() == [True] * 4 + [False] * 5
    with pytest.raises(UnknownName, match="alternate"):
        split_tokens(sequence, "alternat")


def test_intervals_of_shares_hold_what_they_should() -> None:
    """200 sequences of equal weight: the interval is that of a mean, 1.96 standard errors to each side."""
    part = np.random.default_rng(1).normal(0.5, 0.1, (200, 1))
    low, high = ratio_intervals(part, np.ones((200, 1)), np.random.default_rng(0))[:, 0]  # type: ignore[index]
    assert (high - low) / 2 == pytest.approx(1.96 * part.std() / np.sqrt(200), rel=0.1)
    assert ratio_intervals(part[:1], np.ones((1, 1)), np.random.default_rng(0)) is None


@pytest.mark.skipif(not WHOLE.is_file(), reason="the whole gpt-oss-20b recording is not here")
def test_recall_of_the_whole_recording_is_what_was_counted_independently() -> None:
    """Every other of 60 sequences learns; gptoss20b_mmlu_decode.stats.json: k, then 2 k."""
    found = pregate.predictors(import_trace(WHOLE, "gptoss_npz"), ["markov", "popular"], [1], [0, 4])
    assert [found.value("markov", 1, m) for m in (0, 4)] == pytest.approx([0.5719, 0.7681], abs=5e-5)
    assert [found.value("popular", 1, m) for m in (0, 4)] == pytest.approx([0.2783, 0.4863], abs=5e-5)


@pytest.mark.parametrize(
    ("name", "markov", "popular"),
    [("qwen3-30b-a3b-phone", (0.5142, 0.6881), 0.322), ("gpt-oss-120b-phone", (0.3585, 0.4786), 0.2031)],
)
def test_recall_of_a_single_prompt_is_what_was_counted(name: str, markov: tuple[float, float], popular: float) -> None:
    """One greedy prompt each, at a reduced top-k. Where scores are equal others are taken there."""
    trace = load_trace(name)
    found = pregate.predictors(trace, ["markov", "popular"], [1], [0, trace.top_k])
    assert [found.value("markov", 1, m) for m in (0, trace.top_k)] == pytest.approx(markov, abs=6e-4)
    assert found.value("popular") == pytest.approx(popular, abs=0.003)
    assert found.split == "time"
    assert "one sequence" in found.note
    assert all(row.low is None and row.high is None for row in found)


@pytest.fixture(scope="module")
def curves() -> pregate.PredictorCurves:
    return pregate.predictors(load_trace("gpt-oss-20b-mmlu"), None, [1, 2], [0, 4, 28])


def test_curves_rise_with_guesses_and_end_where_all_are_guessed(curves: pregate.PredictorCurves) -> None:
    for name in (*GUESSERS, "oracle"):
        values = [curves.value(name, 1, more) for more in (0, 4, 28)]
        assert values == sorted(values)
        assert values[-1] == 1
    for row in curves:
        if row.low is not None and row.high is not None:
            assert row.low <= row.value <= row.high
    assert curves.value("oracle", 2) == 1


def test_controls_are_what_they_should_be(curves: pregate.PredictorCurves) -> None:
    """Uniform finds (k + m) / n; popularity says the same of every token, so shuffling takes nothing from it; shuffled
    guesses of any other are worth no more than popularity.
    """
    for more in (0, 4):
        assert curves.value("uniform", 1, more) == pytest.approx((4 + more) / 32, abs=0.005)
    rows = {row.predictor: row for row in curves if (row.lookahead, row.more) == (1, 0)}
    assert rows["popular"].shuffled == rows["popular"].value
    for name in ("markov", "maps", "learned"):
        assert rows[name].shuffled < rows["popular"].value + 0.03
        assert rows[name].value > rows[name].shuffled + 0.3


def test_the_three_metrics_are_counted_by_hand() -> None:
    """Popularity on tokens made by hand: its guesses are 0 and 1 everywhere."""
    base = load_trace("gpt-oss-120b-phone")
    experts = np.array([[[0, 1], [0, 1]], [[0, 1], [0, 1]], [[0, 2], [1, 0]], [[3, 2], [0, 5]]], np.int16)
    n = np.arange(4, dtype=np.int32)
    trace = RoutingTrace(experts, n // 2, n % 2, np.ones(4, np.int8), n, 8, base.provenance)
    for metric, value in (("recall", 0.75), ("exact", 0.5), ("top1", 1.0)):
        found = pregate.predictors(trace, ["popular"], [1], [0], metric=metric)
        assert found.value("popular") == value, metric
        assert found.rows[0].by_layer == (None, value)


def test_batches_are_judged_by_their_unions_counted_by_hand() -> None:
    """Popularity guesses the same of every token; unions of each step are made token by token."""
    trace, more = load_trace("gpt-oss-20b-mmlu").decode_only(), 4
    found = pregate.predictors(trace, ["popular", "markov", "oracle"], [1, 2], [0, more], batch=4)
    named = sorted(set(trace.sequence.tolist()))
    learns, judged = named[::2], named[1::2]
    right = chosen = guessed = whole = steps = 0
    for layer in range(1, trace.n_moe_layers):
        counts = np.bincount(trace.experts[np.isin(trace.sequence, learns), layer].ravel(), minlength=trace.n_experts)
        popular = set(np.argsort(-counts, kind="stable")[: trace.top_k + more].tolist())
        for first in range(0, len(judged), 4):
            side = [trace.experts[trace.sequence == one, layer] for one in judged[first : first + 4]]
            for i in range(max(map(len, side))):
                union = {expert for one in side if i < len(one) for expert in one[i].tolist()}
                right, chosen = right + len(union & popular), chosen + len(union)
                guessed, whole, steps = guessed + len(popular), whole + (union <= popular), steps + 1
    assert found.value("popular", 1, more) == pytest.approx(right / chosen, abs=1e-12)
    row = next(one for one in found if (one.predictor, one.lookahead, one.more) == ("popular", 1, more))
    assert row.precision == pytest.approx(right / guessed, abs=1e-12)
    assert row.shuffled == row.value
    exact = pregate.predictors(trace, ["popular"], [1], [more], metric="exact", batch=4)
    assert exact.value("popular", 1, more) == pytest.approx(whole / steps, abs=1e-12)
    assert found.value("oracle", 2, more) == 1
    assert "4 side by side" in found.note


def test_a_batch_of_one_is_what_its_tokens_are() -> None:
    """A union of one token's guesses is that token's: by the way of batches as by that of tokens."""
    whole = load_trace("gpt-oss-20b-mmlu")
    trace = whole.of_sequences(sorted(set(whole.sequence.tolist()))[:4])
    for name in ("markov", "sequence"):
        tokens = judge_predictors(trace, [name], [1, 3], [0, 2])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(judging, "batches_of", lambda sequence, judged, n: batches_of(sequence, judged, 1))
            unions = judge_predictors(trace, [name], [1, 3], [0, 2], batch=2)
        for of in ("right", "whole", "guessed"):
            assert np.array_equal(getattr(tokens.judged[0], of), getattr(unions.judged[0], of)), of
        assert np.array_equal(tokens.n_chosen, unions.n_chosen)
        assert np.array_equal(tokens.n_tokens, unions.n_tokens)


def test_side_by_side_a_prefetch_is_right_more_often_and_brings_more() -> None:
    trace = load_trace("gpt-oss-20b-mmlu")
    alone, many = (pregate.predictors(trace, ["markov"], [1], [0], batch=batch) for batch in (1, 6))
    assert many.value("markov") > alone.value("markov")
    assert many.rows[0].low is None  # one batch
    assert alone.batch == 1


def test_columns_of_layers_and_of_json_agree(curves: pregate.PredictorCurves) -> None:
    document = json.loads(json.dumps(curves.to_dict()))
    assert len(document["rows"]) == len(curves) == 9 * 2 * 3
    assert document["metric_is"].startswith("share of the chosen experts")
    flat = curves.flat()
    assert len(flat) == 9 * 3 * (1 + 23 + 1 + 22)
    layers = [row["value"] for row in flat if row["predictor"] == "markov" and row["layer"] is not None]
    whole = [row["value"] for row in flat if row["predictor"] == "markov" and row["layer"] is None]
    assert np.mean(layers[:23]) == pytest.approx(whole[0], abs=1e-9)


def test_the_order_of_steps_does_not_matter_to_a_judgement() -> None:
    """Sequences side by side are judged as one after the other."""
    from traces.transforms.rebatching import rebatch

    trace = load_trace("gpt-oss-20b-mmlu")
    one, many = (pregate.predictors(t, ["markov", "sequence"], [1], [0]) for t in (trace, rebatch(trace, 4)))
    assert [row.value for row in one] == [row.value for row in many]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--lookahead 0", "below 1"),
        ("--lookahead 24", "at most 23"),
        ("--lookahead 1.5", "whole number"),
        ("--more -1", "whole number"),
        ("--more 0,0", "twice"),
        ("--predictors markof", "did you mean 'markov'"),
        ("--metric recal", "did you mean 'recall'"),
        ("--split half", "did you mean 'halves'"),
        ("--plot curves.txt", ".png"),
        ("--batch 7", "1 to 6 run side by side"),
        ("--batch 2 --metric top1", "leave batch out"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(
    options: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, error = runner(monkeypatch, capsys)("predictors", "gpt-oss-20b-mmlu", *options.split())
    assert (status, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_the_command_prints_writes_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, words = runner(monkeypatch, capsys), ("predictors", "gpt-oss-120b-phone", "--lookahead", "1")
    status, out, _ = command(*words, "--plot", str(tmp_path / "curves.svg"))
    assert status == 0
    assert "markov" in out
    assert "One sequence: its first half learns" in out
    assert "markov" in (tmp_path / "curves.svg").read_text()
    document = json.loads(command(*words, "--format", "json")[1])
    assert document["split"] == "time"
    assert len(document["rows"]) == 9 * 3
    lines = command(*words, "--format", "csv")[1].splitlines()
    assert lines[0] == "layer,predictor,lookahead,more,metric,value,low,high,shuffled,precision"
    assert len(lines) == 1 + 9 * 3 * (1 + 35)
    assert not any("nan" in line for line in lines)


def test_a_trace_of_a_prompt_alone_is_refused() -> None:
    trace = load_trace("qwen3-30b-a3b-phone")
    keep = trace.phase == 0
    columns = {name: getattr(trace, name)[keep] for name in ("experts", "sequence", "position", "phase", "step")}
    prompt = dataclasses.replace(trace, **columns, gate_weights=None)
    with pytest.raises(InvalidInput, match="decode"):
        pregate.predictors(prompt)
