"""A trained conventional model made pre-gated, to be fine-tuned: the gates stay what they are and move n blocks ahead.

As the paper does it (arXiv 2308.12066, section IV): gates keep their weights, read an earlier block's input from now on
and are trained on with the rest.
"""

from __future__ import annotations

from runtime.pregated.transformer import MoeTransformer

__all__ = ["pregate_from"]


def pregate_from(model: MoeTransformer, lookahead: int) -> MoeTransformer:
    """A copy of `model` whose decoder's gates sit `lookahead` MoE blocks ahead; 0 blocks ahead is the same model.

    Raises `InvalidInput` for a lookahead below 0 or past the decoder's MoE blocks.
    """
    moved = MoeTransformer(model.architecture, lookahead)
    moved.load_state_dict(model.state_dict())
    return moved.train(model.training)
