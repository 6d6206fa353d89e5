"""Designs under arrivals: times of passes, percentiles, how sure they are, and what tokens cost."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

import pregate
from hwmodels.stacks.usual_passes import usual_pass_tokens, usual_slots
from offload.policies import policy_named
from pregate.ask.decode_middle import DECODED, middle_of_decode
from pregate.economics.arrival_report import ArrivalReport
from pregate.economics.arrivals import under_arrivals
from pregate.economics.batching import Server, batching_of
from pregate.economics.serving import LatencyPromise
from pregate.economics.step_times import pass_times, pass_traces
from simulator.serving.arrivals import Batching, StepTimes, serve_arrivals
from tests.command_line import Run
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.requests import ArrivalTrace, poisson_arrivals
from traces.routing import RoutingTrace

MODEL = pregate.load_model("mixtral-mini-8")
HW = pregate.load_hardware("rtx-4090", "llama-cpp")
SOME = poisson_arrivals(60, 1.0, 24, 8)


def flat(name: str) -> np.ndarray:
    return np.zeros(1)


@pytest.fixture(scope="module")
def report() -> ArrivalReport:
    designs = ["on_demand", "gpu_only", "gpu_only@experts=cpu"]
    return under_arrivals(MODEL, HW, designs, SOME, [0.5, 1e4], Server(4))


def test_the_time_of_a_pass_is_that_of_its_schedule() -> None:
    """At the sizes that are simulated, to the last bit; a request that nobody waits beside takes what a run takes."""
    found = pass_times(pass_traces(MODEL, SOME, 4, 2048), HW, policy_named("gpu_only"))
    (steps,) = found.drawn(flat)
    assert found.prompt_tokens[0] == 24
    assert found.batches == (1, 2, 4)
    assert steps.of_prompt(24) == found.prompts[0].seconds
    for i, batch in enumerate(found.batches):
        for context, one in zip(found.contexts, found.tokens[i], strict=True):
            assert steps.token_s[batch] + steps.context_s[batch] * context == pytest.approx(one.seconds, rel=1e-12)
    alone = under_arrivals(MODEL, HW, ["gpu_only"], SOME, [1e-3], Server(4)).rows[0]
    whole = pregate.simulate(MODEL, HW, pregate.synthesize(MODEL, 24, 8), "gpu_only")
    assert alone.ttft_s[50].value == pytest.approx(whole.ttft_s, rel=0.01)
    assert alone.tpot_s[99].value == pytest.approx(whole.tpot_s, rel=0.02)


def shared_pass(n_decoding: int, context: int, n_tokens: int, before: int) -> RoutingTrace:
    """A pass of part of a prompt, with so many of its tokens before, beside a token of each of some requests."""
    trace = pregate.synthesize(MODEL, n_tokens, 2)
    others = pregate.synthesize(MODEL, 1, 2, n_decoding).select(phase=Phase.DECODE)
    return dataclasses.replace(
        trace,
        experts=np.concatenate([others.experts, trace.experts]),
        position=np.concatenate([np.full(n_decoding, context), trace.position + before]),
        phase=np.concatenate([np.zeros(n_decoding, np.int8), trace.phase]),
        sequence=np.concatenate([others.sequence, trace.sequence + n_decoding]),
        step=np.concatenate([np.zeros(n_decoding, np.int32), trace.step]),
    )


@pytest.fixture(scope="module")
def mixed() -> StepTimes:
    """Passes of tokens of eight requests beside parts of prompts of 256."""
    some = poisson_arrivals(60, 1.0, 256, 64)
    return pass_times(pass_traces(MODEL, some, 8, 256, mixes=True), HW, policy_named("gpu_only")).drawn(flat)[0]


@pytest.mark.parametrize(
    "asked", [(4, 300, 60, 0), (4, 300, 20, 200), (2, 250, 100, 100), (1, 256, 250, 6), (8, 260, 8, 0), (8, 260, 24, 0)]
)
def test_a_pass_of_prompts_and_tokens_takes_what_its_schedule_does(
    asked: tuple[int, int, int, int], mixed: StepTimes
) -> None:
    """Between the sizes that are simulated within a twentieth: tokens of eight requests ask for experts that a short
    prompt does not.
    """
    n_decoding, context, n_tokens, before = asked
    said = mixed.of_both(n_tokens, n_decoding) + mixed.of_token_before(n_tokens) * before
    said += float(mixed.context_s[n_decoding]) * context
    assert said == pytest.approx(pregate.simulate(MODEL, HW, shared_pass(*asked), "gpu_only").ttft_s, rel=0.05)


def test_a_server_batches_as_the_engine_of_its_stack_does() -> None:
    t5 = pregate.load_model("switch-base-8")
    for stack, hardware, batching, n_tokens in (
        ("vllm", "h100-sxm", Batching(True, True), 8192),
        ("vllm", "a100-sxm4-80gb", Batching(True, True), 2048),
        ("vllm", "rtx-4090", Batching(True, True), 2048),
        ("llama-cpp", "h100-sxm", Batching(True), 2048),
        ("ktransformers", "rtx-4090", Batching(), 2048),
        ("streams", "rtx-4090", Batching(), 2048),
    ):
        machine = pregate.load_hardware(hardware, stack)
        usual = usual_pass_tokens(machine.execution, machine.machine.accelerator)
        assert (batching_of(machine, MODEL), usual) == (batching, n_tokens), (stack, hardware)
        assert stack != "vllm" or machine.execution.micro_batch == n_tokens, "a prompt alone passes as in a server"
        assert not batching_of(machine, t5).mixes, "an encoder reads its prompt whole"
    sglang = batching_of(pregate.load_hardware("h100-sxm", "vllm"), MODEL, "alone")
    assert sglang == Batching(mixes=False, ahead=True)
    with pytest.raises(InvalidInput, match="unknown way of prompts 'first'"):
        batching_of(HW, MODEL, "first")


@pytest.mark.parametrize(
    ("hardware", "stack", "offline", "slots"),
    [("h100-sxm", "vllm", 16384, 1024), ("a100-sxm4-80gb", "vllm", 8192, 256), ("rtx-4090", "vllm", 8192, 256),
     ("rtx-4090", "llama-cpp", 2048, 1024)],
)  # fmt: skip
def test_what_vllm_takes_in_its_own_process_and_at_once_depends_on_the_card(
    hardware: str, stack: str, offline: int, slots: int
) -> None:
    machine = pregate.load_hardware(hardware, stack)
    card, execution = machine.machine.accelerator, machine.execution
    assert usual_pass_tokens(execution, card, offline=True) == offline
    assert usual_slots(execution, card) == slots


def test_a_prompt_pass_is_decided_on_while_another_runs_where_the_engine_does_so() -> None:
    machine = pregate.load_hardware("rtx-4090", "vllm")
    found = pass_times(pass_traces(MODEL, SOME, 4, 64, mixes=True), machine, policy_named("gpu_only"))
    alone = pregate.simulate(MODEL, machine, pregate.synthesize(MODEL, 24, 8), "gpu_only")
    at = found.prompt_tokens.index(24)
    assert found.schedule_s == 1e-3
    assert found.prompts[at].seconds == pytest.approx(alone.ttft_s - 1e-3)
    rare = under_arrivals(MODEL, machine, ["gpu_only"], SOME, [1e-3], Server(4)).rows[0]
    assert rare.ttft_s[50].value == pytest.approx(alone.ttft_s, rel=1e-6), "nobody ran before"
    (steps,) = pass_times(pass_traces(MODEL, SOME, 4, 64), HW, policy_named("gpu_only")).drawn(flat)
    assert steps.schedule_s == 0.0


def test_a_prompt_in_parts_is_read_later_and_holds_tokens_of_others_up_less() -> None:
    """Of halves; parts of 64 cost more passes than tokens of few sequences would wait for a prompt of 11 ms."""
    some = poisson_arrivals(60, 1.0, 1024, 64)
    alone, beside = (
        under_arrivals(MODEL, HW, ["gpu_only"], some, [6.0], Server(4, 512, prompts)) for prompts in ("alone", "beside")
    )
    assert beside.rows[0].ttft_s[50].value > alone.rows[0].ttft_s[50].value
    assert beside.rows[0].tpot_s[99].value < alone.rows[0].tpot_s[99].value
    assert (alone.to_dict()["prompts"], beside.to_dict()["prompts"]) == ("alone", "beside")
    assert "in parts, 512 tokens a pass at most" in beside.how_prompts_pass
    assert alone.how_prompts_pass == "Prompts pass before tokens, 512 tokens together."


def test_the_context_of_a_token_is_the_mean_of_those_that_are_simulated() -> None:
    """A simulated token at position p has p tokens before it; the first is the prompt's, which nobody times."""
    trace = middle_of_decode(MODEL, 24, DECODED, 1)
    found = pass_times(pass_traces(MODEL, SOME, 1, 2048), HW, policy_named("gpu_only"))
    positions = np.unique(trace.position)
    assert found.contexts[0] == positions[1:].mean() == 24 + 15


