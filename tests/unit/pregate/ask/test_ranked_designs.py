"""Which designs win: exact ones that can be built, in every question that ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pregate
from hwmodels.platform import load_platform
from offload.policies import policy_named
from pregate.ask.ranked_designs import are_ranked, kept_in_view, standing_of, told_apart
from pregate.economics.costing import costs
from pregate.page.answers import document
from pregate.page.subject import PageSubject
from pregate.sweeps.summary import best_policy, summarise
from tests.command_line import Run
from tests.small_models import decoder_only

MODEL = decoder_only()
HW = load_platform("rtx-4090", "streams")
ALL = ("on_demand", "on_demand+belady:0.5", "oracle", "mixed_precision+lfu:4")
STANDINGS = ("", "ceiling", "ceiling", "approximate")


def test_a_standing_is_of_the_policy_and_its_cache() -> None:
    assert tuple(standing_of(policy_named(name)) for name in ALL) == STANDINGS


@pytest.mark.parametrize(
    ("standings", "ranked"),
    [
        (STANDINGS, [True, False, False, False]),
        (STANDINGS[1:], [True, True, False]),
        (STANDINGS[3:], [True]),
        ((), []),
    ],
)
def test_without_an_exact_design_that_can_be_built_exact_ones_are_ranked_or_all(
    standings: tuple[str, ...], ranked: list[bool]
) -> None:
    assert are_ranked(standings) == ranked


def test_who_is_told_apart_is_told_why() -> None:
    said = told_apart(zip(ALL, STANDINGS, strict=True))
    assert [one.split()[0] for one in said] == list(ALL[1:])
    assert "nobody can build it" in said[0]
    assert "its output is not the model's" in said[2]


def test_a_ceiling_is_best_nowhere_in_a_sweep(tmp_path: Path) -> None:
    axes = {"link.h2d_bytes_per_s": [1e9, 64e9], "batch": [1, 2]}
    data = pregate.sweep(MODEL, HW, policies=ALL, axes=axes)
    assert set(np.unique(best_policy(data))) == {0}
    rows = summarise(data)
    assert [row["best_share"] for row in rows] == [1, 0, 0, 0]
    assert [row["standing"] for row in rows] == list(STANDINGS)
    fastest = data.tokens_per_s.values.max(axis=0)
    assert np.all(data.tokens_per_s.sel(policy="oracle").values >= data.tokens_per_s.sel(policy="on_demand").values)
    assert np.any(fastest > data.tokens_per_s.sel(policy="on_demand").values)
    some = data.isel(policy=[1, 2])
    assert set(np.unique(best_policy(some))) <= {0, 1}  # nothing else is left
    assert -1 not in best_policy(some)


def test_a_search_tries_no_ceiling_beside_what_can_be_built() -> None:
    axes = {"batch": [1, 2]}
    found = pregate.optimize(MODEL, HW, policies=ALL, axes=axes, objectives="tokens_per_s:max")
    assert found.best is not None
    assert found.best["policy"] == "on_demand"
    assert found.n_evaluated == 2
    assert all(f"{name} " in found.verdict() for name in ALL[1:])
    alone = pregate.optimize(MODEL, HW, policies=["oracle"], axes=axes, objectives="tokens_per_s:max")
    assert alone.best is not None
    assert alone.best["policy"] == "oracle"
    assert "nobody can build it" in alone.verdict()


def test_money_is_spent_on_no_ceiling() -> None:
    report = costs(MODEL, HW, ALL, input_tokens=4, output_tokens=4, requests_per_s=1.0, batches=(1,))
    assert report.cheapest is not None
    assert report.cheapest.served.design == "on_demand"
    assert [design.cheapest_in for design in report.designs] == [1, 0, 0, 0]
    assert "oracle knows" in report.verdict()
    now = costs(MODEL, HW, ALL[::-1], input_tokens=4, output_tokens=4, requests_per_s=1.0, batches=(1,))
    assert {one.served.design for one in now.ranked} == {"on_demand", "mixed_precision+lfu:4"}  # it runs already


def test_a_page_says_who_is_ranked() -> None:
    found = document(PageSubject((MODEL,), (HW,), tuple(map(policy_named, ALL[:3])), (1,), (4,), (0,), (1,), 2))
    assert found["ranked"] == [True, False, False]
    assert len(found["told_apart"]) == 2


def test_a_sweep_on_the_command_line_names_them(run: Run, tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(
        "model: switch-mini-16\nhardware: rtx-4090\npolicies: [on_demand, oracle]\n"
        "workload: {input_tokens: 4, output_tokens: 2}\naxes: {link.h2d_bytes_per_s: [2GB/s, 32GB/s]}\n"
    )
    status, out, error = run("sweep", str(spec), "--output", str(tmp_path / "s.nc"))
    assert status == 0, error
    assert "ceiling" in out
    assert "oracle knows what no gate has said" in " ".join(out.split())
    status, out, _ = run("sweep", str(spec), "--output", str(tmp_path / "t.nc"), "--format", "json")
    rows = json.loads(out)["policies"]
    assert [row["standing"] for row in rows] == ["", "ceiling"]
    assert rows[0]["best_share"] == 1


def test_designs_that_keep_by_the_trace_itself_are_told() -> None:
    names = ("on_demand+lru", "on_demand+static:0.3", "min_latency/paper", "gpu_only@experts=cpu:keep=2")
    policies = [policy_named(name) for name in names]
    trace = pregate.load_trace("gpt-oss-20b-mmlu")
    said = kept_in_view(trace, policies)
    assert said.count(", ") == 3  # one in the sentence
    assert all(name in said for name in names[1:])
    counted = pregate.load_popularity("gpt-oss-20b-mmlu")
    assert kept_in_view(trace, [policy.placed(counted) for policy in policies]) == ""
    assert kept_in_view(trace, [policy_named("gpu_only@experts=cpu:keep=2:uniform")]) == ""
    assert kept_in_view(pregate.synthesize(MODEL, 8, 4), policies) == ""  # its popularity is known apart from it
    cache = pregate.Cache("static", ratio=0.5)
    assert kept_in_view(trace, [policy_named("on_demand")], cache)
    assert not kept_in_view(trace, [policy_named("on_demand")], cache.placed(counted))
