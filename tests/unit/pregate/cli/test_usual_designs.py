"""Designs of a command where nobody names any: its own, or what an engine runs, and a line that says so."""

from __future__ import annotations

import json

import pytest

import pregate
from offload.policies import policy_named
from pregate.card.designs import ENGINES
from pregate.card.engine_defaults import engine_designs, settled_designs
from pregate.card.job import RequestLoad, workpiece
from tests.command_line import Run

ASKED = ("mixtral-mini-8", "--hardware", "rtx-4090", "--input-tokens", "8", "--output-tokens", "4")
FEW = ("--set", "hbm_bytes=1.1GB")
NOTE = "note: designs are those that {} runs; --policies asks for others"


def designs(run: Run, *words: str) -> tuple[list[str], str]:
    """The designs of a command, and what it says beside them."""
    _, out, err = run(*words, "--format", "json")
    found = json.loads(out)
    rows = [row for name in ("results", "does_not_fit", "rows", "designs") for row in found.get(name, [])]
    return list(dict.fromkeys(row.get("policy", row.get("design")) for row in rows)), err


QUEUED = ("arrivals", "--requests", "5", "--slots", "1")


@pytest.mark.parametrize(
    ("command", "stack"),
    [
        (("compare",), "llama-cpp-2025"), (("compare",), "ktransformers"), (("compare",), "vllm"),
        (QUEUED, "vllm"), (("cost",), "ktransformers"),
        pytest.param(("compare",), "llama-cpp", marks=pytest.mark.thorough),
        pytest.param(("compare",), "ik-llama", marks=pytest.mark.thorough),
        pytest.param(QUEUED, "llama-cpp", marks=pytest.mark.thorough),
        pytest.param(("cost",), "vllm", marks=pytest.mark.thorough),
    ],
)  # fmt: skip
def test_an_engine_is_asked_about_what_it_runs(run: Run, command: tuple[str, ...], stack: str) -> None:
    few = "2.2GB" if stack == "vllm" else "1.1GB"  # of which a tenth is left alone, beside what it takes for itself
    found, err = designs(run, command[0], *ASKED, "--set", f"hbm_bytes={few}", "--stack", stack, *command[1:])
    assert NOTE.format(stack) in err
    assert err.count("note: designs") == 1
    assert found
    for name in found:
        policy = policy_named(name)
        assert policy.cache is None
        assert name.startswith("gpu_only") or (stack, name) == ("vllm", "prefetch_all")
    assert any("=cpu" in name or "=zerocopy" in name for name in found)


@pytest.mark.parametrize("command", [("compare",), QUEUED, ("cost",)])
def test_a_stack_of_no_engine_is_asked_about_offloading(run: Run, command: tuple[str, ...]) -> None:
    found, err = designs(run, command[0], *ASKED, *command[1:])
    assert "note: designs" not in err
    assert {"gpu_only", "on_demand", "pregate"} <= set(found)


def test_requests_that_queue_are_served_from_hbm_where_all_fits(run: Run) -> None:
    found, _ = designs(run, "arrivals", *ASKED, "--stack", "vllm", "--requests", "5", "--slots", "1")
    assert found == ["gpu_only"]
    assert "prefetch_all" in designs(run, "compare", *ASKED, "--stack", "vllm")[0]


def test_what_is_named_is_what_is_asked_about(run: Run) -> None:
    found, err = designs(run, "compare", *ASKED, "--stack", "vllm", "--policies", "pregate,on_demand+lru")
    assert (found, "note: designs" in err) == (["pregate", "on_demand+lru"], False)
    found, err = designs(run, "compare", *ASKED, "--stack", "vllm", "--cache", "lru:0.5")
    assert "pregate" in found
    assert "note: designs" not in err


def test_one_design_is_the_first_that_the_engine_has_room_for(run: Run) -> None:
    for words, policy in (((), "pregate"), (("--stack", "vllm"), "gpu_only")):
        _, out, err = run("simulate", *ASKED, *words, "--format", "json")
        assert json.loads(out)["policy"] == policy
        assert "--policies" not in err  # which these commands do not have
        assert ("note: the design is the first that vllm runs here; --policy asks for another" in err) == bool(words)
    _, out, _ = run("explain", *ASKED, *FEW, "--stack", "llama-cpp", "--format", "json")
    assert json.loads(out)["policy"].startswith("gpu_only@experts=cpu:")


@pytest.mark.parametrize("options", [("--cache", "lru:0.5"), ("--tier", "ssd"), ("--axis", "cache_ratio=0.2,0.5")])
def test_a_search_over_caches_or_tiers_asks_about_offloading(run: Run, options: tuple[str, ...]) -> None:
    words = ("optimize", ASKED[0], "--hardware", "rtx-4090,rtx-3090", "--stack", "llama-cpp", *ASKED[3:])
    status, out, err = run(*words, *options, "--minimize", "tpot_s", "--format", "json")
    assert (status, "note: designs" in err) == (0, False)
    assert json.loads(out)["best"]["policy"]


def test_a_border_along_a_tier_asks_about_offloading(run: Run) -> None:
    words = ("crossover", *ASKED, "--stack", "ktransformers", "--axis", "link.h2d_bytes_per_s", "--from", "4e9")
    status, _, err = run(*words, "--to", "64e9", "--tier", "ssd", "--format", "json")
    assert (status, "note: designs" in err) == (0, False)


def test_along_axes_numbers_that_hang_on_memory_stay_open(run: Run) -> None:
    along = ("--axis", "hbm_bytes", "--from", "0.9GB", "--to", "8GB")
    _, out, err = run("crossover", *ASKED, "--stack", "llama-cpp", *along)
    assert NOTE.format("llama-cpp") in err
    assert "gpu_only@experts=cpu:fit" in out
    assert run("crossover", *ASKED, "--stack", "ktransformers", *along)[0] == 2
    _, out, err = run("optimize", ASKED[0], "--hardware", "RTX 4090", "--stack", "vLLM", *ASKED[3:])
    assert NOTE.format("vllm") in err
    assert "gpu_only" in out


def test_designs_without_a_number_are_those_of_the_table() -> None:
    for engine in ENGINES:
        assert engine_designs(engine)
        assert not any("{" in name for name in engine_designs(engine))
    assert engine_designs("streams") == engine_designs("fastertransformer") == ()
    model = pregate.load_model("mixtral-mini-8")
    work = workpiece(model, RequestLoad(8, 4))
    for stack in ("streams", "threads"):
        assert settled_designs(model, pregate.load_hardware("rtx-4090", stack), work) == ()
