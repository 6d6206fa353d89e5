"""What a page knows: every schedule once, its prices on each machine at each stop of the link, and all answers.

The prices are those of the cost model and the answers those of the engine for many machines, so the page computes no
cost of its own: it runs the recurrence on prices that it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import loaded
from hwmodels.cost import Costs, Parts
from hwmodels.figures import figures_of
from hwmodels.platform import Platform
from offload.decode import is_large
from offload.ops import KINDS, Lane, OpKind
from offload.placing.workload import Workload, measure_workload
from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate import __version__
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.machine_memory import MachineMemory, memory_of
from pregate.ask.capturing.request import Request, request
from pregate.ask.ranked_designs import are_ranked, standing_of, told_apart
from pregate.ask.timing.intervals import compiled, measured_at
from pregate.ask.timing.time_errors import TimeError, run_doubts
from pregate.draw.palette import colours_of, hatch_number
from pregate.draw.timelines import LANE_NAMES
from pregate.page.page_arrays import ArrayBlock
from pregate.page.priced_works import PricedWorks
from pregate.page.rivals import rivals
from pregate.page.subject import AS_ROUTED, PageSubject, Stop, active_experts, hbm_of, link_stops, with_hbm
from pregate.routing_traces import synthesize
from simulator.batched.batch import Compiled
from simulator.explain.critical_path import REVERSE
from simulator.recurrence import WALK
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

METRICS = ("tpot_s", "ttft_s", "moe_layer_latency_s", "tokens_per_s")
"""What a page answers, in the order of its cube."""

FORMAT, VERSION = "pregate.page", 2


class _Answers(NamedTuple):
    """Of a schedule on a machine: its metrics, (n_metrics, n_links), and on the link that the machine has the ends of
    95 % intervals, (n_metrics, 2), and what each metric is off by.
    """

    cube: NDArray[np.float32]
    ends: NDArray[np.float32]
    errors: tuple[TimeError | None, ...]


@dataclass(slots=True)
class _Page:
    """A page in the making: its block of arrays, and what is known of schedules so far."""

    subject: PageSubject
    block: ArrayBlock = field(default_factory=ArrayBlock)
    schedules: list[dict[str, Any]] = field(default_factory=list)
    of_digest: dict[str, int] = field(default_factory=dict)
    answered: dict[tuple[int, int], _Answers] = field(default_factory=dict)
    """By schedule and machine."""
    priced: list[PricedWorks] = field(default_factory=list)
    """By machine."""
    ready: dict[int, Compiled] = field(default_factory=dict)
    """By schedule, those of one stop."""
    n_written: int = 0
    """Ops of the schedules so far."""


def document(subject: PageSubject, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Everything that the page shows, JSON-ready; arrays lie in its `block` (`ArrayBlock`).

    `progress` is told each model. Raises `InvalidInput` where no design fits any machine, with the first reason.
    """
    page = _Page(subject)
    page.priced = [PricedWorks(figures_of(machine), link_stops(machine)) for machine in subject.machines]
    points = {}
    for model in subject.models:
        progress(model.name)
        points[model.name] = _points(page, model)
    designs = [design for machines in points.values() for stops in machines for stop in stops for design in stop]
    if all("reason" in design for design in designs):
        raise InvalidInput(designs[0]["reason"])
    names = [design.name for design in subject.designs]
    colours, standings = colours_of(names), [standing_of(design) for design in subject.designs]
    return {
        "format": FORMAT,
        "version": VERSION,
        "pregate": __version__,
        "seed": subject.seed,
        "metrics": list(METRICS),
        "lanes": [LANE_NAMES[lane] for lane in Lane],
        "kinds": [{"family": KINDS[kind].family, "colour": KINDS[kind].colour} for kind in OpKind],
        "parts": [name.removesuffix("_s") for name in Parts._fields],
        "designs": names,
        "ranked": are_ranked(standings),
        "told_apart": told_apart(zip(names, standings, strict=True)),
        "colours": [colours[name] for name in names],
        "hatches": [hatch_number(colours[name]) for name in names],
        "batches": list(subject.batches),
        "prompts": list(subject.prompts),
        "output_tokens": subject.output_tokens,
        "machines": [_machine(page, machine) for machine in subject.machines],
        "models": [
            {
                "name": model.name,
                "actives": [active_experts(model, share) for share in subject.actives],
                "points": points[model.name],
            }
            for model in subject.models
        ],
        "schedules": page.schedules,
        "block": page.block.text(),
    }