def test_a_longer_context_never_makes_a_token_faster() -> None:
    found = pass_times(pass_traces(MODEL, SOME, 4, 2048), HW, policy_named("on_demand"))
    (steps,) = found.drawn(flat)
    assert steps.context_s[1:].min() >= 0
    assert np.all(np.diff(steps.prompt_s) >= 0)


def test_percentiles_grow_with_the_rate_and_are_infinite_beyond_the_capacity(report: ArrivalReport) -> None:
    slow, fast = ([row for row in report.rows if row.requests_per_s == rate] for rate in (0.5, 1e4))
    for one, other in zip(slow, fast, strict=True):
        assert not one.grows
        assert one.ttft_s[50].value <= one.ttft_s[99].value
        assert other.grows
        assert math.isinf(other.ttft_s[99].value)
        assert (other.usd_per_million, other.keeps) == (None, False)
        assert one.ttft_s[99].low <= one.ttft_s[99].value <= one.ttft_s[99].high
        assert 0 < one.busy < 1
    document = json.loads(json.dumps(report.to_dict()))
    assert document["rows"][1]["ttft_p99_s"] is None
    assert document["rows"][1]["queue_grows"]
    assert "At 1e+04 requests/s every queue grows" in " ".join(report.verdict())


def test_nobody_waits_where_requests_are_rare_and_more_wait_where_they_are_not() -> None:
    rates = [0.01, 2.0, 20.0]
    waits = [row.ttft_s[99].value for row in under_arrivals(MODEL, HW, ["gpu_only"], SOME, rates, Server(2)).rows]
    assert waits == sorted(waits)
    assert waits[2] > waits[0]


