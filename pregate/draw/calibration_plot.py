"""A fit against the data it was made on: every kind of op, and copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hwmodels.calibrate.calibration import counts
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.cost import parts_of
from hwmodels.figures import figures_of
from hwmodels.fits.fit import Fit
from hwmodels.platform import platform_of
from offload.ops import KERNEL_KINDS, OpKind, Work
from pregate.draw.palette import PALETTE
from pregate.draw.style import log_axis, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_PHASES = {"decode": ("o", PALETTE[0]), "prefill": ("s", PALETTE[3])}
_BAND = 0.1

_ROOM = 1.3
"""Between the outermost points and the frame."""


@picture
def fit_against_data(measured: Measurements, fit: Fit) -> Figure:
    """A panel a kind of op, fitted against measured time of an op, and one of copies by size; a band of 10 %."""
    from matplotlib.figure import Figure

    hw = platform_of(fit)
    figures = figures_of(hw)

    def fitted_s(work: Work) -> float:
        return float(parts_of(work, figures).total_s)

    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(3, 3).ravel()
    for axis, kind in zip(axes, KERNEL_KINDS, strict=False):
        samples = [sample for sample in measured.of("op", kind=kind.name.lower()) if counts(sample)]
        _ops(axis, kind, samples, fitted_s, fit)
    copies = list(measured.of("h2d", beside="nothing", memory="pinned"))
    _copies(axes[len(KERNEL_KINDS)], copies, fitted_s)
    for axis in axes[len(KERNEL_KINDS) + 1 :]:
        axis.set_visible(False)
    figure.suptitle(f"{fit.hardware}, {fit.stack}: fitted against measured")
    return figure


def _ops(axis: Any, kind: OpKind, samples: list[Sample], fitted_s: Callable[[Work], float], fit: Fit) -> None:
    name = kind.name.lower()
    axis.set_title(name.replace("_", " "), fontsize=10)
    if not samples:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        return
    times: list[float] = []
    for phase, (marker, colour) in _PHASES.items():
        mine = [sample for sample in samples if sample.parameters["phase"] == phase]
        x, y = [sample.mean_s * 1e3 for sample in mine], [fitted_s(sample.work) * 1e3 for sample in mine]
        if mine:
            axis.plot(x, y, marker, color=colour, markersize=4, alpha=0.8, label=phase)
        times += [*x, *y]
    _identity(axis, times)
    left_out = fit.left_out[name]
    error = f"left out: {left_out.median:.1%}" if left_out.n else "too few to leave one out"
    axis.set_xlabel("measured, ms")
    axis.set_ylabel(f"fitted, ms ({error})")
    axis.legend(fontsize=7, loc="upper left")


def _copies(axis: Any, samples: list[Sample], fitted_s: Callable[[Work], float]) -> None:
    axis.set_title("copies to the device", fontsize=10)
    works = [Work(OpKind.FETCH, copy_bytes=int(sample.parameters["n_bytes"])) for sample in samples]
    x, y = [sample.mean_s * 1e3 for sample in samples], [fitted_s(work) * 1e3 for work in works]
    axis.plot(x, y, "o", color=PALETTE[0], markersize=4, alpha=0.8)
    _identity(axis, [*x, *y])
    axis.set_xlabel("measured, ms")
    axis.set_ylabel("fitted, ms")


def _identity(axis: Any, times: list[float]) -> None:
    """The line on which fit and data agree, its band, and limits just around `times`, the same on both axes."""
    low, high = min(times) / _ROOM, max(times) * _ROOM
    axis.set_xscale("log")
    axis.set_yscale("log")
    for side in (axis.xaxis, axis.yaxis):
        log_axis(side, low, high)
    axis.plot([low, high], [low, high], color="#888888", linewidth=0.8)
    axis.fill_between(
        [low, high], [low * (1 - _BAND), high * (1 - _BAND)], [low * (1 + _BAND), high * (1 + _BAND)],
        color="#888888", alpha=0.15, linewidth=0,
    )  # fmt: skip
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
