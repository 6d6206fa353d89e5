"""Storage read into host memory further ahead than experts come to the device: what is read, when, what it brings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

import pregate
from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.metrics.prefetches import PrefetchTally, named_by
from offload.ops import KINDS, OpKind
from offload.placing.tiers import Reads
from offload.policies import policy_named
from offload.policy import Policy
from offload.policy_parts.decisions import BlockView, Fetch
from offload.schedule import COLUMNS
from offload.slots.host_tier import HostEvents, HostTier, ReadThrough
from pregate.ask.capturing.tier_names import tier_named
from tests.engines import timed_alike
from tests.small_models import decoder_only, routing
from tests.unit.offload.slots.slow_caches import slow_lru
from traces.errors import InvalidInput
from traces.routing import RoutingTrace

HW = load_platform("rtx-4090", "streams")
MODEL = decoder_only()
DESIGNS = [
    "pregate:dram=2", "pregate:dram=3+lru:4", "oracle:dram=2+lru:4", "prefetch_all:dram=2", "guess/markov:dram=2",
    "guess/learned:more=1:dram=3+lru:4", "chunked_learned:dram=2+lru:4", "finemoe(1):dram=3+lru:4",
    "guess/maps:dram=2:cpu",
]  # fmt: skip
READS = [Reads(), Reads(filed=True), Reads(64, align_bytes=64, depth=3)]


def written(
    policy: str | Policy, n_slots: int, reads: Reads = READS[0], log: HostEvents | None = None, seed: int = 0,
    eviction: str = "lru", trace: RoutingTrace | None = None,
) -> Decoded:  # fmt: skip
    cache = ResidentSet(n_slots, eviction, n_layers=MODEL.n_moe_layers, n_experts=MODEL.n_experts) if n_slots else None
    chosen = policy_named(policy) if isinstance(policy, str) else policy
    n_hbm = 0 if chosen.cache is None else chosen.cache.n_slots or 0
    hbm = ResidentSet(n_hbm, "lru", n_layers=MODEL.n_moe_layers, n_experts=MODEL.n_experts) if n_hbm else None
    trace = routing(MODEL, seed=seed) if trace is None else trace
    return decode(
        MODEL, trace.steps(), chosen, EXECUTIONS["streams"], n_buffers=14, cache=hbm, disk=True,
        through=ReadThrough(reads, cache, log),
    )  # fmt: skip


@pytest.mark.parametrize("n_slots", [1, 3, 7, 13])
@pytest.mark.parametrize("policy", DESIGNS)
def test_what_is_read_is_what_a_slow_lru_has_not_of_what_is_asked_for_or_read_ahead(policy: str, n_slots: int) -> None:
    log: HostEvents = []
    schedule = written(policy, n_slots, log=log).schedule
    missed = sum(map(len, slow_lru(n_slots, log)))
    reads = schedule.kind == OpKind.DISK_READ
    assert schedule.priority[reads].any() or n_slots == 13
    assert np.count_nonzero(reads) <= missed  # what is read ahead and finds no slot is not read
    if n_slots >= 7:
        assert np.count_nonzero(reads) == missed


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("n_slots", [1, 5, 13])
@pytest.mark.parametrize("policy", DESIGNS)
def test_every_engine_gives_the_same_times_and_nothing_is_overwritten_that_is_in_use(
    policy: str, n_slots: int, reads: Reads
) -> None:
    schedule = written(policy, n_slots, reads, seed=n_slots).schedule
    wanted = timed_alike(schedule, price(schedule.works, HW), HW.machine.accelerator.hbm_bytes)
    fills = OpKind.FILE if reads.filed else OpKind.DISK_READ
    last: dict[tuple[int, int], int] = {}
    free_s: dict[int, float] = {}
    for op, kind in enumerate(schedule.kind.tolist()):
        key, slot = (int(schedule.layer[op]), int(schedule.expert[op])), int(schedule.slot[op])
        if kind == fills:
            assert slot < 0 or wanted.start_s[op] >= free_s.get(slot, 0.0)
            last[key] = op
        elif KINDS[OpKind(kind)].takes == "host" and key[1] >= 0:
            assert wanted.start_s[op] >= wanted.end_s[last[key]]
            held = int(schedule.slot[last[key]])
            free_s[held] = max(free_s.get(held, 0.0), float(wanted.end_s[op]))


@pytest.mark.parametrize("reads", [Reads(), Reads(filed=True)])
@pytest.mark.parametrize("policy", DESIGNS)
def test_what_is_read_ahead_into_host_memory_alone_is_counted_right_or_wrong(
    policy: str, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the reads that `read_ahead` asked for as the schedule was written; what gates name is in the trace."""
    seen: list[tuple[int, int]] = []
    asked = HostTier.read_ahead

    def spied(tier: HostTier, layer: int, experts: Sequence[int], step: int) -> None:
        first = tier._recorder.next_op
        asked(tier, layer, experts, step)
        seen.extend((first, op) for op in range(first, tier._recorder.next_op))

    monkeypatch.setattr(HostTier, "read_ahead", spied)
    schedule, trace = written(policy, 5, reads).schedule, routing(MODEL, seed=0)
    alone = [op for _, op in seen if schedule.kind[op] == OpKind.DISK_READ]
    named = named_by(MODEL, trace, HW.execution)
    right, wrong = [], []
    for op in alone:
        layer = int(schedule.layer[op])
        later = np.flatnonzero((schedule.kind == OpKind.GATE) & (schedule.layer == layer))
        later = later[later > op]
        is_named = later.size and int(schedule.expert[op]) in named[int(schedule.step[later[0]]), layer][0]
        (right if is_named else wrong).append(op)
    tally, half = PrefetchTally(named), len(schedule) // 2
    columns = {name: getattr(schedule, name) for name in COLUMNS}
    for some in (slice(0, half), slice(half, None)):  # as it comes, part by part
        ends = np.arange(len(schedule), dtype=np.float64)[some]
        tally.feed({name: column[some] for name, column in columns.items()}, schedule.works, ends)
    found = tally.found(0, MODEL.expert_bytes)
    assert (found.n_read_ahead, found.n_read_right) == (len(alone), len(right))
    assert found.read_wasted_bytes == int(schedule.bytes[wrong].sum())
    assert alone
    if policy.startswith(("pregate", "oracle")):
        assert found.read_precision == 1.0