def test_an_interval_is_as_wide_as_a_prediction_where_nothing_queues() -> None:
    """Rare requests of one length: what is left is how far the time of a prompt may be off."""
    row = under_arrivals(MODEL, HW, ["gpu_only"], SOME, [1e-4], Server(1)).rows[0]
    error = pass_times(pass_traces(MODEL, SOME, 1, 2048), HW, policy_named("gpu_only")).prompts[0].error
    low, high = error.interval(row.ttft_s[50].value)
    assert math.log(row.ttft_s[50].high / row.ttft_s[50].low) == pytest.approx(math.log(high / low), rel=0.25)
    fitted = pregate.load_hardware("a100-sxm4-80gb")
    sure = under_arrivals(pregate.load_model("switch-base-8"), fitted, ["gpu_only"], SOME, [1e-4], Server(1)).rows[0]
    assert sure.ttft_s[50].high / sure.ttft_s[50].low < 1.2


def test_designs_meet_the_same_machines_and_requests() -> None:
    twice = under_arrivals(MODEL, HW, ["gpu_only", "on_demand"], SOME, [1.0], Server(2))
    again = under_arrivals(MODEL, HW, ["on_demand", "gpu_only"], SOME, [1.0], Server(2))
    first, second = ({row.design: (row.ttft_s, row.tpot_s, row.capacity) for row in one.rows} for one in (twice, again))
    assert first == second
    shares = {row.design: row.quickest_in for row in twice.rows}
    assert shares["gpu_only"] > 0.9
    assert shares["on_demand"] < 0.1
    same = under_arrivals(MODEL, HW, ["on_demand", "on_demand+lru:1"], SOME, [1.0], Server(2))
    assert 1.0 <= sum(row.quickest_in for row in same.rows) <= 2.0
    assert "of the draws" in same.verdict()[0]


