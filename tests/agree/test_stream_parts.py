"""Parts of a stream by machine code are what they are in NumPy: every list, sum and gradient, bit for bit."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pregate
from hwmodels.cost import Costs, price_figures
from hwmodels.figures import figures_of
from offload.decode import DecodeStream
from offload.metrics.run_metrics import decode_steps
from offload.ops import Lane, OpKind, Work
from offload.recorder import Part, Recorder
from offload.schedule import COLUMNS
from pregate.ask.capturing.request import Request, request
from pregate.ask.capturing.starting_cache import resident_set
from pregate.ask.capturing.starting_host_cache import storage_of
from simulator.recurrence import HOST
from simulator.streamed import stream
from simulator.streamed.settled import PartTimes, Settled
from simulator.streamed.stream_parts import CarriedOps, WalkedPart, by_paths, walk_compiled, walk_small

ONE, TWO = "rtx-4090", "2x rtx-3090"


@pytest.mark.parametrize(
    ("model", "machine", "design", "tier"),
    [
        ("switch-base-8", ONE, "gpu_only", "dram"),
        ("switch-base-8", ONE, "on_demand+lru:0.3", "ssd"),
        ("switch-base-8", ONE, "prefetch_all", "dram"),
        ("olmoe-1b-7b", ONE, "pregate", "dram"),
        ("olmoe-1b-7b", ONE, "pregate(2)+lfu:0.2", "dram"),
        ("olmoe-1b-7b", ONE, "gpu_only@experts=cpu:5", "dram"),
        ("olmoe-1b-7b", ONE, "on_demand@layers=cpu:2", "dram"),
        ("olmoe-1b-7b", ONE, "gpu_only@kv=stream", "dram"),
        ("olmoe-1b-7b", TWO, "gpu_only", "dram"),
    ],
)
def test_machine_code_sees_of_every_part_what_numpy_sees(
    model: str, machine: str, design: str, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.fast.decode_compiled._PART_OPS", 1500)
    monkeypatch.setattr("offload.fast.decode_compiled._PART_CELLS", 300)
    hw = pregate.load_hardware(machine, stack="llama-cpp" if machine == TWO else None)
    architecture = pregate.load_model(model)
    trace = pregate.synthesize(architecture, 6, 20, batch=2)
    asked = request(architecture, hw, trace, design, expert_tier=tier)
    figures, steps = figures_of(hw), decode_steps(trace)[3:]  # steps that do not count, too
    before, again = CarriedOps.nothing(), CarriedOps.nothing()
    settled, compiled, n_parts = Settled(1000), Settled(1000), 0
    for part in _parts(asked):
        costs, n_parts = price_figures(part.works, figures), n_parts + 1
        one = walk_small(part, costs, before, settled.left, steps)
        other = walk_compiled(part, costs, again, compiled.left, steps)
        _same(one, other)
        for mine, theirs in zip(by_paths(part, one, small=True), by_paths(part, other, small=False), strict=True):
            assert mine.issue_s.tolist() == theirs.issue_s.tolist()
            assert mine.duration_s.tolist() == theirs.duration_s.tolist()
        settled.add(one.times, float(before.free_s[0]))
        compiled.add(other.times, float(again.free_s[0]))
        before, again = before.after(part, one), again.after(part, other)
        for name in ("live", "end_s", "chain_s", "moves", "free_s"):
            assert getattr(before, name).tolist() == getattr(again, name).tolist(), name
    assert n_parts > 2
    assert (settled.peak_hbm_bytes, settled.transfer_s) == (compiled.peak_hbm_bytes, compiled.transfer_s)
    assert settled.exposed_s == compiled.exposed_s


@pytest.mark.parametrize("name", ["taken", "given", "moving"])
def test_what_a_part_left_out_of_order_is_known_to_the_next(name: str) -> None:
    """Lanes that move beside one another: of what is left the last begins first, and the next part begins after it."""
    hw, architecture = pregate.load_hardware(ONE), pregate.load_model("switch-base-8")
    asked = request(architecture, hw, pregate.synthesize(architecture, 6, 20), "on_demand+lru:0.3", expert_tier="ssd")
    part, steps = next(iter(_parts(asked))), np.zeros(0, np.int32)
    costs, begin = price_figures(part.works, figures_of(hw)), np.array([0.003, 0.002, 0.004, 0.001, 0.0])
    listed = begin, begin + 0.001 if name == "moving" else np.array([1 << 30, 1 << 40, 1 << 31, 1 << 35, 1])
    settled, compiled = Settled(0), Settled(0)
    left = settled.left._replace(**{name: listed})
    one, other = (walk(part, costs, CarriedOps.nothing(), left, steps) for walk in (walk_small, walk_compiled))
    _same(one, other)
    assert other.times.moving_in_order is (name != "moving")
    assert other.times.levels_in_order is (name == "moving")
    settled.add(one.times, 0.0025)
    compiled.add(other.times, 0.0025)
    assert (settled.peak_hbm_bytes, settled.transfer_s) == (compiled.peak_hbm_bytes, compiled.transfer_s)


def test_paths_are_pulled_back_together_as_one_by_one() -> None:
    """Bounds that no schedule of a design here has: ops of the host that bound, and layers that wait for the host."""
    rng = np.random.default_rng(11)
    for n in (*range(1, 12), 40):
        for _ in range(8):
            lane, cost = rng.integers(0, 3, n).astype(np.int8), rng.integers(0, 4, n).astype(np.int32)
            before = [rng.integers(-1, i) if i and rng.random() < 0.7 else HOST for i in range(n)]
            ends = np.sort(rng.choice(n, rng.integers(1, n + 1), replace=False))
            last = np.sort(rng.choice(n, len(ends), replace=False))
            seen: Any = SimpleNamespace(bound_by=np.array(before), first=ends, last=last)
            part = Part(0, {"lane": lane, "cost": cost}, (Work(OpKind.STEP),) * 4, np.zeros(0, np.int64))
            for mine, theirs in zip(by_paths(part, seen, small=True), by_paths(part, seen, small=False), strict=True):
                assert mine.issue_s.tolist() == theirs.issue_s.tolist()
                assert mine.duration_s.tolist() == theirs.duration_s.tolist()


def test_any_parts_are_seen_alike() -> None:
    """Parts that no design here makes: every kind of op on every lane, and whatever is alive of the parts before."""
    rng = np.random.default_rng(5)
    for n in (*range(1, 8), 40):
        for _ in range(8):
            n_works, settled = int(rng.integers(1, 6)), (Settled(7), Settled(7))
            costs = Costs(*(rng.integers(0, 3, n_works) * share for share in (0.125, 0.7)))
            before, again = CarriedOps.nothing(), CarriedOps.nothing()
            steps = np.flatnonzero(rng.random(8) < 0.6).astype(np.int32)
            base, step, live = 0, 0, np.zeros(0, np.int64)
            for _ in range(3):
                part = _any_part(rng, n, base, step, live, n_works)
                one = walk_small(part, costs, before, settled[0].left, steps)
                other = walk_compiled(part, costs, again, settled[1].left, steps)
                _same(one, other)
                in_order = [sorted(begin) == begin.tolist() for begin, _ in one.times[:3]]
                assert [other.times.levels_in_order, other.times.moving_in_order] == [all(in_order[:2]), in_order[2]]
                for found, seen, carried in zip(settled, (one, other), (before, again), strict=True):
                    found.add(seen.times, float(carried.free_s[0]))
                before, again = before.after(part, one), again.after(part, other)
                base, step, live = base + n, int(part.columns["step"][-1]), part.live
            assert settled[0].peak_hbm_bytes == settled[1].peak_hbm_bytes
            assert settled[0].transfer_s == pytest.approx(settled[1].transfer_s, rel=1e-12)
            assert settled[0].exposed_s == pytest.approx(settled[1].exposed_s, rel=1e-12, abs=1e-12)


def test_gradients_are_what_a_small_change_of_costs_changes() -> None:
    """Of the end of the last op on the host, and of the sum of MoE layers; costs that are drawn bind one way only."""
    rng, nothing, n_works, steps = np.random.default_rng(2), np.zeros(0, np.int64), 4, np.arange(9, dtype=np.int32)
    for n in (3, 10, 40):
        for small in (True, False):
            part, costs = _any_part(rng, n, 0, 0, nothing, n_works), 0.1 + rng.random((2, n_works))
            more = costs + 1e-7 * rng.random((2, n_works))
            one, other = (
                walk_small(part, Costs(*given), CarriedOps.nothing(), Settled(0).left, steps) for given in (costs, more)
            )
            on_host = np.flatnonzero(part.columns["lane"] == Lane.HOST)[-1:]
            changes = (other.end_s - one.end_s)[on_host].sum(), other.layers_s - one.layers_s
            for gradient, change in zip(by_paths(part, one, small=small), changes, strict=True):
                told = gradient.issue_s @ (more - costs)[0] + gradient.duration_s @ (more - costs)[1]
                assert told == pytest.approx(change, abs=1e-12)


def test_parts_one_after_the_other_end_as_the_whole_does() -> None:
    rng, steps = np.random.default_rng(7), np.zeros(0, np.int32)
    for n in (1, 2, 5, 30):
        costs = Costs(*rng.random((2, 3)))
        carried, parts, found, live = CarriedOps.nothing(), list[Part](), list[WalkedPart](), np.zeros(0, np.int64)
        for i in range(4):
            parts.append(_any_part(rng, n, i * n, i, live, 3))
            found.append(walk_small(parts[-1], costs, carried, Settled(0).left, steps))
            carried, live = carried.after(parts[-1], found[-1]), parts[-1].live
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        n_deps = np.cumsum([np.diff(part.columns["dep_ptr"]) for part in parts])
        whole = Part(0, columns | {"dep_ptr": np.r_[0, n_deps]}, parts[0].works, live)
        walked = walk_small(whole, costs, CarriedOps.nothing(), Settled(0).left, steps)
        for name in ("end_s", "chain_s", "moves"):
            assert np.concatenate([getattr(one, name)[-n:] for one in found]).tolist() == getattr(walked, name).tolist()


def test_a_part_without_ops_adds_nothing() -> None:
    part = Recorder().take()
    for small_ops in (-1, 10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "_SMALL_OPS", small_ops)
            found = stream.Stream(np.zeros(0, np.int32), 5, with_paths=True)
            found.feed(part, price_figures(part.works, figures_of(pregate.load_hardware(ONE))))
            assert (found.makespan_s, found.peak_hbm_bytes, found.n_layers, found.transfer_s) == (0.0, 5, 0, 0.0)


def _any_part(rng: np.random.Generator, n: int, base: int, step: int, live: NDArray[np.int64], n_works: int) -> Part:
    """`n` ops that wait for any of those `live` and of the part; a third take HBM, a third give it back."""
    waits = [np.unique(rng.choice(np.r_[live, base : base + i], rng.integers(0, 4))) if len(live) + i else live
             for i in range(n)]  # fmt: skip
    drawn = {
        "lane": rng.choice([0, 1, 1, 2, 3, 4, 5, 6, 9], n), "kind": rng.integers(0, len(OpKind), n),
        "cost": rng.integers(0, n_works, n), "dep_ptr": np.cumsum([0, *map(len, waits)]), "dep": np.concatenate(waits),
        "step": step + np.cumsum(rng.random(n) < 0.3), "layer": rng.integers(-1, 3, n), "bytes": rng.integers(0, 9, n),
        **{name: rng.integers(1, 9, n) * (rng.random(n) < 0.4) for name in ("hbm_acquired", "hbm_released")},
    }  # fmt: skip
    known = np.r_[live, base : base + n]
    columns = {name: np.asarray(values).astype(COLUMNS[name]) for name, values in drawn.items()}
    return Part(base, columns, (Work(OpKind.STEP),) * n_works, known[rng.random(len(known)) < 0.4].astype(np.int64))


def _parts(asked: Request) -> DecodeStream:
    return DecodeStream(
        asked.model, asked.trace.steps(), asked.policy, asked.execution, n_buffers=asked.plan.n_buffers,
        cache=resident_set(asked), disk=asked.tier.on_disk, placed=asked.placed, through=storage_of(asked),
        low=asked.plan.low, compiled=True,
    )  # fmt: skip


def _same(one: WalkedPart, other: WalkedPart) -> None:
    for field in fields(WalkedPart):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, PartTimes):
            for name in ("taken", "given", "moving", "stalls"):
                assert [x.tolist() for x in getattr(mine, name)] == [x.tolist() for x in getattr(theirs, name)], name
        elif isinstance(mine, np.ndarray):
            assert (mine.tolist(), mine.dtype) == (theirs.tolist(), theirs.dtype), field.name
        else:
            assert mine == theirs, field.name
