from __future__ import annotations

import hashlib
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import routing
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import RoutingTrace, trace_as_made
from traces.statistics.locality import expert_counts, expert_reuse, layer_entropy_bits, layer_following
from traces.synthesis import dials as synthesis
from traces.synthesis import filling
from traces.synthesis.dials import Dials, synthesize_routing
from traces.synthesis.fitting import fit_dials
from traces.synthesis.forced import forced_active_routing
from traces.synthesis.layers_kernel import pays
from traces.synthesis.sequence_popularity import guides_of
from traces.synthesis.synthesis_kernel import _drawn

SHAPE: dict[str, Any] = {
    "n_moe_layers": 4,
    "n_encoder_moe_layers": 0,
    "n_experts": 16,
    "top_k": 2,
    "input_tokens": 5,
    "output_tokens": 7,
    "batch": 3,
}
LONG: dict[str, Any] = SHAPE | {"n_experts": 32, "output_tokens": 2000, "batch": 4}


def made(dials: Dials, *, seed: int = 0, **changes: Any) -> RoutingTrace:
    return synthesize_routing(**(SHAPE | changes), dials=dials, rng=np.random.default_rng(seed), model_name="toy")


def entropy(trace: RoutingTrace) -> float:
    return float(layer_entropy_bits(expert_counts(trace)).mean())


def reuse(trace: RoutingTrace, lag: int = 1) -> float:
    return float(expert_reuse(trace, lag).mean())


def test_prefill_yields_the_first_token_of_a_decoder_only_model() -> None:
    trace = made(Dials(1.0, 0.1, 0.1))
    tokens_of_step = [len(step.sequence) for step in trace.steps()]
    assert tokens_of_step == [15] + [3] * 6
    assert trace.position[trace.sequence == 1].tolist() == list(range(11))
    assert (trace.experts >= 0).all()


def test_encoder_decoder_fills_each_stack_in_its_own_phase() -> None:
    trace = made(Dials(1.0, 0.5, 0.5, sequence_affinity=0.5), n_encoder_moe_layers=1)
    assert trace.n_steps == 1 + 7
    for step in trace.steps():
        visited = (step.experts >= 0).all(axis=(0, 2)).tolist()
        assert visited == ([True, False, False, False] if step.phase is Phase.PREFILL else [False, True, True, True])
    assert trace.position[(trace.sequence == 0) & (trace.phase == Phase.DECODE)].tolist() == list(range(7))


def test_one_output_token_is_prefill_alone() -> None:
    assert made(Dials(1.0, 0.1, 0.1), output_tokens=1).n_steps == 1


def test_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    dials = Dials(1.0, 0.2, 0.3, sequence_affinity=0.2)
    assert made(dials).digest == made(dials).digest
    assert made(dials).digest != made(dials, seed=1).digest


def test_chunks_do_not_change_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    dials = Dials(1.0, 0.2, 0.3, sequence_affinity=0.2)
    whole = made(dials).digest
    monkeypatch.setattr(filling, "_CHUNK_DRAWS", 50)
    assert made(dials).digest == whole


@settings(max_examples=15)
@given(
    st.floats(0, 6),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([3, 32, 33]),
    st.integers(0, 99),
)
def test_compiled_and_plain_generator_agree(
    zipf: float, repeat: float, follow: float, affinity: float, top_k: int, n_moe_layers: int, seed: int
) -> None:
    dials = Dials(zipf, repeat, follow, 0.5, affinity)
    digests = set()
    for compiled in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filling, "load_if_it_pays", lambda _, chosen=compiled: chosen)
            patch.setattr(filling, "_CHUNK_DRAWS", 200)
            trace = made(dials, seed=seed, top_k=top_k, n_experts=8, n_moe_layers=n_moe_layers)
        digests.add(replace(trace).digest)  # looked through: no token chooses an expert twice
    assert len(digests) == 1


