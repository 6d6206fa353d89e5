"""Values against the types that their names are annotated with: one line that names the argument, not a traceback."""

from __future__ import annotations

import builtins
import dataclasses
import reprlib
import sys
import types
from collections.abc import Callable, Mapping
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from traces.errors import InvalidInput

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False", type(None): "None"}


def check_fields(instance: Any) -> None:
    """Raise `InvalidInput` for the first field of a dataclass whose value is not of its annotated type."""
    owner: Any = type(instance)
    for name, hint in _hints(owner):
        check_value(f"{owner.__name__}: {name}", getattr(instance, name), hint)


def check_value(where: str, value: Any, hint: Any) -> None:
    """Raise `InvalidInput`, opened by `where`, unless `value` is of the type `hint`."""
    if not fits(value, hint):
        raise InvalidInput(f"{where} = {reprlib.repr(value)} must be {_told(hint)}, not {type(value).__name__}")


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint`. A bool is no number; what a hint cannot tell apart fits."""
    if type(value) is hint:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Annotated:
        return fits(value, inner[0])
    if origin is Literal:
        return any(type(value) is type(one) for one in inner)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if origin is not None:
        return _fits_container(value, origin, inner)
    return _is_instance(value, hint)


def _fits_container(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    """Whether a mapping, a sequence or a callable is one, with what it should hold."""
    if origin is Callable:
        return callable(value)
    if isinstance(value, str | bytes):
        return False
    if isinstance(origin, type) and issubclass(origin, Mapping):
        keys, values = inner
        return isinstance(value, Mapping) and all(fits(k, keys) and fits(v, values) for k, v in value.items())
    if hasattr(value, "__array__"):
        return True
    if not _is_instance(value, origin) and not (origin.__name__ == "ndarray" and isinstance(value, list | tuple)):
        return False
    one_kind = isinstance(value, list | tuple) and (len(inner) == 1 or inner[1:] == (...,))
    return not one_kind or origin.__name__ == "ndarray" or all(fits(item, inner[0]) for item in value)


def _is_instance(value: Any, hint: Any) -> bool:
    if not isinstance(hint, type):
        return True
    try:
        return isinstance(value, hint)
    except TypeError:  # a protocol that is not checked while a program runs
        return True


def hint_of(annotation: Any, names: Mapping[str, Any]) -> Any:
    """The type that an annotation stands for among the `names` of its module; Any where it names something absent."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(vars(builtins)), dict(names))
    except (NameError, AttributeError, TypeError):
        return Any


@cache
def _hints(owner: Any) -> tuple[tuple[str, Any], ...]:
    names = vars(sys.modules[owner.__module__])
    return tuple((field.name, hint_of(field.type, names)) for field in dataclasses.fields(owner))


def _told(hint: Any) -> str:
    """A type in words: `text or None`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_told, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of {_told(inner[0])} to {_told(inner[1])}"
    if origin is not None:
        return f"a list of {_told(inner[0])}" if inner else "a list"
    if hint is Any:
        return "anything"
    name = str(getattr(hint, "__name__", hint))
    return _WORDS.get(hint) or f"{'an' if name[0] in 'AEIO' else 'a'} {name}"
