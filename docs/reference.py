"""The reference of the command line and of Python, from what commands print and docstrings say.

`python docs/reference.py` prints both.
"""

from __future__ import annotations

import inspect
from typing import Any

from typer.main import get_command

import pregate
from pregate import draw
from pregate.cli.commands import COMMANDS
from pregate.cli.main import application

WIDTH = 100
LONGEST_DEFAULT = 40
"""Of a signature; what is longer is three dots."""


def command_line() -> str:
    """The help of every command, as a terminal of `WIDTH` columns shows it."""
    return "\n\n".join(f"## {name}\n\n```text\n{_help(command, name)}\n```" for name, command in commands().items())


def commands() -> dict[str, Any]:
    """Every command that takes words of its own, by its full name."""
    root = get_command(application())
    context = root.context_class(root, info_name="pregate")
    found = {"pregate": root}
    for name in COMMANDS:
        _, command, _ = root.resolve_command(context, [name])
        found[f"pregate {name}"] = command
        found |= {f"pregate {name} {inner}": one for inner, one in getattr(command, "commands", {}).items()}
    return found


def _help(command: Any, name: str) -> str:
    context = command.context_class(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def python() -> str:
    """Every public name: functions and pictures with their signatures, classes with their methods."""
    names = {name: getattr(pregate, name) for name in pregate.__all__}
    functions = {f"pregate.{name}": found for name, found in names.items() if inspect.isfunction(found)}
    pictures = {f"draw.{name}": getattr(draw, name) for name in draw.__all__}
    classes = {f"pregate.{name}": found for name, found in names.items() if inspect.isclass(found)}
    sections = [
        ("Functions", "\n\n".join(_function(name, found) for name, found in functions.items())),
        ("Pictures", f"{_text(draw)}\n\n" + "\n\n".join(_function(name, found) for name, found in pictures.items())),
        ("Results and what is asked with", "\n\n".join(_class(name, found) for name, found in classes.items())),
    ]
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)


def _function(name: str, function: Any) -> str:
    return f"### {name}\n\n```python\n{_signature(name, function)}\n```\n\n{_text(function)}"


def _class(name: str, cls: type) -> str:
    members = []
    for member, found in vars(cls).items():
        text = inspect.getdoc(found.fget if isinstance(found, property) else found) or ""
        if member.startswith("_") or not text or not (inspect.isroutine(found) or isinstance(found, property)):
            continue
        shown = member if isinstance(found, property) else f"{member}({_arguments(found)})"
        members.append(f"- `{shown}`: {_one_line(text)}")
    return "\n\n".join(part for part in (f"### {name}", _text(cls), "\n".join(members)) if part)


def _one_line(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).replace("<", "&lt;")


def _text(documented: Any) -> str:
    """A docstring, whose lines are joined where a paragraph or a row of a table goes on."""
    return (inspect.getdoc(documented) or "").replace("<", "&lt;")


def _arguments(function: Any) -> str:
    parameters = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    return ", ".join(parameters)


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(inspect.unwrap(function))
    lines = []
    stars = True
    for one in signature.parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY and stars:
            lines.append("*")
            stars = False
        lines.append(_parameter(one))
    returned = (
        "" if signature.return_annotation is inspect.Signature.empty else f" -> {_type(signature.return_annotation)}"
    )
    flat = f"{name}({', '.join(lines)}){returned}"
    return flat if len(flat) <= WIDTH else f"{name}(\n    " + ",\n    ".join(lines) + f",\n){returned}"


def _parameter(one: inspect.Parameter) -> str:
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(one.kind, "")
    told = star + one.name
    if one.annotation is not inspect.Parameter.empty:
        told += f": {_type(one.annotation)}"
    if one.default is not inspect.Parameter.empty:
        default = repr(one.default)
        told += f" = {default if len(default) <= LONGEST_DEFAULT and ' at 0x' not in default else '...'}"
    return told


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def main() -> None:
    """Print both."""
    print(command_line(), python(), sep="\n\n")


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