@given(
    zipf=st.sampled_from([0.0, 0.7, 1.3, 20.0]), repeat=st.sampled_from([0.0, 0.15, 1.0]), top_k=st.integers(1, 4),
    n_experts=st.integers(4, 40), n_moe_layers=st.sampled_from([1, 16, 33]), seed=st.integers(0, 99),
    active=st.sampled_from([1.0, 0.8]),
)  # fmt: skip
def test_all_layers_at_once_choose_what_they_choose_one_by_one(
    zipf: float, repeat: float, top_k: int, n_experts: int, n_moe_layers: int, seed: int, active: float
) -> None:
    dials, shape = Dials(zipf, repeat, 0.0, 1.0 if n_experts < 8 else active), (n_moe_layers, n_experts)
    digests = set()
    for at_once in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filling, "_may_take_all_layers", lambda *_, chosen=at_once: chosen)
            patch.setattr(filling, "load_if_it_pays", lambda _: False)
            patch.setattr(filling, "_CHUNK_DRAWS", 200)
            about = {"n_moe_layers": shape[0], "n_encoder_moe_layers": 0, "n_experts": shape[1], "top_k": top_k}
            digests.add(made(dials, seed=seed, **about).digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("shape", "dials", "wanted"),
    [
        ((128, 8, 12), Dials(0.6, 0.0, 0.0), "428844966d156c48"),
        ((256, 8, 6), Dials(0.9, 0.3, 0.2, 0.7, 0.2), "95895975fdb39cae"),
        ((64, 6, 5), Dials((0.0, 0.5, 1.0, 2.0, 9.0), 0.1, 0.5), "4eb122655af5ac02"),
        ((9, 9, 3), Dials(0.3, 0.2, 0.1, 1.0, 0.5), "728a358628cdd51e"),
    ],
    ids=["drawn", "all dials", "an exponent a layer", "all experts"],
)
def test_a_seed_gives_the_experts_that_it_always_gave(shape: tuple[int, int, int], dials: Dials, wanted: str) -> None:
    """Digests of the loop in plain Python."""
    n_experts, top_k, n_moe_layers = shape
    about = {"n_experts": n_experts, "top_k": top_k, "n_moe_layers": n_moe_layers}
    trace = made(dials, seed=7, input_tokens=60, output_tokens=20, **about)
    assert hashlib.sha256(trace.experts.tobytes()).hexdigest()[:16] == wanted


@pytest.mark.parametrize("n_active", [1, 2, 3, 16, 100, 128])
@pytest.mark.parametrize("zipf", [0.0, 1.2, 20.0])
def test_a_draw_on_an_edge_or_beside_it_falls_where_a_search_finds_it(n_active: int, zipf: float) -> None:
    popularity = synthesis._popularity(Dials(zipf, 0.0, 0.0), 1, n_active, 1)
    (edges,), (guide,) = popularity, guides_of(popularity)
    cells = np.linspace(0, 1, guide.size)
    points = np.concatenate([np.nextafter(edges, -1), edges, np.nextafter(edges, 2), cells, np.nextafter(cells, 0)])
    points = points[(points >= 0) & (points < 1)]
    nothing = np.zeros(n_active, np.int8), np.zeros(1, np.int64)
    found = [int(_drawn(edges, guide, *nothing, 0, what)) for what in points.tolist()]
    wanted = np.minimum(np.searchsorted(edges[1:], points, side="right"), n_active - 1)
    assert found == wanted.tolist()


def test_only_models_that_gain_are_drawn_all_layers_at_once() -> None:
    for shape in ((32, 2, 8, 32), (8, 2, 8, 32), (24, 4, 32, 32), (48, 8, 64, 32), (32, 2, 8, 16), (16, 4, 32, 16)):
        assert pays(*shape), shape
    for shape in ((24, 1, 16, 32), (16, 8, 64, 32), (32, 2, 128, 32), (48, 8, 64, 16), (58, 8, 256, 32)):
        assert not pays(*shape), shape


def test_token_may_choose_every_expert() -> None:
    trace = made(Dials(20.0, 0.5, 0.5, sequence_affinity=0.5), n_experts=4, top_k=4)
    assert (np.sort(trace.experts, axis=2) == np.arange(4)).all()


def test_uniform_popularity_has_full_entropy_and_random_reuse() -> None:
    trace = made(Dials(0.0, 0.0, 0.0), **(LONG | {"top_k": 4}))
    assert entropy(trace) == pytest.approx(5.0, abs=0.01)
    assert reuse(trace) == pytest.approx(4 / 32, abs=0.01)


def test_choices_follow_the_zipf_law() -> None:
    trace = made(Dials(1.0, 0.0, 0.0), **(LONG | {"top_k": 1, "output_tokens": 5000}))
    shares = np.sort(expert_counts(trace), axis=1)[:, ::-1] / (4 * 4999)
    law = 1 / np.arange(1, 33)
    assert shares.mean(axis=0) == pytest.approx(law / law.sum(), abs=0.006)


def test_draws_are_exactly_without_replacement() -> None:
    """Two of three experts: P(i is chosen) = p_i + sum over j of p_j * p_i / (1 - p_j)."""
    weights = 1 / np.arange(1, 4)
    p = weights / weights.sum()
    expected = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    trace = made(Dials(1.0, 0.0, 0.0), **(LONG | {"n_experts": 3, "output_tokens": 5000}))
    shares = np.sort(expert_counts(trace), axis=1)[:, ::-1] / (4 * 4999)
    assert shares.mean(axis=0) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("name", "moment"), [("repeat_probability", reuse), ("layer_correlation", layer_following)])
