"""One batch generated with hooks on its routers: what each forward pass chose, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.recording.routers import choice_of
from traces.errors import InvalidInput
from traces.phase import Phase


class BatchRows(NamedTuple):
    """Token rows of one batch, as of `RoutingTrace`; `sequence` and `step` count from 0."""

    experts: NDArray[np.int16]
    gate_weights: NDArray[np.float32]
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    phase: NDArray[np.int8]
    step: NDArray[np.int32]


class RouterHooks:
    """Hooks on the routers of a model that keep what each call chose, on the model's own device, until it is taken.

    `n_without_weights`: experts numbered behind the `n_experts` that compute nothing (LongCat's zero-computation
    experts): there is nothing to fetch of them, and a choice of one is none, -1.
    """

    def __init__(
        self, routers: Sequence[tuple[str, nn.Module]], n_experts: int, top_k: int, n_without_weights: int = 0
    ) -> None:
        self._shape, self._n_all = (n_experts, top_k), n_experts + n_without_weights
        self._calls: list[list[tuple[Tensor, Tensor]]] = [[] for _ in routers]
        self._hooks = [module.register_forward_hook(self._hook(place)) for place, (_, module) in enumerate(routers)]

    def _hook(self, place: int) -> Any:
        calls = self._calls[place]

        def keep(module: nn.Module, given: Any, answer: Any) -> None:
            choice = choice_of(answer, self._n_all, self._shape[1])
            calls.append((choice.experts.to(torch.int16), choice.weights))

        return keep

    def take(self) -> list[list[tuple[NDArray[np.int16], NDArray[np.float32]]]]:
        """[router][call]: experts and weights, (n_tokens, top_k) each; forgets them."""
        taken = [
            [(experts.cpu().numpy(), weights.cpu().numpy()) for experts, weights in calls] for calls in self._calls
        ]
        for calls in self._calls:
            calls.clear()
        for experts, weights in (call for calls in taken for call in calls):
            nothing = (experts >= self._shape[0]) & (experts < self._n_all)
            experts[nothing], weights[nothing] = -1, 0
        return taken

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()


def generate(
    model: Any,
    hooks: RouterHooks,
    prompts: Sequence[Sequence[int]],
    n_output: int,
    n_encoder_routers: int,
    sample: bool = False,
) -> BatchRows:
    """Generate up to `n_output` tokens after each prompt, side by side, and say what every token chose.

    `model`: a generating model of transformers. `sample`: draw tokens, by torch's own generator, rather than take the
    likeliest. Tokens after a sequence's end are padding, and left out. Raises `InvalidInput` where routers were not
    called as often as tokens passed: such a model runs its layers in a way that is not known.
    """
    width = max(map(len, prompts))
    encodes = bool(model.config.is_encoder_decoder)
    pad = _pad_id(model)
    padded = [_padded(list(prompt), width, pad, left=not encodes) for prompt in prompts]
    ids, mask = (torch.tensor([row[i] for row in padded], device=model.device) for i in (0, 1))
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=n_output, do_sample=sample, num_beams=1, pad_token_id=pad
        )
    new = output[:, 1:] if encodes else output[:, width:]
    fed = _fed(new.cpu().numpy(), _end_ids(model))
    calls = hooks.take()
    prompt_rows = mask.cpu().numpy().astype(bool)
    if encodes:
        return _joined(calls, [prompt_rows, *_passes(fed, len(calls[-1]))], n_encoder_routers, [0] * len(prompts))
    passes = _passes(fed[:, 1:], len(calls[-1]) - 1)
    return _joined(calls, [prompt_rows, *passes], None, [len(prompt) for prompt in prompts])


def _padded(ids: list[int], width: int, pad: int, left: bool) -> tuple[list[int], list[int]]:
    """Ids and mask of one prompt."""
    empty = width - len(ids)
    if left:
        return [pad] * empty + ids, [0] * empty + [1] * len(ids)
    return ids + [pad] * empty, [1] * len(ids) + [0] * empty


def _pad_id(model: Any) -> int:
    for place in (model.generation_config, model.config):
        pad = getattr(place, "pad_token_id", None)
        if pad is not None:
            return int(pad)
    return min(_end_ids(model), default=0)


def _end_ids(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set() if ends is None else {int(end) for end in (ends if isinstance(ends, list | tuple) else [ends])}


def _fed(new: NDArray[np.int64], ends: set[int]) -> NDArray[np.bool_]:
    """(n_sequences, n_new): whether the pass that makes token j is one of a sequence that has not ended before it."""
    ended = np.isin(new, list(ends))
    return np.asarray(np.cumsum(ended, axis=1) - ended == 0)


def _passes(fed: NDArray[np.bool_], n_passes: int) -> list[NDArray[np.bool_]]:
    """Masks (n_sequences, 1) of the decode passes."""
    if n_passes > fed.shape[1]:
        raise InvalidInput(
            f"{n_passes} passes made {fed.shape[1]} tokens: this model generates in a way that is not known"
        )
    return [fed[:, j : j + 1] for j in range(n_passes)]


def _joined(
    calls: list[list[tuple[NDArray[np.int16], NDArray[np.float32]]]],
    masks: list[NDArray[np.bool_]],
    n_encoder: int | None,
    first_position: list[int],
) -> BatchRows:
    """The rows of all passes: `masks` [pass] (n_sequences, n_tokens) says which are tokens; the first is the prompt's.

    `n_encoder`: routers that see the prompt alone, the others seeing the rest; None where all see both.
    """
    n_layers, top_k = len(calls), calls[0][0][0].shape[1]
    parts: list[BatchRows] = []
    for step, mask in enumerate(masks):
        keep = mask.ravel()
        experts = np.full((keep.size, n_layers, top_k), -1, np.int16)
        weights = np.zeros(experts.shape, np.float32)
        for layer, router in enumerate(calls):
            if n_encoder is not None and (layer < n_encoder) != (step == 0):
                continue
            place = step if n_encoder is None or layer < n_encoder else step - 1
            if place >= len(router) or len(router[place][0]) != keep.size:
                raise InvalidInput(
                    f"router {layer} answered for {len(router[place][0]) if place < len(router) else 0} tokens of the "
                    f"{keep.size} of pass {step}: this model runs its layers in a way that is not known"
                )
            experts[:, layer], weights[:, layer] = router[place]
        n_sequences = len(mask)
        sequence = np.repeat(np.arange(n_sequences, dtype=np.int32), mask.shape[1])
        within = (np.cumsum(mask, axis=1) - 1).ravel()
        position = within if step == 0 else np.array(first_position) + step - 1
        parts.append(BatchRows(
            experts[keep], weights[keep], sequence[keep], position[keep].astype(np.int32),
            np.full(keep.sum(), Phase.PREFILL if step == 0 else Phase.DECODE, np.int8),
            np.full(keep.sum(), step, np.int32),
        ))  # fmt: skip
    return BatchRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
