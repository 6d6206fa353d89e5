"""Trees grown anew for each pass: by what a draft is sure of, never by what it cannot know."""

from __future__ import annotations

from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pregate
from offload.ops import OpKind
from pregate.ask.capturing.capture import capture
from tests.expected_drafts import expected_tokens
from tests.grids import some_of
from tests.small_models import decoder_only
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.transforms.draft_trees import Acceptance, DraftTree, branching, most_likely
from traces.transforms.grown_trees import GrownTrees
from traces.transforms.speculation import verified
from traces.transforms.tree_growth import Growth, confidences

RATES = Acceptance(((0.6, 0.2, 0.1), (0.5, 0.25)))

Path = tuple[int, ...]


@cache
def long() -> RoutingTrace:
    """One sequence of 3,001 tokens."""
    return pregate.synthesize(decoder_only(), 1, 3001, 1)


def paths_of(tree: DraftTree) -> set[Path]:
    """The ranks on the way to each proposal."""
    found: list[Path] = [()]
    for node, above in enumerate(tree.parent, 1):
        found.append((*found[above], tree.children[above].index(node)))
    return set(found[1:])


def tokens_a_pass(made: RoutingTrace) -> float:
    assert made.rejected is not None
    decoding = made.phase == Phase.DECODE
    return float(np.count_nonzero(decoding & ~made.rejected) / len(np.unique(made.step[decoding])))


