"""What a routing trace looks like: hot experts, locality, and what caches would hit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from offload.caches.budget_replay import CurveRow
from pregate.draw.palette import PALETTE, styles_of
from pregate.draw.style import SOFT, bare, picture
from traces.errors import InvalidInput
from traces.routing import RoutingTrace
from traces.statistics.locality import TraceStatistics, expert_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@picture
def expert_heat(trace: RoutingTrace) -> Figure:
    """How often each expert is chosen, by MoE layer: share of the layer's choices over a uniform share."""
    from matplotlib.figure import Figure

    counts = expert_counts(trace).astype(float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * trace.n_experts
    figure = Figure(figsize=(9, max(2.4, 0.6 + 0.2 * trace.n_moe_layers)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(np.sort(share, axis=1)[:, ::-1], aspect="auto", cmap="cividis", vmin=0)
    axes.set_xlabel("expert, hottest first in each layer")
    axes.set_ylabel("MoE layer")
    axes.set_title("How hot each expert is (1 = a uniform share)", loc="left", fontsize=11)
    figure.colorbar(shown, ax=axes, label="choices over a uniform share")
    return figure


@picture
def locality(statistics: TraceStatistics, lru_hit_rate: Mapping[float, float] | None = None) -> Figure:
    """Reuse at a lag, distinct experts in a batch and LRU hit rate against the share resident; dashed: by chance.

    `lru_hit_rate`: finer than the statistics have it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    reuse, distinct, hits = figure.subplots(1, 3)
    chance = statistics.top_k / statistics.n_experts
    lags = [lag for lag, value in statistics.reuse.items() if np.isfinite(value)]
    reuse.bar([str(lag) for lag in lags], [statistics.reuse[lag] for lag in lags], color=PALETTE[2], width=0.5)
    reuse.axhline(chance, color=SOFT, ls="--", lw=1.2, label="by chance")
    reuse.set(xlabel="tokens back", ylabel="share of experts reused", ylim=(0, None))
    batches = [b for b, value in statistics.distinct_experts.items() if np.isfinite(value)]
    uniform = [statistics.n_experts * (1 - (1 - chance) ** batch) for batch in batches]
    distinct.plot(batches, [statistics.distinct_experts[b] for b in batches], "o-", color=PALETTE[0])
    distinct.plot(batches, uniform, "--", color=SOFT, lw=1.2, label="by chance")
    distinct.set(xlabel="tokens in the batch", ylabel="distinct experts a layer", xscale="log", ylim=(0, None))
    distinct.set_xticks(batches, [str(batch) for batch in batches])
    distinct.minorticks_off()
    points = sorted((lru_hit_rate or statistics.lru_hit_rate).items())
    hits.plot([share for share, _ in points], [rate for _, rate in points], "o-", color=PALETTE[3])
    hits.plot([0, 1], [0, 1], "--", color=SOFT, lw=1.2, label="by chance")
    hits.set(xlabel="share of a layer's experts resident", ylabel="LRU hit rate", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (reuse, distinct, hits):
        _above(axes)
    return figure


@picture
def residency_curves(rows: Iterable[CurveRow]) -> Figure:
    """Hit rate in decode against the budget, a line a policy; `rows` are those of a `Residency`.

    Raises `InvalidInput` for none.
    """
    from matplotlib.figure import Figure

    rows = list(rows)
    if not rows:
        raise InvalidInput("no rows to draw: replay a trace at one budget or more")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for policy, style in styles_of(row.policy for row in rows).items():
        points = [(row.budget_mib, row.hit_pct_decode) for row in rows if row.policy == policy]
        axes.plot(
            *zip(*points, strict=True), style.dash, marker=style.marker, ms=5, color=style.colour, label=policy
        )  # fmt: skip
    axes.set(xlabel="budget (MiB of experts)", ylabel="hits in decode (%)", ylim=(0, 100))
    _above(axes)
    return figure


def _above(axes: Axes) -> None:
    bare(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, fontsize=9, borderaxespad=0.2)
