"""Tokens of a text by byte-pair merges within words (Sennrich et al. 2016, section 3.2), learnt from the text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput

_N_BYTES = 256
_WORDS = re.compile(r" ?\w+|\n+| +|[^\w\s]+|\s", re.ASCII)
"""A space goes with the word after it."""

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """`merges`: pairs of tokens that become one, in the order learnt; token 256 + i stands for the i-th pair."""

    merges: tuple[Pair, ...]
    _rank: dict[Pair, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    _known: dict[str, list[int]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for i, pair in enumerate(self.merges):
            if len(pair) != 2 or not all(0 <= part < _N_BYTES + i for part in pair):
                raise InvalidInput(f"merge {i} joins {pair}, tokens that are not there before it")
            self._rank[pair] = i

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary."""
        return _N_BYTES + len(self.merges)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The tokens of `text`, (n_tokens,)."""
        found: list[int] = []
        for word in _WORDS.findall(text):
            tokens = self._known.get(word)
            if tokens is None:
                tokens = self._known[word] = self._word(word)
            found += tokens
        return np.array(found, dtype=np.int64)

    def _word(self, word: str) -> list[int]:
        tokens = list(word.encode())
        while len(tokens) > 1:
            first = min(pairwise(tokens), key=lambda pair: self._rank.get(pair, len(self._rank)))
            if first not in self._rank:
                break
            tokens = _merged(tokens, first, _N_BYTES + self._rank[first])
        return tokens

    def decode(self, tokens: NDArray[np.int64]) -> str:
        """The text of `tokens`; what is no UTF-8 becomes replacement characters."""
        return b"".join(self._bytes(int(token)) for token in tokens).decode(errors="replace")

    def _bytes(self, token: int) -> bytes:
        if token < _N_BYTES:
            return bytes([token])
        left, right = self.merges[token - _N_BYTES]
        return self._bytes(left) + self._bytes(right)


def learn_tokens(text: str, n_tokens: int) -> Tokenizer:
    """The tokenizer whose merges are the most frequent pairs of `text`, the smaller pair first where two are alike.

    Raises `InvalidInput` below 256, or where `text` has not so many pairs to merge.
    """
    if n_tokens < _N_BYTES:
        raise InvalidInput(f"a vocabulary of {n_tokens} tokens has not all bytes: at least {_N_BYTES}")
    counts = Counter(_WORDS.findall(text))
    words = [(list(word.encode()), n) for word, n in counts.items()]
    pairs: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = {}
    for i, (tokens, n) in enumerate(words):
        for pair in pairwise(tokens):
            pairs[pair] += n
            where.setdefault(pair, set()).add(i)
    merges: list[Pair] = []
    while len(merges) < n_tokens - _N_BYTES:
        if not pairs:
            raise InvalidInput(f"the text has only {_N_BYTES + len(merges)} tokens to learn, not {n_tokens}")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for i in where.pop(best):
            tokens, n = words[i]
            after = _merged(tokens, best, _N_BYTES + len(merges))
            for pair in pairwise(tokens):
                pairs[pair] -= n
                if not pairs[pair]:
                    del pairs[pair]
            for pair in pairwise(after):
                pairs[pair] += n
                where.setdefault(pair, set()).add(i)
            words[i] = after, n
        merges.append(best)
    return Tokenizer(tuple(merges))


def _merged(tokens: list[int], pair: Pair, token: int) -> list[int]:
    """`tokens` with each `pair`, from the left, as one `token`."""
    after: list[int] = []
    at = 0
    while at < len(tokens):
        if at + 1 < len(tokens) and (tokens[at], tokens[at + 1]) == pair:
            after.append(token)
            at += 2
        else:
            after.append(tokens[at])
            at += 1
    return after
