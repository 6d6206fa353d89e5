"""Numbers of a fitted machine that somebody set: what a stack reaches of the new one was measured on no machine.

`--set link.h2d_bytes_per_s=64e9` keeps the share of its rate that the measured link reached. How far such shares
scatter from machine to machine is known (`hwmodels.specs.spread`), and is in the interval beside what the fit is
unsure of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import Figures
from hwmodels.fits.fit import Fit
from hwmodels.platform import measured_machine
from hwmodels.quantity import ReadOnly
from hwmodels.specs.spread import HALF_95, shipped_spread
from hwmodels.stacks.stack import CONSTANTS
from offload.metrics.metric_probes import find_probes
from pregate.ask.capturing.capture import Captured
from simulator.explain.critical_path import ExplainedRun
from simulator.explain.sensitivity import elasticities_of

_NORMAL_95 = 1.96
"""Half a 95 % interval of a normal law, in its scales."""

_REACHED: Mapping[str, tuple[str, str]] = ReadOnly(
    {
        r"link\.h2d_bytes_per_s": ("link.h2d_efficiency", r"stack\.link_efficiency|link\.h2d_efficiency"),
        r"accelerator\.hbm_bytes_per_s": ("stack.hbm_efficiency", r"stack\.hbm_efficiency|kernel\.\w+\.traffic"),
        r"accelerator\.(?:peak_flop_per_s\.\w+|n_sm)": (
            "stack.gemm_efficiency",
            r"stack\.gemm_efficiency|kernel\.\w+\.(?:gemm|arithmetic)",
        ),
        r"host\.dram_bytes_per_s": ("stack.cpu_efficiency", r"stack\.cpu_efficiency"),
        r"host\.peak_flop_per_s": ("stack.cpu_gemm_efficiency", r"stack\.cpu_gemm_efficiency"),
        r"storage\.read_bytes_per_s": ("stack.storage_efficiency", r"stack\.storage_efficiency"),
    }
)
"""By figures of a machine: the number whose scatter says what is reached of it, and the figures that say it here."""


def moved_numbers(fit: Fit, figures: Figures, exact: Collection[str]) -> dict[str, list[str]]:
    """The figures that say what is reached of numbers which the fit's machine has otherwise, by the number whose
    scatter they have; but for those that are `exact`.
    """
    measured = {key: one.value for key, one in measured_machine(fit).quantities().items()}
    moved = [key for key, value in measured.items() if key in figures.values and figures[key] != value]
    found: dict[str, list[str]] = {}
    for of_machine, (scatters, reached) in _REACHED.items():
        if any(re.fullmatch(of_machine, key) for key in moved):
            found[scatters] = [key for key in figures.values if re.fullmatch(reached, key) and key not in exact]
    return found


def drawn_moves(
    moved: Mapping[str, list[str]], figures: Figures, rng: np.random.Generator, n_draws: int
) -> dict[str, NDArray[np.float64]]:
    """`n_draws` of the figures of `moved_numbers`, each (n_draws,): those of one number are off alike, no efficiency is
    above 1.

    As wide at 95 % as a claimed machine's, whose t law has tails that no mean survives.
    """
    spread, drawn = shipped_spread(), {}
    for scatters, keys in moved.items():
        factor = np.exp(HALF_95 / _NORMAL_95 * spread.constants[scatters] * rng.standard_normal(n_draws))
        for key in keys:
            drawn[key] = np.minimum(figures[key] * factor, 1.0 if _is_ratio(key) else math.inf)
    return drawn


def moved_depends(
    captured: Captured, moved: Mapping[str, list[str]], figures: Figures, metrics: Sequence[str], run: ExplainedRun
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Of each of `metrics` d ln(metric) / d ln(number) by the numbers of `moved`, and how far ln of one may rise."""
    schedule = captured.decoded.schedule
    figures, probes = figures.for_works(schedule.works), find_probes(schedule, captured.trace)
    keys = {key for reached in moved.values() for key in reached}
    every = elasticities_of(run, probes, figures, metrics, keys)
    depends = {}
    for name in metrics:
        by_number = {scatters: sum(every[name][key] for key in reached) for scatters, reached in moved.items()}
        depends[name] = {scatters: slope for scatters, slope in by_number.items() if slope}
    room = {
        scatters: min([-math.log(figures[key]) for key in reached if _is_ratio(key)], default=math.inf)
        for scatters, reached in moved.items()
    }
    return depends, room


def _is_ratio(key: str) -> bool:
    return CONSTANTS.get(key.removeprefix("stack.")) == "ratio" or key.startswith("link.")