def test_as_many_run_at_once_as_serve_best() -> None:
    """Where experts are fetched a batch asks for more of them: one at a time may be quicker than four."""
    many = ArrivalTrace(np.arange(80) * 0.05, np.full(80, 16), np.full(80, 16))
    for policy in ("gpu_only", "on_demand"):
        best = under_arrivals(MODEL, HW, [policy], many, server=Server(4)).rows[0]
        one = under_arrivals(MODEL, HW, [policy], many, server=Server(1)).rows[0]
        assert best.slots in (1, 2, 4)
        assert one.grows or best.ttft_s[99].value <= one.ttft_s[99].value * 1.05


def test_of_slots_that_serve_alike_the_most_count() -> None:
    """Requests that never meet leave slots free; the rate beyond which the queue grows is that of all of them."""
    rare, often = (under_arrivals(MODEL, HW, ["gpu_only"], SOME, [rate], Server(4)).rows[0] for rate in (1e-3, 1e4))
    assert rare.slots == 4
    assert rare.capacity.value >= 0.999 * often.capacity.value


def test_a_design_that_alone_keeps_up_is_said_to(run: Run) -> None:
    words = [
        "mixtral-mini-8",
        "--hardware",
        "rtx-4090",
        "--input-tokens",
        "24",
        "--output-tokens",
        "8",
        "--requests",
        "40",
    ]
    status, out, _ = run("arrivals", *words, "--policies", "gpu_only", "--rates", "0.5", "--slots", "1")
    assert status == 0
    assert "At 0.5 requests/s gpu_only serves all that come." in out
    status, out, _ = run("arrivals", *words, "--policies", "gpu_only", "--rates", "1e6", "--slots", "1")
    assert status == 1
    assert "every queue grows: more at once (--slots, now 1), more machines, or fewer requests." in out


def test_a_promise_is_of_the_99th_percentile() -> None:
    rows = under_arrivals(MODEL, HW, ["gpu_only"], SOME, [0.5], Server(2)).rows
    p99 = rows[0].ttft_s[99].value
    for factor, keeps in ((1.01, True), (0.99, False)):
        promise = LatencyPromise(ttft_s=factor * p99)
        found = under_arrivals(MODEL, HW, ["gpu_only"], SOME, [0.5], Server(2), promise=promise)
        assert found.rows[0].keeps == keeps
        assert ("no design keeps" in found.verdict()[0]) != keeps


def test_answers_of_one_token_have_no_time_per_token() -> None:
    short = poisson_arrivals(20, 1.0, 24, 1)
    promise = LatencyPromise(tpot_s=1.0)
    (row,) = under_arrivals(MODEL, HW, ["gpu_only"], short, [0.5, 0.5], Server(2), promise=promise).rows
    assert math.isnan(row.tpot_s[99].value)
    assert row.to_dict()["tpot_p99_s"] is None
    assert row.keeps


def test_what_routing_and_formats_a_prediction_rests_on_is_said_as_compare_says_it() -> None:
    model, hw = pregate.load_model("gpt-oss-20b"), pregate.load_hardware("rtx-4090", "llama-cpp")
    found = under_arrivals(model, hw, ["gpu_only"], SOME, [0.5], Server(1))
    assert "dials fitted to gpt-oss-20b-mmlu" in found.routing
    assert "gpt-oss-20b is taken with 16 bits beside its experts" in found.calibration
    cached = under_arrivals(MODEL, HW, ["on_demand+lru:3"], SOME, [0.5], Server(1))
    assert "synthetic (default dials)" in cached.routing


def test_memory_is_for_the_longest_of_all_at_once() -> None:
    long = ArrivalTrace(np.arange(3.0), np.array([8, 8, 200_000]), np.full(3, 8))
    found = under_arrivals(MODEL, HW, ["gpu_only"], long, [0.001], Server(64))
    assert not found.rows
    assert "GB" in found.unserved[0].reason


