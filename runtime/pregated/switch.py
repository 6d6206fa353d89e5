"""The gates of a Hugging Face Switch model moved n MoE blocks ahead: its routers are asked in an earlier block.

Nothing is renamed: a router stays where its weights lie, in its own layer, so that a fine-tuned model is saved and
loaded as any Switch model and its gates are moved again after loading. The encoder stays conventional, as in the
paper's system, unless it is asked for. No transformers is imported here: a model says what it is.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

from runtime.pregated.gate_positions import check_lookahead, gates_at
from traces.errors import InvalidInput

Switch = TypeVar("Switch", bound=nn.Module)


def is_switch(model: nn.Module) -> bool:
    """Whether `model` is a Switch Transformer of Hugging Face's, with a decoder."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return kind == "switch_transformers" and getattr(model, "decoder", None) is not None


def pregate_switch(model: Switch, lookahead: int, *, encoder: bool = False) -> Switch:
    """A copy of `model` whose decoder's routers are asked `lookahead` MoE blocks ahead; of its `encoder` too.

    Its configuration says `pregate_lookahead`. Raises `InvalidInput` for a model of other parts than transformers 5
    has, without MoE blocks, or with fewer than `lookahead` reaches over.
    """
    moved = copy.deepcopy(model)
    stacks: list[Any] = [moved.decoder, *([moved.encoder] if encoder else [])]
    for stack in stacks:
        blocks = [layer for block in stack.block for layer in block.layer if getattr(layer, "is_sparse", False)]
        if not blocks or any(not (hasattr(one.mlp, "router") and hasattr(one.mlp, "experts")) for one in blocks):
            raise InvalidInput(
                f"{type(model).__name__}: a stack has no sparse layers with a router and experts to move gates in"
            )
        check_lookahead(lookahead, len(blocks))
        chosen: dict[int, Any] = {}
        routers = tuple(one.mlp.router for one in blocks)
        for i, one in enumerate(blocks):
            one.mlp = MovedGates(one.mlp, i, gates_at(i, lookahead, len(blocks)), routers, chosen)
    config: Any = moved.config
    config.pregate_lookahead = lookahead
    return moved.train(model.training)


class MovedGates(nn.Module):
    """The experts of MoE block `block`, and the gates that are asked here: those of the blocks `here`.

    `routers`: of all blocks of the stack, each a part of its own layer; `chosen`: what they said in this forward pass,
    by block, shared by the stack. Parameters have the names that they had.
    """

    def __init__(self, mlp: Any, block: int, here: range, routers: tuple[nn.Module, ...], chosen: dict[int, Any]):
        super().__init__()
        self.router, self.experts = mlp.router, mlp.experts
        self.block, self.here = block, here
        self._routers, self._chosen = routers, chosen

    def forward(self, hidden: Tensor) -> Tensor:
        """What the chosen experts make of `hidden` (rows, n, d_model), whose states later gates read too.

        Raises `InvalidInput` where the block's gate has not run in this pass.
        """
        if self.block == 0:
            self._chosen.clear()
        for later in self.here:  # a router may add noise to its input in place: each but a sole one has its own
            read = hidden if len(self.here) == 1 else hidden.clone()
            self._chosen[later] = self._routers[later](read)
        if self.block not in self._chosen:
            raise InvalidInput(
                f"MoE block {self.block}: its gate has not run in this pass; gates that look ahead need the layers in "
                f"their order, once (no gradient checkpointing)"
            )
        experts, weights, _ = self._chosen.pop(self.block)
        flat = hidden.view(-1, hidden.shape[-1])
        made: Tensor = self.experts(flat, experts.view(-1, 1, experts.shape[-1]), weights.view(-1, 1))
        return made.reshape(hidden.shape)
