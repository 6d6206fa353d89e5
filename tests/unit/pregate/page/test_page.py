"""The page of `pregate explore`: its engine against the Python one, its answers against `simulate`, its refusals."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from py_mini_racer import MiniRacer

import pregate
from hwmodels.cost import price
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload.metrics.metric_probes import find_probes
from offload.policies import policy_named
from pregate.ask.capturing.capture import capture
from pregate.ask.timing.time_errors import TimeError
from pregate.page.answers import METRICS, document
from pregate.page.page_arrays import ArrayBlock
from pregate.page.rivals import rivals
from pregate.page.subject import PageSubject, link_stops
from pregate.page.writing import asset, explore_page, page_html
from simulator.explain.critical_path import walk
from simulator.explain.sensitivity import elasticities
from tests.command_line import Run
from traces.errors import InvalidInput

DESIGNS = ("gpu_only", "on_demand", "pregate", "on_demand+lru:0.5", "gpu_only@experts=cpu")
MACHINES = ("a100-sxm4-80gb", "rtx-4090")


@pytest.fixture(scope="module")
def subject() -> PageSubject:
    return PageSubject(
        (pregate.load_model("switch-mini-16"), pregate.load_model("mixtral-mini-8")),
        tuple(load_platform(name, "streams") for name in MACHINES),
        tuple(policy_named(name) for name in DESIGNS),
        batches=(1, 3),
        prompts=(8,),
        actives=(0, 0.5),
        hbm_factors=(0.014, 1.0),
        output_tokens=4,
    )


@pytest.fixture(scope="module")
def content(subject: PageSubject) -> dict[str, Any]:
    return document(subject)


class Page:
    """The engine of a page, run by V8 alone."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._vm = MiniRacer()
        block = list(zlib.decompress(base64.b64decode(content["block"])))
        self._vm.eval(asset("engine.js"))
        self._vm.eval(
            f"var page = {json.dumps({**content, 'block': ''})}; var buffer = new Uint8Array({block}).buffer; 0"
        )

    def ask(self, expression: str, **state: int) -> Any:
        return json.loads(self._vm.eval(f"var state = {json.dumps(state)}; JSON.stringify({expression})"))


@pytest.fixture(scope="module")
def page(content: dict[str, Any]) -> Page:
    return Page(content)


def place(**changes: int) -> dict[str, int]:
    return {"model": 0, "machine": 0, "batch": 0, "prompt": 0, "active": 0, "hbm": 1, "link": 0} | changes


PLACES = [
    place(),
    place(link=20),
    place(model=1, machine=1, batch=1, link=35),
    place(model=1, active=1, batch=1, machine=1, link=5),
    place(batch=1, hbm=0, link=11),
]


def asked(subject: PageSubject, at: dict[str, int]) -> tuple[Any, Any, Any]:
    """Model, machine and trace of a place on the page, asked as a user of `simulate` would."""
    model, machine = subject.models[at["model"]], subject.machines[at["machine"]]
    link = link_stops(machine)[at["link"]]
    hbm = round(machine.machine.accelerator.hbm_bytes * subject.hbm_factors[at["hbm"]])
    moved = load_platform(MACHINES[at["machine"]], "streams", {"link.h2d_bytes_per_s": link, "hbm_bytes": hbm})
    share = subject.actives[at["active"]]
    forced = None if share == 0 else max(model.top_k, round(share * model.n_experts))
    trace = pregate.synthesize(model, 8, 4, subject.batches[at["batch"]], n_active=forced)
    return model, moved, trace


@pytest.mark.parametrize("at", PLACES)
def test_the_engine_of_the_page_gives_every_op_the_times_of_the_recurrence_bit_for_bit(
    page: Page, subject: PageSubject, at: dict[str, int]
) -> None:
    runs = page.ask(
        "answersAt(page, buffer, state).map((a) => a.reason ? a.reason :"
        " [Array.from(a.run.start), Array.from(a.run.end), Array.from(a.run.bound)])",
        **at,
    )
    model, machine, trace = asked(subject, at)
    for design, run in zip(DESIGNS, runs, strict=True):
        if isinstance(run, str):
            with pytest.raises(pregate.CapacityExceeded, match=re.escape(run)):
                capture(model, machine, trace, design)
            continue
        captured = capture(model, machine, trace, design)
        schedule = captured.decoded.schedule
        explained = walk(schedule, price(schedule.works, machine))
        assert run[0] == explained.timeline.start_s.tolist()
        assert run[1] == explained.timeline.end_s.tolist()
        assert run[2] == explained.bound_by.tolist()


