"""What a run takes of HBM is what was planned for it, and it is refused before anything is made."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.platform import load_platform
from offload.execution import EXECUTIONS
from offload.placing.footprint import plan_memory
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import capture
from pregate.ask.capturing.request import request
from pregate.routing_traces import synthesize
from tests.small_models import MODELS, routing
from traces.model.architecture import architecture_names, load_architecture
from traces.phase import Phase
from traces.routing import Step

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.memory import PAGE_BYTES  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.pools import pool_bytes  # noqa: E402
from runtime.programs.passes import plan_passes  # noqa: E402
from runtime.run import execute  # noqa: E402

HW = load_platform("rtx-4090", "pytorch-eager", overrides={"accelerator.hbm_bytes": 1e12})
RESERVE = int(HW.constant("reserve_bytes"))
LEAST_RESERVE = 1 << 20
"""What a stack whose schedules the runtime executes keeps for itself at least: `threads`."""


EXECUTABLE = [name for name in architecture_names() if load_architecture(name).is_executable]
"""Others the runtime refuses."""


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", EXECUTABLE)
def test_the_pools_of_every_shipped_architecture_are_within_the_plan(name: str, batch: int) -> None:
    model = load_architecture(name)
    if model.dtype != model.expert_dtype or model.dtype.bits < 16:
        model = model.with_dtype("bf16")
    trace = synthesize(model, 32, 4, batch, 0)
    plan = request(model, HW, trace, "pregate", expert_tier="ssd").plan
    pools = pool_bytes(model, plan_passes(model, trace.steps()), plan.n_buffers)
    planned = plan.static_bytes - RESERVE + plan.n_buffers * model.expert_bytes
    assert sum(pools.values()) <= planned + plan.n_buffers * PAGE_BYTES + LEAST_RESERVE
    assert sum(pools.values()) > 0.9 * planned
    assert pools["weights outside experts"] >= model.non_expert_bytes


@pytest.mark.parametrize("n_tokens", [1, 32, 4096, 40_000])
@pytest.mark.parametrize("name", ["glm-4.5", "glm-4.5-air", "switch-xxl-128"])
def test_a_pass_of_any_length_is_within_the_plan_its_ids_of_experts_too(name: str, n_tokens: int) -> None:
    """A plan counts no ids (114 MB of GLM-4.5's longest here) and no logits; its activations are more than a run's."""
    model = load_architecture(name)
    model = model.with_dtype("bf16") if model.dtype.bits > 16 else model
    places = np.zeros(n_tokens, np.int32)
    experts = np.zeros((n_tokens, model.n_moe_layers, model.top_k), np.int16)
    step = Step(0, Phase.PREFILL, experts, places, np.arange(n_tokens, dtype=np.int32))
    static = plan_memory(
        model, measure_workload(model, [step]), policy_named("on_demand"), EXECUTIONS["streams"],
        hbm_bytes=1 << 50, reserve_bytes=LEAST_RESERVE,
    ).static_bytes  # fmt: skip
    assert sum(pool_bytes(model, plan_passes(model, [step]), 0).values()) <= static


def test_a_run_takes_exactly_the_pools_that_were_foretold() -> None:
    model = MODELS["encoder-decoder"]
    trace = routing(model, batch=2)
    what = capture(model, HW, trace, "pregate")
    foretold = pool_bytes(model, plan_passes(model, trace.steps()), what.plan.n_buffers)
    backend = CpuBackend(hbm_bytes=sum(foretold.values()))
    assert dict(execute(backend, model, trace.steps(), what.decoded.schedule).pool_bytes) == foretold
    asked: list[str] = []

    def make(n_bytes: int, purpose: str) -> torch.Tensor:
        asked.append(purpose)
        return torch.zeros(n_bytes, dtype=torch.uint8)

    with pytest.raises(CapacityExceeded, match=r"^selected expert ids: .* do not fit"):
        execute(
            CpuBackend(hbm_bytes=sum(foretold.values()) - 1), model, trace.steps(), what.decoded.schedule,
            experts=Experts(model, allocate=make),
        )  # fmt: skip
    assert not asked
