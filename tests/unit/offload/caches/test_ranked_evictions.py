"""Evictions that rank residents anew, and admission rules, each against a slow oracle of the whole history."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from offload.caches.admission import ADMISSIONS
from offload.caches.eviction import Belady
from offload.caches.eviction_ranked import RANKED
from offload.caches.gate_output import GateOutput, gate_output
from offload.caches.pool_shape import PoolShape
from offload.caches.ranks_by_gates import EPSILON, MRS_ALPHA, Mrs, ReleasedActivation
from offload.caches.ranks_by_use import LeastStale, Lfru, ReleasedLfru
from offload.caches.residency import ResidentSet
from offload.policies import eviction_names
from tests.grids import one_in
from traces.errors import InvalidInput, UnknownName

N_LAYERS, N_EXPERTS, TOP_K = 3, 5, 2


class Event:
    """One (step, layer) as an oracle sees it: tokens and scores by key, and whether its step begins a request."""

    def __init__(self, output: GateOutput) -> None:
        self.output = output
        first = output.layer * N_EXPERTS
        self.keys = [first + expert for expert in output.experts]
        self.tokens = dict(zip(self.keys, output.tokens, strict=True))
        self.scores = dict(zip(self.keys, output.scores, strict=True))


class History:
    """What happened, in order: ("gate", event), ("insert", key), ("touch", key), ("remove", key)."""

    def __init__(self, n_slots: int) -> None:
        self.n_slots, self.log = n_slots, list[tuple[str, object]]()

    def last(self, kinds: tuple[str, ...], key: int) -> int:
        return max((i for i, (kind, what) in enumerate(self.log) if kind in kinds and what == key), default=-1)

    def n_touches(self, key: int, since: int = 0) -> int:
        return sum(kind == "touch" and what == key for kind, what in self.log[since:])

    def events(self) -> list[Event]:
        return [what for kind, what in self.log if kind == "gate" and isinstance(what, Event)]

    def of_request(self) -> list[Event]:
        """The events of the running request: from the first event of the last step that began one."""
        found: list[Event] = []
        for event in self.events():
            begins = event.output.new_request and (not found or found[-1].output.i_step != event.output.i_step)
            found = [event] if begins else [*found, event]
        return found


def recency(history: History, key: int) -> int:
    return history.last(("insert", "touch"), key)


def by_halved_counts(history: History, key: int) -> tuple[float, ...]:
    touches = [what for kind, what in history.log if kind == "touch"]
    count, period = 0, 10 * history.n_slots
    for i, what in enumerate(touches, 1):
        count += what == key
        if i % period == 0:
            count //= 2
    return count, recency(history, key)


def by_uses_for_age(history: History, key: int) -> tuple[float, ...]:
    n_gates = [0]
    for kind, _ in history.log:
        n_gates.append(n_gates[-1] + (kind == "gate"))
    last = n_gates[history.last(("insert", "touch"), key)]
    return history.n_touches(key) / (n_gates[-1] - last + 1), key


def by_resident_uses_for_age(history: History, key: int) -> tuple[float, ...]:
    resident, clock, entered, last, n = set[object](), 0, -1, 0, 0
    for i, (kind, what) in enumerate(history.log):
        if kind == "insert":
            resident.add(what)
            if what == key:
                entered, last, n = i, clock, 0
        elif kind == "remove":
            resident.remove(what)
        elif kind == "touch" and what in resident:
            clock += 1
            if what == key:
                last, n = clock, n + 1
    return n / (clock - last + 1), entered


def by_recent_score(history: History, key: int) -> tuple[float, ...]:
    score = 0.0
    for event in history.events():
        if event.output.layer == key // N_EXPERTS:
            best = sorted(event.keys, key=lambda one: (-event.scores[one], one))[: 2 * TOP_K]
            own = event.scores[key] / event.output.n_tokens if key in best else 0.0
            score = (1 - MRS_ALPHA) * score + MRS_ALPHA * own
    return score, recency(history, key)


def by_activation(history: History, key: int) -> tuple[float, ...]:
    layer = key // N_EXPERTS
    counts = [event.tokens for event in history.of_request() if event.output.layer == layer]
    total = sum(sum(tokens.values()) for tokens in counts)
    share = sum(tokens.get(key, 0) for tokens in counts) / total if total else 0.0
    return (share + EPSILON) * (1 - layer / N_LAYERS), recency(history, key)


def by_released_activation(history: History, key: int) -> tuple[float, ...]:
    half, events = N_LAYERS // 2, history.events()
    running = events[-1].output.layer if events else 0
    keys = range(N_LAYERS * N_EXPERTS)
    ever = [float(sum(event.tokens.get(one, 0) for event in events)) for one in keys]
    for part in (range(half * N_EXPERTS), range(half * N_EXPERTS, N_LAYERS * N_EXPERTS)):
        if not any(ever[one] for one in part):
            for one in part:
                ever[one] = 1.0
    now = [float(sum(event.tokens.get(one, 0) for event in history.of_request())) for one in keys]
    for layer in range(N_LAYERS):
        row = now[layer * N_EXPERTS : (layer + 1) * N_EXPERTS]
        row = row if any(row) else [1.0] * N_EXPERTS
        now[layer * N_EXPERTS : (layer + 1) * N_EXPERTS] = [one / sum(row) for one in row]

    def weight(layer: int) -> float:
        if (layer < half) == (running < half) and layer <= running:
            return 1.0
        return 1 - layer / half if layer < half else (layer - half) / (half + 1)

    weights = [weight(layer) for layer in range(N_LAYERS)]
    shares = [
        weights[key // N_EXPERTS] / sum(weights) + EPSILON,
        now[key] / sum(now) + EPSILON,
        ever[key] / sum(ever) + EPSILON,
    ]
    return math.prod(shares), recency(history, key)


def by_staleness(history: History, key: int) -> tuple[float, ...]:
    steps = [-1]
    for kind, what in history.log:
        steps.append(what.output.i_step if kind == "gate" and isinstance(what, Event) else steps[-1])
    fresh = steps[history.last(("insert", "touch"), key) + 1] == steps[-1]
    return fresh, history.last(("insert",), key)


ORACLES: dict[str, Callable[[History, int], tuple[float, ...]]] = {
    "lfu_decay": by_halved_counts,
    "lfru": by_uses_for_age,
    "lfru_released": by_resident_uses_for_age,
    "mrs": by_recent_score,
    "activation": by_activation,
    "activation_released": by_released_activation,
    "least_stale": by_staleness,
}


def outputs(seed: int, n_steps: int, batch: int) -> list[GateOutput]:
    """Gates of all layers, step after step; now and then a new request."""
    rng = np.random.default_rng(seed)
    found = []
    for step in range(n_steps):
        begins = step == 0 or rng.random() < 0.2
        for layer in range(N_LAYERS):
            chosen = rng.random((batch, N_EXPERTS)).argsort(axis=1)[:, :TOP_K].astype(np.int16)
            weights = rng.random((batch, TOP_K)).astype(np.float32) if seed % 2 else None
            found.append(gate_output(step, layer, chosen, weights, begins))
    return found


def close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] == pytest.approx(b[0], rel=1e-9, abs=1e-15)


def test_every_ranked_eviction_has_an_oracle() -> None:
    assert ORACLES.keys() == RANKED.keys()
    assert [name for name in eviction_names() if name in RANKED] == list(RANKED)


@pytest.mark.parametrize(("name", "per_layer"), one_in(2, ORACLES, [False, True]))
@given(seed=st.integers(0, 10**6), n_steps=st.integers(1, 12), batch=st.integers(1, 3), n_slots=st.integers(1, 12))
def test_victims_are_those_of_a_slow_oracle(
    name: str, per_layer: bool, seed: int, n_steps: int, batch: int, n_slots: int
) -> None:
    """Where ranks differ by rounding alone, either may go."""
    residents = ResidentSet(n_slots, name, per_layer=per_layer, n_layers=N_LAYERS, n_experts=N_EXPERTS)
    each, more = divmod(n_slots, N_LAYERS)
    sizes = [each + (layer < more) for layer in range(N_LAYERS)] if per_layer else [n_slots]
    histories = [History(size) for size in sizes]
    inside: list[set[int]] = [set() for _ in histories]
    for output in outputs(seed, n_steps, batch):
        at, event = output.layer if per_layer else 0, Event(output)
        history, here = histories[at], inside[at]
        history.log.append(("gate", event))
        residents.gated(output)
        for access in residents.admit(output.layer, output.experts):
            key = output.layer * N_EXPERTS + access.expert
            assert access.hit == (key in here)
            if access.hit:
                continue
            if access.slot < 0:  # only where nobody may go
                assert len(here) == sizes[at]
                assert here <= set(event.keys)
                continue
            if access.victim is not None:
                oracle, free = ORACLES[name], sorted(here - set(event.keys))
                lowest = min(free, key=lambda one: oracle(history, one))
                assert access.victim == lowest or (
                    close(oracle(history, access.victim), oracle(history, lowest))
                    and oracle(history, access.victim)[0] != oracle(history, lowest)[0]
                )
                here.remove(access.victim)
                history.log.append(("remove", access.victim))
            here.add(key)
            history.log.append(("insert", key))
        history.log += [("touch", key) for key in event.keys]


@given(seed=st.integers(0, 10**6), n_slots=st.integers(1, 12), rule=st.sampled_from(["second", "popular"]))
def test_admissions_are_those_of_a_slow_oracle(seed: int, n_slots: int, rule: str) -> None:
    residents = ResidentSet(n_slots, n_layers=N_LAYERS, n_experts=N_EXPERTS, admit=rule)
    inside: list[int] = []  # the least recently used first
    turned_away: list[int] = []
    lookups: list[int] = []
    for output in outputs(seed, 15, 2):
        first = output.layer * N_EXPERTS
        event = [first + expert for expert in output.experts]
        hits = [key in inside for key in event]
        lookups += event
        counts = dict.fromkeys(range(N_LAYERS * N_EXPERTS), 0)
        for i, key in enumerate(lookups, 1):
            counts[key] += 1
            if i % (10 * n_slots) == 0:
                counts = {one: n // 2 for one, n in counts.items()}
        for key in event:
            free = [one for one in inside if one not in event]
            if key in inside or (len(inside) == n_slots and not free):
                continue
            if len(inside) == n_slots:
                if rule == "popular" and counts[key] <= counts[free[0]]:
                    continue
                if rule == "second":
                    if key not in turned_away:
                        turned_away = [*turned_away, key][-n_slots:]
                        continue
                    turned_away.remove(key)
                inside.remove(free[0])
            inside.append(key)
        inside = [one for one in inside if one not in event] + [one for one in event if one in inside]
        assert [access.hit for access in residents.admit(output.layer, output.experts)] == hits
        assert {key for key in range(N_LAYERS * N_EXPERTS) if divmod(key, N_EXPERTS) in residents} == set(inside)


@given(seed=st.integers(0, 10**6), n_slots=st.integers(1, 12), budget=st.integers(0, 3))
def test_an_event_brings_in_what_its_budget_allows(seed: int, n_slots: int, budget: int) -> None:
    residents = ResidentSet(n_slots, n_layers=N_LAYERS, n_experts=N_EXPERTS, budget=budget)
    free = ResidentSet(n_slots, n_layers=N_LAYERS, n_experts=N_EXPERTS, budget=N_EXPERTS)
    plain = ResidentSet(n_slots, n_layers=N_LAYERS, n_experts=N_EXPERTS)
    for output in outputs(seed, 10, 3):
        accesses = residents.admit(output.layer, output.experts)
        assert sum(not access.hit and access.slot >= 0 for access in accesses) <= budget
        assert free.admit(output.layer, output.experts) == plain.admit(output.layer, output.experts)


def test_admission_is_asked_only_where_somebody_would_have_to_go() -> None:
    for rule in ADMISSIONS:
        residents = ResidentSet(2, n_layers=1, n_experts=4, admit=rule)
        assert [access.slot >= 0 for access in residents.admit(0, [0, 1])] == [True, True]
        kept = [residents.admit(0, [2])[0].slot >= 0 for _ in range(2)]
        assert kept == {"always": [True, True], "second": [False, True], "popular": [False, True]}[rule]


def test_what_is_held_stays() -> None:
    residents = ResidentSet(4, "hot_lru", n_layers=2, n_experts=4)
    residents.hold([(1, 3), (0, 2), (0, 0)], 0.5)
    for expert in (0, 1, 3, 0, 1, 3):
        residents.admit(0, [expert])
    assert (1, 3) in residents
    assert (0, 2) in residents
    assert (0, 0) not in residents
    layered = ResidentSet(4, "hot_lru", n_layers=2, n_experts=4, per_layer=True)
    layered.hold([(1, 3), (1, 2), (0, 0)], 0.5)
    assert [place in layered for place in ((1, 3), (1, 2), (0, 0))] == [True, False, True]
    with pytest.raises(InvalidInput, match="take hot_lru"):
        ResidentSet(4, n_layers=2, n_experts=4).hold([(0, 0)], 1.0)


def test_belady_is_moved_by_gates_and_not_by_guesses() -> None:
    """Key 1 is guessed twice for nothing; by gates it is still the one needed next."""
    events = [[0], [2], [1], [0]]
    residents = ResidentSet(2, lambda: Belady(events), n_layers=1, n_experts=4)
    for i, event in enumerate(events[:1]):
        residents.gated(gate_output(i, 0, np.array([event], np.int16), None))
        residents.admit(0, event)
    residents.admit(0, [1])
    residents.admit(0, [1])
    residents.gated(gate_output(1, 0, np.array([[2]], np.int16), None))
    assert residents.admit(0, [2])[0].victim == 0


def test_unknown_rules_and_budgets_below_none_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'second'"):
        ResidentSet(4, n_layers=1, n_experts=4, admit="secnd")
    with pytest.raises(InvalidInput, match="budget = -1"):
        ResidentSet(4, n_layers=1, n_experts=4, budget=-1)


def test_scores_without_weights_are_shares_of_the_tokens() -> None:
    output = gate_output(0, 0, np.array([[3, 1], [1, -1]], np.int16), None)
    assert (output.experts, output.tokens, output.scores) == ([1, 3], [2, 1], [1.0, 0.5])
    weighed = gate_output(0, 0, np.array([[3, 1], [1, -1]], np.int16), np.array([[0.25, 0.75], [1, 0]], np.float32))
    assert weighed.scores == [1.75, 0.25]


@pytest.mark.parametrize(
    ("n_layers", "running", "weights"),
    [
        (4, 0, [1, 1 / 2, 0, 1 / 3]),
        (4, 1, [1, 1, 0, 1 / 3]),
        (4, 2, [1, 1 / 2, 1, 1 / 3]),
        (5, 0, [1, 1 / 2, 0, 1 / 3, 2 / 3]),
        (5, 3, [1, 1 / 2, 1, 1, 2 / 3]),
        (6, 1, [1, 1, 1 / 3, 0, 1 / 4, 1 / 2]),
    ],
)
def test_the_released_score_weighs_layers_by_halves(n_layers: int, running: int, weights: list[float]) -> None:
    """One expert a layer, so that its share of its layer is whole: what is left is the layer's and the run's shares."""
    rank = ReleasedActivation(PoolShape(1, n_layers, 1))
    rank.gated(gate_output(0, running, np.array([[0], [0], [0]], np.int16), None, True), running)
    half = n_layers // 2
    ever = np.ones(n_layers)  # of a half that has activated nothing, 1 an expert
    ever[slice(half) if running < half else slice(half, None)] = 0
    ever[running] = 3
    topology, request = np.array(weights) / sum(weights), np.full(n_layers, 1 / n_layers)
    expected = (topology + EPSILON) * (request + EPSILON) * (ever / ever.sum() + EPSILON)
    assert rank.values() == pytest.approx(expected, rel=1e-12)


def test_recent_scores_are_means_over_tokens() -> None:
    rank = Mrs(PoolShape(2, 1, 4))
    chosen, weights = np.array([[0, 1], [0, 2]], np.int16), np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    rank.gated(gate_output(0, 0, chosen, weights, True), 0)
    assert rank.values() == pytest.approx([0.75 * 0.375, 0.75 * 0.25, 0.75 * 0.375, 0.0])
    rank.gated(gate_output(1, 0, chosen[:1], weights[:1], False), 0)
    assert rank.values()[:2] == pytest.approx([0.25 * 0.28125 + 0.375, 0.25 * 0.1875 + 0.375])


def test_what_came_in_without_being_used_is_of_the_pass_that_it_came_in() -> None:
    rank = LeastStale(PoolShape(2, 1, 4))
    rank.gated(gate_output(3, 0, np.array([[0]], np.int16), None, True), 0)
    rank.entered(2)
    assert rank.values().tolist() == [0, 0, 1, 0]
    rank.gated(gate_output(4, 0, np.array([[0]], np.int16), None, False), 0)
    rank.looked_up(1, False)
    assert rank.values().tolist() == [0, 1, 0, 0]


def test_uses_are_divided_by_the_events_since_the_last() -> None:
    rank = Lfru(PoolShape(2, 1, 4))
    for step, key in enumerate([0, 0, 1]):
        rank.gated(gate_output(step, 0, np.array([[key]], np.int16), None, step == 0), 0)
        rank.looked_up(key, True)
    assert rank.values().tolist() == [2 / 2, 1 / 1, 0, 0]
    rank.entered(0)
    assert rank.values().tolist() == [2 / 1, 1 / 1, 0, 0], "brought ahead it is new, and not used once more"
    released = ReleasedLfru(PoolShape(2, 1, 4))
    for key in (0, 0, 1):
        released.looked_up(key, True)
    assert released.values().tolist() == [2 / 2, 1 / 1, 0, 0]