@pytest.mark.parametrize("at", PLACES)
def test_the_metrics_of_the_page_are_those_of_simulate(page: Page, subject: PageSubject, at: dict[str, int]) -> None:
    answers = page.ask("answersAt(page, buffer, state).map((a) => a.metrics || a.reason)", **at)
    model, machine, trace = asked(subject, at)
    fits = 0
    for design, found in zip(DESIGNS, answers, strict=True):
        if isinstance(found, str):
            with pytest.raises(pregate.CapacityExceeded):
                pregate.simulate(model, machine, trace, design)
            continue
        result = pregate.simulate(model, machine, trace, design)
        fits += 1
        for metric in (*METRICS, "makespan_s"):
            assert found[metric] == pytest.approx(getattr(result, metric), rel=1e-12), (design, metric)
    assert fits >= 2


@pytest.mark.parametrize("metric", METRICS)
def test_the_cube_says_what_the_engine_of_the_page_says(page: Page, content: dict[str, Any], metric: str) -> None:
    at = place(model=1, batch=1)
    n_links = content["machines"][0]["links"][2]
    cube = page.ask(f"cubeAt(page, buffer, state, '{metric}').map((line) => line && Array.from(line))", **at)
    for link in (0, n_links // 2, n_links - 1):
        answers = page.ask("answersAt(page, buffer, state).map((a) => a.metrics || null)", **{**at, "link": link})
        for line, found in zip(cube, answers, strict=True):
            assert (line is None) == (found is None)
            if found is not None:
                assert line[link] == pytest.approx(found[metric], rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_shares_are_the_exact_elasticities_that_explain_finds(page: Page, subject: PageSubject, metric: str) -> None:
    at = place(model=1, machine=1, link=20)
    shares = page.ask(
        f"answersAt(page, buffer, state).map((a) => sharesOf(a.schedule, a.prices, a.run, '{metric}', page.parts))",
        **at,
    )
    model, machine, trace = asked(subject, at)
    sign = 1 if metric == "tokens_per_s" else -1
    for design, found in zip(DESIGNS, shares, strict=True):
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        captured = capture(model, machine, trace, design)
        schedule = captured.decoded.schedule
        explained = walk(schedule, price(schedule.works, machine))
        exact = elasticities(explained, find_probes(schedule, trace), figures_of(machine), metric)
        both = exact["link.h2d_bytes_per_s"] + exact["link.d2h_bytes_per_s"]
        assert found["link"] == pytest.approx(sign * both, abs=1e-5)


def test_a_page_is_one_file_that_fetches_nothing_and_escapes_what_it_is_told(
    subject: PageSubject, content: dict[str, Any], tmp_path: Path
) -> None:
    spiked = {**content, "designs": ["</script><script>alert(1)</script>", *content["designs"][1:]]}
    html = page_html(spiked)
    assert "</script><script>alert" not in html
    assert html.count("<script") == 4
    assert not {"http://", "https://", "src=", "@import", "url("} & {
        word for word in ("http://", "https://", "src=", "@import", "url(") if word in html
    }
    path = explore_page(
        ["switch-mini-16"], ["t4"], tmp_path / "p.html", ["on_demand"], batches=(1,), prompts=(4,), output_tokens=2
    )
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_equal_arrays_are_kept_once_and_all_begin_where_their_type_may() -> None:
    block = ArrayBlock()
    first = block.add_counts(np.array([1, 2, 300]))
    assert block.add_counts(np.array([1, 2, 300])) == first == ["Uint16Array", 0, 3]
    assert block.add(np.array([1.5])) == ["Float64Array", 8, 1]
    assert block.add_counts(np.array([], dtype=np.int64))[2] == 0
    assert block.add_counts(np.array([1 << 20])) == ["Uint32Array", 16, 1]


def test_schedules_that_two_machines_share_are_kept_once(content: dict[str, Any]) -> None:
    digests = [schedule["digest"] for schedule in content["schedules"]]
    assert len(set(digests)) == len(digests)
    assert any(len(schedule["prices"]) == 2 for schedule in content["schedules"])


@pytest.mark.parametrize(
    ("machine", "stack", "hbm", "design"),
    [("rtx-4090", "vllm", "2200MB", "on_demand+lru"), ("2x rtx-3090", "llama-cpp", "1GB", "gpu_only@experts=cpu:fit")],
)
def test_a_page_grants_the_memory_that_simulate_does(machine: str, stack: str, hbm: str, design: str) -> None:
    """Less what an engine leaves to others, and of all cards: a schedule's digest says how much a design holds."""
    model, platform = pregate.load_model("mixtral-mini-8"), load_platform(machine, stack, {"hbm_bytes": hbm})
    asked = PageSubject((model,), (platform,), (policy_named(design),), (1,), (8,), (0.0,), (1.0,), 4)
    found = document(asked)["schedules"][0]["digest"]
    assert found == pregate.simulate(model, platform, pregate.synthesize(model, 8, 4, 1, 0), design).schedule_digest


def test_a_time_of_zero_is_told_from_any_other() -> None:
    error = TimeError({"stack.hbm_efficiency": -0.5})
    one, other = (np.array([1.0, 2.0]), (error, error)), (np.array([1.0, 0.0]), (error, error))
    assert rivals([one, other], 2) == [[[1], []], [[0], []]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batches": ()}, "batches: a page needs one at least"),
        ({"batches": (1, 1)}, "batches: the same twice"),
        ({"prompts": (0,)}, "1 or more"),
        ({"output_tokens": 1}, "2 or more"),
        ({"actives": (1.5,)}, "active experts = 1.5"),
        ({"hbm_factors": (float("nan"),)}, "HBM x nan"),
        ({"batches": tuple(range(1, 20_000))}, "at most 1,048,576 tokens"),
        ({"batches": tuple(range(1, 2_000)), "prompts": tuple(range(1, 12))}, "at most 20000"),
    ],
)
def test_what_a_page_cannot_hold_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        explore_page(["switch-mini-16"], ["t4"], "p.html", ["on_demand"], **changes)


@pytest.mark.parametrize(
    ("design", "said"),
    [
        ("on_demand:granularity=1MiB", "on_demand:granularity=1MiB cuts copies into chunks, which a page does not"),
        (
            "min_latency/paper",
            "min_latency/paper decides by the machine's numbers, and a page keeps one schedule for all",
        ),
        ("bandwidth_split", "ask compare or sweep"),
    ],
)
def test_a_design_that_no_schedule_for_all_links_says_is_refused(design: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        explore_page(["switch-mini-16"], ["t4"], "p.html", [design])


def test_a_page_on_which_nothing_fits_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs"):
        explore_page(
            ["mixtral-8x22b"], ["t4"], tmp_path / "p.html", ["gpu_only"], batches=(1,), prompts=(4,), actives=(0,)
        )
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_page(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    words = (
        "switch-mini-16",
        "--hardware",
        "t4",
        "--batches",
        "1",
        "--prompts",
        "4",
        "--output-tokens",
        "2",
        "--active",
        "0",
    )
    status, out, err = run("explore", *words, "-o", str(target))
    assert (status, out) == (0, "")
    assert err == f"wrote {target}\n"
    assert target.stat().st_size > 20_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "page.txt"], "ends in .html"),
        (["-o", "page.html", "--batches", "1,x"], "--batches 'x' is no number"),
        (["-o", "page.html", "--batches", "\u0661"], "is no number"),
        (["-o", "page.html", "--policies", "nosuch"], "nosuch"),
        (["-o", "nosuch/page.html"], "no folder"),
    ],
)
def test_wrong_words_of_the_command_are_told_in_one_line(run: Run, words: list[str], said: str) -> None:
    status, out, err = run("explore", "switch-mini-16", "--hardware", "t4", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
