"""Prompts that several steps read: who says so, what is kept, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offload.metrics.run_metrics import gap_pairs, n_first_tokens
from tests.small_models import MODELS, in_parts, routing
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.storage import open_trace, save_trace
from traces.transforms.rebatching import rebatch

P, D = Phase.PREFILL, Phase.DECODE
TURNS = [  # sequence, position, phase, step: a prompt in two steps beside another's, an answer, a prompt behind it
    (0, 0, P, 0), (0, 1, P, 0), (1, 0, P, 0), (0, 2, P, 1), (0, 3, D, 2), (1, 1, D, 2), (0, 4, P, 3), (0, 5, P, 3),
    (0, 6, P, 4), (0, 7, D, 5),
]  # fmt: skip


def trace_of(rows: list[tuple[int, int, Phase, int]]) -> RoutingTrace:
    sequence, position, phase, step = np.array(rows).T
    experts = np.arange(len(rows), dtype=np.int16)[:, None, None] % 8 + np.zeros((1, 2, 1), np.int16)
    return RoutingTrace(experts, sequence, position, phase, step, 8, Provenance("toy", "test"))


def test_a_part_is_unfinished_until_the_prompt_ends_and_a_prompt_behind_an_answer_is_another() -> None:
    trace = trace_of(TURNS)
    assert trace.unfinished is not None
    assert trace.unfinished.tolist() == [True, True, False, False, False, False, True, True, False, False]
    per_step = [None if one.unfinished is None else one.unfinished.tolist() for one in trace.steps()]
    assert per_step[:2] == [[True, True, False], [False]]


def test_prompts_read_in_one_step_each_say_nothing() -> None:
    trace = routing(MODELS["decoder-only"], batch=3)
    assert trace.unfinished is None
    assert all(step.unfinished is None for step in trace.steps())


@pytest.mark.parametrize("chunk_tokens", [1, 3, 4, 100])
def test_a_stream_knows_what_is_unfinished_before_it_has_come_by(tmp_path: Path, chunk_tokens: int) -> None:
    for trace in (trace_of(TURNS), in_parts(routing(MODELS["decoder-only"], batch=3, input_tokens=7), 2)):
        save_trace(trace, tmp_path / "t")
        for one, other in zip(open_trace(tmp_path / "t").steps(chunk_tokens), trace.steps(), strict=True):
            assert np.array_equal(one.unfinished, other.unfinished)


def test_tokens_are_made_where_prompts_end() -> None:
    """Passes with a head: steps 0 (of sequence 1), 1, 2, 4 and 5; sequence 0 makes none in step 0."""
    trace = trace_of(TURNS)
    steps = np.array([0, 1, 2, 4, 5], np.int32)
    assert n_first_tokens(trace, steps) == 1
    gap_from, gap_to = gap_pairs(trace, steps)
    gaps = sorted(zip(steps[gap_from].tolist(), steps[gap_to].tolist(), strict=True))
    assert gaps == [(0, 2), (1, 2), (4, 5)], "the token behind the second prompt is a first one, as that in step 1"


def test_rebatched_prompts_are_read_at_once_and_those_behind_an_answer_behind_it() -> None:
    trace = rebatch(trace_of(TURNS), 1)
    assert trace.unfinished is None
    rows = list(zip(trace.sequence.tolist(), trace.position.tolist(), trace.step.tolist(), strict=True))
    assert rows == [
        (0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 1), (0, 4, 2), (0, 5, 2), (0, 6, 2), (0, 7, 3), (1, 0, 4), (1, 1, 5)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("swapped", "message"),
    [
        ((0, 3), r"sequence 0: position 0 runs in step 1, after position 2 in step 0"),
        ((4, 7), r"sequence 0: position 3 runs in step 3, after position 5 in step 2"),
    ],
)
def test_a_token_that_runs_before_one_that_it_attends_to_is_refused(swapped: tuple[int, int], message: str) -> None:
    trace = trace_of(TURNS)
    position = trace.position.copy()
    position[list(swapped)] = position[list(swapped)[::-1]]
    with pytest.raises(InvalidInput, match=message):
        replace(trace, position=position)


def test_an_encoder_may_read_in_several_steps_and_its_decoder_begins_at_0() -> None:
    whole = routing(MODELS["encoder-decoder"], batch=2, input_tokens=6)
    parts = in_parts(whole, 2)
    assert parts.n_steps == whole.n_steps + 2
    assert replace(parts).digest == parts.digest


@pytest.mark.parametrize(
    ("phase", "told"),
    [(P, "prefill tokens up to position 2 and from 4"), (D, "decode tokens up to position 3 and from 7")],
)
def test_one_phase_of_a_sequence_of_several_turns_is_refused_as_such(phase: Phase, told: str) -> None:
    """Its tokens in between were recorded."""
    with pytest.raises(InvalidInput, match=rf"sequence 0 has {told} on, .* a sequence of its own"):
        trace_of(TURNS).select(phase=phase)
