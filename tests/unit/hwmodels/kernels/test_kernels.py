"""Kernels as they were measured: the table of utilisation, what an op costs by it, and who must agree on that."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pregate
from hwmodels.cost import parts_of, price, price_figures
from hwmodels.figures import figures_of
from hwmodels.fits.fit import FittedConstant, LeftOut
from hwmodels.kernels.roofline import activation_bytes, cached_share, kernel_constant
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from hwmodels.specs.overrides import with_overrides
from offload import ffn_work, work
from offload.metrics.run_metrics import decode_steps
from offload.ops import Gemm, OpKind, Work
from pregate.ask.capturing.capture import capture
from pregate.ask.explanation import explain
from pregate.ask.timing.intervals import compiled, intervals
from simulator import recurrence
from simulator.batched.batch import evaluate
from simulator.definition import des
from simulator.events import event_engine
from tests.small_fits import platform
from tests.small_models import MODELS, routing
from tests.unit.hwmodels.kernels.measured_kernels import TABLE


def test_constants_of_kinds_have_dimensions_and_nothing_else_has() -> None:
    assert kernel_constant("experts.fixed_s") == kernel_constant("fetch.issue_s") == "time"
    assert (
        kernel_constant("gate.gemm")
        == kernel_constant("gate.offloaded")
        == kernel_constant("experts.cached")
        == "ratio"
    )
    assert kernel_constant("experts.cache_bytes") == "size"
    assert (
        kernel_constant("gate.decide_after_asked_s") == kernel_constant("fetch.decide_after_self_attention_s") == "time"
    )
    for name in ("decide_after_nobody_s", "decide_after_ASKED_s", "decide_after_asked", "decide_after__s"):
        assert kernel_constant(f"gate.{name}") is None
    for key in ("experts", "experts.", "experts.sync_s", "expert.fixed_s", "", "experts.fixed_s.x"):
        assert kernel_constant(key) is None


KERNELS = {"fixed_s": 7e-6, "gemm": 1.5, "activations": 2.0, "traffic": 3.0, "arithmetic": 4.0, "offloaded": 1.25}


@pytest.fixture(scope="module")
def hw() -> Platform:
    """A made-up fit whose experts have every constant and whose GEMMs have the table above; 200 GFLOP/s, 20 GB/s."""
    hw = platform()
    assert hw.fit is not None
    some = next(iter(hw.fit.kernels.values()))
    kernels = dict(hw.fit.kernels)
    for kind in ("experts", "self_attention"):
        kernels |= {f"{kind}.{name}": dataclasses.replace(some, value=value) for name, value in KERNELS.items()}
    kernels["experts.issue_s"] = dataclasses.replace(some, value=9e-6)
    fit = dataclasses.replace(hw.fit, kernels=ReadOnly(kernels), gemm_tables=(TABLE,))
    return dataclasses.replace(hw, fit=fit)


FETCH = Work(OpKind.FETCH, copy_bytes=1 << 20)


def test_the_duration_of_an_op_by_hand(hw: Platform) -> None:
    """Two products at the corners of the table; 100 kFLOP and 10 kB beside them."""
    what = Work(OpKind.EXPERTS, (Gemm(1, 128, 32), Gemm(4, 128, 512, 2)), flop=100_000, hbm_bytes=10_000)
    small_s, large_s = 4 * 4096 / 20e9 / 0.1, 4 * 65536 / 20e9 / 0.8  # both wait for their weights
    assert activation_bytes(what) == 4 * ((128 + 32) + 2 * 4 * (128 + 512))
    expected_s = 7e-6 + 1.5 * (small_s + 2 * large_s) + 2.0 * activation_bytes(what) / 20e9
    expected_s += 3.0 * 10_000 / 20e9 + 4.0 * 100_000 / 200e9
    alone, (beside, _) = price([what], hw).duration_s, price([what, FETCH], hw).duration_s
    assert alone.tolist() == pytest.approx([expected_s], rel=1e-12)
    assert beside == pytest.approx(1.25 * expected_s, rel=1e-12)


def test_a_product_of_many_rows_waits_for_its_arithmetic(hw: Platform) -> None:
    gemm = Gemm(4096, 128, 512)
    what = Work(OpKind.EXPERTS, (gemm,))
    share = figures_of(hw).gemm_tables["fp32"].at(gemm)  # more rows than the table has
    expected_s = 7e-6 + 1.5 * (2 * 4096 * 65536 / 200e9) / share + 2.0 * activation_bytes(what) / 20e9
    parts = parts_of(what, figures_of(hw))
    assert parts.total_s == pytest.approx(expected_s, rel=1e-12)
    assert (parts.fixed_s, parts.compute_s) == (7e-6, pytest.approx(1.5 * 2 * 4096 * 65536 / 200e9 / share))


def test_an_op_without_constants_of_its_own_takes_what_its_products_take_alone(hw: Platform) -> None:
    assert hw.fit is not None
    kernels = {key: value for key, value in hw.fit.kernels.items() if not key.startswith("gate.")}
    bare = dataclasses.replace(hw, fit=dataclasses.replace(hw.fit, kernels=ReadOnly(kernels)))
    what = Work(OpKind.GATE, (Gemm(1, 128, 32),), flop=1000, hbm_bytes=1000)
    assert price([what], bare).duration_s[0] == pytest.approx(4 * 4096 / 20e9 / 0.1, rel=1e-12)


def test_a_measured_issue_and_readback_take_the_place_of_the_stacks(hw: Platform) -> None:
    works = [Work(OpKind.EXPERTS), Work(OpKind.GATE), FETCH, Work(OpKind.READBACK, copy_bytes=2000)]
    costs = price(works, hw)
    assert costs.issue_s.tolist() == [9e-6, hw.constant("launch_s"), *[hw.constant("copy_issue_s")] * 2]
    link = 2e9 * hw.constant("link_efficiency")
    assert costs.duration_s[2] == pytest.approx(hw.constant("copy_latency_s") + (1 << 20) / link)
    assert hw.fit is not None
    assert costs.duration_s[3] == pytest.approx(hw.fit.kernels["readback.fixed_s"].value + 2000 / link)


def test_a_format_that_was_not_measured_is_priced_by_another_table(hw: Platform) -> None:
    """At the rates of its own: half the bytes, and what the user says of its arithmetic."""
    machine = with_overrides(hw.machine, {"accelerator.peak_flop_per_s.bf16": 400e9})
    what = Work(OpKind.EXPERTS, (Gemm(1, 128, 32),), "bf16", 16.0)
    expected_s = 7e-6 + 1.5 * 2 * 4096 / 20e9 / 0.1 + 2.0 * activation_bytes(what) / 20e9
    found = price([what], dataclasses.replace(hw, machine=machine))
    assert found.duration_s[0] == pytest.approx(expected_s, rel=1e-12)


def test_each_format_has_its_rate_and_its_table(hw: Platform) -> None:
    """bf16 at 400 GFLOP/s and half the utilisation of fp32's table; what lies between its products in fp32."""
    machine = with_overrides(hw.machine, {"accelerator.peak_flop_per_s.bf16": 400e9})
    half = tuple(tuple(tuple(u / 2 for u in row) for row in plane) for plane in TABLE.utilisation)
    assert hw.fit is not None
    fit = dataclasses.replace(hw.fit, gemm_tables=(TABLE, dataclasses.replace(TABLE, dtype="bf16", utilisation=half)))
    both = dataclasses.replace(hw, machine=machine, fit=fit)
    gemm = Gemm(4096, 128, 512)
    what = Work(OpKind.EXPERTS, (gemm,), "bf16", 16.0, flop=10**9, flop_compute="fp32")
    share = figures_of(both).gemm_tables["bf16"].at(gemm)
    assert share < figures_of(both).gemm_tables["fp32"].at(gemm)
    expected_s = 7e-6 + 1.5 * (2 * 4096 * 65536 / 400e9) / share + 2.0 * activation_bytes(what) / 20e9
    assert price([what], both).duration_s[0] == pytest.approx(expected_s + 4.0 * 1e9 / 200e9, rel=1e-12)
    faster = price([what._replace(flop_compute="bf16")], both)
    assert faster.duration_s[0] == pytest.approx(expected_s + 4.0 * 1e9 / 400e9, rel=1e-12)