@given(
    st.lists(st.lists(st.floats(0.01, 0.33), min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(1, 12), st.integers(0, 9),
)  # fmt: skip
def test_where_every_place_is_alike_it_is_the_best_tree_of_the_rates(
    rows: list[list[float]], n: int, seed: int
) -> None:
    acceptance = Acceptance(tuple(tuple(sorted(row, reverse=True)) for row in rows))
    drawn = np.random.default_rng(seed).random(n + 2)
    grown, path = Growth(GrownTrees(n, n, n, 0.0), acceptance, drawn, (seed, 0)).grown(0, n + 1)
    best = most_likely(n, acceptance)
    assert expected_tokens(grown, acceptance) == pytest.approx(expected_tokens(best, acceptance), rel=1e-12)
    assert len(grown.parent) == len(best.parent)
    if len({acceptance.rate(d, r) for d in range(1, 4) for r in range(3)}) == 9:  # or trees may be as good
        assert paths_of(grown) == paths_of(best)
    assert all(grown.depth[node] == i for i, node in enumerate(path))


def grown_of_two_levels(n: int, seed: int, varies: float = 0.5) -> tuple[DraftTree, list[int], dict[Path, float]]:
    """A tree, what it keeps, and the product of confidences of every path that it could have had."""
    trees, drawn = GrownTrees(n, 2, 3, varies), np.random.default_rng(seed).random(3)
    growth = Growth(trees, RATES, drawn, (seed, 1))
    tree, path = growth.grown(0, 2)
    first, second = (confidences(trees, RATES, d, 3, np.random.default_rng((seed, 1, 1, d))) for d in (1, 2))
    rng = np.random.default_rng((seed, 1, 2, 0))
    confidences(trees, RATES, 1, 3, rng)
    after = confidences(trees, RATES, 2, 3, rng)
    guess = int(np.searchsorted(np.cumsum(first[1]), drawn[1], side="right"))
    if guess < 3:
        after[guess] = second[2]  # what follows the text's own token
    value = {(r,): float(first[1, r]) for r in range(3)}
    value |= {(r, s): float(first[1, r] * after[r, s]) for r in range(3) for s in range(3)}
    return tree, path, value


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_no_other_tree_of_as_many_proposals_has_a_larger_sum_of_products(n: int) -> None:
    for seed in range(12):
        tree, _, value = grown_of_two_levels(n, seed)
        closed = [
            one for one in combinations(value, n)
            if all((path[:-1] in one or len(path) == 1) for path in one)
        ]  # fmt: skip
        best = max(sum(value[path] for path in one) for one in closed)
        assert sum(value[path] for path in paths_of(tree)) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("n", some_of([1000, 3000], {1000}))
def test_what_is_kept_is_as_likely_as_its_confidence_says(n: int) -> None:
    found = [grown_of_two_levels(4, seed) for seed in range(n)]
    kept = np.mean([len(path) - 1 for _, path, _ in found])
    said = np.mean([sum(value[path] for path in paths_of(tree)) for tree, _, value in found])
    assert kept == pytest.approx(said, abs=3.5 * 0.75 / n**0.5)  # a deviation of .75 at most: 0, 1 or 2 are kept


@pytest.mark.parametrize("varies", [0.1, 0.5, 0.9])
def test_confidences_fall_by_rank_and_are_the_rates_in_the_mean(varies: float) -> None:
    for acceptance, depth in ((RATES, 1), (RATES, 2), (Acceptance(each=0.7), 1), (Acceptance(((0.6,),)), 1)):
        trees = GrownTrees(8, 3, 4, varies)
        drawn = confidences(trees, acceptance, depth, 40_000, np.random.default_rng(3))
        assert np.all(np.diff(drawn, axis=1) <= 1e-12)
        assert np.all((drawn >= 0) & (drawn.sum(axis=1, keepdims=True) <= 1 + 1e-9))
        rates = [acceptance.rate(depth, rank) for rank in range(4)]
        assert drawn.mean(axis=0) == pytest.approx(rates, abs=3.5 * 0.5 / 40_000**0.5)
    # of one guess: an indicator of it, whose intraclass correlation is `varies`
    assert drawn[:, 0].var() == pytest.approx(varies * 0.6 * 0.4, rel=0.03)


@pytest.mark.parametrize("varies", [0.0, 0.8])
def test_a_whole_tree_makes_what_it_makes_however_places_vary(varies: float) -> None:
    made = verified(long(), GrownTrees(12, 2, 3, varies), RATES, seed=2)  # all three guesses, and three after each
    assert tokens_a_pass(made) == pytest.approx(expected_tokens(branching((3, 3)), RATES), rel=0.02)


@pytest.mark.parametrize("n", [1, 2])
def test_of_one_level_as_many_are_taken_as_first_guesses_are_right(n: int) -> None:
    made = verified(long(), GrownTrees(n, 1, 3, 0.6), RATES, seed=2)
    assert tokens_a_pass(made) == pytest.approx(1 + sum(RATES.rates[0][:n]), rel=0.02)


def test_what_a_context_tells_makes_more_tokens_than_the_best_tree_for_all() -> None:
    made = [tokens_a_pass(verified(long(), GrownTrees(6, 4, 4, v), RATES, seed=2)) for v in (0.0, 0.4, 0.9)]
    assert made[0] == pytest.approx(expected_tokens(most_likely(6, RATES), RATES), rel=0.03)
    assert all(later > 1.02 * earlier for earlier, later in pairwise(made))


def test_a_larger_tree_of_the_same_place_keeps_no_less() -> None:
    drawn = np.random.default_rng(1).random(200)
    small, large = (Growth(GrownTrees(n, 5, 4, 0.4), RATES, drawn, (1, 0)) for n in (4, 9))
    pairs = [(len(small.grown(i, 5)[1]), len(large.grown(i, 5)[1])) for i in range(190)]
    assert all(few <= many for few, many in pairs)
    assert any(few < many for few, many in pairs)


def test_one_seed_makes_one_trace_and_another_another() -> None:
    plain = pregate.synthesize(decoder_only(), 4, 30, 2, seed=3)
    one, again, other = (verified(plain, GrownTrees(6, 3, 4, 0.4), 0.6, seed=seed).digest for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_draft_reads_what_it_expands_whatever_is_verified() -> None:
    model = decoder_only()
    hw, trace = pregate.load_hardware("rtx-4090"), pregate.synthesize(model, 4, 6, 2)
    schedule = capture(
        model, hw, trace, "gpu_only@grown=3:depth=3:width=3:varies=0.4:acceptance=0.0:draft=mixtral-mini-8"
    ).decoded.schedule
    heads = [schedule.works[schedule.cost[i]].gemms[0].m for i in np.flatnonzero(schedule.kind == OpKind.HEAD)]
    # of two sequences: a node, then three a level; where nothing can be taken one is verified; the last has no draft
    assert heads == [2, *(2, 6, 6, 4) * 4, 2]
    asked = [schedule.works[schedule.cost[i]] for i in np.flatnonzero(schedule.kind == OpKind.SELF_ATTENTION)]
    read = [work.hbm_bytes for work in asked if work.gemms[0].m == 6]  # layer by layer, level by level
    first, second = read[0], read[len(read) // 8]
    assert len(read) == 4 * 2 * pregate.load_model("mixtral-mini-8").decoder.n_layers
    assert second > first  # a level further down, a key and a value more of each
