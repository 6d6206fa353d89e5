"""What would change the verdict: the nearest value of one number of the machine from which another design wins.

Schedules do not depend on speeds, so that each is timed on many machines in one walk; a size of memory is solved for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import Figures, figures_of
from hwmodels.quantity import ReadOnly
from offload.policies import policy_named
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.answer_cache import Answer
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.capturing.request import request
from pregate.ask.timing.intervals import measured, prepared
from pregate.card.choice import Ranking, times_worse, weakest
from pregate.card.design_schedules import DesignSchedules
from pregate.card.designs import EngineDesign, Planned, n_together, offered, plan_design
from pregate.card.job import Workpiece
from pregate.card.judged_design import Judged, judge, objective_of
from pregate.card.speed_limit import roomy_memory
from pregate.draw.render import si
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

AXES: Mapping[str, str] = ReadOnly(
    {
        "link.h2d_bytes_per_s": "link",
        "host.dram_bytes_per_s": "DRAM bandwidth",
        "accelerator.hbm_bytes_per_s": "HBM bandwidth",
    }
)
"""Speeds that are varied, and what they are called."""

_ONE_MEMORY = "accelerator.hbm_bytes_per_s"
"""The axis that moves all of them where host and accelerator share one memory, as "memory bandwidth"."""

REACH = 8.0
"""How many times slower and faster a machine is looked at."""

_FACTORS = np.geomspace(1 / REACH, REACH, 49)
_MOST = 5
"""Designs that are looked at, the best."""

_AT_MOST = 4.0
"""Times that a design may be worse than the best and still be looked at."""


@dataclass(frozen=True, slots=True)
class TurningPoint:
    """From `value` of `axis`, in SI, on, in the direction away from `now`, the design `winner` is the best; `rests_on`:
    the weaker tag of the two designs.
    """

    axis: str
    name: str
    value: float
    now: float
    winner: str
    rests_on: str

    def __str__(self) -> str:
        unit = "B" if self.axis.endswith("_bytes") else "B/s"
        value, today = (si(number, "B") + unit.removeprefix("B") for number in (self.value, self.now))
        way = "from" if self.value > self.now else "up to"
        return f"{self.winner} wins {way} {value} of {self.name} (now {today})"

    @property
    def distance(self) -> float:
        """How many times more or less than now it is."""
        return max(self.value / self.now, self.now / self.value)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__} | {"told": str(self)}


def turning_points(model: ModelArchitecture, work: Workpiece, choice: Ranking) -> list[TurningPoint]:
    """The nearest one of each axis, the nearest first; none where the best stays it within a factor of `REACH`.

    Designs beside the verdict can win too, unless they are predicted to be better already.
    """
    near = [choice.best, *_behind(choice)][:_MOST]
    times = np.stack([_along_axes(one, choice.objective) for one in near])  # [D, axes, F]
    found = []
    for i, axis in enumerate(AXES):
        change = _nearest_change(times[:, i])
        if change is not None:
            i_winner, factor = change
            hw = near[0].planned.hw
            now, name = figures_of(hw)[axis], "memory bandwidth" if hw.machine.has_one_memory else AXES[axis]
            other = near[i_winner]
            rests = weakest(*(one.estimate(choice.objective).tag for one in (choice.best, other)))
            point = TurningPoint(axis, name, float(now * factor), float(now), str(other.design), rests)
            found.append(point)
    if (larger := _resident(model, work, choice)) is not None:
        found.append(larger)
    return sorted(found, key=lambda point: point.distance)


def _behind(choice: Ranking) -> list[Judged]:
    """The designs that are up to `_AT_MOST` times as bad as the best, the nearest first."""
    floor = choice.best.cost(choice.objective)
    others = [one for one in (*choice.ranked[1:], *choice.beside) if one.cost(choice.objective) >= floor]
    found = [one for one in others if times_worse(one.cost(choice.objective), floor) <= _AT_MOST]
    return sorted(found, key=lambda one: one.cost(choice.objective))


def _along_axes(one: Judged, objective: str) -> NDArray[np.float64]:
    """Seconds of the objective at every factor of every axis, [axes, F]."""
    found = one.schedules.found("times along axes", lambda: _times_along_axes(one.schedules))
    ttft_s, tpot_s = np.array(found["ttft_s"]), one.schedules.token_pace() * np.array(found["tpot_s"])
    timed = "request" if objective == "throughput" else objective  # the more tokens a second, the shorter a request
    seconds: NDArray[np.float64] = objective_of(ttft_s, tpot_s, one.job, timed)
    return seconds.reshape(len(AXES), len(_FACTORS))


def _times_along_axes(schedules: DesignSchedules) -> Answer:
    """Seconds to the first token and a token, (axes x F,): all machines in one walk of each schedule."""
    figures: Figures = figures_of(schedules.planned.hw)
    n = len(_FACTORS)
    n_machines = n * len(AXES)
    moved = {}
    for i, axis in enumerate(AXES):
        factors = np.ones(n_machines)
        factors[i * n : (i + 1) * n] = _FACTORS
        moved[axis] = figures[axis] * factors
    if schedules.planned.hw.machine.has_one_memory:
        together = moved[_ONE_MEMORY] / figures[_ONE_MEMORY]
        of_memory = [key for key in figures.values if key in AXES or re.fullmatch(r"link\..*bytes_per_s", key)]
        moved = {key: figures[key] * together for key in of_memory}
    machines, (prompt, tokens) = figures.with_values(moved), (schedules.prompt, schedules.tokens)
    first = measured(prepared(prompt, n_machines), prompt, machines, n_machines)
    rest = first if tokens is prompt else measured(prepared(tokens, n_machines), tokens, machines, n_machines)
    times = {"ttft_s": first["ttft_s"], "tpot_s": rest["tpot_s"]}
    return {name: np.broadcast_to(values, (n_machines,)).tolist() for name, values in times.items()}


def _nearest_change(seconds: NDArray[np.float64]) -> tuple[int, float] | None:
    """The next winner and the factor from which it wins, of `seconds` [D, F]; None where the winner stays.

    Between two points times are taken for powers of the factor, which parts of them are.
    """
    winners = np.argmin(seconds, axis=0)
    here = len(_FACTORS) // 2
    best = int(winners[here])
    changes = np.flatnonzero(winners != best)
    if not len(changes):
        return None
    beyond = int(min(changes, key=lambda i: abs(i - here)))
    before = beyond + (1 if beyond < here else -1)
    winner = int(winners[beyond])
    lead, behind = (float(np.log(seconds[winner, i] / seconds[best, i])) for i in (before, beyond))
    share = lead / (lead - behind) if lead > behind else 1.0
    return winner, float(_FACTORS[before] * (_FACTORS[beyond] / _FACTORS[before]) ** share)


def _resident(model: ModelArchitecture, work: Workpiece, choice: Ranking) -> TurningPoint | None:
    """The HBM from which everything stays there, where that is then the best: of each card, where they share layers.

    It is the size of the boards: what an engine leaves of that, or whole layers on several cards, is counted.
    """
    best = choice.best
    if best.design.policy == "gpu_only":
        return None
    engines = [one.planned.hw for one in choice.ranked if "gpu_only" in offered(one.design.stack)]
    hw = next(iter(engines), best.planned.hw)
    try:
        plan_design(model, hw, work, "gpu_only")
        return None
    except InvalidInput:  # cards that cannot share each expert: whole ones are the best
        return None
    except CapacityExceeded as error:
        short = error
    memory = roomy_memory(hw, n_together(hw))
    prompt, tokens = (
        request(model, memory, trace, policy_named("gpu_only"), workload=work.workload)
        for trace in (work.prompt, work.tokens)
    )
    design = EngineDesign("gpu_only", hw.stack.name)
    there = judge(Planned(design, hw, prompt, prompt if work.is_recorded else tokens), work.job, best.schedules.kept)
    if there.cost(choice.objective) >= best.cost(choice.objective):
        return None
    now = hw.machine.n_cards // n_together(hw) * hw.machine.accelerator.hbm_bytes
    needed = float(short.needed_bytes)
    if short.there_bytes:
        have = memory_of(hw).hbm_bytes
        needed = now * (have + needed - short.there_bytes) / have
    rests = weakest(*(one.estimate(choice.objective).tag for one in (best, there)))
    return TurningPoint("accelerator.hbm_bytes", "HBM", needed, float(now), str(design), rests)
