"""A cache in host memory above storage: what is read, when, and how much, against a slow oracle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pregate
from hwmodels.cost import Parts, parts_of, price
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import KINDS, Lane, OpKind, ReadRounds, Work
from offload.placing.tiers import Reads, Tier
from offload.policies import policy_named
from offload.schedule import Schedule
from offload.slots.host_tier import HostEvents, ReadThrough
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.tier_names import tier_named
from simulator import recurrence
from tests.command_line import Run
from tests.engines import timed_alike
from tests.small_models import decoder_only, routing
from tests.unit.offload.slots.slow_caches import slow_lru
from traces.errors import InvalidInput, UnknownName

HW = load_platform("rtx-4090", "streams")
MODEL = decoder_only()
WHOLE = Reads()
POLICIES = (
    "on_demand", "pregate", "on_demand+lru:5", "prefetch_all", "on_demand:cpu+lru:4", "gpu_only@experts=cpu",
    "gpu_only@experts=cpu:keep=2", "gpu_only@layers=cpu", "gpu_only@experts=cpu@stream=2",
)  # fmt: skip


def written(policy: str, reads: Reads = WHOLE, n_slots: int = 0, seed: int = 0, log: HostEvents | None = None,
            eviction: str = "lru", execution: str = "streams") -> Decoded:  # fmt: skip
    cache = None
    if n_slots:
        cache = ResidentSet(n_slots, eviction, n_layers=MODEL.n_moe_layers, n_experts=MODEL.n_experts)
    chosen = policy_named(policy)
    n_hbm = 0 if chosen.cache is None else chosen.cache.n_slots or 0
    hbm = ResidentSet(n_hbm, "lru", n_layers=MODEL.n_moe_layers, n_experts=MODEL.n_experts) if n_hbm else None
    execution_of = chosen.placement.execution(EXECUTIONS[execution])
    return decode(
        MODEL, routing(MODEL, seed=seed).steps(), chosen, execution_of, n_buffers=14, cache=hbm, disk=True,
        through=ReadThrough(reads, cache, log),
    )  # fmt: skip


def used_from_host(schedule: Schedule) -> np.ndarray:
    return np.array([KINDS[OpKind(kind)].takes == "host" and expert >= 0
                     for kind, expert in zip(schedule.kind, schedule.expert, strict=True)])  # fmt: skip


@given(
    st.sampled_from(POLICIES), st.integers(1, 13), st.integers(0, 50),
    st.sampled_from([Reads(), Reads(64, align_bytes=64, depth=3), Reads(by_matrix=True, align_bytes=16, depth=2),
                     Reads(4096, align_bytes=4096, mapped=True), Reads(filed=True),
                     Reads(by_matrix=True, align_bytes=16, depth=2, filed=True)]),
)  # fmt: skip
def test_what_is_read_is_what_a_slow_lru_has_not(policy: str, n_slots: int, seed: int, reads: Reads) -> None:
    log: HostEvents = []
    decoded = written(policy, reads, n_slots, seed, log)
    schedule = decoded.schedule
    missed = slow_lru(n_slots, log)
    reading = schedule.kind == OpKind.DISK_READ
    assert int(reading.sum()) == sum(map(len, missed))
    assert decoded.n_host_lookups == sum(len(set(experts)) for _, experts in log)
    assert decoded.n_host_hits == decoded.n_host_lookups - sum(map(len, missed))
    assert set(schedule.bytes[reading].tolist()) <= {reads.expert_bytes(MODEL)}
    to_slots = schedule.kind == OpKind.FILE if reads.filed else reading
    assert int(to_slots.sum()) == int(reading.sum())
    assert set(schedule.slot[to_slots].tolist()) <= {-1, *range(n_slots)}
    n_used = int(np.count_nonzero(used_from_host(schedule)))
    streamed = np.any(schedule.kind == OpKind.STREAM)
    assert n_used == decoded.n_host_lookups or streamed


@given(st.sampled_from(POLICIES), st.integers(0, 13), st.integers(0, 50), st.sampled_from(["", "mapped", "filed"]))
def test_an_expert_has_landed_before_its_use_and_stays_until_its_end(
    policy: str, n_slots: int, seed: int, how: str
) -> None:
    """By the timeline: what fills a slot ends before what it serves begins, and the next begins after that."""
    reads = Reads(4096, align_bytes=4096, mapped=how == "mapped", filed=how == "filed")
    schedule = written(policy, reads, n_slots, seed).schedule
    fills = OpKind.FILE if reads.filed else OpKind.DISK_READ
    timeline = recurrence.simulate(schedule, price(schedule.works, HW))
    last: dict[tuple[int, int], int] = {}  # layer, expert -> what put it there last
    read: dict[tuple[int, int], int] = {}
    free_s: dict[int, float] = {}  # slot -> until when somebody uses it
    for op, kind in enumerate(schedule.kind.tolist()):
        key = int(schedule.layer[op]), int(schedule.expert[op])
        if kind == fills:
            slot = int(schedule.slot[op])
            assert slot < 0 or timeline.start_s[op] >= free_s.get(slot, 0.0)
            last[key] = op
        elif kind == OpKind.DISK_READ:
            read[key] = op
        elif KINDS[OpKind(kind)].takes == "host" and key[1] >= 0:
            assert timeline.start_s[op] >= timeline.end_s[last[key]]
            slot = int(schedule.slot[last[key]])
            free_s[slot] = max(free_s.get(slot, 0.0), float(timeline.end_s[op]))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "text",
    ["ssd", "ssd+lru:7", "ssd:read=1KiB:depth=4+fifo:0.3:per_layer", "ssd:mapped+lru:0.5", "ssd:filed",
     "ssd:read=matrix:depth=4:filed+lru:7"],
)  # fmt: skip
def test_every_engine_gives_the_same_times(policy: str, text: str) -> None:
    tier = tier_named(text)
    n_slots = tier.n_slots(MODEL, 0) if tier.cache else 0
    schedule = written(policy, tier.reads, n_slots, eviction=tier.cache.eviction if tier.cache else "lru").schedule
    timed_alike(schedule, price(schedule.works, HW), HW.machine.accelerator.hbm_bytes)


def test_belady_above_storage_is_never_beaten_and_larger_caches_read_less() -> None:
    model = pregate.load_model("qwen3-30b-a3b", top_k=4)
    trace = pregate.synthesize(model, 4, 7, 2)
    rates = {}
    for text in ("lru", "fifo", "lfu", "belady", "random"):
        for policy in ("on_demand+lru:0.02", "gpu_only@experts=cpu"):
            tier = f"ssd+{text}:0.2"
            rates[text, policy] = pregate.simulate(model, HW, trace, policy, expert_tier=tier).host_hit_rate
    for (text, policy), rate in rates.items():
        assert 0 < rate <= rates["belady", policy], text
    sizes = [
        pregate.simulate(model, HW, trace, "on_demand", expert_tier=f"ssd+lru:{ratio}").storage_bytes
        for ratio in (0.1, 0.4, 1.0)
    ]
    assert sizes[0] >= sizes[1] >= sizes[2] > 0


def test_a_warm_cache_has_served_the_run_before_and_a_static_one_is_full_of_what_it_asks_for() -> None:
    trace = routing(MODEL)
    ask = {}
    for text in ("ssd+lru:1.0", "ssd+lru:1.0:warm", "ssd+static:1.0"):
        ask[text] = pregate.simulate(MODEL, HW, trace, "on_demand", expert_tier=text)
    assert ask["ssd+lru:1.0"].storage_bytes > 0
    assert ask["ssd+lru:1.0:warm"].storage_bytes == ask["ssd+static:1.0"].storage_bytes == 0
    assert ask["ssd+static:1.0"].host_hit_rate == 1.0


def test_streamed_and_whole_say_the_same() -> None:
    trace = routing(MODEL)
    for text in ("ssd+lru:5", "ssd:depth=2:read=matrix+belady:6", "ssd:mapped"):
        for policy in ("on_demand+lru:5", "gpu_only@experts=cpu"):
            whole, streamed = (
                pregate.simulate(MODEL, HW, trace, policy, expert_tier=text, engine=engine).to_dict()
                for engine in ("recurrence", "stream")
            )
            bound_s = whole.pop("bound_s")
            assert streamed.pop("bound_s") == pytest.approx(bound_s, rel=1e-12)
            for name in ("moe_layer_latency_ci95_s", "tokens_per_s_ci95"):  # a stream without a fit has none
                assert whole.pop(name) is not None
                assert streamed.pop(name) is None
            assert whole == streamed


def test_host_memory_that_is_left_holds_whole_slots_and_too_little_is_refused() -> None:
    trace = routing(MODEL)
    slot = 4096 * -(-MODEL.expert_bytes // 4096)
    small = pregate.load_hardware("rtx-4090", None, {"host.dram_bytes": 5 * slot + 100})
    found = pregate.simulate(MODEL, small, trace, "on_demand", expert_tier="ssd:align=4KiB+lru")
    assert found.n_host_slots == 5
    with pytest.raises(CapacityExceeded, match="6 experts kept above storage takes"):
        pregate.simulate(MODEL, small, trace, "on_demand", expert_tier="ssd:align=4KiB+lru:6")
    with pytest.raises(InvalidInput, match=r"an expert of .* takes"):
        pregate.simulate(MODEL, small, trace, "on_demand", expert_tier="ssd+lru:100B")


def test_bytes_are_rounded_up_to_what_is_aligned_and_rounds_to_what_is_in_flight() -> None:
    model = MODEL
    n = model.expert_bytes
    assert Reads().pieces(model) == (n,)
    half = -(-n // 2)
    assert Reads(by_matrix=True).pieces(model) == (half, half)
    assert Reads(by_matrix=True, align_bytes=64).expert_bytes(model) == 2 * (-(-half // 64) * 64)
    assert sum(Reads(64, align_bytes=64).pieces(model)) == -(-n // 64) * 64
    decoded = written("on_demand", Reads(by_matrix=True, depth=4), seed=1)
    schedule = decoded.schedule
    per_event: dict[tuple[int, int], list[int]] = {}
    for op in np.flatnonzero(schedule.kind == OpKind.DISK_READ).tolist():
        reading = schedule.works[schedule.cost[op]].reading
        assert reading is not None
        per_event.setdefault((int(schedule.step[op]), int(schedule.layer[op])), []).append(reading.n_rounds)
    assert any(len(rounds) > 1 for rounds in per_event.values())
    for rounds in per_event.values():
        assert sum(rounds) == -(-2 * len(rounds) // 4)


def test_what_is_filed_waits_for_its_read_and_costs_a_copy_within_host_memory() -> None:
    for policy in POLICIES:
        schedule = written(policy, Reads(filed=True), 5).schedule
        filings = np.flatnonzero(schedule.kind == OpKind.FILE).tolist()
        assert filings
        assert {Lane(lane) for lane in schedule.lane[filings]} == {Lane.CPU}
        for op in filings:
            before = [dep for dep in schedule.deps(op) if schedule.kind[dep] == OpKind.DISK_READ]
            assert [(int(schedule.layer[one]), int(schedule.expert[one])) for one in before] == [
                (int(schedule.layer[op]), int(schedule.expert[op]))
            ]
    plain, filed = (
        pregate.simulate(MODEL, HW, routing(MODEL), "on_demand", expert_tier=t) for t in ("ssd", "ssd:filed")
    )
    free = load_platform("rtx-4090", "streams", {"storage.filing_bytes_per_s": 1e30})
    nothing = pregate.simulate(MODEL, free, routing(MODEL), "on_demand", expert_tier="ssd:filed")
    assert filed.tokens_per_s < plain.tokens_per_s == pytest.approx(nothing.tokens_per_s, rel=1e-9)
    assert filed.storage_bytes == plain.storage_bytes
    assert written("on_demand", Reads(), 5).schedule.digest == written("on_demand", n_slots=5).schedule.digest


def test_a_round_takes_the_latency_once_and_as_long_as_its_slowest_reader() -> None:
    hw = load_platform("rtx-4090", "streams")
    base = figures_of(hw)
    figures = dataclasses.replace(
        base, values={**base.values, "storage.read_latency_s": 2.0, "storage.read_bytes_per_s": 100.0,
                      "stack.storage_efficiency": 1.0},
    )  # fmt: skip
    work = Work(OpKind.DISK_READ, copy_bytes=600, reading=ReadRounds(3, 100))
    assert parts_of(work, figures) == Parts(6.0, disk_s=6.0)
    slow = dataclasses.replace(figures, values={**figures.values, "storage.reader_bytes_per_s": 10.0})
    assert parts_of(work, slow) == Parts(6.0, disk_s=30.0)
    assert parts_of(work._replace(reading=None), slow) == Parts(2.0, disk_s=6.0)


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("dram", Tier()),
        ("ssd", Tier("ssd", True)),
        ("ssd:read=128KiB:depth=8", Tier("ssd:read=128KiB:depth=8", True, Reads(131072, depth=8))),
        ("ssd:mapped", Tier("ssd:mapped", True, Reads(131072, align_bytes=4096, mapped=True))),
        ("ssd:filed", Tier("ssd:filed", True, Reads(filed=True))),
        ("ssd:read=matrix:align=4KiB", Tier("ssd:read=matrix:align=4KiB", True, Reads(None, True, 4096))),
    ],
)
def test_a_tier_is_read_as_it_is_typed(text: str, tier: Tier) -> None:
    assert tier_named(text) == tier


def test_a_cache_of_host_memory_is_sized_in_bytes_shares_slots_or_by_what_is_left() -> None:
    sized = tier_named("ssd+lfu:1.5GiB:per_layer")
    assert sized.cache is not None
    assert (sized.cache.eviction, sized.cache.per_layer, sized.cache_bytes) == ("lfu", True, 3 << 29)
    assert tier_named("ssd+lru:0.5").n_slots(MODEL, 0) == round(MODEL.n_moe_layers * MODEL.n_experts * 0.5)
    assert tier_named("ssd+lru:3").n_slots(MODEL, 0) == 3
    assert tier_named("ssd+lru").n_slots(MODEL, 2 * MODEL.expert_bytes + 1) == 2
    assert tier_named("ssd+lru:64").n_slots(MODEL, 0) == MODEL.n_moe_layers * MODEL.n_experts


HOSTILE = [
    ("tape", "dram or ssd"), ("", "dram or ssd"), ("dram+lru:4", "dram or ssd"), ("ssd:", "unknown word"),
    ("ssd:rread=4KiB", "unknown word"), ("ssd:read=", "is not a number"), ("ssd:read=0B", "at least 1 byte"),
    ("ssd:read=-4KiB", "at least 1 byte"), ("ssd:read=4KiB:align=8KiB", "whole multiples"),
    ("ssd:align=3000B", "power of two"), ("ssd:depth=0", "1 to 1024"), ("ssd:depth=2.5", "number of reads"),
    ("ssd:depth=x", "number of reads"), ("ssd:depth=2:depth=2", "twice"), ("ssd:mapped:depth=4", "one read at a time"),
    ("ssd:mapped:filed", "leave one of them out"), ("ssd:filed:filed", "twice"), ("ssd:filed=1", "unknown word"),
    ("ssd:mapped=yes", "unknown word"), ("ssd+", "unknown eviction"), ("ssd+lruu:4", "eviction"),
    ("ssd+lru:0GiB", "at least 1 byte"), ("ssd+lru:16GB/s", "size"), ("ssd+lru:16XiB", "unit"),
    ("ssd+lru:1.5", "outside"), ("ssd+lru:0", "below 1"), ("ssd+lru:nan", "neither"), ("ssd+lru:4:nonsense", "option"),
    ("ssd+lru:1e400GiB", "finite"), ("ssd:read=4 KiB:read=4KiB", "twice"), ("ssd+mrs:4", "looks at gates"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), HOSTILE)
def test_what_is_no_tier_is_one_line(run: Run, text: str, says: str) -> None:
    words = ("switch-base-8", "--hardware", "rtx-4090", "--input-tokens", "4", "--output-tokens", "2")
    status, _, err = run("simulate", *words, "--tier", text)
    assert status == 2
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize("text", ["tape", "ssd:depth=0"])
def test_a_sweep_and_a_table_refuse_it_too(text: str) -> None:
    with pytest.raises((InvalidInput, UnknownName), match="axis expert_tier"):
        pregate.sweep(MODEL, HW, routing(MODEL), policies=["on_demand"], axes={"expert_tier": [text]})


def test_a_sweep_moves_along_caches_of_host_memory() -> None:
    trace = routing(MODEL)
    tiers = ["dram", "ssd", "ssd+lru:4", "ssd+lru:9"]
    policies = ["on_demand", "on_demand+lru:5"]
    found = pregate.sweep(MODEL, HW, trace, policies=policies, axes={"expert_tier": tiers})
    for policy in policies:
        for tier in tiers:
            one = pregate.simulate(MODEL, HW, trace, policy, expert_tier=tier)
            at = found.sel(policy=policy, expert_tier=tier)
            assert float(at.tokens_per_s) == one.tokens_per_s
            assert int(at.storage_bytes) == one.storage_bytes
            assert float(at.host_hit_rate) == one.host_hit_rate
            assert int(at.n_host_slots) == one.n_host_slots


def test_storage_lanes_hold_reads_only() -> None:
    schedule = written("gpu_only@experts=cpu", n_slots=5).schedule
    assert set(schedule.kind[schedule.lane == Lane.DISK].tolist()) == {OpKind.DISK_READ}


def test_the_size_of_the_cache_is_an_axis_of_numbers() -> None:
    trace, each = routing(MODEL), MODEL.expert_bytes
    sizes = [0, each - 1, 3 * each, 5 * each + 1, 1 << 40]
    found = pregate.sweep(
        MODEL, HW, trace, policies=["on_demand", "gpu_only@experts=cpu"], axes={"tier_bytes": sizes},
        expert_tier="ssd:align=64B+lru",
    )  # fmt: skip
    each = Reads(align_bytes=64).expert_bytes(MODEL)
    for policy in found.policy.values.tolist():
        for size in sizes:
            n_slots = min(size // each, MODEL.n_moe_layers * MODEL.n_experts)
            tier = f"ssd:align=64B+lru:{n_slots}" if n_slots else "ssd:align=64B"
            one = pregate.simulate(MODEL, HW, trace, policy, expert_tier=tier)
            at = found.sel(policy=policy, tier_bytes=size)
            assert float(at.tokens_per_s) == one.tokens_per_s
            assert int(at.storage_bytes) == one.storage_bytes
    assert found.tier_bytes.attrs["units"] == "B"
    turned = pregate.crossovers(
        MODEL, HW, trace, ["on_demand", "gpu_only@experts=cpu"], "tier_bytes", each, 12 * each, n_scan=4,
        expert_tier="ssd+lru:per_layer",
    )  # fmt: skip
    assert turned.first in ("on_demand", "gpu_only@experts=cpu")
    best = pregate.optimize(
        MODEL, HW, trace, policies=["on_demand"], axes={"tier_bytes": sizes}, objectives="tokens_per_s:max",
        expert_tier="ssd+lru",
    ).best  # fmt: skip
    assert best is not None
    assert best["settings"]["tier_bytes"] >= 5 * MODEL.expert_bytes


@pytest.mark.parametrize(
    ("tier", "sizes", "says"),
    [
        ("dram", ["1GiB"], "keeps nothing"), ("ssd", ["1GiB"], "ssd.lru"), ("ssd+lru:4", ["1GiB"], "does so too"),
        ("ssd+lru:1GiB", ["1GiB"], "does so too"), ("ssd+lru", [-1], "below 0"), ("ssd+lru", ["1GB/s"], "unit"),
    ],
)  # fmt: skip
def test_a_size_that_no_cache_has_is_refused(tier: str, sizes: list[str], says: str) -> None:
    for ask in (pregate.sweep, pregate.optimize):
        with pytest.raises(InvalidInput, match=says):
            ask(MODEL, HW, routing(MODEL), policies=["on_demand"], axes={"tier_bytes": sizes}, expert_tier=tier)


def test_the_command_line_walks_along_the_size_of_the_cache(run: Run) -> None:
    words = ("switch-mini-16", "--hardware", "rtx-4090", "--policies", "on_demand,gpu_only@experts=cpu")
    words += ("--input-tokens", "4", "--output-tokens", "2", "--axis", "tier_bytes", "--from", "1MiB", "--to", "64MiB")
    status, out, error = run("crossover", *words, "--tier", "ssd+lru", "--points", "3")
    assert status == 0, error
    assert "host memory" in " ".join(out.split())
    status, _, error = run("crossover", *words, "--tier", "ssd", "--points", "3")
    assert (status, error.count("\n")) == (2, 1)
