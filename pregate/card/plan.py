"""`pregate.plan`: the verdict card of a model on a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwmodels.fits.fit_files import is_fit
from hwmodels.platform import IN_TURN, SHARING, Platform
from hwmodels.stacks.stack_files import load_stack, stack_names
from hwmodels.stacks.weight_formats import check_weights, why_unread
from offload.metrics.run_metrics import decode_steps
from offload.own_policies.own_policy_names import is_own_name
from offload.policies import PRESETS, policy_named
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.schedule_cache import ScheduleCache, schedules_in
from pregate.ask.choices import OBJECTIVES
from pregate.card.card import Card, named_parts
from pregate.card.choice import Ranking, ranking_of, standing
from pregate.card.designs import all_planned, has_turns, plan_design, stacks_for, why_unshared
from pregate.card.job import RequestLoad, Workpiece, recorded_job, workpiece
from pregate.card.judged_design import Judged, judge
from pregate.card.narrowing import narrowing
from pregate.card.speed_limit import cards_at_once, limit_of, speed_limit
from pregate.card.turning_points import turning_points
from pregate.engines.writing import flags_of, named, timed_with
from pregate.named import load_hardware, load_model
from pregate.spellings.figure_words import figure_named
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.model.dtypes import find_dtype
from traces.routing import RoutingTrace
from traces.statistics.popularity import PopularityProfile

_FEWER = ("q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "iq1_s")
"""Formats to try where a model does not fit, the widest first."""

_SIZES_GB = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Memories that a host has."""


class NothingFits(InvalidInput):
    """No design of a model fits a machine."""


def plan(
    model: ModelArchitecture | str | Path,
    hw: Platform | str | Path,
    job: RequestLoad | None = None,
    *,
    trace: RoutingTrace | None = None,
    objective: str = "request",
    now: str | None = None,
    stacks: Sequence[str] | None = None,
    overrides: Mapping[str, float | str] | None = None,
    popularity: PopularityProfile | None = None,
    policies: Sequence[str] = (),
    seed: int = 0,
    cache_dir: str | Path | ScheduleCache | bool | None = False,
    weights: str | Path | None = None,
) -> Card:
    """Judge whole requests under every design that fits, and say what to do, how sure that is and what would change it.

    `hw`: a machine by name or file, with `overrides` as of `pregate.load_hardware`, or a platform, whose stack is then
    the only one. `job`: the requests (None: 512 tokens in, 256 out, one at once), or a recorded `trace` of some.
    `objective`: one of `pregate.ask.choices.OBJECTIVES`. `now`: what runs today, `STACK/DESIGN` or a design of the
    first stack; None: all in HBM where that fits, else whole layers on the host, else the first design that fits.
    `stacks`: the software to look at; None: every engine that runs such a model, and this project's runtime.
    `policies`: designs to judge beside those of the stacks, such as one of your own that `load_policy` has loaded.
    `cache_dir`: a folder for what is found of schedules (None: `~/.cache/pregate/schedules`, False: none). `weights`:
    the GGUF file that commands name; None: `model`, where it is one.

    Raises `InvalidInput` where no design fits or an argument is wrong, and what `load_model` and `load_hardware` raise.
    """
    objective = figure_named("objective", objective, OBJECTIVES)
    architecture = model if isinstance(model, ModelArchitecture) else load_model(model)
    platforms = platforms_of(architecture, hw, stacks, overrides)
    work = work_of(architecture, job, trace, popularity, seed)
    more, kept = [policy_named(policy).name for policy in policies], schedules_in(cache_dir)
    choice, unfit = ranked_on(architecture, work, platforms, objective, now, more, kept)
    routing = routing_of(work, trace, in_view=popularity is None)
    file = weights if weights is not None or isinstance(model, ModelArchitecture) else model
    return _card(architecture, work, choice, unfit, routing, _gguf_of(file), kept)


def work_of(
    model: ModelArchitecture,
    job: RequestLoad | None,
    trace: RoutingTrace | None,
    popularity: PopularityProfile | None,
    seed: int,
) -> Workpiece:
    """What is judged: requests that are made up, or recorded ones. Raises `InvalidInput` for both."""
    if trace is None:
        return workpiece(model, job or RequestLoad(), seed, popularity)
    if job is not None:
        raise InvalidInput("a trace says itself how long its requests are: give a job or a trace")
    return recorded_job(model, trace, popularity)


