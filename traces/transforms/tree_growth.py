"""How trees of drafts grow, pass by pass: confidences that are drawn, and the nodes that they choose (EAGLE-2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.transforms.draft_trees import Acceptance, DraftTree
from traces.transforms.grown_trees import GrownTrees


def confidences(
    trees: GrownTrees, acceptance: Acceptance, depth: int, n: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Of `n` places at `depth` (from 1) the probabilities of their guesses (n, trees.width), likeliest first.

    Rates that fall by rank are one mixture of `being undecided among the first k guesses`, k from 0; its weights
    are drawn from a Dirichlet distribution about them, so that means are the rates of `acceptance` and no later
    guess is likelier. An indicator of any of its parts has the intraclass correlation `varies`.
    """
    rates = np.array([acceptance.rate(depth, rank) for rank in range(trees.width)])
    if trees.varies == 0:
        return np.tile(rates, (n, 1))
    ranks = np.arange(1, trees.width + 1)
    weights = ranks * -np.diff(rates, append=0.0)
    nothing = max(0.0, 1.0 - float(weights.sum()))
    drawn = rng.dirichlet(np.maximum([*weights, nothing], 0.0) * (1 / trees.varies - 1), n)[:, :-1]
    return np.cumsum((drawn / ranks)[:, ::-1], axis=1)[:, ::-1]


class Growth:
    """The trees of one sequence; `drawn` (n_tokens,) says of each place which guess is its token.

    Places of the text have the confidences that they have in every pass; what follows a wrong guess is a place of its
    own, drawn for the pass. What grows knows confidences alone, not which guess is right.
    """

    def __init__(
        self, trees: GrownTrees, acceptance: Acceptance, drawn: NDArray[np.float64], seed: tuple[int, int]
    ) -> None:
        self._trees, self._acceptance, self._drawn, self._seed = trees, acceptance, drawn, seed
        n_rows = max(1, min(len(acceptance.rates), trees.n_levels))  # depths that differ
        self._of_text = [
            confidences(trees, acceptance, depth, len(drawn), np.random.default_rng((*seed, 1, depth)))
            for depth in range(1, n_rows + 1)
        ]

    def grown(self, start: int, most: int) -> tuple[DraftTree, list[int]]:
        """The tree of the pass that begins at `start`, `most` levels deep (from 1), and the nodes that it keeps."""
        width, rng = self._trees.width, np.random.default_rng((*self._seed, 2, start))
        above: list[int] = []  # of each candidate; -1 is the token before the draft
        value: list[float] = []  # the product of confidences on its path
        taken: list[int] = []
        expanded, products, right = [-1], np.ones(1), 0  # right: which of those expanded the text goes through, or -1
        for depth in range(1, min(most, self._trees.n_levels) + 1):
            known = confidences(self._trees, self._acceptance, depth, width, rng)[: len(expanded)]
            the_text = -1  # which candidate of this level it is
            if right >= 0:
                known[right] = self._of_text[min(depth, len(self._of_text)) - 1][start + depth]
                guess = int(np.searchsorted(np.cumsum(known[right]), self._drawn[start + depth], side="right"))
                the_text = right * width + guess if guess < width else -1
            joint, n_before = (products[:, None] * known).ravel(), len(above)
            above += np.repeat(expanded, width).tolist()
            value += joint.tolist()
            taken += [n_before + the_text] if the_text >= 0 else []
            best = np.argsort(-joint, kind="stable")[:width]
            expanded, products = (best + n_before).tolist(), joint[best]
            right = expanded.index(n_before + the_text) if the_text >= 0 and n_before + the_text in expanded else -1
        return _verified(self._trees.n_proposals, above, value, taken)


def _verified(n: int, above: list[int], value: list[float], taken: list[int]) -> tuple[DraftTree, list[int]]:
    """The tree of the `n` candidates of largest `value`, which are there level by level, and its nodes in `taken`."""
    likeliest = np.argsort(-np.array(value), kind="stable")[:n].tolist()
    kept = sorted(one for one in likeliest if value[one] > 0) or [0]
    number = {one: node for node, one in enumerate((-1, *kept))}
    return DraftTree(tuple(number[above[one]] for one in kept)), [0, *(number[one] for one in taken if one in number)]
