"""`pregate.rank_machines`: which of several machines, each with the design that is best on it, and what tokens cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.platform import Platform
from offload.policies import policy_named
from pregate.ask.capturing.schedule_cache import ScheduleCache, schedules_in
from pregate.ask.choices import BASES, OBJECTIVES
from pregate.ask.timing.intervals import Interval
from pregate.ask.timing.time_errors import holds_one
from pregate.card.card import named_parts, predictions_of
from pregate.card.choice import Ranking, between_machines, span_of, times_of, weakest
from pregate.card.job import RequestLoad
from pregate.card.judged_design import Judged
from pregate.card.plan import NothingFits, platforms_of, ranked_on, routing_of, work_of
from pregate.economics.assumptions import Assumption, Assumptions, load_assumptions
from pregate.economics.cost_draws import DrawnCost, Draws, Estimate, estimate
from pregate.economics.serving import RequestShape, served_of
from pregate.named import load_model
from pregate.spellings.figure_words import figure_named
from pregate.validation.ledger import Predicted
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.statistics.popularity import PopularityProfile

_SURE = 0.95
"""Share of the draws from which on a machine is called the cheapest without a doubt."""


@dataclass(frozen=True, slots=True)
class RankedMachine:
    """A machine and its designs, ranked. `per_million_tokens`: US dollars of output tokens with the best of them, None
    where `lacks` says what is assumed nowhere. `cheapest_in`: the share of all draws in which that is the least of all
    machines that have a cost. `price_usd`: of its accelerators alone, as their file has it.
    """

    choice: Ranking
    per_million_tokens: Estimate | None
    lacks: str
    cheapest_in: float
    unfit: tuple[tuple[str, str], ...]

    @property
    def best(self) -> Judged:
        """The design that is best on it."""
        return self.choice.best

    @property
    def hardware(self) -> str:
        """Its name."""
        return self.best.planned.hw.hardware

    @property
    def price_usd(self) -> float | None:
        """The price of the accelerators, None where no file has it."""
        return self.best.planned.hw.machine.cards_usd

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        machine, cost = self.best.planned.hw.machine, self.per_million_tokens
        return {
            "hardware": self.hardware,
            "host": machine.host.name,
            "link": machine.link.name,
            "best": self.best.to_dict(),
            "usd_per_million_tokens": None if cost is None else {"value": cost.value, "ci95": cost.to_list()[1:]},
            "cheapest_in": self.cheapest_in,
            "no_cost": self.lacks,
            "price_usd": self.price_usd,
            "designs": [one.to_dict() for one in self.choice.ranked],
            "beside": [one.to_dict() for one in self.choice.beside],
            "does_not_fit": [{"design": name, "reason": reason} for name, reason in self.unfit],
        }


@dataclass(frozen=True, slots=True, repr=False)
class MachineRanking:
    """What `pregate.rank_machines` found: `machines`, the best first, and those that the model does not fit, with the
    reason. `basis`: own or rent. `assumed`: every assumption that costs looked at, by name.
    """

    model: str
    job: RequestLoad
    objective: str
    machines: tuple[RankedMachine, ...]
    unfit: tuple[tuple[str, str], ...]
    routing: str
    basis: str
    assumed: Mapping[str, Assumption]

    @property
    def best(self) -> RankedMachine:
        """The machine with the best objective."""
        return self.machines[0]

    @property
    def rivals(self) -> tuple[RankedMachine, ...]:
        """The machines that cannot be told from the best, without it."""
        return tuple(one for one in self.machines[1:] if holds_one(self.worse(one)[1]))

    @property
    def abstains(self) -> bool:
        """Whether another machine cannot be told from the best."""
        return bool(self.rivals)

    @property
    def cheapest(self) -> RankedMachine | None:
        """The machine on which a million tokens cost least in most draws, None where no cost is known of any."""
        costed = [one for one in self.machines if one.per_million_tokens is not None]
        return max(costed, key=lambda one: one.cheapest_in, default=None)

    def worse(self, one: RankedMachine) -> tuple[float, Interval]:
        """How many times as good as on `one` the objective is on the best machine, and the 95 % interval of that."""
        return between_machines(self.best.best, one.best, self.objective)

    def verdict(self) -> str:
        """Which machine is the best for the objective, or that nobody can say."""
        best = self.best
        if len(self.machines) == 1:
            return f"{best.hardware} is the only machine that {self.model} fits."
        other = self.machines[1]
        times, interval = self.worse(other)
        if not self.abstains:
            told = f"{times_of(times)} times as good as {other.hardware}, the next"
            return f"{best.hardware}: {told} ({span_of(interval)}, {self._rests(other)})."
        near = [one.hardware for one in self.rivals]
        if other not in self.rivals:
            rests = self._rests(*self.rivals)
            return f"No verdict: {best.hardware} is predicted best and cannot be told from {_listed(near)} ({rests})."
        more = f"; nor can {_listed(near[1:])} be told from it" if len(near) > 1 else ""
        return (
            f"No verdict: {best.hardware} is predicted {times_of(times)} times as good as {other.hardware}, "
            f"{span_of(interval)} ({self._rests(other)}): too close to tell{more}."
        )

    def _rests(self, *others: RankedMachine) -> str:
        """What a comparison of the best with `others` rests on."""
        return weakest(*(one.best.estimate(self.objective).tag for one in (self.best, *others)))

    def cost_verdict(self) -> str:
        """On which machine tokens cost least, and how sure that is; "" where nothing is known of any."""
        best = self.cheapest
        if best is None or best.per_million_tokens is None:
            return ""
        how = "rented" if self.basis == "rent" else "bought"
        told = f"A million tokens cost least on {best.hardware}, {how} ({usd(best.per_million_tokens.value)} USD)"
        others = [one for one in self.machines if one is not best and one.per_million_tokens is not None]
        if not others:
            return f"{told}; of no other machine a cost is known."
        other = max(others, key=lambda one: one.cheapest_in)
        told += f", in {best.cheapest_in:.0%} of the draws of all assumptions"
        if best.cheapest_in >= _SURE:
            return f"{told}."
        return f"{told}, on {other.hardware} in {other.cheapest_in:.0%}: not told apart."

    def rows(self) -> list[dict[str, Any]]:
        """A flat row a machine, the best first."""
        return [
            {
                "hardware": one.hardware,
                "stack": one.best.design.stack,
                "design": one.best.design.policy,
                "request_s": one.best.request.value,
                "ttft_s": one.best.ttft.value,
                "tpot_s": one.best.tpot.value,
                "tokens_per_s": one.best.throughput.value,
                "usd_per_million_tokens": None if one.per_million_tokens is None else one.per_million_tokens.value,
                "price_usd": one.price_usd,
                "token_binds": one.best.token_binds,
                "rests_on": one.best.estimate(self.objective).tag,
            }
            for one in self.machines
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, every assumption with its source."""
        return {
            "model": self.model,
            "job": {name: getattr(self.job, name) for name in self.job.__slots__},
            "objective": self.objective,
            "verdict": self.verdict(),
            "abstains": self.abstains,
            "not_told_from_best": [one.hardware for one in self.rivals],
            "cost_verdict": self.cost_verdict(),
            "basis": self.basis,
            "machines": [one.to_dict() for one in self.machines],
            "does_not_fit": [{"hardware": name, "reason": reason} for name, reason in self.unfit],
            "routing": self.routing,
            "assumptions": {name: asdict(one) for name, one in self.assumed.items()},
        }

    def predictions(self) -> list[tuple[dict[str, str], dict[str, Predicted]]]:
        """What a ledger keeps: of each machine what its card would, the best last."""
        parts = [(named_parts(one.best.planned.hw), one.choice) for one in reversed(self.machines)]
        return [entry for name, choice in parts for entry in predictions_of(self.model, name, self.job, choice)]

    def text(self, width: int = 80, *, details: bool = False, n_lines: int = 24) -> str:
        """Lines of at most `width` characters, where words allow: one screen (24 lines of 80 columns), or with
        `details` every machine, what fits none and every assumption.
        """
        from pregate.economics.machine_screen import ranking_screen, ranking_text

        return ranking_text(self, width) if details else ranking_screen(self, width, n_lines)

    def markdown(self) -> str:
        """The same as Markdown."""
        from pregate.economics.machine_screen import ranking_markdown

        return ranking_markdown(self)

    def __repr__(self) -> str:
        return f"MachineRanking({self.model} on {len(self.machines)} machines: {self.verdict()})"

    def _repr_html_(self) -> str:
        from pregate.economics.machine_screen import ranking_html

        return ranking_html(self)