def test_each_dial_raises_its_own_moment_and_leaves_popularity_alone(name: str, moment: Any) -> None:
    dials = Dials(1.0, 0.0, 0.0)
    settings_of_dial: list[dict[str, Any]] = [{name: value} for value in (0.0, 0.3, 0.6)]
    traces = [made(replace(dials, **setting), **LONG) for setting in settings_of_dial]
    low, middle, high = (moment(trace) for trace in traces)
    assert low < middle - 0.1 < high - 0.2
    assert [entropy(trace) for trace in traces] == pytest.approx([entropy(traces[0])] * 3, abs=0.15)


def test_repeats_do_not_move_following_and_following_does_not_move_reuse() -> None:
    plain = made(Dials(1.0, 0.0, 0.0), **LONG)
    assert layer_following(made(Dials(1.0, 0.6, 0.0), **LONG)) == pytest.approx(layer_following(plain), abs=0.03)
    assert reuse(made(Dials(1.0, 0.0, 0.6), **LONG)) == pytest.approx(reuse(plain), abs=0.03)


def test_affinity_makes_reuse_last_and_repeats_do_not() -> None:
    plain = made(Dials(0.5, 0.0, 0.0), **LONG)
    assert reuse(made(Dials(0.5, 0.6, 0.0), **LONG), 8) == pytest.approx(reuse(plain, 8), abs=0.04)
    assert reuse(made(Dials(0.5, 0.0, 0.0, sequence_affinity=0.9), **LONG), 8) > reuse(plain, 8) + 0.1


def test_certain_repeats_repeat_for_ever() -> None:
    trace = made(Dials(1.0, 1.0, 0.0))
    for i in range(3):
        own = trace.experts[trace.sequence == i]
        assert (own == own[0]).all()


def test_certain_following_is_one_fixed_map_a_layer() -> None:
    assert layer_following(made(Dials(0.0, 0.0, 1.0), **(LONG | {"top_k": 1}))) == pytest.approx(1 - 1 / 32, abs=0.01)


def test_active_fraction_bounds_the_experts_used() -> None:
    counts = expert_counts(made(Dials(0.0, 0.2, 0.2, active_fraction=0.25), **LONG))
    assert np.count_nonzero(counts, axis=1).tolist() == [8] * 4


def test_exponent_may_differ_by_layer() -> None:
    trace = made(Dials((0.0, 1.0, 2.0, 3.0), 0.0, 0.0), **LONG)
    bits = layer_entropy_bits(expert_counts(trace))
    assert (np.diff(bits) < -0.3).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 17},
        {"top_k": 0},
        {"n_experts": 40_000},
        {"n_encoder_moe_layers": 4},
        {"batch": 0},
        {"input_tokens": 0},
        {"output_tokens": 0},
        {"output_tokens": 1 << 30},
        {"dials": Dials((1.0, 1.0), 0.0, 0.0)},
        {"dials": Dials(1.0, 0.0, 0.0, active_fraction=0.1), "top_k": 3},
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        made(**({"dials": Dials(1.0, 0.0, 0.0)} | changes))


@pytest.mark.parametrize(
    "values", [(-1.0, 0, 0), (21.0, 0, 0), (float("nan"), 0, 0), (1.0, 1.1, 0), (1.0, 0, -0.1), (1.0, 0, 0, 0.0)]
)
def test_dial_outside_its_range_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="it must be"):
        Dials(*values)


def test_fit_finds_the_dials_of_a_synthetic_trace() -> None:
    true = Dials(1.0, 0.4, 0.3)
    trace = made(true, seed=5, **LONG).decode_only()
    found = fit_dials(trace, np.random.default_rng(0), all_dials=False)
    assert found.dials.repeat_probability == pytest.approx(0.4, abs=0.03)
    assert found.dials.layer_correlation == pytest.approx(0.3, abs=0.03)
    assert np.mean(found.dials.zipf_exponent) == pytest.approx(1.0, abs=0.1)
    assert all(abs(row.relative) < (0.001 if row.fitted else 0.03) for row in found.comparisons)


def test_the_state_of_the_generator_fixes_a_fit() -> None:
    trace = made(Dials(1.0, 0.4, 0.3), output_tokens=50)
    first, again = (fit_dials(trace, np.random.default_rng(0)).to_dict() for _ in range(2))
    assert first == again


def test_fit_of_an_encoder_decoder_gives_dials_for_all_its_layers() -> None:
    trace = made(Dials(1.0, 0.2, 0.2), n_encoder_moe_layers=2, output_tokens=50)
    dials = fit_dials(trace, np.random.default_rng(0)).dials
    assert made(dials, n_encoder_moe_layers=2).n_moe_layers == 4


