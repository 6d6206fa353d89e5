"""Which schedule each point runs: the memory of every structural choice is planned, and equal plans share a schedule.

No schedule is written here, so planning is cheap: what has to be written, and priced for which rows, goes to tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import MEMORY_FIGURES, figure_keys
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from hwmodels.specs.overrides import with_overrides
from offload.placing.workload import Workload, measure_workload
from offload.policy import Cache, Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.request import Request, check_trace, request
from pregate.ask.capturing.tier_names import check_resizable, resized
from pregate.ask.largest_batch import fewest_sequences, largest_batch
from pregate.named import load_model
from pregate.sweeps.axes import MACHINE, MODEL, POLICY, TIER_SIZE, WORKLOAD, Axis
from pregate.sweeps.designs import Design, read_designs
from pregate.sweeps.machines import MachineRecipe, platform_at
from pregate.sweeps.points import Points
from pregate.sweeps.workloads import (
    TraceRecipe,
    as_source,
    check_workload_axes,
    fills_memory,
    model_at,
    trace_at,
)
from traces.errors import InvalidInput, UnknownName
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

_HBM = "accelerator.hbm_bytes"
_FIGURES = frozenset(figure_keys())

Part = tuple[tuple[str, Any], ...]
"""Some of a point's choices, hashable."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a sweep is about, before any axis moves it.

    `fills_memory`: each point runs the largest batch that it has memory for.
    """

    model: ModelArchitecture
    hw: Platform | MachineRecipe | str
    trace: RoutingTrace | TraceRecipe
    designs: tuple[Design, ...]
    expert_tier: str
    fills_memory: bool = False

    @property
    def asks_machine(self) -> bool:
        """Whether a policy decides by numbers of the machine: then every point of one is a choice of its own."""
        return any(design.policy.asks_machine for design in self.designs)


@dataclass(frozen=True, slots=True, eq=False)
class PlanGroup:
    """Points of one policy that run the same schedule on the same machine, but for its prices."""

    request: Request
    hw: Platform


@dataclass(frozen=True, slots=True)
class Hole:
    """Why a point has no figures: `needed_bytes` of a `memory` ("HBM", "DRAM") it has less of, or else the `reason`."""

    reason: str
    needed_bytes: int = 0
    memory: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SweepPlan:
    """`i_group`: (n_policies, n_choices) int64, a row of `groups`, or -1 - a row of `holes`."""

    groups: tuple[PlanGroup, ...]
    holes: tuple[Hole, ...]
    i_group: NDArray[np.int64]


def read_subject(
    model: ModelArchitecture | str | Path,
    hw: Platform | MachineRecipe | str | Path | None,
    trace: RoutingTrace | TraceRecipe | str | Path | None,
    policies: Sequence[str | Policy],
    axes: Mapping[str, Axis],
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
) -> Subject:
    """The subject of the arguments of `pregate.sweep`; `axes` by key. Raises `UnknownName`, `InvalidFile`, or
    `InvalidInput` for policies that are none or an axis that moves nothing, or that a recording cannot follow.
    """
    architecture = model if isinstance(model, ModelArchitecture) else load_model(model)
    designs, source = read_designs(policies, cache, axes), as_source(trace, architecture)
    check_workload_axes(source, axes)
    check_tier_axis(axes, expert_tier)
    most = max(axes["top_k"].values.tolist(), default=0) if "top_k" in axes else 0
    if most > architecture.n_experts:
        raise InvalidInput(
            f"axis top_k = {most:g}: {architecture.name} has {architecture.n_experts} experts a layer, "
            f"a token chooses at most that many"
        )
    return Subject(
        architecture,
        hw if isinstance(hw, Platform | MachineRecipe) else MachineRecipe("" if hw is None else str(hw)),
        source, designs, expert_tier, fills_memory(trace, axes),
    )  # fmt: skip


def check_tier_axis(axes: Mapping[str, Axis], expert_tier: str) -> None:
    """Raise `InvalidInput` where `axes`, by key, size a cache of host memory that a tier has not, or sizes itself."""
    if TIER_SIZE in axes:
        for text in axes["expert_tier"].values.tolist() if "expert_tier" in axes else [expert_tier]:
            check_resizable(text)


def plan_points(points: Points, subject: Subject) -> SweepPlan:
    """Plan every structural choice of every policy. Raises `UnknownName` for a name that is none.

    Choices that cannot be (a model that does not fit, more forced experts than a batch chooses) become holes.
    """
    return Planner(subject).plan(points)


def _cells(points: Points) -> list[tuple[NDArray[np.int64], dict[str, Any], list[int | None]]]:
    """Structural rows that differ in HBM only: which, what they have in common, and the HBM of each, ascending."""
    size = next((axis for axis in points.structural if axis.key == _HBM), None)
    if size is None:
        return [(np.array([row]), points.choice(row), [None]) for row in range(len(points.choices))]
    column = points.structural.index(size)
    hbm_bytes = size.values[points.choices[:, column]]
    common = np.delete(points.choices, column, axis=1)
    cell = np.unique(common, axis=0, return_inverse=True)[1].reshape(-1) if common.size else np.zeros(len(common))
    order = np.lexsort((hbm_bytes, cell))
    cells: list[tuple[NDArray[np.int64], dict[str, Any], list[int | None]]] = []
    for rows in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        choice = points.choice(int(rows[0]))
        del choice[_HBM]
        cells.append((rows, choice, [int(value) for value in hbm_bytes[rows].tolist()]))
    return cells


class Planner:
    """Makes models, traces, platforms and plans once each, and numbers the distinct ones, however often it plans."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.groups: list[PlanGroup] = []
        self.holes: list[Hole] = []
        self._made: dict[tuple[Any, ...], Any] = {}
        self._numbers: dict[tuple[Any, ...], int] = {}

    def plan(self, points: Points) -> SweepPlan:
        """As `plan_points`; a group or hole that an earlier plan has too keeps its number."""
        i_group = np.zeros((len(self.subject.designs), len(points.choices)), dtype=np.int64)
        for rows, choice, sizes in _cells(points):
            for i_design, design in enumerate(self.subject.designs):
                i_group[i_design, rows] = self._cell(design, choice, sizes)
        return SweepPlan(tuple(self.groups), tuple(self.holes), i_group)

    def _cell(self, design: Design, choice: Mapping[str, Any], sizes: Sequence[int | None]) -> list[int]:
        """The group, or hole, of a policy at each of ascending HBM sizes (None: the machine's own)."""

        def ask(i: int) -> int:
            size = sizes[i]
            try:
                return self._group(design, choice if size is None else {**choice, _HBM: size})
            except UnknownName:
                raise
            except CapacityExceeded as error:
                return self._hole(Hole(str(error), error.needed_bytes, error.memory))
            except InvalidInput as error:
                return self._hole(Hole(str(error)))

        return _monotone(len(sizes), ask)

    def _group(self, design: Design, choice: Mapping[str, Any]) -> int:
        subject = self.subject
        swaps, precision = _part(choice, MACHINE), _part(choice, MODEL)
        policy = self._once(("policy", design.policy.name, _part(choice, POLICY)), lambda: design.at(choice))
        model = self._once(("model", precision), lambda: model_at(subject.model, choice))
        machine = self._once(("hw", swaps), lambda: platform_at(subject.hw, choice))
        figures = {key: choice[key] for key in choice if key in _FIGURES}
        hw = with_figures(machine, figures)
        prices = tuple((key, value) for key, value in figures.items() if key not in MEMORY_FIGURES)
        tier = choice.get("expert_tier", subject.expert_tier)
        if TIER_SIZE in choice:
            tier = resized(tier, choice[TIER_SIZE], model)
        if subject.fills_memory:
            choice = {**choice, "batch": self._largest(model, hw, policy, tier, choice)}
        load = _part(choice, (*WORKLOAD, "top_k"))
        trace = self._once(("trace", load), lambda: trace_at(subject.trace, model, choice))
        drafts, workload = policy.speculation, None
        if drafts is not None and policy.skipping is None:
            plain = trace
            trace = self._once(("drafted", load, repr(drafts)), lambda: drafts.of(plain))
        if policy.skipping is None:  # else the trace that runs is another one
            workload = self._once(("workload", precision, load, repr(drafts)), lambda: _measured(model, trace))
        asked = request(model, hw, trace, policy, expert_tier=tier, workload=workload)
        identity = (swaps, precision, load, repr(_without_size(policy)), tier, asked.plan, prices)
        if identity not in self._numbers:
            self._numbers[identity] = len(self.groups)
            self.groups.append(PlanGroup(asked, hw))
        return self._numbers[identity]

    def _largest(
        self, model: ModelArchitecture, hw: Platform, policy: Policy, tier: str, choice: Mapping[str, Any]
    ) -> int:
        """The batch that fills the memory of a point. Raises `CapacityExceeded` where not even one sequence fits."""
        source = self.subject.trace
        if isinstance(source, RoutingTrace):
            return largest_batch(model, hw, policy, source, expert_tier=tier)
        return largest_batch(
            model, hw, policy, lambda n: trace_at(source, model, {**choice, "batch": n}),
            expert_tier=tier, least=fewest_sequences(model, choice.get("n_active", source.n_active)),
        )  # fmt: skip

    def _hole(self, hole: Hole) -> int:
        identity = ("hole", hole.needed_bytes, hole.memory, hole.reason if not hole.needed_bytes else "")
        if identity not in self._numbers:
            self._numbers[identity] = -1 - len(self.holes)
            self.holes.append(hole)
        return self._numbers[identity]

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _part(choice: Mapping[str, Any], names: Sequence[str]) -> Part:
    return tuple((name, choice[name]) for name in names if name in choice)