def _machine(page: _Page, machine: Platform) -> dict[str, Any]:
    links = link_stops(machine)
    return {
        "name": machine.hardware,
        "stack": machine.stack.name,
        "links": page.block.add(links),
        "own_link": _own_link(machine),
        "own_hbm": int(np.argmin(np.abs(np.array(page.subject.hbm_factors) - 1))),
        "hbm": [hbm_of(with_hbm(machine, factor)) for factor in page.subject.hbm_factors],
        "calibration": machine.describe_calibration(page.subject.models[0].dtype.name),
    }


def _points(page: _Page, model: ModelArchitecture) -> list[list[list[dict[str, Any]]]]:
    """[machine][stop x HBM, HBM fastest][design]: the schedule and its answers, or the reason why there is none."""
    subject = page.subject
    found: list[list[list[dict[str, Any]]]] = [[] for _ in subject.machines]
    for stop in subject.stops(model):
        try:
            trace = _trace(subject, model, stop)
        except InvalidInput as error:  # fewer choices in a step than experts to force
            for points in found:
                points += [[{"reason": str(error)}] * len(subject.designs)] * len(subject.hbm_factors)
            continue
        workload = measure_workload(model, trace.steps())
        captured = _Captures(page)
        page.ready.clear()
        for i, machine in enumerate(subject.machines):
            for factor in subject.hbm_factors:
                memory = memory_of(with_hbm(machine, factor))
                asked = [captured.of(model, memory, trace, design, workload) for design in subject.designs]
                found[i].append(_with_alike(page, [_answer(page, one, i) for one in asked], i))
    return found


class _Captures:
    """The schedules of one stop: machines that grant a design the same memory share one."""

    def __init__(self, page: _Page) -> None:
        self._page = page
        self._known: dict[str, Captured | str] = {}

    def of(
        self, model: ModelArchitecture, memory: MachineMemory, trace: RoutingTrace, design: Policy, workload: Workload
    ) -> Captured | str:
        """The schedule of a design, or why it does not fit."""
        try:
            asked = request(model, memory, trace, design, workload=workload)
        except CapacityExceeded as error:
            return str(error)
        known = self._known.get(asked.key)
        if known is None:
            known = self._known[asked.key] = self._written(asked)
        return known

    def _written(self, asked: Request) -> Captured | str:
        """Written, and later walked, by compiled code once all are too many ops for Python."""
        are_many = is_large(self._page.n_written)
        if are_many:
            for kernel in (WALK, REVERSE):
                loaded(kernel)
        try:
            captured = capture_request(asked, compiled=are_many or None)
        except CapacityExceeded as error:
            return str(error)
        self._page.n_written += len(captured.decoded.schedule)
        return captured


def _trace(subject: PageSubject, model: ModelArchitecture, stop: Stop) -> RoutingTrace:
    forced = None if stop.active == AS_ROUTED else stop.active
    return synthesize(model, stop.prompt, subject.output_tokens, stop.batch, subject.seed, n_active=forced)


