"""The designs that ship: what runs them, and what each is made of: `python docs/design_tables.py` prints the tables of
docs/policies.md.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offload.caches.residency import ResidentSet
from offload.execution import EXECUTIONS
from offload.fast.compilable import is_compilable
from offload.policies import PRESETS, eviction_named, policy_named
from offload.policies.policy_descriptions import DESIGNS, first_sentence, what_it_does
from offload.policy import Policy, fetch_misses, no_prefetch
from offload.policy_parts.miss_costs import MissCosts

DIFFERS = "Differs: "
"""What the docstring of a design's file begins the paragraph with that says how it is not what was published."""


def designs() -> str:
    """A line a design: what its file says first, who writes large schedules, and whether outputs are the model's."""
    lines = ["| design | what it does | large schedules | output |", "|---|---|---|---|"]
    for shown, policy, doc, _ in _told():
        writer = "compiled" if _is_compiled(policy) else "Python"
        does = what_it_does(shown) if shown in DESIGNS else first_sentence(doc)
        lines.append(f"| `{shown}` | {does} | {writer} | {'exact' if policy.is_exact else 'approximate'} |")
    return "\n".join(lines)


def parts() -> str:
    """A line a design: its file and that file's lines, its parts, and how it differs from what was published."""
    lines = ["| design | file | lines | parts | differs from what was published |", "|---|---|---|---|---|"]
    for shown, policy, doc, path in _told():
        paragraphs = [" ".join(one.split()) for one in doc.split("\n\n")]
        differs = next((one.removeprefix(DIFFERS).rstrip(".") for one in paragraphs if one.startswith(DIFFERS)), "-")
        n_lines = len(path.read_text().splitlines())
        made_of = ", ".join(_parts(policy)) or "-"
        lines.append(f"| `{shown}` | `{path.name}` | {n_lines} | {made_of} | {differs} |")
    return "\n".join(lines)


def _told() -> Iterator[tuple[str, Policy, str, Path]]:
    """Every design: its name as shown, itself, the docstring of its file, and that file. Predictors of one are one."""
    guessed = False
    for name, make in PRESETS.items():
        module = inspect.getmodule(make)
        assert module is not None
        is_guess = module.__name__.endswith(".guess")
        if not (is_guess and guessed):
            yield (
                ("guess/..." if is_guess else name),
                policy_named(name),
                module.__doc__ or "",
                Path(str(module.__file__)),
            )
        guessed |= is_guess


def _parts(policy: Policy) -> Iterator[str]:
    """What a policy is composed of, without what every policy has."""
    if policy.resident:
        yield "`resident`"
    if policy.lookahead:
        yield f"gates {policy.lookahead} ahead"
    if policy.next_token:
        yield "gates a token ahead"
    for part, usual in ((policy.prefetch, no_prefetch), (policy.start, None), (policy.predictor, None)):
        if part is not usual:
            yield _named(part)
    if policy.on_miss is not fetch_misses:
        yield _named(policy.on_miss)
    if policy.cache is not None:
        yield f"cache `{policy.cache.eviction}{':per_layer' if policy.cache.per_layer else ''}`"


def _named(part: Any) -> str:
    """A part by its class or function, with the plain numbers and names that it was made of."""
    if not dataclasses.is_dataclass(part):
        return f"`{part.__name__}`"
    given = [getattr(part, one.name) for one in dataclasses.fields(part) if getattr(part, one.name) != one.default]
    return f"`{type(part).__name__}({', '.join(str(one) for one in given if isinstance(one, int | float | str))})`"


def _is_compiled(policy: Policy) -> bool:
    """Whether compiled code writes large schedules of a policy, with its cache, on some machine."""
    cache = None
    if policy.cache is not None:
        eviction = eviction_named(policy.cache.eviction, 0, lambda: [[0]])
        cache = ResidentSet(4, eviction, per_layer=policy.cache.per_layer, n_layers=2, n_experts=4)
    return is_compilable(policy.on_machine(MissCosts(0.4)), EXECUTIONS["streams"], cache)


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    print(f"{designs()}\n\n{parts()}")
