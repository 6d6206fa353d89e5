"""How many tokens a pass that verifies a draft makes on average, in closed form."""

from __future__ import annotations

from traces.transforms.draft_trees import Acceptance, DraftTree


def expected_tokens(tree: DraftTree, acceptance: Acceptance) -> float:
    """Tokens that a pass makes on average: one, and of each proposal the product of the rates on its path.

    Of a chain with one rate (1 - a ** (gamma + 1)) / (1 - a): Leviathan, Kalman and Matias, "Fast Inference from
    Transformers via Speculative Decoding", ICML 2023, equation 1; of a tree Sequoia, arXiv:2402.12374, section 3.
    """
    likely = [1.0] * len(tree.depth)
    for children in tree.children:
        for rank, node in enumerate(children):
            likely[node] = likely[tree.parent[node - 1]] * acceptance.rate(tree.depth[node], rank)
    return float(sum(likely))
