"""A server of arrivals: SimPy, the kernel and its machine code give the same times, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulator.definition import arrivals_des
from simulator.serving.arrivals import PROMPTS_ALONE, Batching, StepTimes, serve_arrivals
from simulator.serving.server_kernel import SERVE, serve
from simulator.serving.stages_kernel import serve_in_stages
from traces.requests import ArrivalTrace

TIMES = st.floats(0.001, 10.0)


Asked = tuple[ArrivalTrace, StepTimes, int, int, Batching, int | None]


def shares_of_stages(n: int) -> st.SearchStrategy[np.ndarray]:
    each = st.lists(st.floats(0.1, 1.0), min_size=2 * n, max_size=2 * n)
    return each.map(lambda flat: np.reshape(flat, (2, n)) / np.reshape(flat, (2, n)).sum(axis=1, keepdims=True))


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    n, slots = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    gaps = draw(st.lists(st.one_of(st.just(0.0), TIMES), min_size=n, max_size=n))
    tokens = [draw(st.lists(st.integers(1, most), min_size=n, max_size=n)) for most in (40, 9)]
    beside = st.lists(st.floats(0, 5), min_size=3 * slots + 3, max_size=3 * slots + 3)
    times = StepTimes(
        np.array([1.0, 20.0, 64.0]),
        np.sort(draw(st.lists(TIMES, min_size=3, max_size=3))),
        np.array([0.0, *draw(st.lists(TIMES, min_size=slots, max_size=slots))]),
        np.array([0.0, *draw(st.lists(st.floats(0, 0.01), min_size=slots, max_size=slots))]),
        draw(st.one_of(st.none(), st.lists(st.floats(0, 0.1), min_size=3, max_size=3).map(np.array))),
        draw(st.one_of(st.just(0.0), st.floats(0, 2))),
        draw(st.one_of(st.none(), beside.map(lambda seconds: np.reshape(seconds, (slots + 1, 3))))),
        draw(st.one_of(st.none(), st.integers(2, 4).flatmap(shares_of_stages))),
    )
    batching = Batching(draw(st.booleans()), draw(st.booleans()))
    pass_tokens = draw(st.integers(slots if batching.mixes else 1, 80))
    held = draw(st.one_of(st.none(), st.just(np.array([n // 2 for n in tokens[0]]))))
    requests = ArrivalTrace(np.cumsum(gaps), *map(np.array, tokens), held_tokens=held)
    return requests, times, slots, pass_tokens, batching, draw(st.one_of(st.none(), st.integers(1, 6)))


def of_whole_seconds(
    arrival_s: list[float], input_tokens: list[int], output_tokens: list[int], slots: int, pass_tokens: int,
    batching: Batching = PROMPTS_ALONE, n_stages: int = 1, clients: int | None = None,
) -> Asked:  # fmt: skip
    """Requests where every pass, and every token of any batch, takes a second, in equal stages."""
    times = StepTimes(
        np.array([1.0, 20.0]), np.ones(2), np.ones(slots + 1), np.zeros(slots + 1),
        stage_shares=np.full((2, n_stages), 1 / n_stages) if n_stages > 1 else None,
    )  # fmt: skip
    requests = ArrivalTrace(*map(np.array, (arrival_s, input_tokens, output_tokens)))
    return requests, times, slots, pass_tokens, batching, clients


def with_held_halves(one: Asked) -> Asked:
    """The same, with half of each prompt held, which a pass pays for by how many tokens it reads."""
    requests, times, *how = one
    requests = replace(requests, held_tokens=requests.input_tokens // 2)
    return requests, replace(times, before_s=np.array([0.0, 0.5])), *how


def with_schedule(one: Asked) -> Asked:
    """The same, where a pass waits half a second when nothing ran before it."""
    requests, times, *how = one
    return requests, replace(times, schedule_s=0.5), *how


@given(asked())
@settings(max_examples=100)  # 25 let a line of prompts_kernel be broken
@example(of_whole_seconds([0.0, 0.0, 0.0], [4, 6, 1], [2, 2, 2], 3, 10))  # two prompts fill a pass
@example(of_whole_seconds([0.0, 0.0, 0.0], [10, 4, 4], [1, 2, 2], 2, 10))  # who is done at once holds no slot
@example(of_whole_seconds([0.0, 3.0], [4, 4], [9, 9], 2, 10))  # one comes as a token ends
@example(of_whole_seconds([0.0, 0.5, 0.5], [4, 30, 9], [9, 1, 3], 3, 10, Batching(mixes=True)))  # a prompt in parts
@example(of_whole_seconds([0.0, 0.5, 0.5], [4, 30, 9], [9, 1, 3], 2, 10, Batching(mixes=True, ahead=True)))
@example(of_whole_seconds([0.0, 0.5, 1.0], [4, 3, 9], [1, 1, 3], 1, 10, Batching(ahead=True)))  # a slot is free later
@example(of_whole_seconds([0.0, 0.0, 0.5], [4, 6, 9], [2, 2, 2], 3, 5, n_stages=2))
@example(of_whole_seconds([0.0, 0.5, 0.5], [4, 30, 9], [9, 1, 3], 3, 10, Batching(mixes=True, ahead=True), n_stages=3))
@example(of_whole_seconds([0.0, 0.5], [4, 10], [9, 3], 3, 10, Batching(mixes=True)))  # one token of a prompt is left
@example(with_schedule(of_whole_seconds([0.0, 0.25], [4, 6], [2, 2], 3, 5, n_stages=2)))  # comes as the first waits
@example(of_whole_seconds([0.0, 0.0, 0.0], [4, 6, 9], [2, 1, 2], 2, 10, Batching(True, True), clients=1))
@example(of_whole_seconds([0.0, 0.0, 4.5], [4, 6, 9], [2, 3, 2], 2, 10, Batching(mixes=True), n_stages=2, clients=2))
@example(with_held_halves(of_whole_seconds([0.0, 0.0, 0.5], [30, 12, 9], [2, 3, 2], 3, 10, Batching(mixes=True))))
@example(with_held_halves(of_whole_seconds([0.0, 0.0, 0.5], [30, 12, 9], [2, 3, 2], 3, 10, n_stages=2)))
@example(with_held_halves(of_whole_seconds([0.0, 0.0, 0.0], [8, 12, 9], [2, 3, 2], 3, 20)))  # both pay for what is held
@example(with_held_halves(of_whole_seconds([0.0, 0.0, 0.0], [8, 12, 9], [2, 3, 2], 3, 20, Batching(mixes=True))))
def test_the_kernel_is_the_definition(one: Asked) -> None:
    defined = arrivals_des.serve_arrivals(*one)
    with patch("simulator.serving.arrivals._SMALL_TOKENS", 0):
        compiled = serve_arrivals(*one)
    with patch("simulator.serving.arrivals.loaded", lambda kernel: serve if kernel is SERVE else serve_in_stages):
        as_it_stands = serve_arrivals(*one)
    for quick in (compiled, as_it_stands):
        assert quick.came_s.tolist() == defined.came_s.tolist()
        assert quick.first_s.tolist() == defined.first_s.tolist()
        assert quick.last_s.tolist() == defined.last_s.tolist()
        assert quick.n_steps == defined.n_steps
        spent_s = [[one.prompt_s, one.token_s, one.busy_s] for one in (quick, defined)]
        assert np.allclose(*spent_s, rtol=1e-9)
    assert (compiled.prompt_s, compiled.token_s) == (as_it_stands.prompt_s, as_it_stands.token_s)
    assert compiled.busy_s == as_it_stands.busy_s


@given(asked())
def test_a_server_keeps_its_rules(one: Asked) -> None:
    requests, times, slots, _, batching, clients = one
    found = serve_arrivals(*one)
    assert np.all(found.came_s >= requests.arrival_s)
    assert clients is not None or np.all(found.came_s == requests.arrival_s)
    for at in found.came_s.tolist():  # who waits for an answer asks nothing
        assert clients is None or np.sum((found.came_s <= at) & (found.last_s > at)) <= clients
    assert np.all(found.first_s > found.came_s)
    assert np.all(np.diff(found.first_s) >= 0)  # first come, first served
    assert np.all((found.last_s > found.first_s) == (requests.output_tokens > 1))
    for at in found.first_s.tolist():
        assert np.sum((found.first_s <= at) & (found.last_s > at)) <= slots
    work_s = found.prompt_s + found.token_s
    assert found.busy_s <= found.last_s.max() + 1e-9
    assert work_s / times.n_stages <= found.busy_s * (1 + 1e-9) <= work_s * (1 + 2e-9)
    fewer = np.sum(times.token_s[1:].min() * (requests.output_tokens - 1)) / slots
    assert batching.mixes or found.token_s >= fewer * (1 - 1e-9)


@given(st.lists(TIMES, min_size=1, max_size=6), st.data())
def test_a_prompt_pass_is_on_the_lines_between_its_points(seconds: list[float], data: st.DataObject) -> None:
    tokens = np.sort(
        data.draw(st.lists(st.integers(1, 500), min_size=len(seconds), max_size=len(seconds), unique=True))
    )
    times = StepTimes(tokens.astype(float), np.array(seconds), np.zeros(2), np.zeros(2))
    within = np.append(np.arange(1, tokens[-1]), tokens)
    found = [times.of_prompt(int(n)) for n in within]
    np.testing.assert_allclose(found, np.interp(within, tokens, seconds), rtol=1e-12)
    assert [times.of_prompt(int(n)) for n in tokens] == seconds
    beyond = times.of_prompt(int(tokens[-1]) + 7)
    slope = max((seconds[-1] - seconds[-2]) / float(tokens[-1] - tokens[-2]), 0.0) if len(seconds) > 1 else 0.0
    assert beyond == seconds[-1] + slope * 7
