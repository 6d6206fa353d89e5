"""`pregate residency`: caches in slots at several capacities, judged request by request."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import pregate
from pregate.ask.replays.cache_hits import CACHES, cache_hits
from pregate.draw.hit_rates import hit_curves
from tests.command_line import Run
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, UnknownName
from traces.routing import RoutingTrace

NAME = "gpt-oss-20b-mmlu"


def trace() -> RoutingTrace:
    return pregate.load_trace(NAME).of_sequences([0, 1, 2])


def test_a_row_has_what_the_replay_met() -> None:
    rows = list(cache_hits(trace(), ["lru:per_layer", "belady:per_layer"], ["k", 0.5, 96]))
    assert [(row.cache, row.capacity, row.n_slots) for row in rows] == [
        ("lru:per_layer", "k", 96), ("belady:per_layer", "k", 96), ("lru:per_layer", "0.5", 384),
        ("belady:per_layer", "0.5", 384), ("lru:per_layer", "96", 96), ("belady:per_layer", "96", 96),
    ]  # fmt: skip
    for row in rows:
        assert row.hit_rate == pytest.approx(1 - row.n_misses / row.n_lookups)
        assert row.worst_request <= row.hit_rate <= row.best_request
        assert row.to_belady >= 0
        assert row.read_mib is None
    assert [row.to_belady for row in rows[1::2]] == [0, 0, 0]
    assert rows[0] == rows[4].__class__(**{**{n: getattr(rows[4], n) for n in rows[4].__slots__}, "capacity": "k"})


def test_one_cache_for_all_requests_hits_more_than_an_empty_one_for_each() -> None:
    cold, kept = (next(iter(cache_hits(trace(), ["lru"], [0.5], keep=keep))) for keep in (False, True))
    assert kept.hit_rate > cold.hit_rate


def test_popular_experts_counted_on_other_requests_serve_less_than_an_oracle() -> None:
    oracle = next(iter(cache_hits(trace().of_sequences([2]), ["static"], [0.25])))
    counted = cache_hits(trace(), ["static"], [0.25], train=0.67)
    assert counted.n_requests == 1
    assert next(iter(counted)).hit_rate < oracle.hit_rate
    assert next(iter(counted)).n_lookups == oracle.n_lookups
    assert any("judged on the others" in note for note in counted.notes)


def test_bytes_are_misses_by_the_size_of_each_layer() -> None:
    small = routing(MODELS["decoder-only"], batch=2)
    sizes = [1 << 20, 3 << 20, 2 << 20]
    row = next(iter(cache_hits(small, ["lru"], [3], expert_bytes=sizes)))
    plain = next(iter(cache_hits(small, ["lru"], [3], expert_bytes=1 << 20)))
    assert plain.read_mib == plain.n_misses == row.n_misses
    assert row.read_mib is not None
    assert row.n_misses < row.read_mib < 3 * row.n_misses


def test_a_cache_that_names_its_size_has_one_row() -> None:
    rows = list(cache_hits(trace(), ["lru:0.1", "fifo"], [0.25, 0.5]))
    assert [(row.cache, row.n_slots) for row in rows] == [("lru:0.1", 77), ("fifo", 192), ("fifo", 384)]


def test_what_cannot_be_replayed_is_said_in_one_line() -> None:
    for capacity in ("0", "1.5", "-3", "much", 0, 769, "nan"):
        with pytest.raises(InvalidInput, match=r"capacity = .* slots \(1 to 768\), or k"):
            cache_hits(trace(), ["lru"], [capacity])
    with pytest.raises(UnknownName, match="did you mean 'lru'"):
        cache_hits(trace(), ["lruu"], [0.5])
    for train in (0.0, 1.0, 2.0, 0.01, float("nan")):
        with pytest.raises(InvalidInput, match="leaves none to count on or none to judge"):
            cache_hits(trace(), ["static"], [0.5], train=train)
    with pytest.raises(InvalidInput, match="no caches or no capacities"):
        cache_hits(trace(), [], [0.5])
    with pytest.raises(InvalidInput, match="expert_bytes = 0"):
        cache_hits(trace(), ["lru"], [0.5], expert_bytes=0)
    with pytest.raises(InvalidInput, match="seed = -1"):
        cache_hits(trace(), ["lru"], [0.5], seed=-1)


def test_the_command_says_the_same_three_ways_and_draws_it(run: Run, tmp_path: Path) -> None:
    words = ["residency", NAME, "--caches", "lru:per_layer,belady:per_layer,mrs:pooled", "--capacity", "k,0.5"]
    found = cache_hits(pregate.load_trace(NAME), words[3].split(","), ["k", "0.5"])
    status, out, _ = run(*words, "--format", "json")
    assert (status, json.loads(out)) == (0, found.to_dict())
    status, out, _ = run(*words, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, [float(row["hit_rate"]) for row in rows]) == (0, [row.hit_rate for row in found])
    picture = tmp_path / "hits.svg"
    status, out, err = run(*words, "--plot", str(picture))
    assert status == 0
    assert f"{100 * found.rows[0].hit_rate:.1f} %" in out
    assert "12 requests, each with an empty cache" in out
    assert "wrote" in err
    assert picture.read_text().count("mrs:pooled") >= 1
    lines = hit_curves(found).axes[0].lines
    assert [line.get_label() for line in lines] == ["belady:per_layer", "mrs:pooled", "lru:per_layer"]
    assert [line.get_label() for line in lines if line.get_color() == "black"] == ["belady:per_layer"]


def test_sequences_side_by_side_are_a_batch_and_one_is_told_as_one() -> None:
    model = pregate.load_model("switch-base-8")
    for batch, said in (
        (1, "1 request, with an empty cache at its start."),
        (3, "1 batch of 3 requests, with an empty"),
    ):
        found = pregate.cache_hits(pregate.synthesize(model, 4, 4, batch), ["lru"], ["k"])
        assert found.notes[0].startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--caches", "lru", "--policies", "lru"], "leave --caches"),
        (["--budgets-mib", "100", "--serial"], "leave --caches"),
        (["--caches", "lru,lru"], "twice"),
        (["--caches", "nothing"], "unknown eviction"),
        (["--capacity", "0.5,2.5"], "--capacity '2.5'"),
        (["--train", "1"], "a share between 0 and 1"),
        (["--plot", "hits.txt"], ".png, .svg or .pdf"),
        (["--caches", "lru:warm"], "leave :warm out"),
    ],
)
def test_wrong_words_end_in_one_line_and_write_nothing(
    run: Run, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("residency", NAME, *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) <= 3
    assert not list(tmp_path.iterdir())


def test_all_caches_are_replayed_where_nobody_names_any() -> None:
    found = cache_hits(routing(MODELS["decoder-only"], batch=1))
    assert [row.cache for row in found][: len(CACHES)] == list(CACHES)
    assert len(found) == 3 * len(CACHES)
