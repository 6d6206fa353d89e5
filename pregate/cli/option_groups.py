"""Options that several commands share, declared once: the fields of a dataclass, in place of one parameter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

Command = Callable[..., None]


def options_of(bundle: type[Any], without: Collection[str] = ()) -> dict[str, Parameter]:
    """The fields of a dataclass as options, by name, but the ones `without`."""
    hints = get_type_hints(bundle, include_extras=True)
    return {
        field.name: Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(bundle)
        if field.name not in without
    }


def given_as(
    command: Command, name: str, bundle: type[Any], shared: Mapping[str, Parameter], order: Sequence[Parameter]
) -> Command:
    """`command` with the parameters `order`; those that are `shared` reach it as one, `name`, a `bundle`."""

    @wraps(command)
    def call(**given: Any) -> None:
        command(**{name: bundle(**{one: given.pop(one) for one in shared})}, **given)

    call.__signature__ = Signature(list(order))  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in order}
    return call


def takes(name: str, bundle: type[Any]) -> Callable[[Command], Command]:
    """A command whose keyword `name` is given as options, where it stands: the fields of `bundle`."""

    def expanded(command: Command) -> Command:
        shared, own = options_of(bundle), list(signature(command, eval_str=True).parameters.values())
        place = [parameter.name for parameter in own].index(name)
        return given_as(command, name, bundle, shared, [*own[:place], *shared.values(), *own[place + 1 :]])

    return expanded
