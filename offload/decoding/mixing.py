"""The token mixers of a stack whose layers differ: sliding windows, indexers, linear attention, state spaces.

One op a layer, of the kind of self-attention whatever mixes. A stack whose layers are alike has one attention for all,
and `offload.decode` asks for that directly. Nothing here may know time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.ops import Work
from offload.work import mixer_work
from traces.model.architecture import Attention, LayerStack, LinearMixer, ModelArchitecture
from traces.routing import Step

__all__ = ["mixing_works"]


def mixing_works(
    model: ModelArchitecture, stack: LayerStack, step: Step, decompressed: bool = False
) -> tuple[Work | None, ...]:
    """The mixer's work of each layer for one causal forward pass; None where a layer mixes nothing.

    `decompressed` as of `mixer_work`.
    """
    sequences, index, counts = np.unique(step.sequence, return_inverse=True, return_counts=True)
    context = step.position.astype(np.int64) + 1
    longest = np.zeros(len(sequences), dtype=np.int64)
    np.maximum.at(longest, index, context)
    made: dict[Attention | LinearMixer, Work] = {}
    for mixer in stack.all_mixers:
        if mixer is not None and mixer not in made:
            made[mixer] = _work(model, mixer, context, longest, counts, decompressed)
    return tuple(None if mixer is None else made[mixer] for mixer in stack.all_mixers)


def _work(
    model: ModelArchitecture,
    mixer: Attention | LinearMixer,
    context: NDArray[np.int64],
    longest: NDArray[np.int64],
    counts: NDArray[np.intp],
    decompressed: bool,
) -> Work:
    """`context`: what each token could see; by sequence its `longest`, and how many tokens of it are in this pass."""
    n_tokens = len(context)
    if isinstance(mixer, LinearMixer):
        return mixer_work(model, mixer, n_tokens, 0, 0, n_sequences=len(longest))
    if mixer.compression:
        return _compressed(model, mixer, context, longest, counts)
    limit = mixer.most_attended
    seen = np.minimum(context, limit) if limit else context
    # Tokens of a pass see overlapping windows: what is read is the context, or the first window and what follows it.
    spans = np.minimum(longest, limit + counts - 1) if limit and not mixer.index_topk else longest
    return mixer_work(
        model,
        mixer,
        n_tokens,
        int(spans.sum()),
        int(seen.sum()),
        n_sequences=len(longest),
        context_pairs=int(context.sum()) if mixer.index_heads else 0,
        decompressed=decompressed,
    )


def _compressed(
    model: ModelArchitecture,
    mixer: Attention,
    context: NDArray[np.int64],
    longest: NDArray[np.int64],
    counts: NDArray[np.intp],
) -> Work:
    """A window, and of what lies before each token whole entries: all of them, or those that an indexer picks."""
    entries = context // mixer.compression
    chosen = np.minimum(entries, mixer.index_topk) if mixer.index_topk else entries
    seen = np.minimum(context, mixer.window) + chosen
    spans = np.minimum(longest, mixer.window + counts - 1) + longest // mixer.compression
    scored = int(entries.sum()) if mixer.index_heads else 0
    return mixer_work(
        model, mixer, len(context), int(spans.sum()), int(seen.sum()), n_sequences=len(longest), context_pairs=scored
    )
