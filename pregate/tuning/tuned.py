"""`tune`: every setting judged on a trace as a card judges designs, what it gains, and what has moved since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from hwmodels.platform import Platform
from offload.decode import about_ops
from offload.ops import TRANSFERS
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.answer_cache import Answer
from pregate.ask.capturing.schedule_cache import ScheduleCache, schedules_in
from pregate.ask.choices import OBJECTIVES
from pregate.ask.simulation import interpret
from pregate.ask.timing.intervals import Interval
from pregate.card.choice import times_with_interval
from pregate.card.designs import plan_design
from pregate.card.job import Workpiece, recorded_job
from pregate.card.judged_design import Judged, judge
from pregate.spellings.figure_words import figure_named
from pregate.tuning.settings import CHUNKS_MIB, CPU_S_PER_OP, CPU_S_PER_SETTING, DEFAULT, designs_to_try
from simulator.modes import FIFO, Modes
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.drift import DriftTest, drift_between
from traces.statistics.popularity import popularity_of

LEAST_PROMPT = 32
"""Prompt tokens from which on they say which experts are popular."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A design in some formats (those of the model where "")."""

    judged: Judged
    formats: str = ""

    @property
    def policy(self) -> str:
        """As the command line spells it."""
        return self.judged.design.policy

    def __str__(self) -> str:
        return f"{self.policy} ({self.formats})" if self.formats else self.policy


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times as good as `over`; its 95 % interval."""

    over: str
    times: float
    interval: Interval

    @property
    def abstains(self) -> bool:
        """Whether the interval holds 1."""
        return self.interval[0] <= 1 <= self.interval[1]

    def told(self, what: str) -> str:
        """In a sentence."""
        span = (
            f"{self.times:.2f} times as good as {self.over} ({what}), {self.interval[0]:.2f} to {self.interval[1]:.2f}"
        )
        return f"{span}: no verdict, too close to tell" if self.abstains and self.times != 1 else span

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"over": self.over, "times": self.times, "ci95": list(self.interval), "abstains": self.abstains}


@dataclass(frozen=True, slots=True)
class Tuned:
    """`best` of the `ranked` settings; gains by what they are over; `chunk_mib`: of copies, None where chunks gain
    nothing, with `chunk_gain`. `tried`, `left_out`: settings judged, and those that the budget had no time for.
    `in_view`: experts were kept by the popularity of the tokens that are judged.
    """

    model: str
    hardware: str
    stack: str
    objective: str
    ranked: tuple[Setting, ...]
    gains: dict[str, Gain]
    chunk_mib: float | None
    chunk_gain: float
    drift: DriftTest | None
    left_out: tuple[str, ...]
    in_view: bool

    @property
    def best(self) -> Setting:
        """The setting with the best objective."""
        return self.ranked[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "model": self.model,
            "hardware": self.hardware,
            "stack": self.stack,
            "objective": self.objective,
            "policy": self.best.policy,
            "formats": self.best.formats,
            "chunk_mib": self.chunk_mib,
            "chunk_gain": self.chunk_gain,
            "gains": {name: gain.to_dict() for name, gain in self.gains.items()},
            "drift": None if self.drift is None else asdict(self.drift),
            "in_view": self.in_view,
            "ranked": [one.judged.to_dict() | {"formats": one.formats} for one in self.ranked],
            "left_out": list(self.left_out),
        }


def tune(
    model: ModelArchitecture,
    hw: Platform,
    trace: RoutingTrace,
    *,
    objective: str = "tpot",
    formats: Sequence[tuple[str, ModelArchitecture]] = (),
    policies: Sequence[str] = (),
    now: str | None = None,
    before: RoutingTrace | None = None,
    budget_s: float = 300.0,
    say: Callable[[str], None] = lambda _: None,
    cache_dir: str | Path | ScheduleCache | bool | None = False,
) -> Tuned:
    """The best settings of `model` on `hw` for `trace`, and what they gain over the default and over doing nothing.

    `formats`: other formats of the model to try, each with its text; answers differ then. `policies`: more designs.
    `now`: what runs now (None: all in HBM where it fits, else whole layers on the host). `before`: the trace of an
    earlier tuning, whose drift is reported. `budget_s`: CPU seconds, after which no further setting is begun. Where the
    trace has several sequences, experts are kept by the popularity of the first half of them and the others judge; of
    one, by its prompt. `cache_dir`: a folder for what is found of settings (None: the usual one, False: none). Raises
    `InvalidInput` where nothing fits, and for `now` that does not.
    """
    objective = figure_named("objective", objective, OBJECTIVES)
    if not budget_s > 0:
        raise InvalidInput(f"budget = {budget_s:g} CPU seconds: above 0")
    drift, kept = None if before is None else drift_between(before, trace), schedules_in(cache_dir)
    works = [("", model, *halves(model, trace)), *((text, one, *halves(one, trace)) for text, one in formats)]
    designs = dict.fromkeys([*([] if now is None else [now]), *policies, DEFAULT, *designs_to_try(model)])
    n_ops = about_ops(model, works[0][2].prompt.steps())
    n = len(designs) * len(works)
    about_s = min(n * (CPU_S_PER_SETTING + n_ops * CPU_S_PER_OP), budget_s)
    say(f"{n} settings of some {n_ops:,} ops: about {about_s:.0f} CPU seconds, at most {budget_s:g} (--budget-s)")
    settings: list[Setting] = []
    left_out: list[str] = []
    refusals: list[InvalidInput | CapacityExceeded] = []
    first = process_time()
    for name in designs:
        for text, one, work, _ in works:
            if settings and process_time() - first > budget_s:
                left_out.append(f"{name} ({text})" if text else name)
                continue
            judged = judged_setting(
                one, hw, work, name, asked=name == now or name in policies, kept=kept, told=refusals
            )
            if judged is not None and not settings:
                rest_s = min((n - 1) * (process_time() - first), budget_s)
                say(f"{name} took {process_time() - first:.2g} of them: some {rest_s:.0f} for the others")
            if judged is not None:
                settings.append(Setting(judged, text))
    distinct = {(one.policy, one.formats): one for one in reversed(settings)}
    ranked = tuple(sorted(distinct.values(), key=lambda one: one.judged.cost(objective)))
    if not ranked:
        raise InvalidInput(_none_fits(model, hw, refusals))
    gains = {"nothing": gain_of(ranked[0], _nothing(ranked, now), objective)}
    usual = next((one for one in ranked if one.policy == DEFAULT and not one.formats), None)
    if usual is not None:
        gains["default"] = gain_of(ranked[0], usual, objective)
    chunk_mib, chunk_gain = _chunked(ranked[0].judged, hw)
    return Tuned(
        model.name, hw.hardware, hw.stack.name, objective, ranked, gains, chunk_mib, chunk_gain, drift,
        tuple(left_out), works[0][3],
    )  # fmt: skip


def gain_of(one: Setting, other: Setting, objective: str) -> Gain:
    """How many times as good `one` is: settings of one machine share its errors but for what lies between designs."""
    here, there = one.judged.estimate(objective), other.judged.estimate(objective)
    times, interval = times_with_interval(here, there, objective, shared=True)
    same = (one.policy, one.formats) == (other.policy, other.formats)
    return Gain(str(other), times, (times, times) if same else interval)


def halves(model: ModelArchitecture, trace: RoutingTrace) -> tuple[Workpiece, bool]:
    """The job of the later sequences, experts kept by the earlier ones; of one sequence, kept by its prompt. Where that
    is short, or an encoder's, which says nothing of a decoder's experts, all is in view.
    """
    sequences = np.unique(trace.sequence).tolist()
    if len(sequences) < 2:
        before = int((trace.phase == Phase.DECODE).argmax())  # tokens of its first prompt
        in_view = before < LEAST_PROMPT or model.is_encoder_decoder
        counted = trace if in_view else trace.first_steps(len(np.unique(trace.step[:before])))
        return recorded_job(model, trace, popularity_of(counted)), in_view
    half = len(sequences) // 2
    seen, judged = trace.of_sequences(sequences[:half]), trace.of_sequences(sequences[half:])
    return recorded_job(model, judged, popularity_of(seen)), False


def judged_setting(
    model: ModelArchitecture,
    hw: Platform,
    work: Workpiece,
    name: str,
    *,
    asked: bool,
    kept: ScheduleCache | None = None,
    told: list[InvalidInput | CapacityExceeded] | None = None,
) -> Judged | None:
    """A design; None where it does not fit, or the model cannot have it, unless a user has `asked` for it: then it
    raises as the reason does, which is `told` otherwise. `kept`: where answers of earlier runs lie.
    """
    try:
        return judge(plan_design(model, hw, work, name), work.job, kept)
    except (CapacityExceeded, InvalidInput) as error:
        if asked and isinstance(error, CapacityExceeded):
            raise InvalidInput(f"{name}: {error}") from None
        if asked:
            raise
        if told is not None:
            told.append(error)
    return None


def _none_fits(model: ModelArchitecture, hw: Platform, refusals: Sequence[InvalidInput | CapacityExceeded]) -> str:
    """That memory is too small for all settings, or why the first cannot be where it is too small for none."""
    if any(isinstance(one, CapacityExceeded) for one in refusals):
        return f"{model.name}: no setting fits {hw.hardware}: try --formats all=q4_k_m, or a larger machine"
    return f"{model.name}: no setting runs on {hw.hardware}: {refusals[0]}"


def _nothing(ranked: Sequence[Setting], now: str | None) -> Setting:
    """What runs where nobody changes anything."""
    plain = [one for one in ranked if not one.formats]
    for wanted in (now, "gpu_only") if now is not None else ("gpu_only", "gpu_only@layers=cpu"):
        for one in plain or ranked:
            if one.policy == wanted or (wanted and "@" in wanted and one.policy.startswith(f"{wanted}:")):
                return one
    return (plain or list(ranked))[-1]


def _chunked(best: Judged, hw: Platform) -> tuple[float | None, float]:
    """The size of chunks, urgent ones first, with which the best design is fastest a token, and how many times as fast;
    None and 1 where none helps by a hundredth, and where no weights are copied, which chunks would let others pass.
    """
    found = best.schedules.found(f"chunks of {CHUNKS_MIB} MiB", lambda: _chunk_times(best, hw))["times"]
    if not found:
        return None, 1.0
    gains = {size: found[0] / chunked for size, chunked in zip(CHUNKS_MIB, found[1:], strict=True)}
    size = max(gains, key=lambda size: gains[size])
    return (size, gains[size]) if gains[size] > 1.01 else (None, 1.0)


def _chunk_times(best: Judged, hw: Platform) -> Answer:
    """Seconds a token, whole copies first, then each size of chunks; none where no weights are copied."""
    captured = best.schedules.tokens
    if not any(work.kind in TRANSFERS for work in captured.decoded.schedule.works):
        return {"times": []}
    modes = [FIFO, *(Modes(link="priority", chunk_bytes=int(size * 2**20)) for size in CHUNKS_MIB)]
    return {"times": [interpret(captured, hw, "event", modes=one, with_intervals=False).tpot_s for one in modes]}
