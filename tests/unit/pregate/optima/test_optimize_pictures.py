"""Pictures of what an optimisation has found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pregate.draw.pareto_plot import draw_front
from tests.unit.pregate.optima.searches import POLICIES
from tests.unit.pregate.optima.searches import found_by as search
from traces.errors import InvalidInput


def test_the_picture_joins_the_front_and_numbers_it(tmp_path: Path) -> None:
    found = search(objectives=["tpot_p99_s:min", "price_usd:min"], constraints="tpot_p99_s<=8ms")
    path = tmp_path / "front.png"
    figure = draw_front(found, path)
    axes, below = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("price (US$)", "time per output token, p99 (ms)")
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    drawn = np.asarray(lines["Pareto front"].get_xydata())
    front = [(row["fields"]["price_usd"], 1e3 * row["fields"]["tpot_p99_s"]) for row in reversed(found.front)]
    assert drawn.tolist() == pytest.approx(np.array(front))
    n_drawn = {
        name: len(np.asarray(lines[name].get_xydata())) for name in (*POLICIES, "misses a constraint") if name in lines
    }
    assert n_drawn.pop("misses a constraint") == found.n_fits - found.n_feasible > 0
    assert sum(n_drawn.values()) == found.n_feasible
    numbers = {text.get_text() for text in axes.texts}
    assert numbers == {str(i + 1) for i in range(len(front))}
    assert found.describe(found.front[-1]) in below.texts[0].get_text().splitlines()[0]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_one_objective_is_drawn_over_price_or_tokens() -> None:
    assert draw_front(search(objectives="tpot_s:min")).axes[0].get_xlabel() == "price (US$)"
    axes = draw_front(search(objectives="price_usd:min")).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("price (US$)", "tokens/s")
    unpriced = search({"hardware": ["a10", "rtx-4090"]}, objectives="tpot_s:min")
    assert draw_front(unpriced).axes[0].get_ylabel() == "tokens/s"
    with pytest.raises(InvalidInput, match="one objective and no prices"):
        draw_front(search({"hardware": ["a10", "rtx-4090"]}, objectives="tokens_per_s:max"))
    with pytest.raises(InvalidInput, match="nothing to draw: Nothing meets"):
        draw_front(search(constraints="tpot_s<=1ns"))