def test_ops_of_a_kind_that_scatter_take_as_many_times_as_long(hw: Platform) -> None:
    figures = figures_of(hw)
    scattered = dataclasses.replace(figures, scatter={"gate": 2.5})
    gate, head = Work(OpKind.GATE, (Gemm(1, 128, 32),)), Work(OpKind.HEAD, (Gemm(1, 128, 32),))
    before, after = (price_figures([gate, head], each).duration_s for each in (figures, scattered))
    assert (after / before).tolist() == pytest.approx([2.5, 1.0], rel=1e-12)


def test_a_kind_that_was_not_measured_beside_copies_takes_what_it_takes_alone(hw: Platform) -> None:
    assert hw.fit is not None
    kernels = {key: value for key, value in hw.fit.kernels.items() if key != "gate.offloaded"}
    bare = dataclasses.replace(hw, fit=dataclasses.replace(hw.fit, kernels=ReadOnly(kernels)))
    what = Work(OpKind.GATE, (Gemm(1, 128, 32),))
    assert price([what, FETCH], bare).duration_s[0] == price([what], bare).duration_s[0]


def works() -> list[Work]:
    """One of every kind, bound by memory and by arithmetic."""
    model = MODELS["encoder-decoder"]
    stack = model.decoder
    return [
        work.self_attention_work(model, stack, 1, 300, 300),
        work.self_attention_work(model, stack, 512, 512, 512 * 512),
        work.cross_attention_work(model, stack, 4, 1024, 256),
        work.gate_work(model, 7),
        ffn_work.experts_work(model, [1, 1, 5]),
        ffn_work.dense_ffn_work(model, stack, 64),
        work.head_work(model, 2),
        work.readback_work(12),
        work.expert_copy_work(model, OpKind.FETCH),
        Work(OpKind.WAIT),
        Work(OpKind.STEP),
    ]


