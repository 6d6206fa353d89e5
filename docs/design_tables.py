"""The designs that ship, and what runs them: the table of docs/policies.md."""

from __future__ import annotations

import inspect

from offload.caches.residency import ResidentSet
from offload.execution import EXECUTIONS
from offload.fast.compilable import is_compilable
from offload.miss_costs import MissCosts
from offload.policies import PRESETS, eviction_named, policy_named
from offload.policy import Policy


def designs() -> str:
    """A line a design: what its file says first, who writes large schedules, and whether outputs are the model's."""
    lines = ["| design | what it does | large schedules | output |", "|---|---|---|---|"]
    told = set()
    for name, make in PRESETS.items():
        if name.startswith("guess/") and make.__module__ in told:
            continue
        told.add(make.__module__)
        policy, shown = policy_named(name), "guess/..." if name.startswith("guess/") else name
        module = inspect.getmodule(make)
        what = (inspect.getdoc(module) or "").split("\n")[0].partition(": ")[2].rstrip(".")
        writer = "compiled" if _is_compiled(policy) else "Python"
        lines.append(f"| `{shown}` | {what} | {writer} | {'exact' if policy.is_exact else 'approximate'} |")
    return "\n".join(lines)


def _is_compiled(policy: Policy) -> bool:
    """Whether compiled code writes large schedules of a policy, with its cache, on some machine."""
    cache = None
    if policy.cache is not None:
        eviction = eviction_named(policy.cache.eviction, 0, lambda: [[0]])
        cache = ResidentSet(4, eviction, per_layer=policy.cache.per_layer, n_layers=2, n_experts=4)
    return is_compilable(policy.on_machine(MissCosts(0.4)), EXECUTIONS["streams"], cache)


if __name__ == "__main__":
    print(designs())
