"""What the functions of `import pregate` are given, checked at the door: names become objects, wrong types one line."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from traces.errors import InvalidInput
from traces.foundation.type_checks import check_value, fits, hint_of


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` that raises `InvalidInput` for arguments it has not, lacks, or whose type is not the annotated one.

    Where a model or a platform is wanted its name or file is taken too, and one policy, or several by comma, where a
    list of them is.
    """
    signature = inspect.signature(function)
    names = vars(sys.modules[function.__module__])
    hints = {name: hint_of(one.annotation, names) for name, one in signature.parameters.items()}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidInput(f"{function.__name__}: {error}; it takes {_told(signature)}") from None
        for name, value in bound.arguments.items():
            hint = hints[name]
            if signature.parameters[name].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                continue
            if isinstance(value, str | Path) and not fits(value, hint) and name in _NAMED:
                value = bound.arguments[name] = _NAMED[name](value)
            if name == "policies" and hasattr(value, "tolist"):
                value = bound.arguments[name] = value.tolist()
            check_value(f"{function.__name__}: {name}", value, hint)
        return function(*bound.args, **bound.kwargs)

    return call


def _told(signature: inspect.Signature) -> str:
    """`model, hw, trace, and if wanted policies, seed=`: those without a default first, `=` where a name is due."""
    parameters = signature.parameters.values()
    spelt = {one.name: f"{one.name}=" if one.kind is inspect.Parameter.KEYWORD_ONLY else one.name for one in parameters}
    needed = [spelt[one.name] for one in parameters if one.default is inspect.Parameter.empty]
    others = [spelt[one.name] for one in parameters if one.default is not inspect.Parameter.empty]
    return ", and if wanted ".join(", ".join(names) for names in (needed, others) if names)


def _model(name: str | Path) -> Any:
    from pregate.named import load_model

    return load_model(name)


def _platform(name: str | Path) -> Any:
    from pregate.named import load_hardware

    return load_hardware(str(name))


def _trace(path: str | Path) -> Any:
    from pregate.routing_traces import load_trace

    return load_trace(path)


def _policies(text: str | Path) -> list[str]:
    return [name.strip() for name in str(text).split(",") if name.strip()]


_NAMED: dict[str, Callable[[str | Path], Any]] = {
    "model": _model,
    "hw": _platform,
    "trace": _trace,
    "policies": _policies,
}
"""Arguments that are taken by name too."""
