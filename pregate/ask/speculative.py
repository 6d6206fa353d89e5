"""Designs with and without speculative decoding, as one line of text states it, and the time of a draft in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from offload.own_policies.own_policy_names import is_own_name
from offload.policies import policy_named
from offload.policy_parts.speculation import Speculation, speculation_named
from traces.errors import InvalidInput

DRAFT_S = "stack.draft_s"
"""The number of the machine that is the time of a drafted token."""


class Drafting(NamedTuple):
    """How tokens are drafted, and what a machine is told for it: numbers by key, as a user types them."""

    speculation: Speculation
    overrides: dict[str, float | str]


def drafting_named(text: str) -> Drafting:
    """As `speculation_named` reads it, errors too; `draft_s=2ms` is `draft=stated`, and a number of the machine.

    Raises `InvalidInput` where that and `draft=` are said both.
    """
    clauses = [clause.strip() for clause in re.split(r"[,:]", text.strip())]
    times = [clause.partition("=")[2] for clause in clauses if clause.startswith("draft_s=")]
    if len(times) > 1 or (times and any(clause.startswith("draft=") for clause in clauses)):
        raise InvalidInput(f"speculative {text!r}: draft_s= says what drafts, once is enough")
    rest = [clause for clause in clauses if not clause.startswith("draft_s=")] + ["draft=stated"] * len(times)
    return Drafting(speculation_named(",".join(rest)), {DRAFT_S: times[0]} if times else {})


def with_and_without(names: Sequence[str], drafting: Drafting | None) -> list[str]:
    """Each design as it is, and as it drafts tokens; one that says itself how it drafts stays as it is."""
    found: list[str] = []
    for name in names:
        found.append(name)
        policy = None if drafting is None or is_own_name(name) else policy_named(name)
        if drafting is not None and (policy is None or policy.speculation is None):
            found.append(f"{name}@{drafting.speculation}")
    return list(dict.fromkeys(found))
