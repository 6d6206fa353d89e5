"""Which designs a question ranks: exact ones that can be built; the others are told of, and win nowhere.

One rule for `compare`, `crossover`, `sweep`, `optimize`, costs, plans and pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from offload.policy import Policy
from offload.policy_parts.cache import Cache
from traces.routing import RoutingTrace

Standing = Literal["", "ceiling", "approximate"]
"""Why a design is told apart from those that answer: it knows the future, or its output is not the model's; "" not."""

_WHY: dict[str, str] = {
    "ceiling": "knows what no gate has said, so that nobody can build it",
    "approximate": "skips or rounds experts, or executes others: its output is not the model's",
}


def standing_of(policy: Policy) -> Standing:
    """Of a policy with its cache."""
    if not policy.is_exact:
        return "approximate"
    return "" if policy.can_be_built else "ceiling"


def are_ranked(standings: Sequence[str]) -> list[bool]:
    """Which of the designs asked for win: those without a standing; without one, exact ones, or all there are."""
    for rank in (("",), ("", "ceiling")):
        found = [one in rank for one in standings]
        if any(found):
            return found
    return [True] * len(standings)


def told_apart(standings: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each name whose standing keeps it from being an answer."""
    return [f"{name} {_WHY[standing]}." for name, standing in standings if standing]


def kept_in_view(trace: RoutingTrace, policies: Iterable[Policy], cache: Cache | None = None) -> str:
    """A sentence for the designs that keep what the trace they are judged by asks for most; "" where there is none, and
    where the popularity in its traffic is known.
    """
    if trace.popularity is not None:
        return ""
    names = []
    for policy in policies:
        held = (one for one in (policy.cache, cache) if one is not None and one.holds_popular)
        placed = policy.placement.keeps and not policy.placement.uniform and policy.popularity is None
        if placed or any(one.popularity is None for one in held):
            names.append(policy.name)
    if not names:
        return ""
    return (
        f"Kept with these very choices in view, a little too well: {', '.join(names)} (--popularity counts elsewhere)."
    )
