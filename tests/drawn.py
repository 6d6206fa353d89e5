"""Every picture, drawn small from small results, and how two pictures are told apart.

`python -m tests.drawn` draws the kept ones in tests/pictures anew: look at each before it is committed.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image

import pregate
from hwmodels.fit import Fit
from offload.timeline import Timeline
from pregate import draw
from pregate.check.outcome import OpTime, Validation
from pregate.check.scores import summarise_validation
from pregate.draw.sweep_plot import _best_map, _value_map
from tests import small_fits
from tests.small_validations import ZERO, outcome, validation

PICTURES = Path(__file__).parent / "pictures"
DPI = 50
SMALL = {"hbm_bytes": 9e9}
CELL = 8
"""Pixels of a cell: the colours of cells are compared, so that how a letter is smoothed does not matter."""

WHOLE, CORNER = 0.9, 24.0
"""Two pictures differ where their cells do by more than this on average, or one of them by more than that; of 255.

Letters hinted in another way are 0.4 and 19 apart. What so small a picture hides is written into it (`contents`).
"""


def picture_bytes(figure: Figure) -> bytes:
    """The figure as a small PNG, by Agg and in the font that comes with matplotlib."""
    FigureCanvasAgg(figure)
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=DPI, metadata={"Software": None, "Description": contents(figure)})
    return found.getvalue()


def contents(figure: Figure) -> str:
    """Every text and every colour of lines and areas, a line each."""
    FigureCanvasAgg(figure).draw()
    texts = sorted({f"text {text.get_text()!r}" for text in _texts(figure)})
    colours = {to_hex(line.get_color()) for line in figure.findobj(Line2D) if line.get_visible()}
    colours |= {to_hex(patch.get_facecolor()) for patch in figure.findobj(Patch) if patch.get_visible()}
    colours |= {to_hex(row) for found in figure.findobj(PolyCollection) for row in found.get_facecolor()}
    return "\n".join([*texts, *sorted(f"colour {colour}" for colour in colours)])


def told_in(png: bytes) -> str:
    """The contents that a picture carries."""
    with Image.open(io.BytesIO(png)) as picture:
        return str(picture.info["Description"])


def cells(png: bytes) -> NDArray[np.float64]:
    """Mean colours, 0 to 255, of cells of `CELL` pixels a side; (rows, columns, 3)."""
    pixels = np.asarray(imread(io.BytesIO(png), format="png"), dtype=np.float64)[..., :3] * 255
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    blocks = pixels[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


def difference(one: bytes, other: bytes) -> tuple[float, float]:
    """How far two pictures are apart, on average and where most; infinite where their sizes differ."""
    a, b = cells(one), cells(other)
    if a.shape != b.shape:
        return (float("inf"), float("inf"))
    apart = np.abs(a - b).max(axis=2)
    return (float(apart.mean()), float(apart.max()))


def alike(one: bytes, other: bytes) -> bool:
    """Whether two pictures show the same: texts and colours as they are written into them, the rest as it looks."""
    if told_in(one) != told_in(other):
        return False
    whole, corner = difference(one, other)
    return whole <= WHOLE and corner <= CORNER


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that touch each other, and texts that leave the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    placed = [(text, text.get_window_extent(renderer)) for text in _texts(figure)]
    page = figure.bbox.padded(1.0)
    out = [(text.get_text(), "the edge") for text, box in placed if not _within(box, page)]
    pairs = [(a.get_text(), b.get_text()) for (a, one), (b, other) in combinations(placed, 2) if one.overlaps(other)]
    return out + pairs


def _texts(figure: Figure) -> Iterator[Text]:
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    bare = {
        text
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
    }
    shared = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not label.get_visible() or not _in_view(axis, tick)
    }
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden | bare | shared:
            yield text


def _in_view(axis: object, tick: object) -> bool:
    low, high = sorted(axis.get_view_interval())  # type: ignore[attr-defined]
    slack = 1e-9 * max(abs(low), abs(high))
    return bool(low - slack <= tick.get_loc() <= high + slack)  # type: ignore[attr-defined]


def _within(box: Bbox, page: Bbox) -> bool:
    return bool(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1)


@functools.cache
def compared() -> pregate.Comparison:
    """Three designs that fit and one that does not."""
    model, hw = (
        pregate.load_model("switch-base-64"),
        pregate.load_hardware("a100-sxm4-80gb", overrides={"hbm_bytes": 9e9}),
    )
    return pregate.compare(model, hw, pregate.synthesize(model, 8, 6), ["gpu_only", "on_demand", "pregate", "lru"])


@functools.cache
def placed() -> pregate.SimulationResult:
    """Every lane that a placement uses."""
    model = pregate.load_model("mixtral-mini-8")
    hw = pregate.load_hardware("rtx-4090", "streams", {"host": "desktop-ddr5"})
    return pregate.simulate(model, hw, pregate.synthesize(model, 8, 6), "gpu_only@experts=cpu:1@weights=stream")


@functools.cache
def swept() -> xr.Dataset:
    """Over link and HBM, at two batches."""
    axes = {
        "link.h2d_bytes_per_s": np.geomspace(2e9, 256e9, 15),
        "hbm_bytes": np.linspace(3e9, 20e9, 12),
        "batch": [1, 8],
    }
    recipe = pregate.TraceRecipe(input_tokens=1, output_tokens=6)
    policies = ["gpu_only", "on_demand", "pregate", "lru"]
    return pregate.sweep("switch-base-64", "a100-sxm4-80gb", recipe, policies=policies, axes=axes, cache_dir=False)


@functools.cache
def traced() -> pregate.RoutingTrace:
    """Synthetic, skewed and local."""
    return pregate.synthesize(pregate.load_model("switch-base-8"), 8, 60)


@functools.cache
def validated() -> Validation:
    """Four designs, run and predicted, with both timelines of one."""
    naive = {"roofline": 0.5, "bandwidth": 0.7, "serialised": 1.4}
    ops = ({"experts": ZERO, "fetch": OpTime(5, 0.2)}, {"experts": OpTime(10, 0.011), "fetch": OpTime(5, 0.25)})
    return validation(
        outcome("gpu_only", 1.02, (1.0, 1.01), naive=naive),
        outcome("pregate", 2.1, (2.0, 1.9, 2.2), interval=(1.8, 2.4), naive=naive, ops=ops),
        outcome("on_demand", 3.1, (3.0,), stalls_s=(2.0, 3.0), naive=naive, ops=ops),
        outcome("pregate", 4.0, (4.4,), group="b", model="other", naive=naive),
        outcome("a-policy-with-a-long-name+lru:0.25", 40.0, (36.0,), group="b", model="other", naive=naive),
    )


def timeline_of(policy: str) -> Timeline:
    """One of `compared`."""
    found = compared()[policy].timeline
    assert found is not None
    return found


@functools.cache
def fit() -> Fit:
    """Of made-up measurements."""
    return small_fits.fit()


def crossing() -> list[pregate.Crossovers]:
    """Two metrics along the link."""
    model, hw = pregate.load_model("switch-base-64"), pregate.load_hardware("a100-sxm4-80gb")
    trace, names = pregate.synthesize(model, 8, 8), ["on_demand", "lru", "pregate", "prefetch_all"]
    ends = ("link.h2d_bytes_per_s", 2e9, 2e12)
    return [pregate.crossovers(model, hw, trace, names, *ends, metric=metric) for metric in ("tokens_per_s", "ttft_s")]


def searched() -> pregate.Optimum:
    """Machines by price and speed."""
    return pregate.optimize(
        "switch-base-8", trace=pregate.TraceRecipe(input_tokens=16, output_tokens=6),
        policies=["gpu_only", "on_demand", "pregate"],
        axes={"hardware": ["rtx-3060-12gb", "rtx-4090", "a100-sxm4-80gb"], "batch": [1, 3]},
        objectives=["price_usd:min", "tpot_s:min"], constraints=["tokens_per_s>=40"],
    )  # fmt: skip


def explained() -> pregate.Explanation:
    """What pre-gating waits for."""
    model = pregate.load_model("switch-base-8")
    return pregate.explain(model, pregate.load_hardware("a100-sxm4-80gb"), pregate.synthesize(model, 8, 6), "pregate")


def costed() -> pregate.CostReport:
    """Three designs that serve."""
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    return pregate.costs(model, hw, ["on_demand", "pregate", "gpu_only"], output_tokens=32, batches=(1, 4))


def published() -> pregate.Reproduction:
    """The committed reproduction's rows, predicted for the smallest of its models."""
    found = pregate.reproduce("isca24")
    few = tuple(one for one in found.predictions if one.row.model == "switch-base-8")
    return pregate.Reproduction(few, found.activation, found.calibration)


