"""The policies of a sweep, and what the axes `lookahead`, `cache_ratio`, `gamma` and `acceptance` make of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offload.policies import policy_named
from offload.policy import Cache, Policy
from pregate.sweeps.axes import Axis
from traces.errors import InvalidInput

_PREGATE = re.compile(r"pregate(?![a-z_(])")
"""A preset that looks ahead, and does not say how far."""


@dataclass(frozen=True, slots=True)
class Design:
    """One policy of the sweep. `text`: as typed, None for a `Policy` made in Python; `cache`: added to it."""

    policy: Policy
    text: str | None
    cache: Cache | None

    @property
    def looks_ahead(self) -> bool:
        """Whether the axis `lookahead` moves it: a preset `pregate` that does not say how far."""
        return self.text is not None and self.policy.source is None and _PREGATE.match(self.text) is not None

    def takes_cache(self, cache: Cache | None) -> bool:
        """Whether the axis `cache_ratio` moves it: it keeps no experts, or only in the `cache` given for all."""
        return not self.policy.resident and (self.policy.cache is None or cache is not None)

    def at(self, choice: Mapping[str, Any]) -> Policy:
        """The policy of a point. Raises `InvalidInput` for a lookahead it cannot have."""
        policy = self.policy
        if "lookahead" in choice and self.looks_ahead and self.text is not None:
            policy = policy_named(_PREGATE.sub(f"pregate({choice['lookahead']})", self.text, count=1))
        cache = self.cache
        if "cache_ratio" in choice and self.takes_cache(self.cache):
            ratio = choice["cache_ratio"]
            cache = dataclasses.replace(self.cache or Cache("lru"), ratio=ratio) if ratio else None
            policy = dataclasses.replace(policy, cache=None)
        if policy.speculation is not None and ("gamma" in choice or "acceptance" in choice):
            moved = policy.speculation.at(choice.get("gamma"), choice.get("acceptance"))
            policy = dataclasses.replace(policy, speculation=moved)
        return policy.with_cache(cache)


def read_designs(policies: Sequence[str | Policy], cache: Cache | None, axes: Mapping[str, Axis]) -> tuple[Design, ...]:
    """The policies of a sweep, each with `cache` added to it unless it keeps every expert.

    Raises `InvalidInput` without policies, with one twice, for a cache over a policy that has its own, or for an axis
    that moves none of them.
    """
    if not policies or isinstance(policies, str | Policy):
        raise InvalidInput(f"policies = {policies!r}: give a list of at least one, such as pregate")
    designs = tuple(
        Design(policy, None, cache)
        if isinstance(policy, Policy)
        else Design(policy_named(policy), policy.strip(), cache)
        for policy in policies
    )
    for design in designs:
        design.policy.with_cache(cache)
    names = [design.policy.name for design in designs]
    if len(set(names)) < len(names):
        raise InvalidInput(f"policies {', '.join(names)}: one is given twice")
    if "lookahead" in axes and not any(design.looks_ahead for design in designs):
        raise InvalidInput(f"axis lookahead moves the policy pregate, none of {', '.join(names)} is one")
    for axis in ("gamma", "acceptance"):
        if axis in axes and all(design.policy.speculation is None for design in designs):
            raise InvalidInput(
                f"axis {axis} moves designs that draft tokens, none of {', '.join(names)} does: add "
                f"@gamma=4:acceptance=0.8 to one, or say speculative"
            )
    if "cache_ratio" in axes:
        if cache is not None and (cache.ratio is not None or cache.n_slots is not None):
            raise InvalidInput("axis cache_ratio gives the size of the cache: name its eviction only, such as lfu")
        if not any(design.takes_cache(cache) for design in designs):
            raise InvalidInput(f"axis cache_ratio adds a cache, none of {', '.join(names)} takes one more")
    return designs
