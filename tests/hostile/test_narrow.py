"""Tables on narrow terminals: no name is cut, and what has no room is named."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import pregate
from pregate.draw.render import comparison_table, fit_to_width

POLICIES = ["gpu_only", "on_demand", "prefetch_all", "pregate(2)+lru:0.1"]


@pytest.mark.parametrize(("width", "all_there"), [(200, True), (80, False), (40, False)])
def test_names_are_whole_and_columns_that_have_no_room_are_named(width: int, all_there: bool) -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    table = comparison_table(pregate.compare(model, hw, pregate.synthesize(model, 4, 3), POLICIES), "title")
    text = io.StringIO()
    console = Console(file=text, width=width, markup=False)
    left_out = fit_to_width(table, console)
    console.print(table)
    shown = text.getvalue()
    assert all(policy in shown for policy in POLICIES)
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert (left_out == []) is all_there
    assert width < 80 or all(title in shown for title in ("tokens/s", "95 %", "TTFT", "TPOT"))
    assert all(len(line) <= width for line in shown.splitlines())
