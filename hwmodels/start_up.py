"""What a design that weighs the host against the link would measure when it starts, on a platform."""

from __future__ import annotations

from hwmodels.cost import price
from hwmodels.platform import Platform
from offload import ffn_work, work
from offload.ops import OpKind
from offload.policy_parts.miss_costs import MissCosts
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

_MANY = 1 << 20
"""Tokens of an expert, so many that arithmetic is all that counts."""


def miss_costs(model: ModelArchitecture, hw: Platform) -> MissCosts:
    """Times of one expert of `model` on `hw` over that of its copy: latencies are in them, launches are not.

    `beside` is of the shares that processor and link keep of their rates, where the host states them (else 1). Raises
    `InvalidInput` where copies take no time.
    """
    fetch = work.expert_copy_work(model, OpKind.FETCH)
    host = [work.cpu_expert_work(model, n) for n in (1, _MANY)]
    device = [ffn_work.experts_work(model, [n], slots_bytes=model.expert_bytes) for n in (1, _MANY)]
    crossing = [work.handover_work(model, 1), work.return_work(model, 1)]
    priced = price([fetch, *host, *device, *crossing], hw)
    copy_s, *rest = priced.duration_s.tolist()
    if not copy_s > 0:
        raise InvalidInput(f"a copy of an expert of {model.name} takes no time on {hw.hardware}: nothing to weigh")
    host_1, host_n, device_1, device_n, there, back = (value / copy_s for value in rest)
    copies_keep, host_keeps = priced.contended[:2].tolist()
    return MissCosts(host_1, host_n / _MANY, device_1, device_n / _MANY, there + back, copies_keep / host_keeps)
