"""A long table is printed as rich prints it, byte for byte, in a twentieth of the time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from pregate.draw import render

if TYPE_CHECKING:
    from rich.table import Table

ROWS = [(f"machine-{i}", "", f"{i * 37} GB") for i in range(60)]


def made(rows: list[tuple[str, ...]], title: str | None = None, style: str = "", caption: str | None = None) -> Table:
    table = render.new_table(title, caption)
    for name, justify in (("hardware", "left"), ("link", "left"), ("memory", "right")):
        table.add_column(name, justify=justify)
    for row in rows:
        table.add_row(*row, style=style)
    return table


def console(is_terminal: bool, width: int = 80) -> Console:
    file = io.StringIO()
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False, force_terminal=is_terminal)


def shown(table: Table, on: Console, monkeypatch: pytest.MonkeyPatch, long: int) -> str:
    monkeypatch.setattr(render, "_LONG", long)
    monkeypatch.setattr("rich.console.Console", lambda **_: on)
    render.print_table(table)
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("title", [None, "What there is"])
def test_a_long_table_is_the_one_that_rich_draws(
    is_terminal: bool, title: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [shown(made(ROWS, title), console(is_terminal), monkeypatch, long) for long in (1000, 1)]
    assert both[0] == both[1]
    assert both[0].count("machine-") == len(ROWS)
    assert render._print_long(made(ROWS, title), console(is_terminal)) is False  # no width is stated
    table = made(ROWS, title)
    render._fix_widths(table)
    assert render._print_long(table, console(is_terminal)) is True


@pytest.mark.parametrize("other", [
    made([*ROWS, ("two\nlines", "", "")]), made([*ROWS, ("größer", "", "")]), made([*ROWS, ("表", "", "")]),
    made([*ROWS, (" apart", "", "")]), made(ROWS, style="dim"), made(ROWS, caption="below"), made([("m" * 90, "", "")]),
])  # fmt: skip
def test_what_may_take_more_than_padding_is_left_to_rich(other: Table) -> None:
    on = console(True)
    render.fit_to_width(other, on)
    assert render._print_long(other, on) is False
    assert isinstance(on.file, io.StringIO)
    assert not on.file.getvalue()
