"""Attention of which an indexer picks tokens (DeepSeek-V3.2), by hand: what kernels gather, mask or leave out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from offload.decoding.mixer_works import contexts_of, mixing_works
from offload.execution import EXECUTIONS
from offload.ops import Work
from traces.errors import UnknownName
from traces.model.architecture import load_architecture
from traces.phase import Phase
from traces.routing import Step

MODEL = load_architecture("deepseek-v3.2")
LATENT, KEY, PICKED = 512 + 64, 128, 2048
"""Numbers that are cached of a token, 16 bits each: a latent with its rotated part, and the indexer's key."""

PER_PAIR, PER_KEY = 2 * 128 * (512 + 64 + 512), 2 * 64 * 128
"""FLOP of a pair in attention of 128 heads over latents, and of one in an indexer of 64 heads."""


def mixed(n_tokens: int, context: int, execution: str) -> Work:
    """What a layer does for the last `n_tokens` of one sequence of `context`."""
    zeros, position = np.zeros(n_tokens, np.int32), np.arange(context - n_tokens, context, dtype=np.int32)
    step = Step(0, Phase.DECODE, np.zeros((n_tokens, 1, 1), np.int16), zeros, position)
    stack, how = MODEL.decoder, EXECUTIONS[execution].indexed
    return mixing_works(MODEL, stack, contexts_of([step]), [0.0], how)[stack.attention][0]


def test_a_token_reads_the_latents_that_are_picked_and_the_keys_of_all() -> None:
    """At 65,536 tokens 2.4 MB of latents and 16.8 of keys a layer, where all latents would be 75.5."""
    what = mixed(1, 65_536, "vllm")
    assert what.hbm_bytes == 2 * (PICKED * LATENT + 65_536 * KEY)
    assert what.flop == PICKED * PER_PAIR + 65_536 * PER_KEY


def test_a_mask_over_the_context_reads_and_scores_all_of_it() -> None:
    what = mixed(1, 65_536, "llama_cpp")
    assert what.hbm_bytes == 2 * 65_536 * (LATENT + KEY)
    assert what.flop == 65_536 * (PER_PAIR + PER_KEY)


def test_an_engine_without_the_indexer_attends_to_all() -> None:
    what, vllm = mixed(1, 65_536, "ik_llama"), mixed(1, 65_536, "vllm")
    assert what.hbm_bytes == 2 * 65_536 * LATENT
    assert what.flop == 65_536 * PER_PAIR
    assert len(vllm.gemms) == len(what.gemms) + 3  # the indexer's queries, key and weights


@pytest.mark.parametrize("execution", ["vllm", "llama_cpp"])
def test_what_is_no_longer_than_the_picks_is_all_attended_to(execution: str) -> None:
    what = mixed(1, PICKED, execution)
    assert what.hbm_bytes == 2 * PICKED * (LATENT + KEY)
    assert what.flop == PICKED * (PER_PAIR + PER_KEY)


def test_each_token_of_a_prompt_picks_for_itself() -> None:
    """Of 4,096 tokens the first half sees all before it; the latents that all of them pick are the context's."""
    what, whole = mixed(4096, 4096, "vllm"), mixed(4096, 4096, "llama_cpp")
    causal = 4096 * 4097 // 2
    assert what.flop == (2048 * 2049 // 2 + 2048 * PICKED) * PER_PAIR + causal * PER_KEY
    assert what.hbm_bytes == whole.hbm_bytes == 2 * 4096 * (LATENT + KEY)
    assert whole.flop == causal * (PER_PAIR + PER_KEY)
    assert mixed(3, 65_536, "vllm").hbm_bytes == 2 * (3 * PICKED * LATENT + 65_536 * KEY)


def test_a_word_that_is_none_is_refused() -> None:
    other: Any = "sparse"
    with pytest.raises(UnknownName, match="way to see picked tokens"):
        dataclasses.replace(EXECUTIONS["vllm"], indexed=other)
