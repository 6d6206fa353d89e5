"""A host that schedules the next step while this one computes: a step takes the longer of the two."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.cost import Costs
from hwmodels.platform import load_platform
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.metrics.run_metrics import step_end_s
from offload.ops import OpKind
from offload.policies import policy_named
from pregate.ask.simulation import simulate
from pregate.named import load_model
from pregate.routing_traces import synthesize
from simulator import recurrence
from tests.small_models import MODELS, routing


@pytest.mark.parametrize("schedule_s", [1e-4, 3.0, 50.0])
def test_a_step_takes_the_longer_of_what_the_device_and_what_the_host_does(schedule_s: float) -> None:
    model = MODELS["decoder-only"]
    trace = routing(model, output_tokens=5)
    schedule = decode(model, trace.steps(), policy_named("gpu_only"), EXECUTIONS["vllm"], n_buffers=0).schedule
    of_kind = {OpKind.SCHEDULE: schedule_s, OpKind.STEP: 0.25}
    duration_s = np.array([of_kind.get(work.kind, 1.0) for work in schedule.works])
    timeline = recurrence.simulate(schedule, Costs(np.zeros(len(duration_s)), duration_s))
    ends = list(step_end_s(timeline).values())
    device = [float(np.sum((schedule.step == i) & (schedule.lane != 0))) for i in range(len(ends))]
    for i, end_s in enumerate(ends):
        begun = ends[i - 1] if i else schedule_s
        assert end_s - begun == pytest.approx(max(device[i], schedule_s) + 0.25)


def test_a_token_under_vllm_lacks_what_its_host_did_between_steps_before_0_14() -> None:
    model = load_model("qwen3-30b-a3b", formats="all=int4-g128")
    trace = synthesize(model, 64, 4, 1, 0)
    now, before = (
        simulate(model, load_platform("rtx-5090", "vllm", numbers), trace, "gpu_only").tpot_s
        for numbers in (None, {"stack.step_s": "1ms"})
    )
    assert before - now == pytest.approx(0.95e-3)