def routing_of(work: Workpiece, trace: RoutingTrace | None, *, in_view: bool) -> str:
    """What the routing is: made up, or recorded, and how much of that was timed."""
    if trace is None:
        return work.prompt.routing
    n_timed, n_all = (len(decode_steps(one)) for one in (work.tokens, trace))
    part = f" (the first {n_timed} of {n_all:,} decode steps timed)" if n_timed < n_all else ""
    return trace.routing + part + ", experts kept with it in view" * (in_view and work.is_recorded)


def _gguf_of(name: str | Path | None) -> str:
    """A model's name where it is a GGUF file, "" where it is something else."""
    return str(name) if name is not None and Path(name).suffix == ".gguf" and Path(name).is_file() else ""


def ranked_on(
    model: ModelArchitecture,
    work: Workpiece,
    platforms: Mapping[str, Platform],
    objective: str,
    now: str | None = None,
    more: Sequence[str] = (),
    kept: ScheduleCache | None = None,
) -> tuple[Ranking, tuple[tuple[str, str], ...]]:
    """The designs of a machine that fit, ranked, and those that do not with the reason; arguments as of `plan`.

    Raises `NothingFits` where none does, `InvalidInput` where `now` does not.
    """
    unfit: list[tuple[str, CapacityExceeded]] = []
    asked = None if now is None else _asked(model, work, platforms, now, kept)
    judged: list[Judged] = [] if asked is None else [asked]
    for planned in all_planned(model, work, platforms, lambda name, error: unfit.append((name, error)), more):
        if asked is not None and planned.design == asked.design:
            continue
        try:
            judged.append(judge(planned, work.job, kept))
        except CapacityExceeded as error:
            unfit.append((str(planned.design), error))
    if not judged:
        raise _nothing_fits(model, next(iter(platforms.values())), [error for _, error in unfit])
    today = asked or _default_now(standing(judged, objective))
    return ranking_of(judged, today, objective, is_stated=asked is not None), tuple(
        (name, str(error)) for name, error in unfit
    )


def _nothing_fits(model: ModelArchitecture, hw: Platform, errors: Sequence[CapacityExceeded]) -> NothingFits:
    """What the design of the least HBM and that of the least host memory lack, and what would do."""
    lacks = {what: [one for one in errors if one.memory == what] for what in ("HBM", "DRAM")}
    least = [min(found, key=lambda one: one.needed_bytes) for found in lacks.values() if found]
    machine, ways = hw.machine, []
    there = machine.n_cards * machine.accelerator.hbm_bytes + machine.host.dram_bytes * (not machine.has_one_memory)
    for name in _FEWER:
        ratio = find_dtype(name).bits / model.expert_dtype.bits
        if ratio < 1 and max(one.needed_bytes for one in lacks["HBM"] or errors) * ratio < there:
            ways.append(f"fewer bits (--formats all={name})")
            break
    if machine.has_one_memory:
        ways.append("a machine with more memory")
    elif lacks["DRAM"]:
        size = next((size for size in _SIZES_GB if size * 1e9 >= least[-1].needed_bytes), None)
        ways.append(f"a host with more memory ({f'--dram {size}GB, or ' * bool(size)}--host NAME)")
    ways.append("experts that wait on storage (`pregate compare` with --tier ssd+lru)")
    reasons = "; ".join(str(one).partition(": try ")[0] for one in least)
    return NothingFits(f"{model.name}: no design fits ({reasons}): try {', or '.join(ways)}")


def _default_now(judged: Sequence[Judged]) -> Judged:
    """What an engine does when it is told nothing: all in HBM, else as many whole layers as fit."""
    for wanted in ("gpu_only", "gpu_only@layers=cpu"):
        for one in judged:
            if one.design.policy == wanted or one.design.policy.startswith(f"{wanted}:"):
                return one
    return judged[0]


def _asked(
    model: ModelArchitecture, work: Workpiece, platforms: Mapping[str, Platform], now: str, kept: ScheduleCache | None
) -> Judged:
    """The design that runs today. Raises `InvalidInput` where it does not fit, `UnknownName` for its stack."""
    stack, slash, policy = now.partition("/")
    own = stack not in platforms and is_own_name(now)
    if not slash or own or now.partition("@")[0] in PRESETS:  # a design may have a stroke itself
        stack, policy = next(iter(platforms)), now
    if stack not in platforms:
        raise unknown_name("stack", stack, platforms, f"--now {now}")
    try:
        return judge(plan_design(model, platforms[stack], work, policy), work.job, kept)
    except CapacityExceeded as error:
        raise InvalidInput(f"--now {now}: it does not run today, {error}") from None


