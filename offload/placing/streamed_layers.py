"""Weights of layers that wait in host memory, and come over the link whatever the policy decides.

Layers are streamed through buffers in HBM, or the device's kernels read them where they lie while they compute
(zero-copy access). Such a kernel takes the longer of what it computes and what it reads, which is an op beside it: both
begin together, and an op that takes no time ends both. Nothing here may know time.
"""

from __future__ import annotations

from typing import Any

from offload.execution import EXECUTIONS, Execution
from offload.placing.placed import Placed
from offload.policy import Policy
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.layer_bytes import layer_part_bytes, layer_weight_bytes
from traces.model.layer_models import models_by_layer


class LayerStreams:
    """Layers that pass through HBM. `n_bytes`: of each, in order; `ahead` as of `Placement`, at most all of them."""

    def __init__(self, model: ModelArchitecture, placed: Placed) -> None:
        weights, experts = layer_weight_bytes(model), _away_of_expert(model, placed)
        self.n_bytes = {
            layer: (int(weights[layer] * placed.streamed_share) if layer in placed.streamed_layers else 0)
            + (model.n_experts * experts[layer] if layer in placed.streamed_experts else 0)
            for layer in sorted(placed.streamed_layers | placed.streamed_experts)
        }
        self.order = tuple(self.n_bytes)
        self.ahead = None if placed.ahead is None else min(placed.ahead, len(self.order))

    @property
    def buffer_bytes(self) -> int:
        """Of the buffers in HBM: one a layer that is there ahead, one at least; two where the next comes meanwhile."""
        n = 2 if self.ahead is None else max(self.ahead, 1)
        return min(n * max(self.n_bytes.values(), default=0), sum(self.n_bytes.values()))


def host_layer_bytes(model: ModelArchitecture, execution: Execution, placed: Placed) -> dict[int, int]:
    """Of layers of the host that a pass may stream whole, by layer: their weights outside of routed experts."""
    weights = layer_weight_bytes(model)
    return {layer: weights[layer] for layer in placed.host_layers} if execution.streams_layers else {}


class ZeroCopies:
    """Bytes of weights that kernels of a pass ask for in host memory, and those of every block of `rows` rows of a
    product: how many cross the link again is not known (`stack.reread_exponent`).

    Counts are of one pass or (n_passes,) of many.
    """

    def __init__(self, model: ModelArchitecture, placed: Placed, rows: int) -> None:
        self._rows, share = rows, placed.streamed_share
        parts = layer_part_bytes(model)
        self._parts = {layer: [int(one * share) for one in parts[layer]] for layer in placed.zero_copy_weights}
        away = _away_of_expert(model, placed)
        self._experts = {layer: away[layer] for layer in placed.zero_copy_experts}

    def blocks(self, n_rows: Any) -> Any:
        """How often a product of so many rows reads its weights."""
        return -(-n_rows // self._rows)

    def mixing(self, layer: int, n_tokens: Any) -> tuple[Any, Any]:
        """By what mixes the tokens of a layer: once, and by every block."""
        once = self._parts[layer][0] if layer in self._parts else 0
        return once + 0 * n_tokens, once * self.blocks(n_tokens)

    def ffn(self, layer: int, n_tokens: Any, n_experts: Any, n_blocks: Any) -> tuple[Any, Any]:
        """By its FFN, whose so many routed experts have so many blocks: once, and by every block."""
        dense = self._parts[layer][1] if layer in self._parts else 0
        expert = self._experts.get(layer, 0)
        return dense + 0 * n_tokens + expert * n_experts, dense * self.blocks(n_tokens) + expert * n_blocks


def experts_away(model: ModelArchitecture, placed: Placed) -> int:
    """Bytes of routed experts that wait in host memory for kernels to read, or to be streamed with their layer."""
    each = _away_of_expert(model, placed)
    return model.n_experts * sum(each[layer] for layer in (*placed.zero_copy_experts, *placed.streamed_experts))


def _away_of_expert(model: ModelArchitecture, placed: Placed) -> dict[int, int]:
    """By layer of the decoder whose experts wait in host memory, the bytes of one of them that do."""
    models = models_by_layer(model)
    layers = placed.zero_copy_experts | placed.streamed_experts
    return {layer: int(models[layer].expert_bytes * placed.expert_share) for layer in layers}


def check_over_link(policy: Policy, execution: Execution, placed: Placed) -> None:
    """Raises `InvalidInput` for an engine whose kernels read no weights in host memory, or a policy that moves experts
    which the placement has come whole.
    """
    if placed.zero_copies and not execution.zero_copy_rows:
        known = ", ".join(one.name for one in EXECUTIONS.values() if one.zero_copy_rows)
        raise InvalidInput(
            f"{policy.name}: kernels of {execution.name} read no weights in host memory (zerocopy): those of {known} do"
        )
    if (placed.zero_copies or placed.streamed_experts) and not policy.resident:
        raise InvalidInput(
            f"{policy.name}: a policy that moves experts has the link to itself: gpu_only@{policy.placement} leaves "
            f"it to the placement"
        )
