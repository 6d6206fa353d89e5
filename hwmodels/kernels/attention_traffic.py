"""What attention moves beside its scores: keys and values made of latents before, scores that are not fused.

A fused kernel reads keys and values while it multiplies. What is made of latents before, and scores that go to memory
and back between kernels, wait for nothing and hide nothing.
"""

from __future__ import annotations

from typing import Any

from hwmodels.figures import Figures, Number
from hwmodels.kernels.roofline import binding_term
from offload.ops import Attending, Work


def attention_terms(work: Work, figures: Figures) -> tuple[Number, Number]:
    """Seconds of arithmetic and of traffic of `work` outside of its GEMMs, which add up.

    Of an attention whose stack says `score_bytes`, each score moves so many bytes, those that a mask hides too, and is
    multiplied whether hidden or not: as kernels of their own do it for whole rows of keys.
    """
    moved_s = work.hbm_bytes / figures.context_bytes_per_s(work)
    score_bytes = figures.values.get("stack.score_bytes")
    if work.attending is None or score_bytes is None:
        return beside_scores(work, figures.scores_s(work), moved_s)
    scores = _n_scores(work, work.attending)
    flop = scores * 2 * (work.attending.key_width + work.attending.value_width)
    share = figures.values.get("stack.attention_efficiency")
    rate = figures.hbm_bytes_per_s if share is None else figures["accelerator.hbm_bytes_per_s"] * share
    return figures.scores_s(work._replace(flop=flop)), moved_s + scores * score_bytes / rate


def beside_scores(work: Work, scores_s: Any, moved_s: Any) -> tuple[Number, Number]:
    """The longer of scores and of what is read beside them, and what moves before any score is multiplied."""
    share = 0.0 if work.attending is None else work.attending.made_share
    if not share:
        return binding_term(scores_s, moved_s)
    compute_s, read_s = binding_term(scores_s, (1 - share) * moved_s)
    return compute_s, read_s + share * moved_s


def _n_scores(work: Work, attending: Attending) -> Any:
    """Of all heads, hidden ones too: every new token by every token that its sequence has, of sequences alike."""
    kv_tokens = work.hbm_bytes / attending.token_bytes
    return attending.n_tokens * kv_tokens / attending.n_sequences * attending.n_heads
