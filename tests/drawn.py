"""Every picture, drawn small from small results.

`python -m tests.drawn` draws the kept ones in tests/pictures anew: look at each before it is committed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import pregate
from hwmodels.cost import Costs
from offload.ops import OpKind
from offload.timeline import Timeline
from pregate import draw
from pregate.ask.comparison import DoesNotFit
from pregate.ask.explanation import Swing
from pregate.ask.replays.cache_hits import CacheRow
from pregate.crossover.crossover import Crossover
from pregate.draw.sweep_maps import best_map, value_map
from pregate.economics.arrival_report import ArrivalReport, UnderArrivals
from pregate.economics.cost_draws import Estimate
from pregate.economics.serving import LatencyPromise
from pregate.measured.isca24.natural_routing import Activation
from pregate.measured.isca24.predicted_rows import RowPrediction
from pregate.measured.isca24.published_rows import read_rows
from pregate.measured.reproduction import PUBLISHED_ROWS
from pregate.routing_traces import load_trace
from pregate.sweeps.sweep_table import table_of
from pregate.validation.outcome import OpTime, Validation
from pregate.validation.scores.validation_summary import summarise_validation
from simulator import recurrence
from tests import small_fits
from tests.pictures_apart import picture_bytes
from tests.small_validations import ZERO, outcome, validation

MAPPED = ("link.h2d_bytes_per_s", "hbm_bytes", "tokens_per_s")

PICTURES = Path(__file__).parent / "pictures"

_SECONDS = {
    OpKind.SELF_ATTENTION: 40e-6, OpKind.CROSS_ATTENTION: 30e-6, OpKind.GATE: 15e-6, OpKind.EXPERTS: 400e-6,
    OpKind.DENSE_FFN: 25e-6, OpKind.HEAD: 60e-6, OpKind.FETCH: 380e-6, OpKind.STAGE: 20e-6, OpKind.READBACK: 10e-6,
    OpKind.STREAM: 200e-6, OpKind.CPU_EXPERT: 500e-6, OpKind.HANDOVER: 30e-6, OpKind.RETURN: 30e-6,
}  # fmt: skip
"""What ops take in these pictures: they are of no machine, so that no price can change them."""

_FIGURES = {
    "on_demand": (54.04, 0.012, 2_260_000_000, (53.1, 54.9)),
    "pregate": (69.15, 0.008, 2_260_000_000, (67.9, 70.2)),
    "lru": (57.17, 0.0108, 3_390_000_000, None),
}
_FIELDS = ("tokens_per_s", "tpot_s", "peak_hbm_bytes", "tokens_per_s_ci95")


def timed(policy: str, model_name: str, hardware: str, overrides: dict[str, float | str]) -> pregate.SimulationResult:
    """The schedule of a policy with `_SECONDS` for its times."""
    model, hw = pregate.load_model(model_name), pregate.load_hardware(hardware, overrides=overrides)
    found = pregate.simulate(model, hw, pregate.synthesize(model, 8, 6), policy, engine="recurrence")
    assert found.timeline is not None
    schedule = found.timeline.schedule
    duration_s = np.array([_SECONDS.get(work.kind, 2e-6) for work in schedule.works])
    return dataclasses.replace(
        found, timeline=recurrence.simulate(schedule, Costs(np.full(len(duration_s), 1e-6), duration_s))
    )


@functools.cache
def compared() -> pregate.Comparison:
    """Three designs that fit and one that does not."""
    found = [
        dataclasses.replace(
            timed(name, "switch-base-64", "a100-sxm4-80gb", {}), **dict(zip(_FIELDS, figures, strict=True))
        )
        for name, figures in _FIGURES.items()
    ]
    too_big = DoesNotFit("gpu_only", 16_600_000_000, "HBM", "gpu_only needs 16.6 GB of HBM")
    return pregate.Comparison(tuple(found), (too_big,), ("gpu_only", *_FIGURES), "made up")


@functools.cache
def swept() -> xr.Dataset:
    """Over link and HBM, at two batches: four formulas."""
    link, hbm, batch = np.geomspace(2e9, 256e9, 15), np.linspace(3e9, 20e9, 12), np.array([1, 8])
    copies_s = batch[:, None, None] ** 0.5 * 0.2e9 / link[None, None, :]
    there = (hbm / 17e9)[None, :, None]
    floor_s = 6e-3 * batch[:, None, None] ** 0.3
    tpot_s = np.stack([
        np.where(there >= 1, floor_s + 0 * copies_s, np.nan),
        floor_s + copies_s + 0 * there,
        np.maximum(floor_s * 1.1, copies_s) + 1e-3 + 0 * there,
        floor_s + 1.5e-3 + copies_s * (1 - 0.6 * np.minimum(there, 1)),
    ])  # fmt: skip
    dims = ("policy", "batch", "hbm_bytes", "link.h2d_bytes_per_s")
    fields = {
        "tpot_s": (dims, tpot_s, {"units": "s"}),
        "tokens_per_s": (dims, batch[None, :, None, None] / tpot_s, {"units": "1/s"}),
        "fits": (dims, np.isfinite(tpot_s)),
    }
    at = {
        "policy": ["gpu_only", "on_demand", "pregate", "lru"],
        "batch": ("batch", batch, {"units": "1"}),
        "hbm_bytes": ("hbm_bytes", hbm, {"units": "B"}),
        "link.h2d_bytes_per_s": ("link.h2d_bytes_per_s", link, {"units": "B/s"}),
    }
    told = {"model": "a-model", "hardware": "a-machine"}
    return xr.Dataset(fields, at, told).transpose("policy", "link.h2d_bytes_per_s", "hbm_bytes", "batch")


def along_the_link() -> xr.Dataset:
    """One line of `swept`."""
    return swept().sel(batch=1).isel(hbm_bytes=4)


@functools.cache
def traced() -> pregate.RoutingTrace:
    """A rule in place of gates: skewed and local."""
    token, layer = np.arange(60)[:, None], np.arange(12)[None, :]
    experts = ((token // 3 + layer) % 8 * ((token + layer) % 5 != 0)).astype(np.int16)[:, :, None]
    model = pregate.load_model("switch-base-8")
    return dataclasses.replace(
        pregate.synthesize(model, 1, 60).decode_only(),
        experts=experts[:, np.arange(model.n_moe_layers) % 12], gate_weights=None,
    )  # fmt: skip


@functools.cache
def validated() -> Validation:
    """Four designs, run and predicted."""
    naive = {"roofline": 0.5, "bandwidth": 0.7, "serialised": 1.4}
    ops = ({"experts": ZERO, "fetch": OpTime(5, 0.2)}, {"experts": OpTime(10, 0.011), "fetch": OpTime(5, 0.25)})
    return validation(
        outcome("gpu_only", 1.02, (1.0, 1.01), naive=naive),
        outcome("pregate", 2.1, (2.0, 1.9, 2.2), interval=(1.8, 2.4), naive=naive, ops=ops),
        outcome("on_demand", 3.1, (3.0,), stalls_s=(2.0, 3.0), naive=naive, ops=ops),
        outcome("pregate", 4.0, (4.4,), group="b", model="other", naive=naive),
        outcome("a-policy-with-a-long-name+lru:0.25", 40.0, (36.0,), group="b", model="other", naive=naive),
    )


def crossing() -> tuple[pregate.Crossovers, ...]:
    """Two metrics along the link, two changes of winner close to each other."""
    axis, ends = "link.h2d_bytes_per_s", (2e9, 2e12)

    def change(at: float, below: str, above: str) -> Crossover:
        return Crossover(axis, at, at, at * 1.001, below, above, 1.0, 1.0)

    by_tokens = (
        change(5.228e9, "lru", "on_demand"),
        change(6e9, "on_demand", "pregate"),
        change(4e11, "pregate", "lru"),
    )
    return (
        pregate.Crossovers(by_tokens, axis, *ends, "tokens_per_s", "lru", "claimed"),
        pregate.Crossovers((), axis, *ends, "ttft_s", "pregate", "claimed"),
    )


def searched() -> pregate.Optimum:
    """Machines by price and speed."""
    return pregate.optimize(
        "switch-base-8", trace=pregate.TraceRecipe(input_tokens=16, output_tokens=6),
        policies=["gpu_only", "on_demand", "pregate"],
        axes={"hardware": ["rtx-3060-12gb", "rtx-4090", "a100-sxm4-80gb"], "batch": [1, 3]},
        objectives=["price_usd:min", "tpot_s:min"], constraints=["tokens_per_s>=40"],
    )  # fmt: skip


def explained() -> pregate.Explanation:
    """Six numbers, one of which does nothing."""
    spans = {"link.h2d_bytes_per_s": 0.08, "accelerator.n_sm": -0.05, "stack.sync_s": -0.02, "stack.step_s": 0.0,
             "accelerator.hbm_bytes_per_s": 0.012, "a.number.with.a.very.long.name_bytes_per_s": 0.004}  # fmt: skip
    swings = {key: Swing(1.0, 0.9, 1.1, 0.1 * (1 + span), 0.1 * (1 - span)) for key, span in spans.items()}
    result = dataclasses.replace(compared()["pregate"], makespan_s=0.1)
    return pregate.Explanation(result, "makespan_s", {"compute": 0.1}, dict.fromkeys(spans, 0.0), swings)


def cached() -> pregate.CacheHits:
    """Three caches at three capacities, by a rule."""
    rows = [
        CacheRow(name, str(n), n, rate * n / (n + 40), rate * n / (n + 30), 0.1, 0.1, 0.9, 100, 50, None)
        for n in (16, 64, 256)
        for name, rate in {"lru:per_layer": 0.8, "lfu_decay:pooled:admit=second": 0.7, "belady": 0.95}.items()
    ]
    return pregate.CacheHits(tuple(rows), 3, ("a rule in place of a replay",))


def costed() -> pregate.CostReport:
    """Three designs that serve, one of them with a total that is not finite."""
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    report = pregate.costs(model, hw, ["on_demand", "pregate", "gpu_only"], output_tokens=32, batches=(1, 4))
    middles = {"on_demand": 2.6, "pregate": 2.0, "gpu_only": 0.8}
    designs = []
    for design in report.designs:
        at = middles[design.served.design]
        money, energy, total = (Estimate(x, x * 0.7, x * 2.2) for x in (at, at * 1.6, at * 25_123))
        if design.served.design == "gpu_only":
            total = Estimate(float("inf"), 1.0, float("inf"))
        designs.append(dataclasses.replace(design, per_million_tokens=money, joules_per_token=energy, total=total))
    return dataclasses.replace(report, designs=tuple(designs))


def arriving() -> ArrivalReport:
    """Two designs at three rates, by a rule: one queue grows at the last, one may at the one before."""
    most, rows = {"pregate": 0.9, "on_demand+lru": 0.3}, []
    for design, capacity in most.items():
        for rate in (0.1, 0.2, 0.5):
            waits = float("inf") if rate >= capacity else 4 / (1 - rate / capacity)
            may = float("inf") if rate > 0.6 * capacity else 2.5 * waits
            ttft = {50: Estimate(waits / 3, waits / 4, may), 99: Estimate(waits, waits / 2, may)}
            tpot = {p: Estimate(0.05 * capacity, 0.04 * capacity, 0.07 * capacity) for p in (50, 99)}
            most_s = Estimate(capacity, capacity / 2, capacity * 2)
            rows.append(UnderArrivals(design, rate, 4, most_s, rate / capacity, ttft, tpot, None, waits < 20))
    return ArrivalReport(
        model="a-model", hardware="a-machine", source="a rule", n_requests=100, n_left_out=0, slots=8, pass_tokens=2048,
        promise=LatencyPromise(20.0, None), basis="own", calibration="made up", routing="made up", rows=tuple(rows),
        unserved=(), no_cost="no cost is asked for",
    )  # fmt: skip


def published() -> pregate.Reproduction:
    """Published rows of one model, predicted by a rule."""
    rows = [row for row in read_rows(PUBLISHED_ROWS) if row.model == "switch-base-8"]
    said = tuple(RowPrediction(row, row.value * (1 + 0.02 * (i % 7 - 3))) for i, row in enumerate(rows))
    return pregate.Reproduction(said, Activation(), "made up")


def timeline_of(policy: str) -> Timeline:
    """One of `compared`."""
    found = compared()[policy].timeline
    assert found is not None
    return found


DRAWN: dict[str, Callable[[], Figure | None]] = {
    "bars": lambda: draw.bars(compared()),
    "gantt": lambda: draw.gantt(compared()),
    "gantt-placed": lambda: draw.gantt(
        timed("gpu_only@experts=cpu:1@weights=stream", "mixtral-mini-8", "rtx-4090", {"host": "desktop-ddr5"})
    ),
    "tornado": lambda: draw.tornado(explained()),
    "winners": lambda: draw.winners(*crossing()),
    "sweep-map": lambda: draw.sweep_map(swept(), "tpot_s"),
    "sweep-map-one": lambda: draw.sweep_map(swept().sel(batch=1)),
    "sweep-best": lambda: best_map(table_of(swept().sel(batch=1)), *MAPPED),
    "sweep-tokens": lambda: value_map(table_of(swept().sel(batch=1)), *MAPPED),
    "sweep-lines": lambda: draw.sweep_lines(along_the_link(), "tpot_s"),
    "front": lambda: draw.draw_front(searched()),
    "expert-heat": lambda: draw.expert_heat(traced()),
    "locality": lambda: draw.locality(pregate.trace_statistics(traced())),
    "residency": lambda: draw.residency_curves(
        pregate.residency(traced(), ["lru", "lfu", "layer", "belady"], [50, 100, 400], expert_bytes=1 << 24)
    ),
    "predictors": lambda: draw.predictor_curves(
        pregate.predictors(load_trace("gpt-oss-120b-phone"), ["markov", "maps", "popular", "uniform"])
    ),
    "hit-curves": lambda: draw.hit_curves(cached()),
    "cost": lambda: draw.cost_ranges(costed()),
    "arrivals": lambda: draw.latency_by_rate(arriving()),
    "fit": lambda: draw.fit_against_data(small_fits.measurements(), small_fits.fit()),
    "published": lambda: draw.published_against_predicted(published()),
    "validated": lambda: draw.predicted_against_measured(validated()),
    "op-errors": lambda: draw.op_errors(validated()),
    "naive": lambda: draw.naive_bars(summarise_validation(validated())),
    "predicted-above-measured": lambda: draw.predicted_above_measured(
        outcome("pregate", 1.0, (1.0,), timelines=(timeline_of("pregate"), timeline_of("on_demand")))
    ),
}
"""Every picture, by name."""

MOVING = {"fit", "front"}
"""Pictures of what the cost model says, which may change: only their texts are looked at."""

KEPT = [name for name in DRAWN if name not in MOVING]
"""Those that are held to a kept picture."""


@functools.cache
def drawn(name: str) -> Figure:
    """The picture of that name."""
    found = DRAWN[name]()
    assert found is not None
    return found


def main() -> None:
    """Draw the kept pictures anew."""
    matplotlib.use("agg")
    PICTURES.mkdir(exist_ok=True)
    for stale in set(PICTURES.glob("*.png")) - {PICTURES / f"{name}.png" for name in KEPT}:
        stale.unlink()
    for name in KEPT:
        (PICTURES / f"{name}.png").write_bytes(picture_bytes(drawn(name)))


if __name__ == "__main__":
    main()
