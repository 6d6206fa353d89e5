"""What a model is judged by on the fixed evaluation set: loss, accuracy, balance of its experts, recall of guesses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runtime.pregated.corpus.batches import TextBatch
from runtime.pregated.predictors import Predictors, RecallCounts
from runtime.pregated.transformer import MoeTransformer, Routing


def balance_loss(routing: Routing) -> Tensor:
    """Switch's auxiliary loss, mean over blocks: 1 when experts share evenly (Fedus et al. 2021, equation 4)."""
    losses = []
    for choice in routing.choices:
        n_experts = choice.logits.shape[1]
        share = torch.bincount(choice.experts.reshape(-1), minlength=n_experts) / choice.experts.numel()
        losses.append(n_experts * (share * choice.logits.softmax(1).mean(0)).sum())
    return torch.stack(losses).mean()


def load_balance(counts: Tensor) -> dict[str, list[float]]:
    """Of each block's `counts` (n_blocks, n_experts): the busiest over the mean, and experts in effect over all.

    Experts in effect: the exponential of the entropy of their shares.
    """
    shares = counts.double() / counts.sum(1, keepdim=True)
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum(1)
    n_experts = counts.shape[1]
    return {
        "busiest_over_mean": (shares.max(1).values * n_experts).tolist(),
        "effective_share": (entropy.exp() / n_experts).tolist(),
    }


@torch.no_grad()
def loss_and_accuracy(model: MoeTransformer, batches: Sequence[TextBatch]) -> dict[str, Any]:
    """`loss` (nats a token), `accuracy` of the next token, `n_tokens`, and the decoder's `balance`."""
    model.eval()
    loss, n_right, n_tokens = 0.0, 0, 0
    counts = torch.zeros(len(model.decoder.gates), model.architecture.n_experts, dtype=torch.int64)
    for tokens, targets, source in batches:
        logits, routing = model(tokens, source)
        flat, wanted = logits.flatten(0, 1), targets.flatten()
        loss += float(functional.cross_entropy(flat, wanted, reduction="sum"))
        n_right += int((flat.argmax(1) == wanted).sum())
        n_tokens += len(wanted)
        for block, choice in enumerate(routing.choices):
            counts[block] += torch.bincount(choice.experts.reshape(-1), minlength=counts.shape[1])
    mean = loss / n_tokens
    return {
        "loss": mean if math.isfinite(mean) else None, "accuracy": n_right / n_tokens, "n_tokens": n_tokens,
        "balance": load_balance(counts),
    }  # fmt: skip


@torch.no_grad()
def recalls(
    model: MoeTransformer, predictors: Predictors, batches: Sequence[TextBatch], popular: Tensor
) -> list[dict[str, object]]:
    """How often reuse, trained `predictors` and `popular` (n_blocks, n_experts counts) name what a gate chooses."""
    model.eval()
    found, top_k = RecallCounts(), model.architecture.top_k
    favourites = popular.topk(top_k, dim=1).indices
    for tokens, _, source in batches:
        _, routing = model(tokens, source)
        for n in predictors.lookaheads:
            for block in range(n, predictors.n_blocks):
                chosen = routing.choices[block].experts
                reused = functional.linear(routing.inputs[block - n], model.decoder.gates[block])
                found.add("reuse", n, block, reused.topk(top_k, dim=1).indices, chosen)
                said = predictors.logits(routing, n, block).topk(top_k, dim=1).indices
                found.add("trained", n, block, said, chosen)
                found.add("popular", n, block, favourites[block].expand(len(chosen), -1), chosen)
    return found.rows()
