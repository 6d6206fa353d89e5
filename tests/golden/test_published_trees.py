"""EAGLE-2's tokens a pass from EAGLE's: one draft model, a fixed tree, and one that is grown.

Vicuna 13B, temperature 0: average acceptance lengths of table 1 of arXiv:2503.01840 (EAGLE-3), which has both. EAGLE's
tree is `mc_sim_7b_63` of SafeAILab/EAGLE (eagle/model/choices.py), 25 proposals; EAGLE-2 verifies 50 tokens, six levels
of ten, its root among them in the released code. One acceptance a task, solved of EAGLE's figure; ranks geometric.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.expected_drafts import expected_tokens
from traces.transforms.draft_trees import Acceptance, DraftTree
from traces.transforms.grown_trees import GrownTrees
from traces.transforms.tree_growth import Growth

FIXED = [
    *"0123", "00", "01", "02", "10", "11", "20", "21", "30", "000", "001", "002", "010", "011", "020", "021", "100",
    "0000", "0001", "0002", "00000", "00001",
]  # fmt: skip
PUBLISHED = {
    "MT-bench": (3.98, 4.83), "HumanEval": (4.39, 5.41), "GSM8K": (3.97, 4.79), "Alpaca": (3.95, 4.89),
    "CNN/DM": (3.52, 4.21),
}  # fmt: skip


def fixed_tree() -> DraftTree:
    number = {path: node for node, path in enumerate(["", *FIXED])}
    return DraftTree(tuple(number[path[:-1]] for path in FIXED))


def acceptance_of(tokens: float) -> Acceptance:
    """With which EAGLE's tree makes so many tokens a pass, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if expected_tokens(fixed_tree(), Acceptance(each=middle)) < tokens:
            low = middle
        else:
            high = middle
    return Acceptance(each=low)


@pytest.mark.parametrize("task", PUBLISHED)
def test_a_grown_tree_makes_what_was_published(task: str) -> None:
    fixed, grown = PUBLISHED[task]
    acceptance = acceptance_of(fixed)
    tree, _ = Growth(GrownTrees(49, 6, 10, 0.0), acceptance, np.zeros(7), (0, 0)).grown(0, 6)
    assert expected_tokens(tree, acceptance) == pytest.approx(grown, rel=0.03)
    assert expected_tokens(tree, acceptance) > 1.1 * fixed
