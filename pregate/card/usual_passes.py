"""How many tokens and requests an engine has in a pass at most, where nobody says otherwise."""

from __future__ import annotations

from hwmodels.platform import Platform
from simulator.serving.arrivals import PASS_TOKENS

MOST_SLOTS = 1024
_FEWER_SLOTS = 256

_LARGE_BYTES = 70 * 2**30
_LARGE_PASS = 8192


def usual_pass_tokens(machine: Platform, *, offline: bool = False) -> int:
    """Tokens of a pass at most: what `llama-server` takes (`-b`), and `vllm serve` (`--max-num-batched-tokens`), which
    takes more where a card has 70 GiB and is no A100, and where requests are in its own process (`offline`;
    vllm/engine/arg_utils.py: get_batch_defaults).
    """
    if machine.execution.name != "vllm":
        return PASS_TOKENS
    large = _is_large(machine)
    return (2 * _LARGE_PASS if large else _LARGE_PASS) if offline else (_LARGE_PASS if large else PASS_TOKENS)


def usual_slots(machine: Platform) -> int:
    """Requests side by side at most: `--max-num-seqs` of vLLM (get_batch_defaults), elsewhere as many as ask."""
    return MOST_SLOTS if machine.execution.name != "vllm" or _is_large(machine) else _FEWER_SLOTS


def _is_large(machine: Platform) -> bool:
    card = machine.machine.accelerator
    return card.hbm_bytes >= _LARGE_BYTES and "a100" not in card.name