def along_the_link() -> xr.Dataset:
    """One line of `swept`."""
    return swept().sel(batch=1).isel(hbm_bytes=4)


DRAWN: dict[str, Callable[[], Figure | None]] = {
    "bars": lambda: draw.bars(compared()),
    "gantt": lambda: draw.gantt(compared()),
    "gantt-placed": lambda: draw.gantt(placed()),
    "tornado": lambda: draw.tornado(explained()),
    "winners": lambda: draw.winners(*crossing()),
    "sweep-map": lambda: draw.sweep_map(swept(), "tpot_s"),
    "sweep-map-one": lambda: draw.sweep_map(swept().sel(batch=1)),
    "sweep-best": lambda: _best_map(swept().sel(batch=1), "link.h2d_bytes_per_s", "hbm_bytes", "tokens_per_s"),
    "sweep-tokens": lambda: _value_map(swept().sel(batch=1), "link.h2d_bytes_per_s", "hbm_bytes", "tokens_per_s"),
    "sweep-lines": lambda: draw.sweep_lines(along_the_link(), "tpot_s"),
    "front": lambda: draw.draw_front(searched()),
    "expert-heat": lambda: draw.expert_heat(traced()),
    "locality": lambda: draw.locality(pregate.trace_statistics(traced())),
    "residency": lambda: draw.residency_curves(
        pregate.residency(traced(), ["lru", "lfu", "layer", "belady"], [50, 100, 400], expert_bytes=1 << 24)
    ),
    "cost": lambda: draw.cost_ranges(costed()),
    "fit": lambda: draw.fit_against_data(small_fits.measurements(), fit()),
    "published": lambda: draw.published_against_predicted(published()),
    "validated": lambda: draw.predicted_against_measured(validated()),
    "op-errors": lambda: draw.op_errors(validated()),
    "naive": lambda: draw.naive_bars(summarise_validation(validated())),
    "predicted-above-measured": lambda: draw.predicted_above_measured(
        outcome("pregate", 1.0, (1.0,), timelines=(timeline_of("pregate"), timeline_of("on_demand")))
    ),
}
"""Every picture, by name."""


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
    for stale in set(PICTURES.glob("*.png")) - {PICTURES / f"{name}.png" for name in DRAWN}:
        stale.unlink()
    for name in DRAWN:
        (PICTURES / f"{name}.png").write_bytes(picture_bytes(drawn(name)))


if __name__ == "__main__":
    main()