def test_reads_begin_before_the_gate_and_go_no_further_than_host_memory() -> None:
    """By hand: block 1's experts are read at block 0's gate; without room on the device nothing else moves."""
    trace = routing(MODEL, batch=1, seed=2)
    later = {int(step.i_step): sorted(set(step.experts[:, 1].ravel().tolist())) for step in trace.steps()}

    def ahead(view: BlockView) -> list[Fetch]:
        return [Fetch(1, tuple(later[view.i_step]), to_host=True)] if view.block == 0 else []

    schedule = written(Policy("ahead", prefetch=ahead), 13, trace=trace).schedule
    layer = MODEL.decoder.moe_layers[1]
    for step, experts in later.items():
        mine = (schedule.step == step) & (schedule.layer == layer)
        reads = np.flatnonzero(mine & (schedule.kind == OpKind.DISK_READ))
        fetches = np.flatnonzero(mine & (schedule.kind == OpKind.FETCH))
        gate = int(np.flatnonzero(mine & (schedule.kind == OpKind.GATE))[0])
        assert np.all(reads < gate)
        assert set(schedule.expert[reads].tolist()) <= set(experts)
        assert np.all(fetches > gate)
        assert schedule.expert[fetches].tolist() == experts
        assert set(schedule.priority[reads].tolist()) <= {1}


def test_without_storage_nothing_is_read_and_guesses_are_the_same() -> None:
    """Designs that reveal no more than without: what is on the device does not know of host memory."""
    for plain, ahead in (("guess/markov", "guess/markov:dram=3"), ("prefetch_all", "prefetch_all:dram=2")):
        runs = [
            decode(MODEL, routing(MODEL).steps(), policy_named(one), EXECUTIONS["streams"], n_buffers=14)
            for one in (plain, ahead)
        ]
        assert runs[0].schedule.digest == runs[1].schedule.digest


def test_the_link_carries_the_same_whatever_is_read_ahead() -> None:
    trace = routing(MODEL, batch=2)
    for plain, ahead in (("guess/markov", "guess/markov:dram=3"), ("activation_aware", "activation_aware:dram=8")):
        runs = [pregate.simulate(MODEL, HW, trace, f"{one}+lru:4", expert_tier="ssd+lru:6") for one in (plain, ahead)]
        assert runs[0].h2d_bytes == runs[1].h2d_bytes