def test_a_cache_of_prefixes_takes_the_memory_of_its_tokens() -> None:
    """The slots' own is part of it, as in the engines: a design without room for what was stated serves nobody."""
    ids = tuple(np.arange(4) for _ in range(40))
    same = ArrivalTrace(np.arange(40.0), np.full(40, 64), np.full(40, 4), prefixes=ids, block_tokens=16)
    machine = pregate.load_hardware("rtx-4090", "vllm")
    own = pass_traces(MODEL, same, 2, 2048).whole
    assert pass_traces(MODEL, same, 2, 2048, held_tokens=own.n_cached_tokens).whole == own
    more = pass_traces(MODEL, same, 2, 2048, held_tokens=own.n_cached_tokens + 1).whole
    assert more == dataclasses.replace(own, n_cached_tokens=own.n_cached_tokens + 1)
    report = under_arrivals(MODEL, machine, ["gpu_only"], same, [0.5], Server(2, prefix_cache=10**9))
    assert not report.rows
    assert "of HBM, there are 23.2 GB" in report.unserved[0].reason


def test_a_cache_of_prefixes_leaves_less_to_read() -> None:
    ids = tuple(np.arange(4) for _ in range(40))
    same = ArrivalTrace(np.arange(40.0), np.full(40, 64), np.full(40, 4), prefixes=ids, block_tokens=16)
    machine = pregate.load_hardware("rtx-4090", "vllm")
    without, held = (
        under_arrivals(MODEL, machine, ["gpu_only"], same, [0.5], Server(2, prefix_cache=size)) for size in (None, 1000)
    )
    assert without.held_share is None
    assert held.held_share == pytest.approx(39 * 48 / (40 * 64))
    assert held.rows[0].ttft_s[50].value < without.rows[0].ttft_s[50].value
    assert held.rows[0].capacity.value > without.rows[0].capacity.value
    assert "73% of the tokens of prompts are held" in held.how_prompts_pass
    apart = dataclasses.replace(same, prefixes=tuple(np.arange(4) + 4 * i for i in range(40)))
    assert (found := under_arrivals(MODEL, machine, ["gpu_only"], apart, [0.5], Server(2, prefix_cache=1000))).rows
    assert "0% of the tokens of prompts are held" in found.how_prompts_pass
    with pytest.raises(InvalidInput, match="an encoder reads its prompt whole"):
        under_arrivals(
            pregate.load_model("switch-base-8"), machine, ["gpu_only"], same, server=Server(prefix_cache=1000)
        )


def test_a_model_whose_layers_have_states_holds_no_prefixes() -> None:
    with pytest.raises(InvalidInput, match=r"go on from a prefix only where the engine kept that state"):
        Server(prefix_cache=1000).held(pregate.load_model("qwen3-next-80b-a3b"), SOME)


def test_cards_with_layers_in_turn_have_as_many_passes_under_way() -> None:
    """A prompt in parts is in both at once; a request alone takes what its run takes."""
    machine = pregate.load_hardware("2x h100-sxm", "vllm")
    some = poisson_arrivals(60, 1.0, 256, 8)
    passes = pass_traces(MODEL, some, 4, 64, mixes=True)
    whole = pass_times(passes, machine, policy_named("gpu_only"))
    found = pass_times(passes, machine, policy_named("gpu_only@turns=2"))
    assert (whole.stage_shares, whole.n_stages, found.n_stages) == (None, 1, 2)
    assert found.stage_shares is not None
    assert found.stage_shares.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert found.stage_shares[1, 1] > 0.5, "the head is on the last"
    rare = some.at_rate(1e-3)
    at_once = dataclasses.replace(found, schedule_s=0.0)
    one_by_one = dataclasses.replace(at_once, stage_shares=None)
    both, alone = (
        serve_arrivals(rare, one.drawn(flat)[0], 4, 64, Batching(True, True)).ttft_s.mean()
        for one in (at_once, one_by_one)
    )
    n_parts, slowest = 4, float(found.stage_shares[0].max())
    assert both / alone == pytest.approx((1 + (n_parts - 1) * slowest) / n_parts, rel=0.01)
    report = under_arrivals(MODEL, machine, ["gpu_only@turns=2", "gpu_only"], SOME, [1e-3], Server(4))
    assert [row["stages"] for row in report.to_dict()["rows"]] == [2, 1]
    said = [dataclasses.replace(report, rows=rows).how_prompts_pass for rows in (report.rows[:1], report.rows)]
    assert all("as many passes are under way as there are stages" in one for one in said)
    assert [", each pass decided on as the one before begins" in one for one in said] == [False, True]
    run = pregate.simulate(MODEL, machine, pregate.synthesize(MODEL, 24, 8), "gpu_only@turns=2")
    assert report.rows[0].ttft_s[50].value == pytest.approx(run.ttft_s, rel=1e-3)
    assert report.rows[0].tpot_s[50].value == pytest.approx(run.tpot_s, rel=0.05)


