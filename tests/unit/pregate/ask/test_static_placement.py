"""Static caches: what they hold is what the trace chose most, or what a table of counts says was chosen most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pregate
from offload.policies import policy_named
from offload.policy import Cache
from pregate.ask.capturing.request import request
from pregate.ask.capturing.schedule_cache import lasting_key
from pregate.ask.capturing.starting_cache import resident_set
from tests.command_line import Run
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput
from traces.statistics.popularity import PopularityProfile, popularity_of

MODEL = MODELS["decoder-only"]
HW = pregate.load_hardware("a100-sxm4-80gb")
TRACE = routing(MODEL)


def profile(hot: int) -> PopularityProfile:
    """Counts by which expert `hot` of every layer is chosen most, and the next ones ever less."""
    counts = np.roll(np.arange(MODEL.n_experts, 0, -1), hot)
    return PopularityProfile(np.tile(counts, (MODEL.n_moe_layers, 1)), TRACE.provenance)


def held(cache: Cache) -> set[tuple[int, int]]:
    found = resident_set(request(MODEL, HW, TRACE, "on_demand", cache=cache))
    assert found is not None
    return {(i, e) for i in range(MODEL.n_moe_layers) for e in range(MODEL.n_experts) if (i, e) in found}


@pytest.mark.parametrize("hot", [0, 2, 5])
def test_a_static_cache_holds_what_was_counted_most(hot: int) -> None:
    cache = Cache("static", n_slots=MODEL.n_moe_layers, popularity=profile(hot))
    assert held(cache) == {(layer, hot) for layer in range(MODEL.n_moe_layers)}


def test_hits_are_those_of_the_experts_that_are_held() -> None:
    """Every lookup by hand: an expert is found where the counts have it resident, and nowhere else."""
    cache = Cache("static", n_slots=MODEL.n_moe_layers, popularity=profile(1))
    lookups = [(layer, set(step.experts[:, layer].ravel().tolist())) for step in TRACE.steps() if step.phase == 1
               for layer in range(MODEL.n_moe_layers)]  # fmt: skip
    expected = sum(1 in chosen for _, chosen in lookups) / sum(len(chosen) for _, chosen in lookups)
    found = pregate.simulate(MODEL, HW, TRACE, "on_demand", cache=cache)
    assert found.hit_rate == pytest.approx(expected, rel=1e-12)


def test_a_placement_keeps_what_was_counted_most() -> None:
    policy = policy_named("on_demand@experts=cpu:keep=1").placed(profile(3))
    assert policy.popularity is not None
    kept = request(MODEL, HW, TRACE, policy).placed.kept
    assert kept == (frozenset({3}),) * MODEL.n_moe_layers
    assert kept != request(MODEL, HW, TRACE, policy_named("on_demand@experts=cpu:keep=1")).placed.kept


def test_schedules_of_other_counts_are_other_requests() -> None:
    asked = [
        request(MODEL, HW, TRACE, "on_demand", cache=Cache("static", n_slots=4, popularity=counts))
        for counts in (None, profile(0), profile(1), profile(1))
    ]
    assert [one.key == asked[3].key for one in asked] == [False, False, True, True]
    assert [lasting_key(one) == lasting_key(asked[3]) for one in asked] == [False, False, True, True]


def test_counts_are_of_static_caches_and_of_the_model() -> None:
    with pytest.raises(InvalidInput, match="cache lru chooses as it runs"):
        Cache("lru", ratio=0.1, popularity=profile(0))
    other = PopularityProfile(np.ones((1, 3)), TRACE.provenance)
    with pytest.raises(InvalidInput, match=r"popularity of .* is of 1 MoE layers x 3 experts"):
        pregate.simulate(MODEL, HW, TRACE, "on_demand", cache=Cache("static", n_slots=2, popularity=other))
    assert policy_named("on_demand+lru:0.1").placed(profile(0)) == policy_named("on_demand+lru:0.1")


SMALL = ("switch-base-8", "--hardware", "a100-sxm4-80gb")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A trace in which expert 0 is chosen by far most, and counts that say so."""
    model = pregate.load_model("switch-base-8")
    trace = pregate.synthesize(model, 4, 12, dials=pregate.Dials(3.0, 0.0, 0.0))
    pregate.save_trace(trace, tmp_path / "t.safetensors")
    np.save(tmp_path / "counts.npy", popularity_of(trace).counts)
    return str(tmp_path / "t.safetensors"), str(tmp_path / "counts.npy")