def rank_machines(
    model: ModelArchitecture | str | Path,
    machines: Sequence[str | Path | Platform],
    job: RequestLoad | None = None,
    *,
    trace: RoutingTrace | None = None,
    objective: str = "request",
    stacks: Sequence[str] | None = None,
    overrides: Mapping[str, float | str] | None = None,
    popularity: PopularityProfile | None = None,
    policies: Sequence[str] = (),
    seed: int = 0,
    cache_dir: str | Path | ScheduleCache | bool | None = False,
    basis: str = "own",
    assumptions: Assumptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> MachineRanking:
    """Rank `machines` by the design that is best on each, and cost a million tokens of it; a card of one is `plan`'s.

    `machines`: by name or file, each with `overrides`, or platforms, whose stack is then the only one; `trace` to
    `cache_dir` as of `plan`. What two machines of one host and stack share is off on both alike, all else
    independently. A machine serves these requests for a share of its time, and costs all of it: `basis` (own or rent)
    and `assumptions` as of `costs` (None: those that ship).

    Raises `InvalidInput` where no machine or one twice is named, where the model fits none of them, or as `plan` does.
    """
    objective = figure_named("objective", objective, OBJECTIVES)
    if basis not in BASES:
        raise unknown_name("basis", basis, BASES)
    if not machines:
        raise InvalidInput("no machines to rank: name at least one, such as rtx-4090")
    architecture = model if isinstance(model, ModelArchitecture) else load_model(model)
    asked = [platforms_of(architecture, hw, stacks, overrides) for hw in machines]
    names = [next(iter(platforms.values())).hardware for platforms in asked]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise InvalidInput(f"{twice} is there twice: name each machine once")
    work = work_of(architecture, job, trace, popularity, seed)
    more, kept = [policy_named(policy).name for policy in policies], schedules_in(cache_dir)
    found: list[tuple[Ranking, tuple[tuple[str, str], ...]]] = []
    unfit: list[tuple[str, str]] = []
    for name, platforms in zip(names, asked, strict=True):
        progress(name)
        try:
            found.append(ranked_on(architecture, work, platforms, objective, more=more, kept=kept))
        except NothingFits as error:
            unfit.append((name, str(error)))
    if not found:
        raise NothingFits("; ".join(f"{name}: {reason}" for name, reason in unfit[:2]))
    found.sort(key=lambda one: one[0].best.cost(objective))
    costed, assumed = _costed([choice.best for choice, _ in found], basis, assumptions or load_assumptions())
    return MachineRanking(
        model=architecture.name,
        job=work.job,
        objective=objective,
        machines=tuple(
            RankedMachine(choice, *cost, reasons) for (choice, reasons), cost in zip(found, costed, strict=True)
        ),
        unfit=tuple(unfit),
        routing=routing_of(work, trace, in_view=popularity is None),
        basis=basis,
        assumed=assumed,
    )


def _costed(
    designs: Sequence[Judged], basis: str, assumptions: Assumptions
) -> tuple[list[tuple[Estimate | None, str, float]], Mapping[str, Assumption]]:
    """Of each design US dollars for a million tokens, or what is assumed nowhere, and how often it is the cheapest; and
    every assumption that was looked at.
    """
    draws = Draws(designs[0].planned.hw, basis, assumptions)
    drawn: list[DrawnCost | str] = []
    for one in designs:
        shape = RequestShape(one.job.input_tokens, one.job.output_tokens)
        try:
            drawn.append(draws.on(one.planned.hw).cost(served_of(one), shape, 1.0))
        except InvalidInput as error:
            drawn.append(str(error))
    known = [isinstance(one, DrawnCost) for one in drawn]
    usd = [one.per_token for one in compress(drawn, known) if isinstance(one, DrawnCost)]
    least = np.min(usd, axis=0) if usd else np.zeros(0)
    found: list[tuple[Estimate | None, str, float]] = []
    for cost in drawn:
        if isinstance(cost, str):
            found.append((None, cost, 0.0))
        else:
            found.append((estimate(1e6 * cost.per_token), "", float((cost.per_token[1:] <= least[1:]).mean())))
    return found, draws.looked_at


def _listed(names: Sequence[str], most: int = 2) -> str:
    more = len(names) - most
    return " or ".join(names) if more <= 0 else f"{', '.join(names[:most])} or {more} more"


def usd(value: float) -> str:
    """Dollars by three digits, and never a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
