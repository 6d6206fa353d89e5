"""Layers in turn on several cards: how many passes of tokens are under way, and what a server makes with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pregate
from offload.policies import policy_named
from pregate.ask.timing.stages import UnderWay, under_way
from pregate.card.designs import EngineDesign, granted
from pregate.card.job import RequestLoad, workpiece
from pregate.card.judged_design import Judged, judge
from pregate.economics.serving import LatencyPromise, RequestShape, Served, serve
from pregate.economics.step_times import pass_times, pass_traces
from simulator.serving.arrivals import Batching, serve_arrivals
from tests.command_line import Run
from traces.requests import ArrivalTrace

MODEL = pregate.load_model("mixtral-mini-8")
HW = pregate.load_hardware("4x h100-sxm", "vllm")
IN_TURN = policy_named("gpu_only@turns=4")


@pytest.mark.parametrize(
    ("design", "stack", "job", "expected"),
    [
        ("gpu_only@turns=4", "vllm", (512, 64), UnderWay(4, 16)),
        ("gpu_only@turns=4", "vllm", (512, 30), UnderWay(2, 15)),
        ("gpu_only@turns=2", "vllm", (8192, 3), UnderWay(2, 2)),
        ("gpu_only@turns=4", "vllm", (8192, 1), UnderWay(1, 1)),
        ("gpu_only@turns=4", "vllm", (512, 16), UnderWay(1, 16)),
        ("gpu_only@turns=4@ubatch=2048", "vllm", (512, 16), UnderWay(4, 4)),
        ("gpu_only", "vllm", (8192, 8), UnderWay(1, 8)),
        ("gpu_only", "llama-cpp", (8192, 8), UnderWay(1, 8)),
    ],
)
def test_as_many_passes_as_stages_and_as_prompts_take(
    design: str, stack: str, job: tuple[int, int], expected: UnderWay
) -> None:
    """8,192 tokens pass together on such cards where nobody says otherwise."""
    hw = HW if stack == "vllm" else pregate.load_hardware("4x h100-sxm", stack)
    assert under_way(hw, policy_named(design), job[1], job[0]) == expected


def judged(job: RequestLoad, design: str = IN_TURN.name) -> Judged:
    return judge(granted(MODEL, HW, workpiece(MODEL, job), policy_named(design)), job)


def test_a_card_and_a_cost_say_what_the_rule_of_the_server_makes_of_the_same_requests() -> None:
    """Sixteen prompts in four passes: four batches of four; the server's own simulation, within some hundredths."""
    job = RequestLoad(512, 64, 16)
    design = "gpu_only@turns=4@ubatch=2048"
    requests = ArrivalTrace(np.zeros(16), np.full(16, 512), np.full(16, 64))
    passes = pass_traces(MODEL, requests, 16, 2048, mixes=True)
    times = pass_times(passes, HW, policy_named(design), alone=True).as_predicted
    run = serve_arrivals(requests, times, 16, 2048, Batching(mixes=True, ahead=True))
    served_per_s = 16 * 64 / float(run.last_s.max())
    found = judged(job, design)
    assert found.n_under_way == 4
    assert found.throughput.value == pytest.approx(served_per_s, rel=0.04)
    one_at_a_time = dataclasses.replace(times, stage_shares=None)
    alone = serve_arrivals(requests, one_at_a_time, 16, 2048, Batching(mixes=True, ahead=True))
    assert float(alone.last_s.max()) > 1.2 * float(run.last_s.max()), "what a stage at a time takes"
    costed = serve(MODEL, HW, policy_named(design), RequestShape(512, 64), LatencyPromise(), (16,))
    assert isinstance(costed, Served)
    assert (costed.n_under_way, costed.n_at_once) == (4, 4)
    assert 16 * 64 / costed.request_s == pytest.approx(found.throughput.value, rel=1e-9)
    assert costed.requests_per_s == pytest.approx(found.throughput.value / 64, rel=1e-9)
    assert costed.compute_share <= 1


def test_the_latency_of_one_request_is_that_of_its_run() -> None:
    job = RequestLoad(16384, 32, 1)
    found, run = judged(job), pregate.simulate(MODEL, HW, pregate.synthesize(MODEL, 16384, 2), IN_TURN)
    assert (found.n_under_way, found.planned.n_at_once) == (1, 1)
    assert found.ttft.value == run.ttft_s


def test_passes_under_way_keep_the_memory_of_all_and_the_slowest_stage_binds() -> None:
    job = RequestLoad(512, 64, 64)
    found = judged(job)
    assert (found.n_under_way, found.planned.n_at_once) == (4, 4)
    assert found.planned.tokens.trace.batch == 16
    assert found.planned.tokens.plan == found.planned.prompt.plan, "of all 64"
    part = pregate.simulate(MODEL, HW, found.planned.tokens.trace, IN_TURN)
    pace = found.schedules.token_pace()
    assert found.tpot.value == pytest.approx(pace * part.tpot_s, rel=1e-12)
    assert 1.0 < pace < 2.0, "the head is on the last"
    assert found.token_use.compute_share <= 1 / pace
    assert found.to_dict()["passes_under_way"] == 4


def test_a_card_offers_layers_in_turn_and_says_what_is_under_way(run: Run) -> None:
    found = pregate.plan(MODEL, HW, RequestLoad(512, 64, 64), objective="throughput")
    in_turn = next(one for one in found.choice.ranked if one.design == EngineDesign(IN_TURN.name, "vllm"))
    assert in_turn.n_under_way == 4
    assert "4 batches of 16 tokens under way" in found.text(details=True)
    asked = ("mixtral-mini-8", "--hardware", "4x h100-sxm", "--stack", "vllm", "--policies", IN_TURN.name)
    compared = run("compare", *asked, "--batch", "4", "--output-tokens", "4")[1]
    assert "gpu_only@turns=4: peak HBM is of all stages together, and one batch of tokens is under way" in compared
    assert "under way" not in run("compare", *asked, "--output-tokens", "4")[1]
    costed = run("cost", *asked, "--input-tokens", "2048", "--output-tokens", "8", "--batches", "16")[1]
    assert "gpu_only@turns=4: 4 parts of a batch under way" in costed
