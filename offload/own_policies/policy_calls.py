"""Code of a user's own is asked here: what it raises is one line, and what it is shown it cannot change.

Functions of this project are called as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from offload.own_policies.own_code import where_raised
from traces.errors import InvalidInput, PregateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offload.policy import BlockView


T = TypeVar("T")


def is_foreign(function: Any) -> bool:
    """Whether a function, or a value that is called, was written outside of this project."""
    module: Any = getattr(function, "__module__", None)
    return not isinstance(module, str) or module.partition(".")[0] != "offload"


def ask(policy: str, what: str, function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`. Raises `InvalidInput` for whatever code of a user's own raises."""
    if not is_foreign(function):
        return function(*arguments)
    try:
        return function(*arguments)
    except PregateError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidInput(f"policy {policy}: {what} {where_raised(error, _file_of(function))}") from error


def ask_at(policy: str, what: str, function: Callable[..., T], view: BlockView, *arguments: Any) -> T:
    """`function(view, *arguments)`, of a view that code of a user's own gets a copy of.

    Raises `InvalidInput` as `ask`, and where the view is not as it was.
    """
    if not is_foreign(function):
        return function(view, *arguments)
    shown = replace(
        view,
        chosen=lambda block: _copied(view.chosen(block)),
        gate_weights=lambda block: _copied(view.gate_weights(block)),
        predicted=lambda block: _copied(view.predicted(block)),
    )
    before = [getattr(shown, field.name) for field in fields(shown)]
    answer = ask(f"{policy} in block {view.block} of {view.n_blocks}", what, function, shown, *arguments)
    for field, value in zip(fields(shown), before, strict=True):
        if getattr(shown, field.name) is not value:
            raise InvalidInput(f"policy {policy} in block {view.block}: {what} changes view.{field.name}: it may look")
    return answer


def _file_of(function: Any) -> str | None:
    code: Any = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return None if code is None else str(code.co_filename)


def _copied(values: NDArray[Any] | None) -> NDArray[Any] | None:
    if values is None:
        return None
    copied = values.copy()
    copied.flags.writeable = False
    return copied