def test_the_command_line_takes_counts_with_a_recorded_trace(run: Run, files: tuple[str, str], tmp_path: Path) -> None:
    trace, counts = files
    asked = ("simulate", *SMALL, "--trace", trace, "--format", "json", "--policy")
    upside_down = tmp_path / "other.npy"
    np.save(upside_down, 1 / (1 + np.load(counts)))
    hits = []
    for table in (counts, str(upside_down)):
        for words in (("on_demand+static:0.25",), ("on_demand", "--cache", "static:0.25")):
            status, out, error = run(*asked, *words, "--popularity", table)
            assert status == 0, error
            hits.append(out.split('"hit_rate": ')[1].split(",")[0])
    assert hits[0] == hits[1]
    assert hits[2] == hits[3]
    assert float(hits[0]) > float(hits[2])


def figures(run: Run, *words: str) -> str:
    status, out, error = run(*words, "--format", "json")
    assert status == 0, error
    return out


def test_explain_and_crossover_take_counts_too(run: Run, files: tuple[str, str], tmp_path: Path) -> None:
    """What the counts keep decides the time, of a recorded trace, and what they skew that of a synthetic one."""
    trace, counts = files
    upside_down = str(tmp_path / "other.npy")
    np.save(upside_down, 1 / (1 + np.load(counts)))
    explained = ("explain", *SMALL, "--trace", trace, "--policy", "on_demand+static:0.25")
    assert len({figures(run, *explained, "--popularity", table) for table in (counts, upside_down)}) == 2
    axis = ("--axis", "link.h2d_bytes_per_s", "--from", "1e9", "--to", "64e9", "--points", "3", "--policies")
    crossed = ("crossover", *SMALL, *axis, "on_demand+static:0.25,on_demand+lru:0.2")
    along = {figures(run, *crossed, "--trace", trace, "--popularity", table) for table in (counts, upside_down)}
    assert len(along) == 2
    skewed = ("crossover", *SMALL, "--input-tokens", "4", "--output-tokens", "4", *axis, "pregate,on_demand+lru:0.2")
    assert figures(run, *skewed, "--popularity", counts) != figures(run, *skewed)


def test_run_takes_counts_too(run: Run, files: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    (tmp_path / "mine.yaml").write_text(MODEL.to_yaml())
    flat = np.ones((MODEL.n_moe_layers, MODEL.n_experts))
    moved = []
    for hot in (0, 3):
        np.save(tmp_path / "counts.npy", np.where(np.arange(MODEL.n_experts) == hot, 1000.0, flat))
        words = ("run", str(tmp_path / "mine.yaml"), "--backend", "cpu", "--input-tokens", "4", "--output-tokens", "4")
        static = ("--policy", "on_demand", "--cache", "static:0.25", "--popularity", str(tmp_path / "counts.npy"))
        moved.append(figures(run, *words, *static).split('"schedule_digest": ')[1].split(",")[0])
    assert moved[0] != moved[1]


def test_counts_that_nothing_looks_at_are_refused(run: Run, files: tuple[str, str]) -> None:
    trace, counts = files
    along = ("--axis", "link.h2d_bytes_per_s", "--from", "1e9", "--to", "64e9")
    for words in (
        ("simulate", *SMALL),
        ("compare", *SMALL, "--policies", "on_demand,pregate+lru:0.1"),
        ("explain", *SMALL),
        ("crossover", *SMALL, *along),
    ):
        status, _, error = run(*words, "--trace", trace, "--popularity", counts)
        assert (status, error.count("\n")) == (2, 1)
        assert "add one, such as on_demand+static:0.1" in error
