"""Trees of drafts: which tokens share a pass, which path is taken, what the pass asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pregate
from offload.decoding.mixer_works import contexts_of, mixing_works
from offload.decoding.token_mixing import contexts
from offload.ops import OpKind
from offload.policies import policy_named
from offload.policy_parts.speculation import speculation_named
from offload.schedule import Schedule
from pregate.ask.capturing.capture import capture, capture_request
from pregate.ask.capturing.request import request
from tests.expected_drafts import expected_tokens
from tests.grids import one_in
from tests.small_models import decoder_only, encoder_decoder
from traces.errors import InvalidInput
from traces.model.architecture import Attention
from traces.phase import Phase
from traces.routing import RoutingTrace, Step
from traces.transforms.draft_trees import Acceptance, DraftTree, branching, most_likely
from traces.transforms.grown_trees import GrownTrees
from traces.transforms.speculation import verified

RATES = Acceptance(((0.6, 0.2, 0.1), (0.5, 0.25)))


def test_branches_by_hand() -> None:
    tree = branching((2, 1, 2))
    assert tree.parent == (0, 0, 1, 2, 3, 3, 4, 4)
    assert tree.depth == (0, 1, 1, 2, 2, 3, 3, 3, 3)
    assert tree.children[0] == (1, 2)
    assert tree.n_read == (1, 2, 2)
    assert [tree.n_to(depth) for depth in range(4)] == [1, 3, 5, 9]


def test_tokens_of_a_tree_by_hand() -> None:
    # one; .6 + .2 at depth 1; after each of them .5 + .25
    assert expected_tokens(branching((2, 2)), RATES) == pytest.approx(1 + 0.8 + 0.8 * 0.75)
    assert expected_tokens(branching((1, 3)), RATES) == pytest.approx(1 + 0.6 + 0.6 * 0.75)  # a third is never right


def trees_of(n: int, n_ranks: int) -> set[frozenset[tuple[int, ...]]]:
    """Every tree of `n` proposals, as the ranks on the paths to them: what each lacks is added, over and over."""
    found: set[frozenset[tuple[int, ...]]] = {frozenset()}
    for _ in range(n):
        grown = set()
        for tree in found:
            for path in tree | {()}:
                rank = sum((*path, r) in tree for r in range(n_ranks))
                if rank < n_ranks:
                    grown.add(tree | {(*path, rank)})
        found = grown
    return found


def tokens_of(tree: frozenset[tuple[int, ...]], acceptance: Acceptance) -> float:
    return 1 + sum(np.prod([acceptance.rate(i, rank) for i, rank in enumerate(path, 1)]) for path in tree)


@given(
    st.lists(st.lists(st.floats(0.01, 0.33), min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_no_other_tree_of_as_many_proposals_makes_more_tokens(rows: list[list[float]], n: int) -> None:
    acceptance = Acceptance(tuple(tuple(sorted(row, reverse=True)) for row in rows))
    best = max(tokens_of(tree, acceptance) for tree in trees_of(n, 3))
    assert expected_tokens(most_likely(n, acceptance), acceptance) == pytest.approx(best)


def test_the_best_tree_of_rates_by_hand() -> None:
    # .6, then .3 (first of the first), .2 (second), .15: the second after the first, and a third of its own
    assert most_likely(4, RATES).parent == (0, 0, 1, 1)
    assert most_likely(3, Acceptance(each=0.9)) == branching((1, 1, 1))
    assert most_likely(9, Acceptance(each=0.0)).parent == (0,)
    assert len(most_likely(1024, Acceptance(each=0.7)).parent) == 1024


@pytest.mark.parametrize("tree", [branching((3, 2, 1)), most_likely(26, RATES), most_likely(7, Acceptance(each=0.4))])
def test_a_pass_makes_as_many_tokens_as_its_tree_says(tree: DraftTree) -> None:
    plain = pregate.synthesize(decoder_only(), 1, 9001, 1)
    made = verified(plain, tree, RATES, seed=2)
    decoding = made.phase == Phase.DECODE
    assert made.rejected is not None
    per_pass = np.count_nonzero(decoding & ~made.rejected) / len(np.unique(made.step[decoding]))
    assert per_pass == pytest.approx(expected_tokens(tree, RATES), rel=0.03)


def test_passes_of_a_tree_by_hand() -> None:
    plain = pregate.synthesize(decoder_only(), 2, 7, 1)  # six tokens are decoded
    first = int(plain.position[plain.phase == Phase.DECODE][0])
    made = verified(plain, branching((2, 1)), (1, 0, 2))
    decoding = made.phase == Phase.DECODE
    # two places are proposed for: 0 | 1 1 | 2 2, of which one is taken; then 2 | 3 3 | 4 4, none; 3 | 4 4 | 5 5, both
    assert (made.position[decoding] - first).tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 3, 4, 4, 5, 5]
    assert made.rejected is not None
    assert np.flatnonzero(~made.rejected[decoding]).tolist() == [0, 1, 5, 10, 11, 13]
    assert np.bincount(made.step[decoding])[1:].tolist() == [5, 5, 5]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.floats(0, 1), st.integers(1, 3), st.booleans())
def test_every_recorded_token_is_kept_once_and_every_level_is_whole(
    branches: list[int], acceptance: float, batch: int, coder: bool
) -> None:
    model = encoder_decoder() if coder else decoder_only()
    plain = pregate.synthesize(model, 4, 7, batch, seed=3)
    tree = branching(branches)
    made = verified(plain, tree, acceptance, rejected_route="elsewhere")
    assert made.rejected is not None
    for sequence in np.unique(plain.sequence):
        for phase in Phase:
            there = (plain.sequence == sequence) & (plain.phase == phase)
            here = (made.sequence == sequence) & (made.phase == phase) & ~made.rejected
            assert np.array_equal(plain.position[there], made.position[here])
            assert np.array_equal(plain.experts[there], made.experts[here])
        mine = (made.sequence == sequence) & (made.phase == Phase.DECODE)
        for step in np.unique(made.step[mine]):
            depth = made.position[mine & (made.step == step)] - made.position[mine & (made.step == step)][0]
            assert depth.tolist() == list(tree.depth[: len(depth)])
            assert len(depth) == tree.n_to(int(depth.max()))
    made.check_model(model)


def test_a_tree_of_one_branch_is_a_chain() -> None:
    plain = pregate.synthesize(decoder_only(), 4, 30, 2, seed=3)
    for acceptance in ("0.6", "0.6/0.3"):
        chain, tree = (
            speculation_named(f"{shape},acceptance={acceptance},rejected=elsewhere").of(plain)
            for shape in ("gamma=3", "branches=1x1x1")
        )
        assert chain.digest == tree.digest


def step_at(positions: list[int], rejected: bool = True) -> Step:
    n = len(positions)
    return Step(
        0, Phase.DECODE, np.zeros((n, 1, 1), np.int16), np.zeros(n, np.int32), np.array(positions, np.int32), None,
        np.zeros(n, np.bool_) if rejected else None,
    )  # fmt: skip


def test_every_node_has_keys_and_values_and_sees_its_own_path() -> None:
    assert contexts(step_at([10, 11, 11, 12, 12])) == ({0: 15}, 11 + 12 + 12 + 13 + 13)
    assert contexts(step_at([10, 11, 12])) == contexts(step_at([10, 11, 12], rejected=False))
    model = pregate.load_model("gpt-oss-20b")  # whose layers differ
    steps = [step_at(positions) for positions in ([900, 901, 901, 901], [900, 901, 902, 903])]
    works = mixing_works(model, model.decoder, contexts_of(steps), [False, False])
    whole = [of for mixer, of in works.items() if isinstance(mixer, Attention) and not mixer.window]
    assert whole
    for tree, chain in whole:
        assert tree.hbm_bytes == chain.hbm_bytes
        assert tree.flop < chain.flop


TREES = (
    "branches=2x2:acceptance=0.6/0.2",
    "nodes=6:acceptance=0.5:draft=stated",
    "nodes=5:acceptance=0.5:draft=mixtral-mini-8",
    "grown=6:depth=3:width=4:varies=0.5:acceptance=0.6/0.2:draft=mixtral-mini-8",
)


@pytest.mark.parametrize(
    ("name", "drafts"),
    one_in(2, ["gpu_only", "on_demand", "pregate(2)+lru:3", "guess/markov+lfu:4", "hybrid_schedule+lru:4"], TREES),
)
def test_every_interpreter_gives_every_design_the_same_times(name: str, drafts: str) -> None:
    model, hw = decoder_only(), pregate.load_hardware("rtx-4090", overrides={"stack.draft_s": 1e-4})
    trace, design = pregate.synthesize(model, 4, 6, 2, seed=3), f"{name}@{drafts}"
    found = [pregate.simulate(model, hw, trace, design, engine=e) for e in ("des", "recurrence", "event", "stream")]
    assert (
        len({(one.schedule_digest, one.makespan_s, one.tpot_s, one.h2d_bytes, one.peak_hbm_bytes) for one in found})
        == 1
    )
    assert found[0].n_output_tokens == 12


@pytest.mark.parametrize("shape", ["branches=3x2", "grown=6:depth=3:varies=0.5"])
@pytest.mark.parametrize("name", ["gpu_only", "on_demand", "pregate+lru:4"])
def test_the_compiled_loop_writes_the_same_passes(name: str, shape: str) -> None:
    model, hw = decoder_only(), pregate.load_hardware("rtx-4090")
    asked = request(model, hw, pregate.synthesize(model, 4, 9, 3), f"{name}@{shape}:acceptance=0.5")
    assert len({capture_request(asked, compiled=how).decoded.schedule.digest for how in (True, False)}) == 1


def test_bytes_on_demand_are_the_unions_of_the_trees() -> None:
    model = decoder_only()
    plain = pregate.synthesize(model, 4, 12, 2, seed=3)
    design = "on_demand@branches=3x2:acceptance=0.5"
    speculation = policy_named(design).speculation
    assert speculation is not None
    steps = list(speculation.of(plain).steps())
    unions = sum(len(np.unique(step.experts[:, i])) for step in steps for i in range(model.n_moe_layers))
    assert pregate.simulate(model, "rtx-4090", plain, design).h2d_bytes == unions * model.expert_bytes


def test_a_draft_reads_the_nodes_that_have_others_after_them_level_by_level() -> None:
    model = decoder_only()
    hw, trace = pregate.load_hardware("rtx-4090"), pregate.synthesize(model, 4, 9, 1)
    plain, drafted = (
        capture(model, hw, trace, f"gpu_only@branches=3x2x1:acceptance=1.0{how}").decoded.schedule
        for how in ("", ":draft=mixtral-mini-8")
    )

    def heads(schedule: Schedule) -> list[int]:
        return [schedule.works[schedule.cost[i]].gemms[0].m for i in np.flatnonzero(schedule.kind == OpKind.HEAD)]

    assert heads(plain) == [1, 16, 16]  # 1 + 3 + 6 + 6
    assert heads(drafted) == [1, 1, 3, 6, 16, 1, 3, 6, 16]


@pytest.mark.parametrize(
    "text",
    ["pregate@branches=4x2:acceptance=0.6/0.2", "pregate@grown=60:varies=0.3:acceptance=0.6/0.2",
     "pregate@grown=9:depth=2:varies=0.3:acceptance=0.6:draft=stated",
     "pregate@nodes=9:acceptance=0.5:draft=stated:seed=3",
     "pregate@experts=cpu@nodes=9:acceptance=0.5:rejected=recorded"],
)  # fmt: skip
def test_names_say_the_tree_again(text: str) -> None:
    policy = policy_named(text)
    assert policy_named(policy.name) == policy
    assert policy.speculation is not None
    assert policy.speculation.is_tree
    assert policy.speculation.at(0, None) is None


def test_rates_by_depth_come_from_a_file(tmp_path: Path) -> None:
    listed = tmp_path / "rates.txt"
    listed.write_text("0.6 0.2 0.1\n0.5, 0.25\n")
    found = speculation_named(f"branches=3x2,acceptance={listed}")
    assert found.taken == RATES
    assert policy_named(f"pregate@{found}").speculation == found
    assert replace(found, seed=1).tree == found.tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("branches=0x2,acceptance=0.5", "at least 1 proposal"),
        ("branches=2y2,acceptance=0.5", "not of the form 4x2x1"),
        ("branches=99x99,acceptance=0.5", "more than 1024 proposals"),
        ("nodes=0,acceptance=0.5", "nodes=0 proposes nothing"),
        ("nodes=9999,acceptance=0.5", "nodes = 9999: 1 to 1024"),
        ("nodes=4,gamma=4,acceptance=0.5", "says gamma and nodes: give one"),
        ("nodes=4,acceptance=0.2/0.6", "the likeliest guess first"),
        ("nodes=4,acceptance=0.7/0.6", "together 1 at most"),
        ("nodes=4,acceptance=0.5/x", "nor shares by rank"),
        ("branches=2x2", "does not say acceptance"),
        ("grown=9,acceptance=0.5", "say varies=0.3"),
        ("grown=9,varies=1,acceptance=0.5", "varies = 1: how much is known"),
        ("grown=0,varies=0.1,acceptance=0.5", "grown=0 proposes nothing"),
        ("grown=9999,varies=0.1,acceptance=0.5", "grown = 9999: 1 to 1024"),
        ("grown=9,varies=0.1,depth=0,acceptance=0.5", "depth = 0: a draft is 1 to 64"),
        ("grown=9,varies=0.1,width=65,acceptance=0.5", "width = 65: a draft expands 1 to 64"),
        ("grown=9,varies=x,acceptance=0.5", "say varies=0.3"),
        ("nodes=9,varies=0.1,acceptance=0.5", "varies= is of trees that grow"),
    ],
)
def test_what_cannot_be_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        speculation_named(text)
    assert "\n" not in str(refused.value)


def test_counts_make_no_best_tree_and_a_tree_has_no_length(tmp_path: Path) -> None:
    listed = tmp_path / "taken.txt"
    listed.write_text("2\n0\n")
    assert speculation_named(f"branches=2x2,acceptance={listed}").accepted == (2, 0)
    with pytest.raises(InvalidInput, match="lists counts: give rates, or branches="):
        speculation_named(f"nodes=5,acceptance={listed}")
    with pytest.raises(InvalidInput, match=r"grown=5:varies=0\.1 is the best tree .* lists counts"):
        speculation_named(f"grown=5,varies=0.1,acceptance={listed}")
    with pytest.raises(InvalidInput, match="trees grow by the rates"):
        verified(pregate.synthesize(decoder_only(), 2, 7), GrownTrees(5, 2, 2, 0.1), (1, 0))
    with pytest.raises(InvalidInput, match="is a tree, and gamma the length of a chain"):
        speculation_named("nodes=5,acceptance=0.5").at(3, None)


def test_the_runtime_refuses_trees_by_name() -> None:
    pytest.importorskip("torch")
    model = pregate.load_model("mixtral-mini-8")
    trace = pregate.synthesize(model, 3, 6)
    with pytest.raises(InvalidInput, match="verifies drafts that are chains"):
        pregate.run(model, trace, "on_demand@branches=2x2:acceptance=0.6")
    made: RoutingTrace = verified(trace, branching((2, 2)), 0.5)
    with pytest.raises(InvalidInput, match="the runtime executes no trees of drafts"):
        pregate.run(model, made, "on_demand")