def _answer(page: _Page, captured: Captured | str, i_machine: int) -> dict[str, Any]:
    """The place of a schedule on the page, what it takes on a machine at each stop of its link, and the ends of 95 %
    intervals on the machine's own; or the reason.
    """
    if isinstance(captured, str):
        return {"reason": captured}
    i_schedule = _schedule(page, captured)
    answers = page.answered.get((i_schedule, i_machine))
    if answers is None:
        costs, parts = page.priced[i_machine].of(captured.decoded.schedule.works)
        found = measured_at(page.ready.get(i_schedule) or compiled(captured), captured, costs)
        cube = np.array([np.broadcast_to(found[name], costs.duration_s.shape[1]) for name in METRICS], np.float32)
        doubts = run_doubts(captured, page.subject.machines[i_machine], METRICS, None)
        ends = np.array([doubts[name].interval or (np.nan, np.nan) for name in METRICS], np.float32)
        answers = _Answers(cube, ends, tuple(doubts[name].error for name in METRICS))
        page.answered[i_schedule, i_machine] = answers
        page.schedules[i_schedule]["prices"][i_machine] = _prices(page.block, costs, parts)
    return {"schedule": i_schedule, "cube": page.block.add(answers.cube), "ends": page.block.add(answers.ends)}


def _with_alike(page: _Page, found: list[dict[str, Any]], i_machine: int) -> list[dict[str, Any]]:
    """Designs at a point, each with the others that it cannot be told from on the machine's own link, by metric."""
    at_own = _own_link(page.subject.machines[i_machine])
    answers = [page.answered[one["schedule"], i_machine] if "schedule" in one else None for one in found]
    known = [None if one is None else (one.cube[:, at_own], one.errors) for one in answers]
    near = rivals(known, len(METRICS))
    return [one | {"alike": near[i]} if "schedule" in one else one for i, one in enumerate(found)]


def _own_link(machine: Platform) -> int:
    """The stop of the link that the machine has."""
    return int(np.flatnonzero(link_stops(machine) == machine.machine.link.h2d_bytes_per_s)[0])


def _schedule(page: _Page, captured: Captured) -> int:
    """The number of a schedule on the page, which keeps it once."""
    schedule = captured.decoded.schedule
    known = page.of_digest.get(schedule.digest)
    if known is not None:
        return known
    ready = page.ready[len(page.schedules)] = compiled(captured)
    probes, block = ready.probes, page.block
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    i_expert = np.where(schedule.expert >= 0, schedule.expert + 1, 0)
    page.schedules.append({
        "digest": schedule.digest,
        "n_output_tokens": captured.workload.n_output_tokens,
        "lane": block.add_counts(schedule.lane),
        "cost": block.add_counts(schedule.cost),
        "n_deps": block.add_counts(np.diff(schedule.dep_ptr)),
        "back": block.add_counts(owner - schedule.dep),
        "kind": block.add_counts(schedule.kind),
        "step": block.add_counts(schedule.step),
        "layer": block.add_counts(schedule.layer + 1),
        "expert": block.add_counts(i_expert),
        "step_ends": block.add_counts(probes.step_ends),
        "gap_from": block.add_counts(probes.gap_from),
        "gap_to": block.add_counts(probes.gap_to),
        "layer_first": block.add_counts(probes.layer_first),
        "layer_last": block.add_counts(probes.layer_last),
        "prices": {},
    })  # fmt: skip
    page.of_digest[schedule.digest] = len(page.schedules) - 1
    return len(page.schedules) - 1


def _prices(block: ArrayBlock, costs: Costs, parts: NDArray[np.float32]) -> dict[str, Any]:
    """Seconds by work: to issue it, its duration, of the works that the link moves their durations at each stop, and
    what the others are spent on (`Parts`), (n_works, n_parts).
    """
    moved = np.flatnonzero(np.any(costs.duration_s != costs.duration_s[:, :1], axis=1))
    return {
        "issue": block.add(costs.issue_s[:, 0].copy()),
        "duration": block.add(costs.duration_s[:, 0].copy()),
        "moved": block.add_counts(moved),
        "moved_duration": block.add(costs.duration_s[moved]),
        "parts": block.add(parts),
    }