def test_many_machines_are_priced_as_each_of_them_to_the_last_bit(hw: Platform) -> None:
    rng = np.random.default_rng(1)
    figures = figures_of(hw)
    varied = {key: value * rng.uniform(0.5, 2.0, 7) for key, value in figures.values.items() if value}
    many = price_figures(works(), figures.with_values(varied), 7)
    for i in range(7):
        one = price_figures(works(), figures.with_values({key: float(values[i]) for key, values in varied.items()}))
        for name in ("issue_s", "duration_s", "link_s", "hbm_s"):
            assert getattr(many, name)[:, i].tobytes() == getattr(one, name).tobytes(), name


def test_a_complex_step_is_the_exact_derivative_of_every_price(hw: Platform) -> None:
    figures = figures_of(hw)
    moved = 0
    for key, value in figures.values.items():
        slope = price_figures(works(), figures.with_values({key: value * (1 + 1e-30j)})).duration_s.imag / 1e-30
        up, down = (
            price_figures(works(), figures.with_values({key: value * (1 + step)})).duration_s for step in (1e-5, -1e-5)
        )
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-14), key
        moved += key.startswith("kernel.") and bool(np.any(slope != 0))
    assert moved > 15


POLICIES = ("gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "on_demand+lru:0.4", "on_demand+lru:1.0")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_interpreter_says_the_same_of_a_machine_with_measured_kernels(
    hw: Platform, name: str, policy: str
) -> None:
    model = MODELS[name]
    trace = routing(model, batch=2)
    captured = capture(model, hw, trace, policy)
    schedule = captured.decoded.schedule
    costs = price(schedule.works, hw)
    reference = des.simulate(schedule, costs, hbm_bytes=1 << 50)
    for timeline in (recurrence.simulate(schedule, costs), event_engine.simulate(schedule, costs)):
        assert timeline.end_s.tobytes() == reference.end_s.tobytes()
    batch = evaluate(compiled(captured), price_figures(schedule.works, figures_of(hw), 1))
    assert batch.makespan_s.tolist() == [reference.makespan_s]
    whole, parts = (pregate.simulate(model, hw, trace, policy, engine=engine) for engine in ("recurrence", "stream"))
    plain = ("timeline", "moe_layer_latency_ci95_s", "tokens_per_s_ci95", "rate_error")
    for field in (field.name for field in dataclasses.fields(whole) if field.name not in plain):
        value, other = getattr(whole, field), getattr(parts, field)
        assert other == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), field
    assert parts.makespan_s == reference.makespan_s
    assert whole.makespan_s == reference.makespan_s


def test_offloaded_ops_are_slower_only_where_experts_are_fetched(hw: Platform) -> None:
    model = MODELS["decoder-only"]
    trace = routing(model)
    busy = {}
    for policy in ("gpu_only", "on_demand"):
        schedule = capture(model, hw, trace, policy).decoded.schedule
        costs = price(schedule.works, hw)
        busy[policy] = {
            work: costs.duration_s[i] for i, work in enumerate(schedule.works) if work.kind is OpKind.SELF_ATTENTION
        }
    assert busy["gpu_only"].keys() == busy["on_demand"].keys()
    for what, seconds in busy["gpu_only"].items():
        assert busy["on_demand"][what] == pytest.approx(1.25 * seconds, rel=1e-12)


