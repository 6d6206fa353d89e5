"""What an op is said to compute against what the runtime really multiplies, counted by PyTorch, op by op."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.policies import policy_named
from offload.schedule import Schedule
from tests.cuda_standin import StandIn
from tests.small_models import MODELS, decoder_only, routing
from traces.model.architecture import Attention, ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.run import execute  # noqa: E402


def with_attention(attention: Attention) -> ModelArchitecture:
    model = decoder_only(n_shared=1, n_matrices=3)
    return dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, attention=attention))


LATENT = Attention(
    "mla", n_heads=4, n_kv_heads=4, head_dim=12, kv_lora_rank=16, qk_nope_dim=8, qk_rope_dim=4, v_head_dim=6
)
SHAPES = MODELS | {
    "latent": with_attention(LATENT),
    "latent, queries compressed": with_attention(dataclasses.replace(LATENT, q_lora_rank=10)),
    "two shared experts": dataclasses.replace(decoder_only(n_shared=1), n_shared_experts=2),
}


class Counting(CudaBackend):
    """Runs every op at once and counts the floating-point operations of its matrix products."""

    def __init__(self) -> None:
        super().__init__(device="cpu", api=StandIn())
        self.flop: dict[int, int] = {}

    def load(self, order: Any, actions: Sequence[Any]) -> None:
        super().load(order, [self._counted(op, a) if callable(a) else a for op, a in enumerate(actions)])

    def _counted(self, op: int, action: Callable[[], None]) -> Callable[[], None]:
        def counted() -> None:
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                action()
            self.flop[op] = counter.get_total_flops()

        return counted


def executed(model: ModelArchitecture, trace: RoutingTrace) -> tuple[Schedule, dict[int, int]]:
    steps = list(trace.steps())
    made = decode(model, steps, policy_named("pregate"), EXECUTIONS["streams"], n_buffers=3 * model.n_experts)
    backend = Counting()
    execute(backend, model, steps, made.schedule)
    return made.schedule, backend.flop


def score_width(attention: Attention) -> int:
    """Multiply-adds of one query-key pair in one head: over the width of a key, then over that of a value."""
    if attention.kind == "mla":  # absorbed: keys are latents with the shared part, values latents
        return 2 * attention.kv_lora_rank + attention.qk_rope_dim
    return 2 * attention.head_dim


@pytest.mark.parametrize("name", SHAPES)
def test_every_op_multiplies_what_its_work_says(name: str) -> None:
    model = SHAPES[name]
    trace = routing(model, batch=2, seed=5, input_tokens=6, output_tokens=4)
    schedule, flop = executed(model, trace)
    of_step = {step.i_step: step for step in trace.steps()}
    seen = set()
    for op, kind in enumerate(OpKind(kind) for kind in schedule.kind.tolist()):
        if op not in flop:
            continue
        step = of_step[int(schedule.step[op])]
        n = len(step.experts)
        said = schedule.works[schedule.cost[op]].total_flop
        if kind is OpKind.SELF_ATTENTION and step.phase == Phase.PREFILL and not model.is_encoder_decoder:
            # The counter sees whole squares; a causal mask leaves the lower triangle.
            lengths = np.bincount(step.sequence)
            masked = sum(int(length * (length - 1) // 2) for length in lengths.tolist())
            attention = model.decoder.attention
            said += 2 * masked * attention.n_heads * score_width(attention)
        if kind is OpKind.EXPERTS and schedule.expert[op] < 0 and model.shared_expert_gate:
            said += 2 * n * model.d_model
        assert flop[op] == said, (op, kind.name, step.phase)
        seen.add((kind, step.phase))
    wanted = {OpKind.SELF_ATTENTION, OpKind.GATE, OpKind.EXPERTS, OpKind.DENSE_FFN}
    assert {kind for kind, phase in seen if phase == Phase.PREFILL} >= wanted
    assert {kind for kind, phase in seen if phase == Phase.DECODE} >= wanted | {OpKind.HEAD}
    if model.is_encoder_decoder:
        assert (OpKind.CROSS_ATTENTION, Phase.DECODE) in seen
