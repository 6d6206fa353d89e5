"""What guesses a gate's choice some MoE blocks before it runs, and how often it is right.

A trained predictor is a linear map of an earlier block's input, as a gate is. Reuse is the later gate itself on that
input. Popular names the experts that the layer has chosen most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.pregated.transformer import MoeTransformer, Routing
from traces.errors import InvalidInput


class Predictors(nn.Module):
    """One linear map for every MoE block and lookahead; `maps` by (lookahead, block), started at the block's gate."""

    def __init__(self, gates: Sequence[Tensor], lookaheads: Iterable[int]) -> None:
        super().__init__()
        self.lookaheads = tuple(lookaheads)
        if min(self.lookaheads, default=1) < 1:
            raise InvalidInput(f"a predictor looks at least one block ahead, not {min(self.lookaheads)}")
        self.n_blocks = len(gates)
        self.maps = nn.ParameterDict(
            {
                _name(n, block): nn.Parameter(gates[block].detach().clone())
                for n in self.lookaheads
                for block in range(n, self.n_blocks)
            }
        )

    def logits(self, routing: Routing, lookahead: int, block: int) -> Tensor:
        """(n, n_experts) of what `block` will choose, from the input of the block `lookahead` before it."""
        return functional.linear(routing.inputs[block - lookahead], self.maps[_name(lookahead, block)])

    def loss(self, routing: Routing, *, frozen: bool) -> Tensor:
        """Cross-entropy against the gates' own distributions, mean over blocks and lookaheads.

        `frozen`: predictors learn from the model, which learns nothing; else both move towards each other.
        """
        losses = []
        for n in self.lookaheads:
            for block in range(n, self.n_blocks):
                said, at = routing.choices[block].logits, routing.inputs[block - n]
                if frozen:
                    said, at = said.detach(), at.detach()
                guessed = functional.linear(at, self.maps[_name(n, block)])
                losses.append(functional.cross_entropy(guessed, said.softmax(1)))
        return torch.stack(losses).mean()


def _name(lookahead: int, block: int) -> str:
    return f"{lookahead}_{block}"


def installed(model: MoeTransformer, predictors: Predictors, lookahead: int) -> MoeTransformer:
    """A copy of the conventional `model` that executes what `predictors` say, as if they were its pre-gates."""
    moved = MoeTransformer(model.architecture, lookahead)
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        for block in range(1, predictors.n_blocks):
            n = min(lookahead, block)
            moved.decoder.gates[block].copy_(predictors.maps[_name(n, block)])
    return moved.train(model.training)


class RecallCounts:
    """How many of the experts that gates chose were guessed, by predictor, lookahead and block."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int], list[int]] = {}

    def add(self, predictor: str, lookahead: int, block: int, guessed: Tensor, chosen: Tensor) -> None:
        """`guessed` and `chosen` (n, top_k) experts."""
        hits = int((guessed.unsqueeze(2) == chosen.unsqueeze(1)).any(1).sum())
        counts = self._found.setdefault((predictor, lookahead, block), [0, 0])
        counts[0] += hits
        counts[1] += chosen.numel()

    def rows(self) -> list[dict[str, object]]:
        """One a predictor, lookahead and block, with its `recall` over `n` choices."""
        return [
            {"predictor": name, "lookahead": n, "block": block, "recall": hits / total, "n": total}
            for (name, n, block), (hits, total) in sorted(self._found.items())
        ]
