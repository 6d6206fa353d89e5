"""A server of arrivals against queueing theory, and by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simulator.serving.arrivals import AGAIN_S, Batching, StepTimes, capacity, serve_arrivals
from traces.errors import InvalidInput
from traces.requests import ArrivalTrace, poisson_arrivals


def times(prompt_s: float, token_s: list[float], context_s: float = 0.0) -> StepTimes:
    return StepTimes(
        np.array([1.0, 2.0]), np.array([prompt_s, prompt_s]), np.array([0.0, *token_s]),
        np.array([0.0, *[context_s] * len(token_s)]),
    )  # fmt: skip


def pollaczek_khinchine(rate: float, mean_s: float, square_s2: float) -> float:
    """The mean wait in an M/G/1 queue (Kleinrock, Queueing Systems I, 5.6)."""
    return rate * square_s2 / (2 * (1 - rate * mean_s))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.85])
def test_one_slot_waits_as_an_m_d_1_queue(rho: float) -> None:
    """A prompt of .4 s and six more tokens of .1 s: a service of one second."""
    requests = poisson_arrivals(200_000, rho, 1, 7, seed=3)
    found = serve_arrivals(requests, times(0.4, [0.1]), 1)
    waits = found.first_s - 0.4 - requests.arrival_s
    assert waits.min() >= -1e-9
    assert waits.mean() == pytest.approx(pollaczek_khinchine(rho, 1.0, 1.0), rel=0.04)


def test_one_slot_waits_as_an_m_g_1_queue() -> None:
    """Answers of 1 or 21 tokens with equal chances: services of .1 and 2.1 s."""
    rng = np.random.default_rng(5)
    some = poisson_arrivals(200_000, 0.5, 1, 1, seed=4)
    requests = ArrivalTrace(some.arrival_s, some.input_tokens, rng.choice([1, 21], len(some)))
    found = serve_arrivals(requests, times(0.1, [0.1]), 1)
    waits = found.first_s - 0.1 - requests.arrival_s
    assert waits.mean() == pytest.approx(pollaczek_khinchine(0.5, 1.1, (0.1**2 + 2.1**2) / 2), rel=0.05)


def test_a_server_by_hand() -> None:
    """Prompts of 1 s, tokens of .5 s alone and .8 s for two, and .01 s for each token of the mean context.

    The first has its token at 1 and its next at 1.51 + ...; the second arrives at 1.2 and is asked at the end of that
    token, its prompt holds the first up, and both go on together.
    """
    requests = ArrivalTrace(np.array([0.0, 1.2]), np.array([1, 2]), np.array([4, 2]))
    found = serve_arrivals(requests, times(1.0, [0.5, 0.8], 0.01), 2)
    token = 1 + 0.5 + 0.01 * 1
    prompt = token + 1
    both = prompt + 0.8 + 0.01 * (2 + 2) / 2
    alone = both + 0.5 + 0.01 * 3
    assert found.first_s.tolist() == pytest.approx([1.0, prompt])
    assert found.last_s.tolist() == pytest.approx([alone, both])
    assert found.ttft_s.tolist() == pytest.approx([1.0, prompt - 1.2])
    assert found.tpot_s(requests).tolist() == pytest.approx([(alone - 1) / 3, both - prompt])
    assert (found.prompt_s, found.token_s, found.n_steps) == (2.0, pytest.approx(alone - 2), 3)


LINE = StepTimes(
    np.array([1.0, 100.0]), np.array([0.1, 10.0]), np.array([0.0, 1.0, 1.5]), np.array([0.0, 0.01, 0.02]),
    np.array([0.0005, 0.05]),
)  # fmt: skip
"""A tenth of a second a token of a prompt, and .0005 for each token that lies before it; a token of one request takes a
second, of two 1.5, and .01 and .02 for each of their mean context."""


def test_prompts_that_mix_pass_in_what_tokens_leave_of_a_pass() -> None:
    """Passes of ten tokens. The first request, of four, has its token at .4; the second comes at once, and has nine of
    25 beside each token of the first, after 0, 9 and 18 of its own.
    """
    requests = ArrivalTrace(np.array([0.0, 0.1]), np.array([4, 25]), np.array([4, 2]))
    found = serve_arrivals(requests, LINE, 2, 10, Batching(mixes=True))
    second = 0.4 + 1.0 + 0.01 * 4
    third = second + 1.0 + 0.0005 * 9 * 9 + 0.01 * 5
    seven = 1.0 + 0.0005 * 7 * 18  # that are left: .8 with the last token of the first, which alone takes a second
    fourth = third + seven + 0.01 * 6
    fifth = fourth + 1.0 + 0.01 * 25
    assert found.first_s.tolist() == pytest.approx([0.4, fourth])
    assert found.last_s.tolist() == pytest.approx([fourth, fifth])
    assert (found.prompt_s, found.n_steps) == (pytest.approx(fourth), 1)


def test_who_comes_while_a_pass_runs_that_was_decided_ahead_waits_for_one_more() -> None:
    """Prompts of a token pass in a tenth of a second; the second comes within the first's token, and the next of these
    was decided on before.
    """
    requests = ArrivalTrace(np.array([0.0, 0.5]), np.array([1, 1]), np.array([9, 1]))
    flat = StepTimes(np.array([1.0, 2.0]), np.array([0.1, 0.1]), np.array([0.0, 1.0, 1.0]), np.zeros(3))
    for batching, told in ((Batching(), 1.2), (Batching(ahead=True), 2.2)):
        assert serve_arrivals(requests, flat, 2, 10, batching).first_s[1] == pytest.approx(told)
    alone = ArrivalTrace(np.array([0.0, 50.0]), np.array([1, 1]), np.array([9, 9]))
    for batching in (Batching(ahead=True), Batching(True, True), Batching(True)):
        assert serve_arrivals(alone, flat, 2, 10, batching).first_s[1] == pytest.approx(50.1), "nobody runs"


def test_a_pass_waits_for_its_schedule_where_nothing_ran_before_it() -> None:
    """Passes of a second, .25 of scheduling. The second request comes to an idle server, the third while a pass runs;
    who comes while a pass is being decided on is in the next.
    """
    flat = StepTimes(np.array([1.0, 2.0]), np.ones(2), np.array([0.0, 1.0, 1.0]), np.zeros(3), schedule_s=0.25)
    requests = ArrivalTrace(np.array([0.0, 10.0, 10.5]), np.ones(3, int), np.array([3, 3, 1]))
    found = serve_arrivals(requests, flat, 2, 10, Batching(mixes=True, ahead=True))
    assert found.first_s.tolist() == pytest.approx([1.25, 11.25, 13.25])
    assert found.last_s[0] == pytest.approx(3.25)
    meanwhile = ArrivalTrace(np.array([0.0, 0.2]), np.ones(2, int), np.array([3, 1]))
    assert serve_arrivals(meanwhile, flat, 2, 10, Batching(mixes=True, ahead=True)).first_s[1] == pytest.approx(2.25)
    every = serve_arrivals(requests, flat, 2, 10, Batching(mixes=True))
    assert every.last_s[0] == pytest.approx(3 * 1.25), "no pass is decided on ahead"
    with pytest.raises(InvalidInput, match="finite seconds"):
        serve_arrivals(requests, StepTimes(*([np.ones(2)] * 4), schedule_s=-1.0), 1, 10)


def test_a_slot_is_taken_again_a_pass_later_where_passes_are_decided_ahead() -> None:
    """Two of three have slots, and one of these a single token more. A pass with a token in it takes a second."""
    requests = ArrivalTrace(np.zeros(3), np.ones(3, int), np.array([9, 2, 1]))
    flat = StepTimes(np.array([1.0, 9.0]), np.array([0.1, 0.1]), np.array([0.0, 1.0, 1.0]), np.zeros(3))
    for batching, told in ((Batching(), 1.2), (Batching(ahead=True), 2.2), (Batching(True), 2.1)):
        assert serve_arrivals(requests, flat, 2, 10, batching).first_s[2] == pytest.approx(told)
    assert serve_arrivals(requests, flat, 2, 10, Batching(True, True)).first_s[2] == pytest.approx(3.1)
    alone = ArrivalTrace(np.zeros(2), np.ones(2, int), np.array([3, 1]))
    for batching in (Batching(), Batching(ahead=True), Batching(True), Batching(True, True)):
        assert serve_arrivals(alone, flat, 1, 10, batching).first_s[1] == pytest.approx(2.2), "nothing else runs"


@pytest.mark.parametrize("ahead", [False, True])
def test_the_capacity_of_a_server_whose_prompts_mix(ahead: bool) -> None:
    """One slot, prompts of 100 tokens in passes of 50, 10 tokens: two passes of 5 s, the second with 50 tokens before
    its own, and nine tokens of a second.
    """
    requests = ArrivalTrace(np.arange(300.0), np.full(300, 100), np.full(300, 10))
    line = StepTimes(
        np.array([1.0, 100.0]), np.array([0.1, 10.0]), np.array([0.0, 1.0]), np.zeros(2), np.array([0.001, 0.001])
    )
    most = capacity(requests, [line], 1, 50, Batching(True, ahead))
    assert most == pytest.approx(1 / (5 + 5 + 50 * 0.001 + 9), rel=0.01)


def test_a_prompt_beside_tokens_makes_no_pass_quicker() -> None:
    """Tokens of eight requests ask for more experts than as many tokens of a prompt: 2 s and .5. A pass with both takes
    no less than the tokens, so no more are served than where prompts take no time.
    """
    requests = ArrivalTrace(np.arange(300.0), np.full(300, 4), np.full(300, 10))
    of_tokens = np.array([0.0, *np.linspace(0.6, 2.0, 8)])
    steps = StepTimes(np.array([1.0, 16.0]), np.array([0.1, 0.9]), of_tokens, np.zeros(9))
    for ahead in (False, True):
        most = capacity(requests, [steps], 8, 64, Batching(True, ahead))
        assert 0.9 * 8 / (9 * 2.0) < most < 8 / (9 * 2.0)


def test_tokens_beside_a_prompt_take_what_they_ask_for_besides() -> None:
    """A token beside a prompt of one token adds a second, of two tokens half of one, of any more as much. One request
    decodes when the second comes with its prompt of two.
    """
    beside_s = np.array([[0.0, 0.0], [1.0, 0.5], [9.0, 9.0]])
    steps = StepTimes(
        np.array([1.0, 2.0]), np.array([2.0, 2.0]), np.array([0.0, 1.0, 1.0]), np.zeros(3), beside_s=beside_s
    )
    assert [steps.of_both(n, 1) for n in (1, 2, 3)] == [3.0, 2.5, 2.5]
    requests = ArrivalTrace(np.array([0.0, 2.5]), np.array([1, 2]), np.array([9, 1]))
    assert serve_arrivals(requests, steps, 2, 10, Batching(mixes=True)).first_s[1] == pytest.approx(2 + 1 + 2.5)
    with pytest.raises(InvalidInput, match=r"tokens beside prompts are \(2, 2\), not \(3, 2\)"):
        serve_arrivals(
            requests,
            StepTimes(*(np.ones(2), np.ones(2), np.ones(3), np.ones(3)), beside_s=beside_s[:2]), 2, 10,
        )  # fmt: skip


def test_what_is_held_of_a_prompt_is_not_read_and_attended_to_all_the_same() -> None:
    """A second for ten tokens, and a tenth for each token before. Whole prompts of 100 tokens in passes of 110: one by
    one where at most 80 of the second are held, together where 20 of the first are too; then in parts of 50.
    """
    line = StepTimes(
        np.array([1.0, 201.0]), np.array([0.1, 20.1]), np.array([0.0, 1.0, 1.0]), np.zeros(3), np.array([0.1, 0.1])
    )

    def first_s(held: list[int], pass_tokens: int, batching: Batching) -> list[float]:
        requests = ArrivalTrace(np.zeros(2), np.full(2, 100), np.ones(2, int), held_tokens=np.array(held))
        found: list[float] = serve_arrivals(requests, line, 2, pass_tokens, batching).first_s.tolist()
        return found

    assert first_s([0, 0], 110, Batching()) == pytest.approx([10.0, 20.0])
    assert first_s([0, 80], 110, Batching()) == pytest.approx([10.0, 10.0 + 2.0 + 8.0])
    assert first_s([20, 80], 110, Batching()) == pytest.approx([2.0 + 10.0 + 8.0] * 2)
    in_parts = [5.0 + 2.0, 5.0 + 7.0 + 8.0]  # 50 behind 20; 30 behind 70, and 20 behind 80
    assert first_s([20, 80], 50, Batching(mixes=True)) == pytest.approx([sum(in_parts)] * 2)


def test_a_pass_that_prompts_share_has_room_for_a_token_of_each_request() -> None:
    requests = ArrivalTrace(np.zeros(2), np.array([4, 4]), np.array([2, 2]))
    with pytest.raises(InvalidInput, match=r"passes of 1 tokens: each of 2 requests has one .* at least 2 are needed"):
        serve_arrivals(requests, LINE, 2, 1, Batching(mixes=True))


def test_beyond_its_capacity_a_queue_grows_with_the_trace_and_below_it_does_not() -> None:
    steps = times(0.2, [0.1, 0.12, 0.14, 0.16])
    most = capacity(poisson_arrivals(4000, 1.0, 8, 8), [steps], 4)
    assert most == pytest.approx(1 / (0.2 + 7 * 0.16 / 4), rel=0.05)  # each prompt holds up three others
    for factor, grows in ((0.8, False), (1.3, True)):
        ends = []
        for n in (2000, 8000):
            requests = poisson_arrivals(n, factor * most, 8, 8, seed=1)
            ends.append(serve_arrivals(requests, steps, 4).ttft_s[-200:].mean())
        assert (ends[1] > 2.5 * ends[0]) == grows


@pytest.mark.parametrize("slots", [1, 4, 64, 256])
@pytest.mark.parametrize("n", [2, 20, 1000])
def test_a_capacity_is_of_a_server_that_is_always_full(slots: int, n: int) -> None:
    """A prompt of .2 s alone in its pass, and 49 tokens that take the longer the more run: no gain from batches."""
    token_s = [0.01 * batch for batch in range(1, slots + 1)]
    requests = ArrivalTrace(np.arange(float(n)), np.full(n, 2), np.full(n, 50))
    most = capacity(requests, [times(0.2, token_s)], slots, pass_tokens=2)
    assert most == pytest.approx(1 / (0.2 + 49 * 0.01), rel=0.02)


def test_a_capacity_is_of_all_lengths_wherever_they_are_in_the_trace() -> None:
    """A thousand short answers, then a thousand long ones, in one slot: services of .2 and 1.1 s."""
    requests = ArrivalTrace(np.arange(2000.0), np.ones(2000), np.repeat([2, 11], 1000))
    assert capacity(requests, [times(0.1, [0.1])], 1) == pytest.approx(2 / (0.2 + 1.1), rel=0.02)


def test_prompts_that_wait_together_share_a_pass() -> None:
    requests = ArrivalTrace(np.zeros(4), np.full(4, 10), np.ones(4, dtype=int))
    line = StepTimes(np.array([10.0, 40.0]), np.array([1.0, 2.5]), np.array([0.0, *[1.0] * 4]), np.zeros(5))
    assert serve_arrivals(requests, line, 4, 40).first_s.tolist() == [2.5] * 4
    assert serve_arrivals(requests, line, 4, 20).first_s.tolist() == [1.5, 1.5, 3.0, 3.0]
    assert serve_arrivals(requests, line, 4, 1).first_s.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_capacity_of_several_machines_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    requests = ArrivalTrace(np.sort(50 * rng.random(60)), rng.integers(1, 900, 60), rng.integers(1, 90, 60))
    points = np.array([1.0, 1000.0])
    machines = [
        StepTimes(points, np.array([0.1, each]), each * rng.random(6) + 0.01, 1e-5 * rng.random(6))
        for each in (0.2, 3.0)
    ]
    together = capacity(requests, machines, 5, 1000)
    assert together.tolist() == [capacity(requests, [one], 5, 1000)[0] for one in machines]
    assert together[0] > 2 * together[1]


def test_a_capacity_is_what_a_server_does_that_all_come_to_at_once() -> None:
    rng = np.random.default_rng(0)
    requests = ArrivalTrace(np.zeros(3000), rng.integers(8, 80, 3000), rng.integers(2, 60, 3000))
    steps = StepTimes(np.array([8.0, 80.0]), np.array([0.1, 0.4]), np.full(5, 0.02), np.full(5, 1e-4))
    served = serve_arrivals(requests, steps, 4, 80)
    assert capacity(requests, [steps], 4, 80)[0] == pytest.approx(3000 / served.last_s.max(), rel=0.03)


def in_stages(n: int, prompt_s: float = 1.0, token_s: float = 1.0, shares: list[float] | None = None) -> StepTimes:
    """Cards that have layers in turn, a pass of any size so many seconds."""
    each = [1 / n] * n if shares is None else shares
    return dataclasses.replace(times(prompt_s, [token_s] * 8), stage_shares=np.array([each, each]))


def test_a_prompt_in_parts_is_in_all_stages_at_once() -> None:
    """Four parts of a second: one leaves half of its stages behind the other."""
    requests = ArrivalTrace(np.array([0.0, 90.0]), np.array([8, 8]), np.array([1, 1]))
    for n_stages, seconds in ((1, 4.0), (2, 2.5), (4, 1.75)):
        found = serve_arrivals(requests, in_stages(n_stages), 2, 2, Batching(mixes=True))
        assert found.first_s.tolist() == pytest.approx([seconds, 90 + seconds])
        assert (found.prompt_s, found.busy_s) == pytest.approx((8.0, 2 * seconds))


def test_requests_of_different_passes_are_in_different_stages_and_those_of_one_stay_together() -> None:
    """Prompts of two passes: a second each, the other half a second behind. Of one pass: a stage idles."""
    requests = ArrivalTrace(np.zeros(2), np.array([2, 2]), np.array([5, 5]))
    apart = serve_arrivals(requests, in_stages(2), 2, 2)
    assert apart.first_s.tolist() == pytest.approx([1.0, 1.5])
    assert apart.last_s.tolist() == pytest.approx([5.0, 5.5])
    together = serve_arrivals(requests, in_stages(2), 2, 4)
    assert together.last_s.tolist() == pytest.approx([5.0, 5.0])
    assert (apart.n_steps, together.n_steps) == (8, 4)


def test_who_comes_while_a_pass_is_under_way_waits_for_its_end() -> None:
    """As the engine does, which waits for the oldest pass where it has nothing to add: then both go together."""
    requests = ArrivalTrace(np.array([0.0, 0.2]), np.array([2, 2]), np.array([3, 2]))
    found = serve_arrivals(requests, in_stages(2), 2, 4, Batching(mixes=True))
    assert found.first_s.tolist() == pytest.approx([1.0, 2.0])
    assert found.last_s.tolist() == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.25, 0.75], [0.2, 0.5, 0.3]])
def test_the_slowest_stage_binds_where_there_are_as_many_batches_as_stages(shares: list[float]) -> None:
    requests = ArrivalTrace(np.arange(40.0), np.full(40, 2), np.full(40, 400))
    most = capacity(requests, [in_stages(len(shares), shares=shares)], len(shares), pass_tokens=2)[0]
    assert most == pytest.approx(1 / (400 * max(shares)), rel=0.02)


def test_a_server_in_stages_keeps_up_below_its_capacity_and_not_beyond_it() -> None:
    """Requests that come while others decode join them: fewer are served than of as many that come at once, where a
    token of each takes time of its own.
    """
    steps = dataclasses.replace(times(1.0, [0.25 * b for b in range(1, 9)]), stage_shares=np.full((2, 4), 0.25))
    most = capacity(poisson_arrivals(600, 1.0, 8, 20), [steps], 8, 8, Batching(mixes=True))[0]
    at_once = ArrivalTrace(np.zeros(600), np.full(600, 8), np.full(600, 20))
    assert most < 0.8 * 600 / serve_arrivals(at_once, steps, 8, 8, Batching(mixes=True)).last_s.max()
    for factor, grows in ((0.9, False), (1.15, True)):
        ends = []
        for n in (2000, 8000):
            requests = poisson_arrivals(n, factor * most, 8, 20, seed=1)
            ends.append(serve_arrivals(requests, steps, 8, 8, Batching(mixes=True)).ttft_s[-200:].mean())
        assert (ends[1] > 2.5 * ends[0]) == grows, ends


def test_an_idle_server_in_stages_waits_for_its_schedule_and_a_busy_one_does_not() -> None:
    requests = ArrivalTrace(np.array([0.5, 0.5, 30.0]), np.array([2, 2, 2]), np.array([2, 2, 1]))
    steps = dataclasses.replace(in_stages(2), schedule_s=0.25)
    found = serve_arrivals(requests, steps, 2, 2)
    assert found.first_s.tolist() == pytest.approx([1.75, 2.25, 31.25])
    assert found.last_s.tolist() == pytest.approx([2.75, 3.25, 31.25])
    assert found.busy_s == pytest.approx(2.75 + 1.25)


def test_shares_of_stages_are_of_one_pass() -> None:
    requests = ArrivalTrace(np.zeros(2), np.array([2, 2]), np.array([5, 5]))
    for shares in ([[0.5, 0.6], [0.5, 0.5]], [[0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]):
        with pytest.raises(InvalidInput, match="above 0 and 1 together"):
            serve_arrivals(requests, dataclasses.replace(in_stages(2), stage_shares=np.array(shares)), 2)


def test_a_client_asks_again_once_it_is_answered() -> None:
    requests = ArrivalTrace(np.zeros(3), np.full(3, 4), np.array([1, 3, 2]))
    flat = StepTimes(np.array([1.0, 20.0]), np.ones(2), np.full(3, 0.5), np.zeros(3))
    alone = serve_arrivals(requests, flat, 2, 10, clients=1)
    assert alone.came_s.tolist() == pytest.approx([0, 1.0 + AGAIN_S, 3.0 + 2 * AGAIN_S])
    assert alone.ttft_s.tolist() == pytest.approx([1.0] * 3)
    both = serve_arrivals(requests, flat, 2, 10, clients=2)
    assert both.came_s.tolist() == pytest.approx([0, 0, 1.0 + AGAIN_S])
    assert both.ttft_s[2] == pytest.approx(1.5 - AGAIN_S), "the pass decided on as the first ended is without it"
    later = dataclasses.replace(requests, arrival_s=np.array([0.0, 0.0, 9.0]))
    assert serve_arrivals(later, flat, 2, 10, clients=2).came_s[2] == 9.0
    with pytest.raises(InvalidInput, match="0 clients"):
        serve_arrivals(requests, flat, 2, 10, clients=0)
