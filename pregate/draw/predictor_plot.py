"""Predictors' curves: by layers ahead, by experts guessed, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pregate.draw.palette import styles_of
from pregate.draw.style import bare, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pregate.ask.replays.predictors import PredictorCurves


@picture
def predictor_curves(found: PredictorCurves) -> Figure:
    """Three panels, a line a predictor; where not on an axis, the first lookahead and the fewest guesses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    names = list(dict.fromkeys(row.predictor for row in found))
    styles = styles_of(names)
    ahead, more = min(row.lookahead for row in found), min(row.more for row in found)
    for name in names:
        rows, style = [row for row in found if row.predictor == name], styles[name]
        look = {"color": style.colour, "marker": style.marker, "linestyle": style.dash, "ms": 4, "lw": 1.3}
        one = sorted((r.lookahead, 100 * r.value) for r in rows if r.more == more)
        panels[0].plot(*zip(*one, strict=True), label=name, **look)
        two = sorted((found.top_k + r.more, 100 * r.value) for r in rows if r.lookahead == ahead)
        panels[1].plot(*zip(*two, strict=True), **look)
        row = next(r for r in rows if (r.lookahead, r.more) == (ahead, more))
        three = [(at, 100 * v) for at, v in zip(found.layers, row.by_layer, strict=True) if v is not None]
        panels[2].plot(*zip(*three, strict=True), **look | {"marker": ""})
    for panel, label in zip(panels, ("layers ahead", "experts guessed", "MoE layer"), strict=True):
        panel.set_xlabel(label)
        panel.set_ylim(0, 102)
        panel.xaxis.get_major_locator().set_params(integer=True)
        bare(panel)
    panels[0].set_ylabel(f"{found.metric} (%)")
    figure.suptitle(
        f"{found.model}: top-{found.top_k} of {found.n_experts}; {found.n_judged_tokens} judged tokens, split by "
        f"{found.split}", x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure
