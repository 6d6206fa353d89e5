"""What a sweep says in a few lines: how often each policy is the best, where it fits, and the range of its figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.ask.ranked_designs import are_ranked, told_apart

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["apart", "best_policy", "summarise"]


def best_policy(dataset: xr.Dataset, metric: str = "tokens_per_s") -> NDArray[np.int64]:
    """Index of the ranked policy (`pregate.ask.ranked_designs`) with the best `metric` at each point, (...) over the
    axes; -1 where none fits.

    The most of a rate or a share of hits is the best, the least of a time and of bytes.
    """
    less = metric.endswith("_bytes") or (metric.endswith("_s") and not metric.endswith("per_s"))
    found = dataset[metric].transpose("policy", ...).values
    found = np.where(np.reshape(are_ranked(_standings(dataset)), (-1, *[1] * (found.ndim - 1))), found, np.nan)
    values = np.nan_to_num(-found if less else found, nan=-np.inf)
    best: NDArray[np.int64] = np.where(np.isneginf(values.max(axis=0)), -1, values.argmax(axis=0))
    return best


def apart(dataset: xr.Dataset) -> list[str]:
    """A sentence for each policy of a sweep that is told apart."""
    return told_apart(zip(dataset["policy"].values.tolist(), _standings(dataset), strict=True))


def _standings(dataset: xr.Dataset) -> list[str]:
    """By policy; those of a sweep that does not say are taken to answer."""
    known = json.loads(dataset.attrs.get("standings", "{}"))
    return [known.get(name, "") for name in dataset["policy"].values.tolist()]


def summarise(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """One row a policy, JSON-ready: its shares of all points, its smallest and largest figures (NaN: fits nowhere)."""
    best, standings = best_policy(dataset), _standings(dataset)
    rows = []
    for i, policy in enumerate(dataset["policy"].values.tolist()):
        here = dataset.isel(policy=i)
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
