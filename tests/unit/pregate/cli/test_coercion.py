"""Words of the command line as values: what the library under it would make of them, and one clear line otherwise."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

from pregate.cli.coercion import coerced_here


class Shade(StrEnum):
    light = "light"
    dark = "dark"


def _command(*, here: bool) -> Any:
    """A command of every type of parameter that there is, coerced here or by the library."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def print_all(
        name: str,
        number: Annotated[int, typer.Option(min=1)] = 3,
        share: float | None = None,
        files: Annotated[list[Path] | None, typer.Option()] = None,
        words: Annotated[list[str] | None, typer.Option()] = None,
        loud: bool = False,
        shade: Shade = Shade.light,
        at: Path | None = None,
    ) -> None:
        seen.append((name, number, share, files, words, loud, shade, at))

    seen: list[Any] = []
    command: Any = get_command(app)
    command.seen = seen
    if here:
        coerced_here(command.params)
    return command


@pytest.mark.parametrize(
    "words",
    [
        "x",
        "x --number 7 --share 2.5e-3",
        "x --share inf --shade dark --loud",
        "x --files a --files b/c --words u --words v --at /tmp/z",
        "-- -x",
    ],
)
def test_values_are_those_of_the_library(words: str) -> None:
    found = []
    for here in (True, False):
        command = _command(here=here)
        command(words.split(), standalone_mode=False)
        found.append(command.seen)
    assert found[0] == found[1]
    assert [type(value) for value in found[0][0]] == [type(value) for value in found[1][0]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("x --number 0", "0 is below 1"),
        ("x --number 1.5", "'1.5' is not a whole number"),
        ("x --number " + "9" * 5000, "is not a whole number"),
        ("x --share much", "'much' is not a number"),
        ("x --shade grey", "'grey' is not one of 'light', 'dark'"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(words: str, line: str) -> None:
    with pytest.raises(Exception, match=line) as caught:
        _command(here=True)(words.split(), standalone_mode=False)
    assert type(caught.value).__name__ == "BadParameter"
    assert len(str(caught.value)) < 200
