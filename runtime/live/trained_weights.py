"""The weights of a trained model as the runtime lays them out, for `runtime.model.layers` to execute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from runtime.memory import element_type
from runtime.model.shapes import expert_shapes, static_shapes
from runtime.pregated.transformer import ExpertLayer, MoeTransformer, Stack
from runtime.programs.touches import ExpertKey
from traces.errors import InvalidInput


class TrainedWeights:
    """`runtime.model.weights.ModelWeights` of a `MoeTransformer`: copies, so that training goes on undisturbed.

    The gate of MoE block j lies with its layer, wherever it sits. Raises `InvalidInput` where a tensor is missing.
    """

    def __init__(self, model: MoeTransformer) -> None:
        self._model = model.architecture
        sides = [("encoder", model.encoder), ("decoder", model.decoder)]
        self._static = {"embedding": model.embedding.detach().clone()}
        self._experts: list[ExpertLayer] = []
        for side, stack in sides:
            if stack is not None:
                self._static |= {f"{side}.{name}": tensor.detach().clone() for name, tensor in _named(stack)}
                self._experts += [layer.ffn for layer in stack.layers if isinstance(layer.ffn, ExpertLayer)]
        if missing := static_shapes(self._model).keys() ^ self._static.keys():
            raise InvalidInput(f"{self._model.name}: the model and its architecture differ in {min(missing)}")

    def static(self, weights: dict[str, Tensor]) -> None:
        """As of `ModelWeights`."""
        for name, tensor in weights.items():
            tensor.copy_(self._static[name])

    def expert(self, memory: Tensor, key: ExpertKey) -> None:
        """As of `ModelWeights`."""
        layer, expert = key
        flat, at = memory.view(element_type(self._model)), 0
        for name, shape in expert_shapes(self._model).items():
            n = math.prod(shape)
            with torch.no_grad():
                flat[at : at + n].view(shape).copy_(getattr(self._experts[layer], name)[expert])
            at += n


def _named(stack: Stack) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a stack outside its experts, by their names in `static_shapes`."""
    yield "norm.scale", stack.norm
    yield "positions", stack.positions
    gates = iter(stack.gates)
    layers: list[Any] = list(stack.layers)
    for i, layer in enumerate(layers):
        for block, attention in (("self", layer.attention), ("cross", layer.cross)):
            if attention is not None:
                yield f"{i}.{block}.norm.scale", attention.norm
                for name in ("query", "key", "value", "output"):
                    yield f"{i}.{block}.{name}", getattr(attention, name)
        yield f"{i}.ffn.norm.scale", layer.norm
        if isinstance(layer.ffn, ExpertLayer):
            yield f"{i}.gate", next(gates)
        else:
            yield f"{i}.ffn.up", layer.ffn.up
            yield f"{i}.ffn.down", layer.ffn.down