def test_intervals_contain_the_prediction_and_widen_with_the_constants_of_kinds(hw: Platform) -> None:
    model = MODELS["decoder-only"]
    captured = capture(model, hw, routing(model), "pregate")
    result = pregate.simulate(model, hw, routing(model), "pregate")
    found = intervals(captured, hw, np.random.default_rng(0))
    assert hw.fit is not None
    exact = dataclasses.replace(hw.fit, order=tuple(n for n in hw.fit.order if n in hw.fit.constants))
    rows = [hw.fit.order.index(name) for name in exact.order]
    covariance = np.array(hw.fit.covariance)[np.ix_(rows, rows)]
    exact = dataclasses.replace(exact, covariance=tuple(map(tuple, covariance.tolist())))
    narrow = intervals(captured, dataclasses.replace(hw, fit=exact), np.random.default_rng(0))
    for name, wide in found.items():
        thin = narrow[name]
        assert wide is not None
        assert thin is not None
        low, high = wide
        assert low < getattr(result, name) < high
        assert high / low > thin[1] / thin[0]


@pytest.mark.parametrize("policy", ["gpu_only", "pregate"])
def test_intervals_know_how_far_ops_lie_from_the_law_of_their_kind(hw: Platform, policy: str) -> None:
    """One factor a kind: where nothing else is uncertain and the compute lane has it all, a sum of log-normals."""
    assert hw.fit is not None
    model = MODELS["decoder-only"]
    captured = capture(model, hw, routing(model), policy)
    nothing = tuple((0.0,) * len(hw.fit.order) for _ in hw.fit.order)

    def found(scatter: float, beside: float) -> tuple[float, float]:
        errors = {kind: LeftOut(9, 0.01, 0.02, scatter) for kind in ("self_attention", "gate", "experts", "head")}
        errors |= {f"{kind}/offloaded": LeftOut(9, 0.01, 0.02, beside) for kind in errors}
        assert hw.fit is not None
        fit = dataclasses.replace(hw.fit, covariance=nothing, left_out=ReadOnly(errors))
        ends = intervals(captured, dataclasses.replace(hw, fit=fit), np.random.default_rng(0))["moe_layer_latency_s"]
        assert ends is not None
        return ends

    exact = pregate.simulate(model, hw, routing(model), policy).moe_layer_latency_s
    assert found(0.0, 0.0) == pytest.approx((exact, exact), rel=1e-12)
    low, high = found(0.1, 0.0)
    assert low < exact < high
    assert found(0.06, 0.08) == ((low, high) if policy == "pregate" else pytest.approx(found(0.06, 0.0), rel=1e-12))
    if policy == "gpu_only":
        costs = price(captured.decoded.schedule.works, hw).duration_s
        schedule = captured.decoded.schedule
        mine = (schedule.layer >= 0) & np.isin(schedule.step, decode_steps(captured.trace))
        kinds = [int(kind) for kind in np.unique(schedule.kind[mine])]
        busy = [float(costs[schedule.cost[mine & (schedule.kind == kind)]].sum()) for kind in kinds]
        draws = np.exp(0.1 * np.random.default_rng(1).standard_normal((100_000, len(kinds)))) @ np.array(busy)
        wanted = np.quantile(draws, (0.025, 0.975)) / sum(busy)
        assert np.array([low, high]) / exact == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("policy", ["gpu_only", "pregate"])
def test_explanations_know_the_constants_of_kinds(hw: Platform, policy: str) -> None:
    """Euler's identity: the makespan is of first degree in times, and in rates of degree minus one."""
    model = MODELS["decoder-only"]
    found = explain(model, hw, routing(model), policy)
    assert sum(found.seconds.values()) == pytest.approx(found.result.makespan_s, rel=1e-12)
    times = sum(size for key, size in found.elasticities.items() if key.endswith("_s") and "per_s" not in key)
    rates = sum(size for key, size in found.elasticities.items() if "_per_s" in key)
    assert times - rates == pytest.approx(1.0, rel=1e-10)
    assert found.elasticities["kernel.experts.fixed_s"] > 0
    swing = found.swings["kernel.experts.fixed_s"]
    assert swing.low < found.value < swing.high
    assert (swing.low_value, swing.high_value) == pytest.approx((0.9 * 7e-6, 1.1 * 7e-6))
    only = {key: 0.5 * (key == "kernel.experts.fixed_s") for key in found.elasticities}
    assert "1% less kernel.experts.fixed_s takes 0.5% off" in dataclasses.replace(found, elasticities=only).verdict()


