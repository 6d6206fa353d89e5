"""How the engine of a stack batches requests where nobody says otherwise."""

from __future__ import annotations

from typing import Literal, get_args

from hwmodels.platform import Platform
from simulator.arrivals import PASS_TOKENS, Batching
from traces.errors import unknown_name
from traces.model.architecture import ModelArchitecture

__all__ = ["Prompts", "batching_of", "usual_pass_tokens"]

Prompts = Literal["beside", "alone"]
"""How prompts pass: beside tokens of other requests, in parts, or whole and alone, before these."""

_LARGE_BYTES = 70 * 2**30
_LARGE_PASS = 8192


def batching_of(machine: Platform, model: ModelArchitecture, prompts: str | None = None) -> Batching:
    """How the engine batches; `prompts`: a word of `Prompts`, None: as the engine does it. An encoder reads its prompt
    whole. Raises `UnknownName` for another word.
    """
    if prompts is not None and prompts not in get_args(Prompts):
        raise unknown_name("way of prompts", prompts, get_args(Prompts))
    execution = machine.execution
    mixes = execution.mixes_prompts if prompts is None else prompts == "beside"
    return Batching(mixes and not model.is_encoder_decoder, execution.schedules_ahead)


def usual_pass_tokens(machine: Platform) -> int:
    """Tokens of a pass at most: what `llama-server` takes (`-b`), and `vllm serve` (`--max-num-batched-tokens`), which
    takes more where a card has 70 GiB and is no A100 (vllm/engine/arg_utils.py: get_batch_defaults).
    """
    card = machine.machine.accelerator
    large = card.hbm_bytes >= _LARGE_BYTES and "a100" not in card.name
    return _LARGE_PASS if large and machine.execution.name == "vllm" else PASS_TOKENS
