"""What a phase keeps busy, by hand, and the tokens that a design with a cache is timed with."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pregate
from offload.ops import Lane, OpKind, Work
from offload.policies import policy_named
from offload.recorder import Recorder
from offload.timeline import Timeline
from pregate.ask.decode_middle import DECODED, SETTLED, WARMED, middle_of_decode, tokens_timed
from pregate.card.designs import plan_design
from pregate.card.job import RequestLoad, recorded_job, workpiece
from pregate.card.judged_design import PhaseUse, judge
from traces.phase import Phase

MODEL = pregate.load_model("qwen3-30b-a3b", formats={"all": "q4_k_m"})


def two_copies() -> Timeline:
    """A copy beside a product, each of a second, then the same for three."""
    recorder = Recorder()
    for _ in range(2):
        recorder.issue(Lane.H2D, Work(OpKind.FETCH, copy_bytes=12), step=0, layer=0, slot=0)
        recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0, layer=0)
    return Timeline(recorder.schedule(), np.array([0.0, 0, 1, 3]), np.array([1.0, 1, 4, 4]), "hand")


def test_what_a_run_and_a_part_of_it_keep_busy() -> None:
    assert PhaseUse.of(two_copies()) == PhaseUse(0.5, 0.0, 6.0)
    assert PhaseUse.of(two_copies().since(2.0)) == PhaseUse(0.5, 0.0, 6.0)
    assert PhaseUse.of(two_copies().since(3.0)) == PhaseUse(1.0, 0.0, 12.0)
    assert PhaseUse.of(two_copies().since(4.0)) == PhaseUse(0.0, 0.0, 0.0)


def test_no_lane_is_busy_for_longer_than_there_is_time() -> None:
    """Sums of durations may pass the makespan by a rounding error."""
    nothing: Any = {"schedule": SimpleNamespace(kind=np.zeros(0, np.int8)), "moved_bytes": np.zeros(0, np.int64)}
    found = PhaseUse.of(SimpleNamespace(makespan_s=2.0, busy_s=lambda lane: 2.0000001, **nothing))  # type: ignore[arg-type]
    assert (found.compute_share, found.host_share) == (1.0, 1.0)


@pytest.mark.parametrize(("n_prompt", "n_first"), [(512, WARMED), (10, 10), (1, 1)])
def test_a_cache_has_seen_a_part_of_the_prompt(n_prompt: int, n_first: int) -> None:
    cold, warm = (middle_of_decode(MODEL, n_prompt, 256, 2, warmed=warmed) for warmed in (False, True))
    first = warm.phase == Phase.PREFILL
    assert np.count_nonzero(first) == 2 * n_first
    for trace, n in ((cold, DECODED), (warm, SETTLED // 2)):
        decoded = trace.position[trace.phase == Phase.DECODE]
        before = n_prompt + (256 - n) // 2
        assert (decoded.min(), decoded.max()) == (before, before + n - 2)


def test_sequences_settle_a_cache_together() -> None:
    assert [tokens_timed(batch, warmed=True) for batch in (1, 2, 3, 64)] == [96, 48, 32, 32]
    assert tokens_timed(1, warmed=False) == DECODED


def test_designs_with_a_cache_are_timed_with_those_tokens() -> None:
    work = workpiece(MODEL, RequestLoad(512, 256, 1))
    assert work.tokens_for(policy_named("on_demand+lru")) is work.warmed
    assert work.tokens_for(policy_named("on_demand")) is work.tokens
    one = recorded_job(MODEL, pregate.synthesize(MODEL, 8, 4))
    assert one.tokens_for(policy_named("on_demand+lru")) is one.prompt


def test_a_token_of_a_cached_design_is_that_of_a_long_answer() -> None:
    """Tokens that begin with an empty cache took 26 % longer; a long answer is simulated whole beside them."""
    hw = pregate.load_hardware("rtx-3060-12gb")
    work = workpiece(MODEL, RequestLoad(256, 128, 1))
    found = judge(plan_design(MODEL, hw, work, "on_demand+lru"), work.job)
    whole = pregate.simulate(MODEL, hw, pregate.synthesize(MODEL, 256, 128, 1), "on_demand+lru")
    cold = judge(plan_design(MODEL, hw, dataclasses.replace(work, warmed=work.tokens), "on_demand+lru"), work.job)
    assert found.tpot.value == pytest.approx(whole.tpot_s, rel=0.03)
    assert cold.tpot.value > 1.15 * whole.tpot_s
    assert found.token_use.h2d_bytes_per_s < cold.token_use.h2d_bytes_per_s
