"""The one measurement that would narrow a prediction most: what its number depends on, times how unsure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from hwmodels.cost import price_figures
from hwmodels.figures import MEMORY_FIGURES, figures_of
from hwmodels.platform import Platform
from offload.metrics.metric_probes import find_probes
from pregate.ask.capturing.answer_cache import Answer
from pregate.ask.capturing.capture import Captured
from pregate.card.judged_design import Judged
from pregate.engines.writing import benchmark_of
from simulator.explain.critical_path import walk
from simulator.explain.sensitivity import elasticities
from traces.foundation.documents import read_yaml

DOUBTS = Path(__file__).parent / "doubts.yaml"

_MEASURED_BY = {
    "cpu": "how fast this host computes experts",
    "handover": "what a hand-over between device and host costs",
    "link": "copies over this link",
    "copy": "copies over this link",
    "h2d": "copies over this link",
    "d2h": "copies over this link",
    "dram": "the DRAM bandwidth of this host",
    "hbm": "kernels of this accelerator",
    "gemm": "kernels of this accelerator",
    "peak": "kernels of this accelerator",
    "dequant": "kernels of this accelerator",
    "kernel_clock": "kernels of this accelerator",
    "tile": "kernels of this accelerator",
    "attention": "kernels of this accelerator",
    "storage": "reads of this drive",
    "read": "reads of this drive",
}
"""What is measured, by how the name of a number begins behind its dot; all else is of launches and waits."""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """`number`: the one that matters most; `share`: its part of the variance; `what` to measure, by which `command`."""

    number: str
    share: float
    what: str
    command: str

    def __str__(self) -> str:
        return f"{self.what} ({self.number}, {self.share:.0%} of the doubt): {self.command}"


def narrowing(judged: Judged, *, is_recorded: bool, metric_share: float) -> Narrowing:
    """What to measure next. `metric_share`: of the prompt in the objective, the rest is of tokens.

    A made-up trace assumes hits: where those decide, a trace of one's own prompts comes first. What is a number of an
    engine is timed by the engine's own benchmark.
    """
    hw = judged.planned.hw
    known = _doubts()
    pulls: dict[str, float] = {}
    schedules = judged.schedules
    phases = (
        ("ttft_s", lambda: schedules.prompt, metric_share),
        ("tpot_s", lambda: schedules.tokens, 1 - metric_share),
    )
    for metric, captured, share in phases:
        if share <= 0:
            continue
        found = schedules.found(f"elasticities of {metric}", partial(_pulls, captured, hw, metric))
        for key, pull in found.items():
            pulls[key] = pulls.get(key, 0.0) + share * pull
    parts = {key: (pull * _doubt(key, hw, known)) ** 2 for key, pull in pulls.items()}
    if not is_recorded and judged.planned.tokens.policy.cache is not None and judged.hit_rate < 1:
        parts["hits of the cache"] = ((1 - metric_share) * known["synthetic_hits"]) ** 2
    total = sum(parts.values())
    if not total:
        return Narrowing("nothing", 0.0, "nothing is in doubt", "pregate measure -o measurements.json")
    key = max(parts, key=lambda name: parts[name])
    share = parts[key] / total
    if key == "hits of the cache":
        return Narrowing(key, share, "the routing of your own prompts", "pregate trace import RECORDING")
    kind, _, name = key.partition(".")
    timed = benchmark_of(judged.design.stack, judged.job)
    if kind in ("stack", "kernel") and timed:  # `measure` times this project's runtime, not an engine
        return Narrowing(key, share, f"{judged.design.stack} itself", timed)
    what = next((what for start, what in _MEASURED_BY.items() if name.startswith(start)), "launches and waits")
    return Narrowing(key, share, what, "pregate measure -o measurements.json")


def _pulls(written: Callable[[], Captured], hw: Platform, metric: str) -> Answer:
    """Per cent of the metric for one of each number, but for sizes of memory."""
    captured = written()
    schedule, figures = captured.decoded.schedule, figures_of(hw)
    explained = walk(schedule, price_figures(schedule.works, figures))
    found = elasticities(explained, find_probes(schedule, captured.trace), figures, metric)
    return {key: value for key, value in found.items() if key not in MEMORY_FIGURES}


def _doubt(key: str, hw: Platform, known: dict[str, float]) -> float:
    """How unsure a number is, as the standard deviation of its logarithm."""
    kind, _, name = key.partition(".")
    if kind == "kernel" or (hw.fit is not None and name in hw.fit.constants):
        return known["fitted"]
    if kind != "stack":
        return known["claimed"]
    if name in hw.overridden:
        return known["stated"]
    return known["assumed" if hw.stack.constants[name].source.startswith("assumed") else "published"]


@cache
def _doubts() -> dict[str, float]:
    section = read_yaml(DOUBTS)
    section.text("source")
    found = {key: section.number(key, minimum=0) for key in section.remaining()}
    section.done()
    return found
