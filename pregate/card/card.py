"""The verdict card: one model on one machine, as data; `text`, `markdown` and a notebook show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwmodels.platform import Platform
from pregate.card.choice import Ranking, ratio
from pregate.card.job import RequestLoad
from pregate.card.judged_design import Judged
from pregate.card.narrowing import Narrowing
from pregate.card.speed_limit import Limit
from pregate.card.turning_points import TurningPoint
from pregate.engines.writing import Flags
from pregate.validation.ledger import Predicted

N_SHOWN = 3
"""Designs that a card shows."""


@dataclass(frozen=True, slots=True, repr=False)
class Card:
    """What `pregate.plan` found.

    `choice`: every design that fits, ranked, and the verdict; `limit`: what the machine allows, `limit_value` in the
    unit of the objective; `turning_points`: what would change the verdict, the nearest first; `narrowing`: what to
    measure; `flags`: how to run the best, and `possible_flags` what is possible, not proven, where there is that.
    `unfit`: designs that do not fit, with the reason. `routing`: synthetic or recorded. `basis`: of the machine.
    """

    model: str
    hardware: str
    parts: str
    job: RequestLoad
    choice: Ranking
    limit: Limit
    limit_value: float
    turning_points: tuple[TurningPoint, ...]
    narrowing: Narrowing
    flags: Flags
    possible_flags: Flags | None
    unfit: tuple[tuple[str, str], ...]
    routing: str
    basis: str

    @property
    def best(self) -> Judged:
        """The design with the best objective."""
        return self.choice.best

    @property
    def reached(self) -> float:
        """The share of the speed limit that the best is predicted to reach."""
        value = self.best.estimate(self.choice.objective).value
        return value / self.limit_value if self.choice.objective == "throughput" else self.limit_value / value

    def verdict(self) -> str:
        """What to do, in a sentence."""
        return self.choice.verdict()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "model": self.model,
            "hardware": self.hardware,
            "machine": self.parts,
            "job": {name: getattr(self.job, name) for name in self.job.__slots__},
            "objective": self.choice.objective,
            "verdict": self.verdict(),
            "abstains": self.choice.abstains,
            "best": self.best.to_dict(),
            "now": self.choice.now.to_dict(),
            "gain_over_now": {"value": self.choice.gain, "ci95": list(self.choice.gain_interval)},
            "designs": [one.to_dict() for one in self.choice.ranked],
            "beside": [one.to_dict() for one in self.choice.beside],
            "not_told_from_best": [str(one.design) for one in self.choice.rivals],
            "does_not_fit": [{"design": name, "reason": reason} for name, reason in self.unfit],
            "speed_limit": {name: getattr(self.limit, name) for name in self.limit.__slots__}
            | {"objective": self.limit_value, "reached": self.reached},
            "turning_points": [point.to_dict() for point in self.turning_points],
            "narrow_by": {name: getattr(self.narrowing, name) for name in self.narrowing.__slots__},
            "run": {"command": self.flags.command, "left_out": self.flags.left_out},
            "possible": self._possible(),
            "routing": self.routing,
            "basis": self.basis,
        }

    def _possible(self) -> dict[str, Any] | None:
        """What is predicted to be better than the best and is beside the verdict."""
        other, flags = self.choice.possible, self.possible_flags
        if other is None or flags is None:
            return None
        times, interval = ratio(other, self.best, self.choice.objective)
        gain = {"value": times, "ci95": list(interval)}
        run = {"command": flags.command, "left_out": flags.left_out}
        return {"design": str(other.design), "gain_over_best": gain, "run": run}

    def rows(self) -> list[dict[str, Any]]:
        """A flat row a design, the best first; `beside` is true of those that the verdict is not among."""
        return [
            {
                "design": one.design.policy,
                "stack": one.design.stack,
                "ttft_s": one.ttft.value,
                "tpot_s": one.tpot.value,
                "request_s": one.request.value,
                "tokens_per_s": one.throughput.value,
                "peak_hbm_bytes": one.peak_hbm_bytes,
                "rests_on": one.estimate(self.choice.objective).tag,
                "beside": i >= len(self.choice.ranked),
            }
            for i, one in enumerate((*self.choice.ranked, *self.choice.beside))
        ]

    def predictions(self) -> list[tuple[dict[str, str], dict[str, Predicted]]]:
        """What a ledger keeps: the designs that the card shows, the best last."""
        return predictions_of(self.model, self.parts, self.job, self.choice)

    def text(self, width: int = 80, *, details: bool = False, n_lines: int = 24) -> str:
        """The card as lines of at most `width` characters, where words allow: one screen (24 lines of 80 columns, or
        `n_lines`, 23 at least), or with `details` all that it knows.
        """
        if details:
            from pregate.card.display.whole_card import text_of

            return text_of(self, width)
        from pregate.card.display.one_screen import screen_of

        return screen_of(self, width, n_lines)

    def summary(self, width: int = 100) -> str:
        """The card in a few lines: the verdict, the numbers with what they rest on, how to run it."""
        from pregate.card.display.whole_card import summary_of

        return summary_of(self, width)

    def markdown(self) -> str:
        """The card as Markdown."""
        from pregate.card.display.whole_card import markdown_of

        return markdown_of(self)

    def __repr__(self) -> str:
        return f"Card({self.model} on {self.hardware}: {self.verdict()})"

    def _repr_html_(self) -> str:
        from pregate.card.display.whole_card import html_of

        return html_of(self)


def predictions_of(
    model: str, parts: str, job: RequestLoad, choice: Ranking
) -> list[tuple[dict[str, str], dict[str, Predicted]]]:
    """What a ledger keeps of a machine of these `parts`: what runs now, what is possible and the best three, the best
    last.
    """
    beside = [one for one in (choice.possible,) if one is not None]
    shown = {id(one): one for one in (choice.now, *beside, *reversed(choice.ranked[:N_SHOWN]))}
    return [
        (
            {
                "model": model,
                "machine": parts,
                "load": str(job),
                "design": str(one.design),
                "schedules": " ".join(one.schedules.digests()),
            },
            {
                name: Predicted(expected.value, expected.interval, expected.tag)
                for name, expected in (
                    ("ttft_s", one.ttft), ("tpot_s", one.tpot), ("request_s", one.request),
                    ("tokens_per_s", one.throughput),
                )
            },
        )
        for one in [*(one for one in shown.values() if one is not choice.best), choice.best]
    ]  # fmt: skip


def named_parts(hw: Platform) -> str:
    """What a machine is of: its accelerator, its host, and its link where they are apart."""
    link = () if hw.machine.has_one_memory else (hw.machine.link.name,)
    return ", ".join((hw.hardware, hw.machine.host.name, *link))
