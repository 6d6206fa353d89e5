"""Cards of a recorded trace: what the job is, what of a long one is timed, what has no prompt."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pregate
from offload.metrics.run_metrics import decode_steps
from offload.placing.workload import measure_workload
from pregate.card.job import JUDGED, RequestLoad, recorded_job
from pregate.card.plan import plan
from tests.small_models import in_parts
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.statistics.popularity import popularity_of
from traces.transforms.rebatching import rebatch

IN_VIEW = "experts kept with it in view"
STREAMS = pregate.load_hardware("rtx-4090", "streams")


@pytest.fixture(scope="module")
def model() -> ModelArchitecture:
    return pregate.load_model("mixtral-mini-8")


def test_a_recorded_trace_says_itself_what_the_job_is(model: ModelArchitecture) -> None:
    trace = pregate.synthesize(model, 12, 6, 2)
    found = plan(model, STREAMS, trace=trace)
    assert (found.job.input_tokens, found.job.output_tokens, found.job.batch) == (12, 6, 2)
    assert found.routing == "synthetic"
    source = dataclasses.replace(trace.provenance, source="a recording")
    seen = plan(model, STREAMS, trace=dataclasses.replace(trace, provenance=source))
    assert seen.routing == "recorded, " + IN_VIEW
    with pytest.raises(InvalidInput, match="a job or a trace"):
        plan(model, STREAMS, RequestLoad(24, 40, 1), trace=trace)


def test_of_a_long_recording_its_first_steps_are_timed_and_all_of_it_is_counted(model: ModelArchitecture) -> None:
    trace = pregate.synthesize(model, 4, JUDGED + 20)
    long = dataclasses.replace(trace, provenance=dataclasses.replace(trace.provenance, source="a recording"))
    work = recorded_job(model, long)
    assert len(decode_steps(work.tokens)) == JUDGED
    assert work.tokens is work.prompt
    assert work.job.output_tokens == JUDGED + 20
    assert work.popularity.digest == popularity_of(long).digest
    assert work.workload == measure_workload(model, long.steps())
    found = plan(model, STREAMS, trace=long)
    assert found.routing == f"recorded (the first {JUDGED} of {JUDGED + 19} decode steps timed), " + IN_VIEW


def test_numbers_of_steps_may_have_holes(model: ModelArchitecture) -> None:
    trace = pregate.synthesize(model, 12, 6, 2)
    work = recorded_job(model, dataclasses.replace(trace, step=3 * trace.step + 2))
    assert work.prompt.digest == recorded_job(model, trace).prompt.digest


def test_the_limit_of_the_first_token_is_of_the_first_prompt_alone() -> None:
    """Whatever else a recording has: prompts that others begin with later, or one that is read in several passes."""
    model = pregate.load_model("mixtral-mini-8")
    whole = pregate.synthesize(model, 512, 4, 3)
    alone, behind = pregate.synthesize(model, 512, 4, 1), rebatch(whole, 1)
    first, last = (plan(model, STREAMS, trace=trace, objective="ttft") for trace in (alone, behind))
    assert last.limit.ttft_s == pytest.approx(first.limit.ttft_s, rel=0.02)
    assert last.limit.ttft_s <= last.best.ttft.value
    parts = plan(model, STREAMS, trace=in_parts(alone, 200), objective="ttft")
    assert first.limit.ttft_s <= parts.limit.ttft_s < parts.best.ttft.value


def test_a_recording_without_its_prompt_has_a_limit_of_its_first_token(model: ModelArchitecture) -> None:
    found = plan(model, STREAMS, trace=pregate.synthesize(model, 4, 12).decode_only())
    assert 0 < found.limit.ttft_s <= found.best.ttft.value
    assert str(found.job).startswith("1 token in")


def test_a_further_turn_is_no_part_of_the_limit_of_the_first_token(model: ModelArchitecture) -> None:
    one = pregate.synthesize(model, 24, 9)
    later = (one.position >= 26) & (one.position < 29)  # of its answer, now a prompt in one step
    step = np.where(later, one.step[later].min(), one.step)
    turns = dataclasses.replace(one, phase=np.where(later, Phase.PREFILL, one.phase), step=step)
    alone, found = (plan(model, STREAMS, trace=trace) for trace in (one, turns))
    assert found.limit.ttft_s == pytest.approx(alone.limit.ttft_s)
    assert found.limit.ttft_s <= found.best.ttft.value
