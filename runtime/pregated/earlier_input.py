"""The gates of a decoder of Hugging Face's moved n MoE blocks ahead: a router is given what an earlier one was given.

A router that reads block i's input decides for block i + n, whenever it is called: called where it always was, with
the input of n blocks before, it says what it would have said there. Nothing is renamed or rewritten, so that it holds
for every type whose routers `runtime.recording.routers` finds; what is trained is saved and loaded as ever, and moved
again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from runtime.pregated.gate_positions import check_lookahead
from runtime.recording.routers import find_routers
from traces.errors import InvalidInput

Routed = TypeVar("Routed", bound=nn.Module)


def is_routed(model: nn.Module) -> bool:
    """Whether `model` is one of transformers' that has routers which are known."""
    if not hasattr(getattr(model, "config", None), "to_dict"):
        return False
    try:
        return bool(_routers(model))
    except InvalidInput:
        return False


def pregate_routed(model: Routed, lookahead: int) -> Routed:
    """A copy of `model` whose decoder's routers read the input of `lookahead` MoE blocks before; the first ones that of
    the first block.

    Its configuration says `pregate_lookahead`. Raises `InvalidInput` for a lookahead past its MoE blocks.
    """
    moved = copy.deepcopy(model)
    routers = _routers(moved)
    check_lookahead(lookahead, len(routers))
    given = _Given(len(routers))
    for block, router in enumerate(routers if lookahead else ()):
        router.register_forward_pre_hook(EarlierInput(block, max(block - lookahead, 0), given))
    config: Any = moved.config
    config.pregate_lookahead = lookahead
    return moved.train(model.training)


def _routers(model: nn.Module) -> list[nn.Module]:
    """Those of the decoder, by block."""
    found, config = find_routers(model), getattr(model, "config", None)
    encodes = bool(getattr(config, "is_encoder_decoder", False))
    return [router for name, router in found if not encodes or "decoder" in name.split(".")]


@dataclass(slots=True)
class _Given:
    """What the routers of one model were given in this forward pass, by block; `following`: the next to be called."""

    n_blocks: int
    inputs: dict[int, Tensor] = field(default_factory=dict)
    following: int = 0


@dataclass(frozen=True, slots=True)
class EarlierInput:
    """A hook before the router of MoE block `block`: it reads what the router of block `reads` was given."""

    block: int
    reads: int
    given: _Given

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The router's arguments. Raises `InvalidInput` where blocks do not run in their order, once."""
        given = self.given
        if self.block == 0:
            given.inputs.clear()
        if (self.block and self.block != given.following) or not (args and isinstance(args[0], Tensor)):
            raise InvalidInput(
                f"MoE block {self.block}: gates that look ahead need the layers in their order, once, and their states "
                f"as a router's first argument (no gradient checkpointing)"
            )
        given.following = (self.block + 1) % given.n_blocks
        given.inputs[self.block] = args[0]
        earlier = given.inputs[self.reads]
        if earlier.shape != args[0].shape:
            raise InvalidInput(
                f"MoE block {self.block} reads {tuple(args[0].shape)}, block {self.reads} {tuple(earlier.shape)}: a "
                f"gate cannot move between blocks of other tokens"
            )
        return earlier, *args[1:]
