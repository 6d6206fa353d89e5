"""What mixes the tokens of a forward pass, layer by layer: attention over what came before, or another mixer.

Nothing here may know time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from offload.decoding.mixer_works import contexts_of, mixing_works
from offload.decoding.work_rows import Works
from offload.execution import Indexed
from offload.ops import Work
from traces.model.architecture import LayerStack, ModelArchitecture
from traces.routing import Step

_SMALL_PASS = 512
"""Tokens of a forward pass up to which lists are quicker than arrays."""


class TokenMixing:
    """The token mixers of one run, which remembers what its encoder has left for its decoder."""

    def __init__(self, model: ModelArchitecture, works: Works, indexed: Indexed = "gathered") -> None:
        self._model, self._works, self._indexed = model, works, indexed
        self._memory_tokens: Counter[int] = Counter()  # sequence -> encoder outputs
        self._projected: set[int] = set()  # sequences whose cross-attention keys and values exist

    def of(self, step: Step, stack: LayerStack, encoding: bool, made_moves: float) -> list[list[Work]]:
        """The works of a pass or a micro-batch, by layer.

        `made_moves`: of keys and values that latent attention makes of its context in this pass, as of `mixer_work`.
        """
        if stack.is_uniform or encoding:
            attention = self._attention(step, stack, encoding, made_moves)
            if stack.is_uniform:
                return [attention] * stack.n_layers
        works = mixing_works(self._model, stack, contexts_of([step]), [made_moves], self._indexed)
        return [[] if mixer is None else works[mixer] for mixer in stack.all_mixers]

    def of_parts(
        self, parts: Sequence[Step], stack: LayerStack, encoding: bool, made_moves: float
    ) -> list[list[list[Work]]]:
        """`of` each of several micro-batches of one pass; an encoder's is never split."""
        if len(parts) == 1 or not stack.is_uniform or stack.cross_attention:
            return [self.of(part, stack, encoding, made_moves) for part in parts]
        seen = contexts_of(parts)
        columns = seen.by_pair(seen.longest), seen.by_token(seen.context), seen.n_sequences
        keys = list(zip((len(part.experts) for part in parts), *(column.tolist() for column in columns), strict=True))
        made = {
            (n_tokens, kv_tokens, pairs, n): [
                self._works.self_attention(stack, n_tokens, kv_tokens, pairs, n, made_moves)
            ]
            for n_tokens, kv_tokens, pairs, n in dict.fromkeys(keys)
        }
        return [[made[key]] * stack.n_layers for key in keys]

    def _attention(self, step: Step, stack: LayerStack, encoding: bool, made_moves: float) -> list[Work]:
        """The attention ops of each layer of this pass, the same for every layer."""
        n_tokens = len(step.experts)
        if encoding:  # every token sees every token of its sequence
            sequences, counts = np.unique(step.sequence, return_counts=True)
            self._memory_tokens.update(dict(zip(sequences.tolist(), counts.tolist(), strict=True)))
            kv_tokens, pairs, running = n_tokens, int((counts.astype(np.int64) ** 2).sum()), sequences.tolist()
        else:  # causal: a token sees itself and what came before it
            longest, pairs = contexts(step)
            kv_tokens, running = sum(longest.values()), list(longest)
        n = len(running)
        works = [self._works.self_attention(stack, n_tokens, kv_tokens, pairs, n, made_moves)]
        if stack.cross_attention and not encoding:
            new = [sequence for sequence in running if sequence not in self._projected]
            self._projected.update(new)
            memory = sum(self._memory_tokens[sequence] for sequence in running)
            new_memory = sum(self._memory_tokens[sequence] for sequence in new)
            works.append(self._works.cross_attention(stack, n_tokens, memory, new_memory, n))
        return works


def contexts(step: Step) -> tuple[dict[int, int], int]:
    """What each sequence of a step has of keys and values, and the query-key pairs of all its tokens.

    A token sees its own path alone of a tree of drafts, whose nodes all have keys and values.
    """
    if len(step.position) <= _SMALL_PASS and step.rejected is None:
        longest: dict[int, int] = {}
        positions = step.position.tolist()
        for sequence, position in zip(step.sequence.tolist(), positions, strict=True):
            longest[sequence] = max(longest.get(sequence, 0), position + 1)
        return longest, sum(positions) + len(positions)
    seen = contexts_of([step])
    return dict(zip(seen.sequence.tolist(), seen.longest.tolist(), strict=True)), int(seen.context.sum())
