"""The routers of a model: where they are, and which experts one of their answers names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from traces.errors import InvalidInput

_ATTENTION = re.compile(r"attn|attention")
_NAMED = re.compile(r"(Top\w*Router|Router|MoE\w*Gate|MoEGate)$")
"""How classes of routers are named where a model does not declare its own."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a router chose: `experts` (n_tokens, top_k) int64 and their gate `weights`, float32, of the same shape."""

    experts: Tensor
    weights: Tensor


def find_routers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The routers of a model with their names, encoder first, by layer.

    A model declares the class of its routers (`_can_record_outputs`); another that stands where those do is one as well
    (tables of experts by token), and where none is declared they are known by how classes are named. Raises
    `InvalidInput` where there are none.
    """
    declared, modules = _declared(model), list(model.named_modules())
    places = {name.rpartition(".")[2] for name, module in modules if type(module) in declared}
    found = [
        (name, module)
        for name, module in modules
        if type(module) in declared
        or (_NAMED.search(type(module).__name__) and (not places or name.rpartition(".")[2] in places))
    ]
    outside = [(name, module) for name, module in found if not _ATTENTION.search(name)]
    found = outside or found  # a mixture of attention heads has routers of its own, which name no expert FFN
    if not found:
        raise InvalidInput(f"{type(model).__name__} has no routers that are known: is it a Mixture-of-Experts model?")
    return found


def _declared(model: nn.Module) -> set[type]:
    """Classes whose outputs a model calls its router's logits."""
    classes = set()
    for module in model.modules():
        for name, record in (getattr(module, "_can_record_outputs", None) or {}).items():
            for one in record if isinstance(record, list | tuple) else [record]:
                target = getattr(one, "target_class", one)
                if "router" in name and isinstance(target, type):
                    classes.add(target)
    return classes


def choice_of(answer: Any, n_experts: int, top_k: int) -> Chosen:
    """What an `answer` of a router names, whatever form it has.

    Most give ids (n_tokens, top_k) and weights beside the logits. Others give logits (..., n_experts) and a mask or
    scores made of them: there the `top_k` largest logits were chosen, also where an expert was too full to take its
    token. Weights are those that the router gives, or else the softmax of the logits. Raises `InvalidInput` for an
    answer of another form.
    """
    parts = [part for part in (answer if isinstance(answer, tuple | list) else (answer,)) if isinstance(part, Tensor)]
    named = [part for part in parts if _is_by_token(part, top_k) and not part.is_floating_point()]
    all_experts = [part for part in parts if part.is_floating_point() and _is_by_token(part, n_experts)]
    if named and (top_k != n_experts or not all_experts):
        experts = named[0].reshape(-1, top_k)
    elif all_experts:
        experts = all_experts[-1].reshape(-1, n_experts).topk(top_k, dim=-1).indices
    else:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts) or type(answer).__name__
        raise InvalidInput(f"a router answers {shapes}: neither {top_k} ids a token nor logits of {n_experts} experts")
    return Chosen(experts, _weights(parts, all_experts, experts, n_experts, top_k))


def _weights(parts: list[Tensor], all_experts: list[Tensor], experts: Tensor, n_experts: int, top_k: int) -> Tensor:
    """(n_tokens, top_k) float32."""
    own = [part for part in parts if part.is_floating_point() and _is_by_token(part, top_k) and top_k != n_experts]
    if own:
        return own[0].reshape(-1, top_k).float()
    scores = all_experts[0] if len(all_experts) > 1 else all_experts[-1].float().softmax(dim=-1)
    return scores.reshape(-1, n_experts).float().gather(1, experts).clamp(min=0)


def _is_by_token(part: Tensor, width: int) -> bool:
    """Whether a part has `width` numbers a token, and is no list that only one token makes as long."""
    return part.ndim > 1 and part.shape[-1] == width