def test_reading_ahead_hides_storage_where_it_is_not_what_binds() -> None:
    """Whole blocks are certain, and storage is quick enough for them: the read of a block hides behind two others."""
    fast = load_platform("rtx-4090", "streams", {"storage.read_bytes_per_s": 40e9, "link.h2d_bytes_per_s": 30e9})
    model = pregate.load_model("qwen3-30b-a3b")
    trace = pregate.synthesize(model, 4, 3, 1)
    found = {
        design: pregate.simulate(model, fast, trace, design, expert_tier="ssd:filed+lru:512")
        for design in ("prefetch_all", "prefetch_all:dram=2")
    }
    assert found["prefetch_all:dram=2"].host_hit_rate > found["prefetch_all"].host_hit_rate
    assert found["prefetch_all:dram=2"].tokens_per_s >= found["prefetch_all"].tokens_per_s


@pytest.mark.parametrize("eviction", ["belady", "static", "lru:warm", "lfu"])
def test_caches_that_know_the_run_are_told_what_is_read_ahead(eviction: str) -> None:
    name, _, rest = eviction.partition(":")
    tier = f"ssd+{name}:6{':' * bool(rest)}{rest}"
    found = pregate.simulate(MODEL, HW, routing(MODEL, batch=2), "guess/markov:dram=2", expert_tier=tier)
    assert 0 < found.host_hit_rate <= 1


def test_the_future_does_not_change_what_is_read_ahead() -> None:
    whole = routing(MODEL, batch=2, output_tokens=6)
    keep = whole.step < int(np.unique(whole.step)[3])
    columns = ("experts", "sequence", "position", "phase", "step")
    short = dataclasses.replace(whole, **{column: getattr(whole, column)[keep] for column in columns})
    for policy in ("guess/markov:dram=2", "pregate:dram=2+lru:4"):
        a, b = (written(policy, 5, trace=trace).schedule for trace in (whole, short))
        for column in ("lane", "kind", "step", "layer", "expert", "slot", "bytes"):
            assert getattr(a, column)[: len(b)].tolist() == getattr(b, column).tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pregate:dram=1", "go to the device 1 ahead"), ("finemoe:dram=3", "go to the device 3 ahead"),
        ("pregate:dram=0", "leave it out"), ("pregate:dram=x", "not a number of blocks"), ("on_demand:dram=2", "only"),
        ("guess/next_gate:dram=2", "takes dram="), ("pregate:dram=2:dram=3", "twice"),
    ],
)  # fmt: skip
def test_what_reads_no_further_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        policy_named(text)


@pytest.mark.parametrize(("tier", "says"), [("ssd", "keeps nothing"), ("ssd:mapped+lru:5", "as it is touched")])
def test_host_memory_that_keeps_nothing_or_is_mapped_is_not_read_into_ahead(tier: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"pregate:dram=2 reads experts ahead .* {says}"):
        pregate.simulate(MODEL, HW, routing(MODEL), "pregate:dram=2", expert_tier=tier)
    assert tier_named(tier).on_disk


@pytest.mark.parametrize("policy", ["guess/markov", "guess/learned:more=1", "finemoe(1)", "activation_aware", "oracle"])
def test_a_design_that_does_not_say_so_reads_nothing_ahead(policy: str) -> None:
    """It may run above storage without a cache in host memory, which `dram=` needs."""
    kind = written(policy, 0).schedule.kind
    assert np.count_nonzero(kind == OpKind.DISK_READ) == np.count_nonzero(kind == OpKind.FETCH) > 0


def test_sweeps_have_what_was_read_ahead_at_every_point() -> None:
    trace, tier = routing(MODEL, seed=0), "ssd+lru:5"
    names, machines = ["guess/markov:dram=2", "pregate:dram=2", "guess/markov", "on_demand"], ["rtx-4090", "t4"]
    found = pregate.sweep(MODEL, None, trace, policies=names, axes={"hardware": machines}, expert_tier=tier)
    for i, name in enumerate(names):
        for j, machine in enumerate(machines):
            ahead = pregate.simulate(MODEL, machine, trace, name, expert_tier=tier).prefetches
            for field in ("n_read_ahead", "read_precision", "read_wasted_bytes"):
                one = None if ahead is None else getattr(ahead, field)
                here = float(found[f"prefetch_{field}"].values[i, j])
                assert np.isnan(here) if one is None else here == one, (name, machine, field)
    assert found["prefetch_n_read_ahead"].values[:2].min() > 0
    assert found["prefetch_read_wasted_bytes"].values[0].min() > 0