def test_bad_questions_are_refused() -> None:
    for change, told in (
        ({"slots": 0}, "0 slots: from 1 to 1,024"),
        ({"slots": 2000}, "2000 slots: from 1 to 1,024"),
        ({"pass_tokens": 0}, "passes of 0 tokens: at least 1"),
    ):
        with pytest.raises(InvalidInput, match=told):
            Server(**change)
    with pytest.raises(InvalidInput, match="unknown basis"):
        under_arrivals(MODEL, HW, ["gpu_only"], SOME, basis="lend")
    with pytest.raises(InvalidInput, match="name at least one design"):
        under_arrivals(MODEL, HW, [], SOME)


def test_the_command_line_says_who_wins_at_each_rate(run: Run) -> None:
    words = [
        "mixtral-mini-8",
        "--hardware",
        "rtx-4090",
        "--stack",
        "llama-cpp",
        "--input-tokens",
        "24",
        "--output-tokens",
        "8",
    ]
    asked = ["--policies", "gpu_only,on_demand", "--requests", "40", "--rates", "0.5,2", "--slots", "2"]
    status, out, _ = run("arrivals", *words, *asked)
    assert status == 0
    assert out.count("requests/s gpu_only has the least p99 TTFT") == 2
    assert "95 %" in out
    status, out, _ = run("arrivals", *words, *asked, "--max-ttft", "1us")
    assert status == 1
    document = json.loads(run("arrivals", *words, *asked, "--format", "json")[1])
    assert [row["requests_per_s"] for row in document["rows"]] == [0.5, 2.0, 0.5, 2.0]
    status, _, err = run("arrivals", *words, "--arrivals", "pyproject.toml")
    assert status == 2
    assert "leave it out, or leave out --arrivals" in err


@pytest.mark.parametrize(
    "said",
    [{"slots": "8"}, {"slots": 8.5}, {"slots": True}, {"pass_tokens": "2k"}, {"prompts": 1}, {"prefix_cache": 1e5}],
)
def test_a_server_of_other_types_is_told_in_a_line(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"Server: {next(iter(said))} = .* must be "):
        Server(**said)


def test_passes_of_vllm_are_as_large_as_they_are_asked_for() -> None:
    """One number of the engine: no smaller passes lie within, and a design that says it has it said of the server."""
    machine, server = pregate.load_hardware("rtx-4090", "vllm"), Server()
    long = ArrivalTrace(np.array([0.0, 1e6]), np.array([3000, 3000]), np.array([4, 4]), "two, far apart")

    def first_s(design: str, n_tokens: int | None = None) -> float:
        found = under_arrivals(MODEL, machine, [design], long, server=Server(1, n_tokens))
        assert found.rows[0].pass_tokens == (n_tokens or int(design.partition("@ubatch=")[2] or 2048))
        return found.rows[0].ttft_s[50].value

    whole = pregate.simulate(MODEL, machine, pregate.synthesize(MODEL, 3000, 4), "gpu_only@ubatch=4096").ttft_s
    assert first_s("gpu_only", 4096) == pytest.approx(whole, rel=1e-6)
    assert first_s("gpu_only@ubatch=4096") == first_s("gpu_only", 4096) < first_s("gpu_only")
    ours = [server.settled(HW, MODEL, policy_named(f"gpu_only@ubatch={n}"))[1] for n in (1024, 4096)]
    assert ours == [2048, 4096], "of llama.cpp -b, which -ub does not exceed"
    with pytest.raises(InvalidInput, match="passes of 2048 tokens, and 4096 by the design: vllm has one"):
        first_s("gpu_only@ubatch=4096", 2048)
