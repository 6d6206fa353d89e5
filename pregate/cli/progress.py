"""A moving line on standard error while a command works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

__all__ = ["spinner"]


@contextmanager
def spinner(title: str, *, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """A moving line on standard error while long work runs; `update(text)` says what is being done.

    `lines`: where standard error is no terminal, a line for each, for work of minutes that a log should show.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, markup=False)
    with console.status(title) as status:

        def update(what: str) -> None:
            status.update(Text(f"{title}: {what}"))
            if lines and not console.is_terminal:
                typer.echo(f"{title}: {what}", err=True)

        yield update
