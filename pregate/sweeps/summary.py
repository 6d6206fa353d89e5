"""What a sweep says in a few lines: how often each policy is the best, where it fits, and the range of its figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.ask.ranked_designs import are_ranked, told_apart
from pregate.sweeps.sweep_table import SweepTable, table_of

if TYPE_CHECKING:
    import xarray as xr


def best_policy(data: SweepTable | xr.Dataset, metric: str = "tokens_per_s", *axes: str) -> NDArray[np.int64]:
    """Index of the ranked policy (`pregate.ask.ranked_designs`) with the best `metric` at each point, (...) over the
    axes; -1 where none fits.

    The most of a rate or a share of hits is the best, the least of a time and of bytes.
    """
    less = metric.endswith("_bytes") or (metric.endswith("_s") and not metric.endswith("per_s"))
    table = table_of(data)
    found = table[metric].along("policy", *axes)
    found = np.where(np.reshape(are_ranked(_standings(table)), (-1, *[1] * (found.ndim - 1))), found, np.nan)
    values = np.nan_to_num(-found if less else found, nan=-np.inf)
    best: NDArray[np.int64] = np.where(np.isneginf(values.max(axis=0)), -1, values.argmax(axis=0))
    return best


def apart(table: SweepTable) -> list[str]:
    """A sentence for each policy of a sweep that is told apart."""
    return told_apart(zip(table.policies, _standings(table), strict=True))


def _standings(table: SweepTable) -> list[str]:
    """By policy; those of a sweep that does not say are taken to answer."""
    known = json.loads(table.attrs.get("standings", "{}"))
    return [known.get(name, "") for name in table.policies]


def summarise(data: SweepTable | xr.Dataset) -> list[dict[str, Any]]:
    """One row a policy, JSON-ready: its shares of all points, its smallest and largest figures (NaN: fits nowhere)."""
    table = table_of(data)
    best, standings = best_policy(table), _standings(table)
    rows = []
    for i, policy in enumerate(table.policies):
        here = table.take("policy", i)
        fits = here["fits"].values
        row: dict[str, Any] = {
            "policy": policy,
            "n_points": int(fits.size),
            "fits_share": float(fits.mean()),
            "best_share": float((best == i).mean()),
            "standing": standings[i],
        }
        for name in ("tokens_per_s", "moe_layer_latency_s", "ttft_s", "peak_hbm_bytes", "batch_size"):
            values = here[name].values[fits]
            row[f"{name}_min"], row[f"{name}_max"] = (
                (float(values.min()), float(values.max())) if values.size else (float("nan"), float("nan"))
            )
        rows.append(row)
    return rows