def test_fit_of_a_trace_too_short_for_some_moments_still_answers() -> None:
    trace = made(Dials(1.0, 0.2, 0.2), n_moe_layers=1, output_tokens=3, batch=1)
    fitted = fit_dials(trace, np.random.default_rng(0))
    assert "distinct experts, batch 32" not in [row.name for row in fitted.comparisons]


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.data())
def test_forced_routing_activates_exactly_so_many_experts(
    batch: int, top_k: int, n_encoder: int, shuffled: bool, data: st.DataObject
) -> None:
    n_active = data.draw(st.integers(top_k, min(16, batch * top_k)))
    trace = forced_active_routing(
        **(SHAPE | {"batch": batch, "top_k": top_k, "n_encoder_moe_layers": n_encoder}),
        n_active=n_active,
        rng=np.random.default_rng(0) if shuffled else None,
    )
    for step in trace.steps():
        layers = range(4)
        if n_encoder:
            layers = range(n_encoder) if step.phase is Phase.PREFILL else range(n_encoder, 4)
        for layer in range(4):
            active, load = np.unique(step.experts[:, layer], return_counts=True)
            assert active.tolist() == (list(range(n_active)) if layer in layers else [-1])
            assert layer not in layers or load.max() - load.min() <= 1


@pytest.mark.parametrize(
    ("n_active", "message"),
    [(7, "n_active = 7, but a step of batch 3 x top_k 2 makes 6 choices: a batch of 4 is enough"), (1, "top_k = 2")],
)
def test_impossible_number_of_active_experts_is_refused(n_active: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        forced_active_routing(**SHAPE, n_active=n_active)


@pytest.mark.parametrize(
    "dials", [Dials(1.0, 0.3, 0.0), Dials(0.6, 0.3, 0.4), Dials(0.6, 0.2, 0.1, 0.6, 0.5), Dials(1.0, 0.0, 0.0)]
)
@pytest.mark.parametrize(("n_layers", "n_experts", "top_k"), [(4, 16, 2), (20, 8, 2), (3, 64, 6), (4, 16, 1)])
def test_what_traces_have_in_common_may_be_taken_over(
    dials: Dials, n_layers: int, n_experts: int, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "_CHUNK_DRAWS", 1 << 9)  # else one expert a token takes a way of its own
    shape = {"n_moe_layers": n_layers, "n_experts": n_experts, "top_k": top_k}
    counts = [(40, 9, 5), (40, 1, 1), (90, 5, 1)]
    begun = [made(dials, **shape, input_tokens=n, output_tokens=m, batch=b) for n, m, b in counts]
    for n, m, b in [(40, 9, 5), (40, 12, 5), (40, 9, 2), (40, 9, 12), (41, 9, 1), (120, 2, 1), (1, 1, 1), (1, 3, 7)]:
        asked = shape | {"input_tokens": n, "output_tokens": m, "batch": b}
        assert made(dials, **asked, begun=begun).digest == made(dials, **asked).digest


def test_the_longest_common_start_is_not_drawn_again() -> None:
    dials, other = Dials(1.0, 0.3, 0.2), made(Dials(1.0, 0.3, 0.2), seed=1)
    found = made(dials, begun=[made(dials, seed=2, input_tokens=3), other], output_tokens=9)
    assert np.array_equal(found.experts[: other.n_tokens], other.experts)


def test_two_stacks_take_nothing_over() -> None:
    dials, other = Dials(1.0, 0.3, 0.2), made(Dials(1.0, 0.3, 0.2), seed=1)
    found = made(dials, n_encoder_moe_layers=2, begun=[other])
    assert found.digest == made(dials, n_encoder_moe_layers=2).digest


def test_random_numbers_of_any_generator_seed_those_of_the_sequences() -> None:
    asked: dict[str, Any] = SHAPE | {"model_name": "toy", "dials": Dials(1.0, 0.3, 0.2, sequence_affinity=0.3)}
    traces = [synthesize_routing(**asked, rng=np.random.Generator(np.random.MT19937(i))) for i in (0, 0, 1)]
    assert traces[0].digest == traces[1].digest != traces[2].digest


def test_a_trace_that_was_made_here_is_not_looked_through_and_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [made(Dials(1.0, 0.2, 0.3)), made(Dials(1.0, 0.2, 0.3), n_encoder_moe_layers=2)]
    assert [replace(trace).digest for trace in traces] == [trace.digest for trace in traces]
    monkeypatch.setattr(routing, "check_tokens", None)
    assert made(Dials(1.0, 0.2, 0.3)).digest == traces[0].digest
    assert not traces[0].experts.flags.writeable
    told = {name: getattr(traces[0], name) for name in signature(trace_as_made).parameters}
    assert trace_as_made(**told).digest == traces[0].digest
    with pytest.raises(InvalidInput, match="position has shape"):
        trace_as_made(**told | {"position": np.zeros(2, np.int32)})
