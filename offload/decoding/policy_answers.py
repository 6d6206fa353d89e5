"""What a policy answers, checked: what is not a decision is refused in one line. Nothing here may know time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from offload.policy import BlockView, Fetch, MissAction
from traces.errors import InvalidInput


def checked_fetches(name: str, fetches: Any, view: BlockView, *, crosses: bool) -> list[Fetch]:
    """The fetches of policy `name`. `crosses`: whether the next step may be a target.

    Raises `InvalidInput` for what is no list of `Fetch`, a block behind, or a block or expert that does not exist.
    """
    where = f"policy {name} in block {view.block} of {view.n_blocks}"
    if isinstance(fetches, Fetch | str | bytes) or not isinstance(fetches, Sequence):
        raise InvalidInput(f"{where}: prefetch returned {fetches!r}, not a list of Fetch(block, experts)")
    return [_checked_fetch(where, fetch, view, crosses) for fetch in fetches]


def _checked_fetch(where: str, fetch: Any, view: BlockView, crosses: bool) -> Fetch:
    """A fetch that a policy returned, if it is one of experts that exist, at a block that is still to come."""
    if not isinstance(fetch, Fetch):
        raise InvalidInput(f"{where}: prefetch returned {fetch!r} among its fetches, not a Fetch(block, experts)")
    experts: Any = fetch.experts
    plain = isinstance(experts, tuple) and {*map(type, experts), type(fetch.block), type(fetch.steps_ahead)} == {int}
    if not plain and not (
        isinstance(experts, Sequence) and all(map(_whole, (fetch.block, fetch.steps_ahead, *experts)))
    ):
        raise InvalidInput(f"{where} fetches {fetch}: block and steps_ahead are whole numbers, experts a tuple of them")
    if fetch.steps_ahead not in ((0, 1) if crosses else (0,)):
        legal = "0 is this step, 1 the next" if crosses else "the next step of an encoder is no target"
        raise InvalidInput(f"{where} fetches {fetch}: {legal}")
    first = 0 if fetch.steps_ahead else view.block
    known = not fetch.experts or (min(fetch.experts) >= 0 and max(fetch.experts) < view.n_experts)
    if not (first <= fetch.block < view.n_blocks and known):
        raise InvalidInput(
            f"{where} fetches {fetch}: this block or a later one (any, one step ahead), experts 0..{view.n_experts - 1}"
        )
    return fetch


def checked_answers(name: str, answers: Any, view: BlockView, missing: Sequence[int]) -> dict[int, MissAction]:
    """The answer of policy `name` to each expert that is missing; others are refused, as is one without an answer."""
    where = f"policy {name} in block {view.block} of {view.n_blocks}"
    if not isinstance(answers, Mapping):
        raise InvalidInput(f"{where}: on_miss returned {answers!r}, not a mapping of experts to MissAction")
    for expert in missing:
        if expert not in answers:
            raise InvalidInput(f"{where}: on_miss forgets expert {expert}; it answers for each of {list(missing)}")
    for expert, action in answers.items():
        if expert not in missing:
            raise InvalidInput(f"{where}: on_miss answers for expert {expert!r}, which is not one of {list(missing)}")
        if not isinstance(action, MissAction):
            raise InvalidInput(f"{where}: on_miss answers {action!r} for expert {expert}: it is a MissAction")
    return {expert: answers[expert] for expert in missing}


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
