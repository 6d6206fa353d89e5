"""Training and fine-tuning of one model: AdamW, a warm-up and a linear decay, the same batches for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from runtime.pregated.corpus.batches import drawn_batch
from runtime.pregated.predictors import Predictors
from runtime.pregated.training.evaluation import balance_loss
from runtime.pregated.training.training_settings import Schooling
from runtime.pregated.transformer import MoeTransformer
from traces.errors import InvalidInput


def train(
    model: MoeTransformer,
    text: NDArray[np.int64],
    how: Schooling,
    rng: np.random.Generator,
    predictors: Predictors | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train `model` in place on windows of `text`; with a weight for `predictable`, `predictors` beside it.

    Raises `InvalidInput` when the loss is not finite any more.
    """
    model.train()
    parameters = list(model.parameters()) + ([] if predictors is None else list(predictors.parameters()))
    optimizer, scheduler = _optimizer(parameters, how)
    encoded = model.encoder is not None
    for step in range(how.steps):
        batch = drawn_batch(text, how.rows, how.length, rng, encoded=encoded)
        logits, routing = model(batch.tokens, batch.source)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        whole = loss + how.balance * balance_loss(routing)
        if predictors is not None and how.predictable:
            whole = whole + how.predictable * predictors.loss(routing, frozen=False)
        _step(whole, parameters, optimizer, scheduler)
        if step % 20 == 0 or step == how.steps - 1:
            say(f"step {step + 1} of {how.steps}, loss {float(loss.detach()):.3f}")


def train_predictors(
    model: MoeTransformer, predictors: Predictors, text: NDArray[np.int64], how: Schooling, rng: np.random.Generator
) -> Tensor:
    """Train `predictors` on the frozen `model`; returns what its gates chose, (n_blocks, n_experts) counts."""
    model.eval()
    parameters = list(predictors.parameters())
    optimizer, scheduler = _optimizer(parameters, how)
    counts = torch.zeros(len(model.decoder.gates), model.architecture.n_experts, dtype=torch.int64)
    for _ in range(how.steps):
        batch = drawn_batch(text, how.rows, how.length, rng, encoded=model.encoder is not None)
        with torch.no_grad():
            _, routing = model(batch.tokens, batch.source)
        for block, choice in enumerate(routing.choices):
            counts[block] += torch.bincount(choice.experts.reshape(-1), minlength=counts.shape[1])
        _step(predictors.loss(routing, frozen=True), parameters, optimizer, scheduler)
    return counts


def _optimizer(
    parameters: list[torch.nn.Parameter], how: Schooling
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(parameters, lr=how.rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, min(50, how.steps // 10))

    def share(step: int) -> float:
        return min((step + 1) / warm, max(how.steps - step, 1) / max(how.steps - warm, 1))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _step(
    loss: Tensor,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    if not torch.isfinite(loss):
        raise InvalidInput("the training loss is not finite any more: take a lower --rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    scheduler.step()
