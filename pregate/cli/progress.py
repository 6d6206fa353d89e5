"""A moving line on standard error while a command works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console


def progress_console() -> Console:
    """Standard error for lines that move, which they do on a terminal alone: colours that an environment asks for in a
    log (FORCE_COLOR) are no reason to fill it with them.
    """
    from rich.console import Console

    try:
        moves = sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        moves = False
    return Console(stderr=True, markup=False, force_terminal=moves, force_interactive=None if moves else False)


@contextmanager
def spinner(title: str, *, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """A moving line on standard error while long work runs; `update(text)` says what is being done.

    `lines`: where standard error is no terminal, a line for each, for work of minutes that a log should show.
    """
    from rich.text import Text

    console = progress_console()
    with console.status(title) as status:

        def update(what: str) -> None:
            status.update(Text(f"{title}: {what}"))
            if lines and not console.is_terminal:
                typer.echo(f"{title}: {what}", err=True)

        yield update
