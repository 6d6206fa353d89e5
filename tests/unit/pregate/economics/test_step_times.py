"""Passes of a server by their size, against schedules of the very pass."""

from __future__ import annotations

import pytest

from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload.metrics.run_metrics import ttft_s
from offload.policies import policy_named
from pregate.ask.capturing.capture import capture_request
from pregate.ask.capturing.request import request
from pregate.economics.step_times import _with_tokens, pass_times, pass_traces
from pregate.named import load_model
from pregate.routing_traces import synthesize
from simulator.recurrence import simulate
from traces.requests import poisson_arrivals


@pytest.mark.parametrize("n_prompt", [24, 64, 256, 512])
def test_tokens_beside_a_prompt_are_as_slow_as_in_their_own_schedule(n_prompt: int) -> None:
    """Experts on the host: below 32 tokens it computes them, from there on they cross to the card."""
    model, machine = load_model("gpt-oss-20b"), load_platform("rtx-4090", "llama-cpp")
    design = policy_named("gpu_only@experts=cpu")
    requests = poisson_arrivals(20, 1.0, 600, 50)
    passes = pass_traces(model, requests, 8, 1024, mixes=True, execution=machine.execution)
    times = pass_times(passes, machine, design, alone=True).as_predicted
    other = _with_tokens(synthesize(model, n_prompt, 2, 1, 3), synthesize(model, 1, 2, 9, 4))
    captured = capture_request(request(model, machine, other, design, workload=passes.whole))
    schedule = captured.decoded.schedule
    own_s = ttft_s(simulate(schedule, price_figures(schedule.works, figures_of(machine))))
    assert times.of_both(n_prompt, 8) == pytest.approx(own_s, rel=0.13)
