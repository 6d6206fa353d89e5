"""How many tokens and requests an engine has in a pass at most, where nobody says otherwise.

vLLM takes more where a card has 70 GiB and is no A100, and where requests are in its own process ("offline");
vllm/engine/arg_utils.py: get_batch_defaults.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from hwmodels.specs.spec import Accelerator
from offload.execution import Execution

MOST_SLOTS = 1024
_FEWER_SLOTS = 256

_PASS_TOKENS = 2048
_LARGE_BYTES = 70 * 2**30
_LARGE_PASS = 8192

CHOOSES = "vllm"
"""The execution whose passes depend on the card."""


def serving_on(execution: Execution, card: Accelerator) -> Execution:
    """`execution` with passes as large as its server has on `card`: of `vllm serve`, `--max-num-batched-tokens`."""
    return execution if execution.name != CHOOSES else _in_passes(execution, usual_pass_tokens(execution, card))


def usual_pass_tokens(execution: Execution, card: Accelerator, *, offline: bool = False) -> int:
    """Tokens of all requests in a pass at most: what `llama-server` takes (`-b`), and vLLM."""
    if execution.name != CHOOSES:
        return _PASS_TOKENS
    large = _is_large(card)
    return (2 * _LARGE_PASS if large else _LARGE_PASS) if offline else (_LARGE_PASS if large else _PASS_TOKENS)


def has_none_within(execution: Execution) -> bool:
    """Whether what a server passes together is one pass: others have smaller passes within (`-ub` in `-b`)."""
    return execution.name == CHOOSES


def usual_slots(execution: Execution, card: Accelerator) -> int:
    """Requests side by side at most: `--max-num-seqs` of vLLM, elsewhere as many as ask."""
    return MOST_SLOTS if execution.name != CHOOSES or _is_large(card) else _FEWER_SLOTS


def _is_large(card: Accelerator) -> bool:
    return card.hbm_bytes >= _LARGE_BYTES and "a100" not in card.name


@cache
def _in_passes(execution: Execution, n_tokens: int) -> Execution:
    return replace(execution, micro_batch=n_tokens)
