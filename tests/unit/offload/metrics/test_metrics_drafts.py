"""Metrics of passes that verify a draft's tokens, by hand: which pass makes how many, and between which ends."""

from __future__ import annotations

import numpy as np

from offload.metrics import run_metrics
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.timeline import Timeline
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace

PROMPT, TAKEN, NOT = (Phase.PREFILL, False), (Phase.DECODE, False), (Phase.DECODE, True)


def verified(*tokens: tuple[int, int, tuple[Phase, bool]]) -> RoutingTrace:
    """Tokens of (step, sequence, what it is); positions go on where a token was taken."""
    step, sequence, kinds = zip(*tokens, strict=True)
    n, at = len(tokens), dict[int, int]()
    position = []
    for one, (_, rejected) in zip(sequence, kinds, strict=True):
        position.append(at.get(one, 0))
        at[one] = at.get(one, 0) + (not rejected)
    return RoutingTrace(
        experts=np.zeros((n, 1, 1), np.int16),
        sequence=np.array(sequence, np.int32),
        position=np.array(position, np.int32),
        phase=np.array([phase for phase, _ in kinds], np.int8),
        step=np.array(step, np.int32),
        n_experts=2,
        provenance=Provenance("m", "a test"),
        rejected=np.array([rejected for _, rejected in kinds]),
    )


ONE = verified(
    (0, 0, PROMPT), (0, 0, PROMPT),
    (1, 0, TAKEN), (1, 0, TAKEN), (1, 0, TAKEN), (1, 0, NOT),
    (2, 0, TAKEN), (2, 0, NOT), (2, 0, NOT),
    (3, 0, TAKEN), (3, 0, TAKEN),
)  # fmt: skip


def gaps(trace: RoutingTrace, *steps: int) -> list[tuple[int, int]]:
    begin, end = run_metrics.gap_pairs(trace, np.array(steps, np.int32))
    return list(zip(begin.tolist(), end.tolist(), strict=True))


def test_tokens_of_one_pass_but_the_first_come_at_once() -> None:
    """The prompt makes one, then three, one and two are made: gaps between passes, and three from an end to itself."""
    assert gaps(ONE, 0, 1, 2, 3) == [(0, 1), (1, 2), (2, 3), (1, 1), (1, 1), (3, 3)]


def test_passes_may_be_given_in_any_order_and_be_some_of_all() -> None:
    """Places are those in `steps`; a pass of which the trace knows nothing makes nothing, the last of all included."""
    assert gaps(ONE, 9, 3, 1, 0) == [(3, 2), (2, 1), (2, 2), (2, 2), (1, 1)]
    assert gaps(ONE, 1) == [(0, 0), (0, 0)]
    assert gaps(ONE, 2) == []


def test_sequences_of_one_pass_have_gaps_of_their_own() -> None:
    """In pass 1 one sequence makes two and the other one; in pass 2 nothing of the second is taken but its first."""
    both = verified(
        (0, 0, PROMPT), (0, 1, PROMPT),
        (1, 0, TAKEN), (1, 0, TAKEN), (1, 1, TAKEN), (1, 1, NOT),
        (2, 0, TAKEN), (2, 0, NOT), (2, 1, TAKEN), (2, 1, NOT),
    )  # fmt: skip
    assert gaps(both, 0, 1, 2) == [(0, 1), (1, 2), (0, 1), (1, 2), (1, 1)]


def test_a_pass_whose_tokens_are_all_rejected_is_no_end_of_a_gap() -> None:
    trace = verified((0, 0, PROMPT), (1, 0, NOT), (2, 0, TAKEN))
    assert gaps(trace, 0, 1, 2) == [(0, 2)]


def test_first_tokens_of_a_pass_that_verifies_are_those_taken() -> None:
    assert run_metrics.n_first_tokens(ONE, np.array([0, 1], np.int32)) == 1
    assert run_metrics.n_first_tokens(ONE, np.array([1, 2], np.int32)) == 3
    assert run_metrics.n_first_tokens(verified((0, 0, PROMPT), (1, 0, TAKEN)), np.array([1], np.int32)) == 1


def test_what_is_copied_within_host_memory_is_no_compute_of_a_layer() -> None:
    """And layers come in order within a step."""
    ops = [
        (Lane.COMPUTE, OpKind.GATE, 0), (Lane.CPU, OpKind.CPU_EXPERT, 0), (Lane.CPU, OpKind.FILE, 0),
        (Lane.COMPUTE, OpKind.GATE, 1), (Lane.COMPUTE, OpKind.EXPERTS, 1),
    ]  # fmt: skip
    lane, kind, layer = (np.array(column) for column in zip(*ops, strict=True))
    first, last = run_metrics.moe_layers(
        lane.astype(np.int8), kind.astype(np.int8), np.zeros(5, np.int32), layer.astype(np.int16), np.zeros(1, np.int32)
    )
    assert (first.tolist(), last.tolist()) == ([0, 3], [1, 4])


def test_bytes_written_back_are_a_metric() -> None:
    recorder = Recorder()
    recorder.issue(Lane.D2H, Work(OpKind.WRITE_BACK, copy_bytes=70), step=1, layer=0)
    recorder.issue(Lane.HOST, Work(OpKind.STEP), step=1)
    start = np.array([0.0, 1.0])
    found = run_metrics.of_timeline(Timeline(recorder.schedule(), start, start + 1, "hand"), ONE, 6, (0, 0))
    assert (found["written_back_bytes"], found["h2d_bytes"]) == (70, 0)
