"""A workload whose HBM is counted by hand, and what a policy is granted for it."""

from __future__ import annotations

from offload.execution import EXECUTIONS, Execution
from offload.placing.footprint import MemoryPlan, plan_memory
from offload.placing.workload import Workload
from offload.policies import policy_named
from tests.small_models import MODELS
from traces.model.architecture import ModelArchitecture

STREAMS, RELEASED = EXECUTIONS["streams"], EXECUTIONS["fastertransformer"]
DECODER, SWITCH = MODELS["decoder-only"], MODELS["encoder-decoder"]
WORKLOAD = Workload(
    n_cached_tokens=10, n_memory_tokens=0, n_tokens=4, n_context=5, n_active=3, n_decode_active=3, n_encoder_active=0,
    n_output_tokens=6, n_sequences=2, n_running=2,
)  # fmt: skip


def plan(
    model: ModelArchitecture, policy: str, hbm_bytes: int, workload: Workload = WORKLOAD, execution: Execution = STREAMS
) -> MemoryPlan:
    return plan_memory(model, workload, policy_named(policy), execution, hbm_bytes=hbm_bytes, reserve_bytes=100)


def static_bytes(model: ModelArchitecture, execution: Execution = STREAMS) -> int:
    return plan(model, "on_demand", 1 << 40, execution=execution).static_bytes
