"""The reference jobs that speed is measured on: two models, 256 generated tokens, five designs."""

from __future__ import annotations

from functools import cache

import numpy as np

import pregate
from hwmodels.cost import Costs, price_figures
from hwmodels.figures import figures_of
from pregate.ask.capturing.capture import Captured, capture

HARDWARE = {"switch-base-128": "a100-sxm4-80gb", "mixtral-8x7b": "h200-sxm"}
"""By model, an accelerator that holds all of its experts, so that `gpu_only` is a job too."""

POLICIES = ("gpu_only", "on_demand", "prefetch_all", "pregate", "lru")
JOBS = [(model, policy) for model in HARDWARE for policy in POLICIES]


@cache
def captured(model: str, policy: str) -> Captured:
    """The schedule of a job: one sequence, one prompt token, so that it is the decoder that is measured."""
    architecture, hw = pregate.load_model(model), pregate.load_hardware(HARDWARE[model])
    return capture(architecture, hw, pregate.synthesize(architecture, 1, 256), policy)


def machines(model: str, policy: str, n: int) -> Costs:
    """Costs on `n` machines that differ in their link, (n_works, n)."""
    figures = figures_of(pregate.load_hardware(HARDWARE[model]))
    swept = figures.with_values({"link.h2d_bytes_per_s": np.geomspace(4e9, 256e9, n)})
    return price_figures(captured(model, policy).decoded.schedule.works, swept, n)


def one_machine(model: str, policy: str) -> Costs:
    """Costs on the middle one."""
    costs = machines(model, policy, 3)
    return Costs(*(np.ascontiguousarray(getattr(costs, name)[:, 1]) for name in costs.__slots__))
