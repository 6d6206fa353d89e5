"""The words of a command line, looked at before they are read: no option twice, no digits of other scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from traces.errors import InvalidInput

_OF_SYNTHESIS = ("--input-tokens", "--output-tokens", "--active")
_OWN_SEED = ("optimize", "validate")
"""Commands whose seed is of more than a synthetic trace."""

_OF_SUITES = (
    "--policies", "--trace", "--link", "--storage", "--tier", "--batch", "--dtype", "--seed", *_OF_SYNTHESIS,
)  # fmt: skip

_OF_RUNS = ("--backend", "--graphs", "--go-on", "--budget-s")


def check_arguments(params: Sequence[Any], words: Sequence[str]) -> None:
    """Raise `InvalidInput` for an option that takes one value and is given twice, or a number that is not ASCII.

    `params`: of the command, with `opts`, `multiple`, `is_flag` and a type.
    """
    seen: set[str] = set()
    for name, param, value in _given(params, words):
        if not param.multiple and param.name in seen:
            raise InvalidInput(f"{name} is given twice: give it once")
        seen.add(param.name)
        if _is_number(param) and value is not None and not (value.isascii() and "_" not in value):
            raise InvalidInput(f"{name} {value!r} is not a number: write it in the digits 0 to 9")


def check_together(command: str | None, typed: set[str]) -> None:
    """Raise `InvalidInput` for options of `command` of which one makes the other of no use, its default included:
    those of a synthetic trace, or of Poisson arrivals, beside what was recorded, those that a suite states itself, and
    those of runs beside runs that were recorded.
    """
    of_trace = [name for name in (*_OF_SYNTHESIS, *(() if command in _OWN_SEED else ("--seed",))) if name in typed]
    if "--trace" in typed and of_trace:
        raise InvalidInput(f"{of_trace[0]} makes a synthetic trace: leave it out, or leave out --trace")
    of_poisson = [name for name in _OF_SYNTHESIS if name in typed]
    if "--arrivals" in typed and of_poisson:
        raise InvalidInput(f"{of_poisson[0]} is of Poisson arrivals: leave it out, or leave out --arrivals")
    of_suite = [name for name in _OF_SUITES if name in typed]
    if "--suite" in typed and of_suite:
        raise InvalidInput(
            f"{of_suite[0]}: a suite has its own policies, traces, sizes, formats, links and tier: leave it out, or "
            f"give --model"
        )
    if "--recorded" in typed and typed.intersection(_OF_RUNS):
        raise InvalidInput(f"--recorded FOLDER: nothing is run, leave out {', '.join(_OF_RUNS)}")


def is_typed(context: Any, name: str) -> bool:
    """Whether an option stands on the command line, and is not a default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _given(params: Sequence[Any], words: Sequence[str]) -> Iterator[tuple[str, Any, str | None]]:
    """The options that take a value as they stand in `words`: the spelling, the option, its value."""
    options = {name: param for param in params for name in param.opts if name.startswith("-")}
    flags = {name for name, param in options.items() if getattr(param, "is_flag", False)}
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        name, attached, value = word.partition("=")
        if name not in options and not word.startswith("--"):
            name, attached, value = word[:2], word[2:], word[2:]
        if name in options and name not in flags:
            yield name, options[name], value if attached else next(rest, None)


def _is_number(param: Any) -> bool:
    """Typer names the type of a parameter in one way before 0.29 and in another from then on."""
    kind = getattr(param, "type", None)
    name = param.bare_type() if kind is None else kind.name
    return str(name).split()[0] in ("int", "integer", "float")