def platforms_of(
    model: ModelArchitecture,
    hw: Platform | str | Path,
    stacks: Sequence[str] | None,
    overrides: Mapping[str, float | str] | None,
) -> dict[str, Platform]:
    """The machine with each stack that is looked at, arguments as of `plan`. A fit names its own stack, which is then
    the only one. Raises `InvalidInput` as `plan` does.
    """
    if isinstance(hw, Platform):
        if stacks is not None or overrides is not None:
            raise InvalidInput("a platform has its stack and its numbers: leave out stacks and overrides")
        return {hw.stack.name: _shared_out(model, hw)}
    name = str(hw)
    if stacks is not None:
        if not stacks:
            raise InvalidInput("stacks = []: name at least one, such as llama-cpp")
        found = (_shared_out(model, load_hardware(name, stack, overrides)) for stack in stacks)
        return {hw.stack.name: hw for hw in found}
    own = load_hardware(name, None, overrides)
    named = own.fit is not None and own.fit.hardware == own.hardware and own.fit.machine is not None
    if named or (Path(name).suffix in (".yaml", ".yml") and is_fit(Path(name))):
        return {own.stack.name: own}
    card = own.machine.accelerator
    wanted = stacks_for(model, own.stack.name, stack_names(), card.vendor, card.compute_capability)
    if own.machine.n_cards > 1:
        wanted = _of_several_cards(model, wanted)
    return {stack: own if stack == own.stack.name else load_hardware(name, stack, overrides) for stack in wanted}


def _of_several_cards(model: ModelArchitecture, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of `wanted` whose cards take layers in turn, else those whose cards share every layer.

    Raises `InvalidInput` where there are neither: no engine of several cards reads such weights.
    """
    stacks = [load_stack(name) for name in wanted]
    in_turn = [stack.name for stack in stacks if stack.cards_in_turn]
    sharing = [stack.name for stack in stacks if stack.execution.shares_layers]
    found = in_turn or sorted(sharing, key=lambda name: name != SHARING)  # what fits whole is asked first
    if not found:
        raise InvalidInput(why_unread(model, load_stack(IN_TURN)) or f"no engine of several cards runs {model.name}")
    return tuple(found)


def _shared_out(model: ModelArchitecture, hw: Platform) -> Platform:
    """The platform. Raises `InvalidInput` where its stack does not read weights of `model`, or its cards share every
    layer and can neither share those nor have them in turn.
    """
    check_weights(model, hw.stack)
    if (why := why_unshared(model, hw)) and (model.is_encoder_decoder or not has_turns(hw.stack.name)):
        raise InvalidInput(why)
    return hw


def _card(
    model: ModelArchitecture,
    work: Workpiece,
    choice: Ranking,
    unfit: tuple[tuple[str, str], ...],
    routing: str,
    weights: str,
    kept: ScheduleCache | None,
) -> Card:
    best, other = choice.best, choice.possible
    hw = best.planned.hw
    asked = [one.planned.tokens for one in choice.ranked]
    limit = speed_limit(model, hw, work, cards_at_once(model, asked, work.prompt), kept)
    parts = best.ttft.value, work.job.n_steps * best.tpot.value
    possible = None if other is None else flags_of(other.design, model, other.planned.hw, work.job).of_file(weights)
    share = {"ttft": 1.0, "tpot": 0.0}.get(choice.objective, parts[0] / sum(parts))
    flags = flags_of(best.design, model, hw, work.job).of_file(weights)
    narrow = narrowing(best, is_recorded=work.is_recorded, metric_share=share)
    return Card(
        model=model.name,
        hardware=hw.hardware,
        parts=named_parts(hw),
        job=work.job,
        choice=choice,
        limit=limit,
        limit_value=limit_of(limit, work, choice.objective),
        turning_points=tuple(turning_points(model, work, choice)),
        narrowing=dataclasses.replace(narrow, command=timed_with(named(narrow.command, weights), flags.command)),
        flags=flags,
        possible_flags=possible,
        unfit=unfit,
        routing=routing,
        basis=hw.describe_calibration(model.dtype.name),
    )
