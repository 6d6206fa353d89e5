"""A trained conventional model made pre-gated, to be fine-tuned: the gates stay what they are and move n blocks ahead.

As the paper does it (arXiv 2308.12066, section IV): gates keep their weights, read an earlier block's input from now on
and are trained on with the rest.
"""

from __future__ import annotations

from typing import TypeVar, cast

from torch import nn

from runtime.pregated.earlier_input import is_routed, pregate_routed
from runtime.pregated.switch import is_switch, pregate_switch
from runtime.pregated.transformer import MoeTransformer
from traces.errors import InvalidInput

Model = TypeVar("Model", bound=nn.Module)


def pregate_from(model: Model, lookahead: int) -> Model:
    """A copy of `model` whose decoder's gates sit `lookahead` MoE blocks ahead; 0 blocks ahead is the same model.

    `model`: a `MoeTransformer`, a Switch model of Hugging Face's transformers (`runtime.pregated.switch`), or another
    of theirs whose routers are known (`runtime.pregated.earlier_input`); the copy trains and generates as it did.
    Raises `InvalidInput` for another, and for a lookahead below 0 or past the decoder's MoE blocks.
    """
    if isinstance(model, MoeTransformer):
        moved = MoeTransformer(model.architecture, lookahead)
        moved.load_state_dict(model.state_dict())
        return cast(Model, moved.train(model.training))
    if is_switch(model):
        return pregate_switch(model, lookahead)
    if is_routed(model):
        return pregate_routed(model, lookahead)
    raise InvalidInput(
        f"{type(model).__name__} has no gates to move: give a Mixture-of-Experts model of transformers, such as Switch "
        f"or Mixtral, or one of `pregate train`"
    )