def test_a_cache_of_random_replacement_answers_what_its_equation_says() -> None:
    assert cached_share(0, 1e6) == cached_share(10, 1e6) == cached_share(1_000_000, 1e6) == 1.0
    slots = np.geomspace(1.0001e6, 5e8, 200)
    shares = np.array([cached_share(int(n), 1e6) for n in slots])
    assert shares == pytest.approx(np.exp(-(1 - shares) * slots.astype(np.int64) / 1e6), rel=1e-6, abs=1e-12)
    assert np.all(np.diff(shares) < 0)
    assert shares[0] > 0.99
    assert cached_share(1 << 60, 1e3) == 0.0
    assert type(cached_share(2_000_000, 1e6)) is float
    caches = np.append(np.geomspace(1e4, 1e8, 50), 1e6 * (1 + np.linspace(-1e-15, 1e-15, 9)))
    together = cached_share(1_000_000, caches)
    assert together.tolist() == [cached_share(1_000_000, float(cache)) for cache in caches]
    assert np.all((together >= 0) & (together <= 1))


def test_what_a_cache_answers_has_a_derivative_by_a_complex_step() -> None:
    for cache_bytes in (3e5, 9e5, 2e6):
        low, high = (cached_share(1_000_000, cache_bytes * (1 + step)) for step in (-1e-6, 1e-6))
        step = cached_share(1_000_000, complex(cache_bytes, 1e-20 * cache_bytes))
        assert np.imag(step) / 1e-20 == pytest.approx((high - low) / 2e-6, rel=1e-6)


def test_a_cache_answers_as_a_simulated_one_does() -> None:
    """Lines read round and round through a cache that throws out a random one: hits, counted."""
    rng = np.random.default_rng(0)
    for n_lines, n_cached in ((600, 500), (1000, 500), (1500, 500)):
        where = np.full(n_lines, -1)
        holds = np.full(n_cached, -1)
        hits = 0
        for turn in range(30):
            for line in range(n_lines):
                if where[line] >= 0:
                    hits += turn >= 10
                    continue
                place = int(rng.integers(n_cached))
                if holds[place] >= 0:
                    where[holds[place]] = -1
                holds[place], where[line] = line, place
        assert hits / (20 * n_lines) == pytest.approx(cached_share(n_lines, n_cached), abs=0.02)


def test_experts_are_faster_from_slots_that_a_cache_holds(hw: Platform) -> None:
    """And only they: beside fetches, the more of the slots a cache holds."""
    assert hw.fit is not None
    entry = FittedConstant(0.5, (0.4, 0.6), ("row",))
    cache = FittedConstant(1e6, (0.9e6, 1.1e6), ("row",))
    kernels = {**hw.fit.kernels, "experts.cached": entry, "experts.cache_bytes": cache}
    cached = dataclasses.replace(hw, fit=dataclasses.replace(hw.fit, kernels=ReadOnly(kernels)))
    model = MODELS["decoder-only"]
    fetch, gate = work.expert_copy_work(model, OpKind.FETCH), work.gate_work(model, 1)
    sizes = (0, 500_000, 1_000_000, 3_000_000, 10**9)
    works = [fetch, gate, *(ffn_work.experts_work(model, [2], slots_bytes=size) for size in sizes)]
    before, after = price(works, hw).duration_s, price(works, cached).duration_s
    wanted = [1, 1, 1, *(1 - 0.5 * cached_share(size, 1e6) for size in sizes[1:])]
    assert (after / before).tolist() == pytest.approx(wanted, rel=1e-12)
    assert price(works[1:], cached).duration_s.tolist() == price(works[1:], hw).duration_s.tolist()
    figures = figures_of(cached)
    pairs = {"kernel.experts.cache_bytes": np.array([1e6, 1e5]), "kernel.experts.cached": np.array([0.5, 0.4])}
    many = figures.with_values(pairs)
    priced = price_figures(works, many, 2).duration_s
    assert priced[:, 0].tolist() == after.tolist()
    assert np.all(priced[3:6, 1] != after[3:6])