def _measured(model: ModelArchitecture, trace: RoutingTrace) -> Workload:
    check_trace(model, trace)
    return measure_workload(model, trace.steps())


def _without_size(policy: Policy) -> Policy:
    """What of a policy the plan of its memory does not say: ratios that grant as many slots have one schedule."""
    if policy.cache is None:
        return policy
    return dataclasses.replace(policy, cache=dataclasses.replace(policy.cache, ratio=None, n_slots=None))


def with_figures(hw: Platform, figures: Mapping[str, float]) -> Platform:
    """The platform with other numbers, by figure key in SI. Raises `InvalidInput` for what they cannot be."""
    if not figures:
        return hw
    ours = {key.removeprefix("stack."): float(value) for key, value in figures.items() if key.startswith("stack.")}
    theirs = {key: value for key, value in figures.items() if not key.startswith("stack.")}
    overridden = ReadOnly({**hw.overridden, **ours})
    return dataclasses.replace(hw, machine=with_overrides(hw.machine, theirs), overridden=overridden)


def _monotone(n: int, ask: Callable[[int], int]) -> list[int]:
    """`ask` of 0..n-1, asked only where its answers change: more HBM never makes a plan smaller (`plan_memory`), so
    that equal plans at two sizes are the plan of every size between.
    """
    found = [ask(0)] * n
    found[-1] = ask(n - 1) if n > 1 else found[0]

    def fill(low: int, high: int) -> None:
        if found[low] == found[high]:
            found[low:high] = [found[low]] * (high - low)
        elif high - low > 1:
            middle = (low + high) // 2
            found[middle] = ask(middle)
            fill(low, middle)
            fill(middle, high)

    fill(0, n - 1)
    return found
