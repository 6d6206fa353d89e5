"""Hit rates of expert caches by pure replay: what a budget of HBM would hold, without any timing.

`residency` compares policies at the budgets given; `lru_curve` has an LRU at every capacity there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offload.caches.budget_replay import CurveRow, curve_csv, residency_curve
from pregate.ask.result_display import html_rows, to_dataframe
from traces.errors import InvalidInput, check_least
from traces.routing import RoutingTrace
from traces.statistics import hit_curve

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Residency:
    """One row a budget and policy, in the order asked for; iterate over `rows`."""

    rows: tuple[CurveRow, ...]

    def __iter__(self) -> Iterator[CurveRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Residency({len(self.rows)} rows of budgets and policies)"

    def _repr_html_(self) -> str:
        return html_rows(self.to_dict(), "Hits by budget and policy")

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-ready rows with the columns of the published curves."""
        names = ("budget_mib", "policy", "hit_pct_cum", "hit_pct_decode", "read_mib")
        return [{name: getattr(row, name) for name in names} for row in self.rows]

    def to_dataframe(self) -> pd.DataFrame:
        """The same as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.to_dict())

    def to_csv(self) -> str:
        """The same as CSV, in the digits of the published curves."""
        return curve_csv(self.rows)


def residency(
    trace: RoutingTrace,
    policies: Sequence[str] = ("lru", "lfu", "layer", "layerlfu", "belady"),
    budgets_mib: Sequence[float] = (500, 1000, 2000, 4000),
    *,
    expert_bytes: int | Sequence[int] | None = None,
    seed: int = 0,
) -> Residency:
    """Replay `trace` through expert caches; budgets in MiB of expert bytes.

    `expert_bytes`: size of one expert, or one a layer; None takes what the trace recorded. `seed` is of the policy
    `random`. Raises `UnknownName` for an unknown policy, `InvalidInput` for a budget not above 0 or no known size.
    """
    sizes = _one_a_layer(trace, expert_bytes)
    if not policies or not budgets_mib:
        raise InvalidInput("no policies or no budgets to replay: give at least one of each, such as lru and 1000")
    check_least("seed", seed, 0)
    for what, given in (("policies", policies), ("budgets_mib", budgets_mib)):
        if len(set(given)) < len(given):
            raise InvalidInput(f"{what} = {list(given)!r}: name each once")
    for budget in budgets_mib:
        if not 0 < budget < 1e12:
            raise InvalidInput(f"budget = {budget:g} MiB: it must be above 0 and finite")
    return Residency(tuple(residency_curve(trace, policies, budgets_mib, expert_bytes=sizes, seed=seed)))


@dataclass(frozen=True, slots=True, eq=False)
class LruCurve:
    """An LRU at each of `capacities`, int64, of all layers together.

    As built, those are the smallest capacity answered and every one at which hits are gained. `curve` answers
    any other, and has the counts and the unit, "slots" or "bytes".
    """

    curve: hit_curve.HitCurve
    capacities: NDArray[np.int64]

    @property
    def hit_rate(self) -> NDArray[np.float64]:
        """Hits over lookups at each capacity, (n_capacities,), prefill included."""
        return self.curve.hit_rate(self.capacities)

    @property
    def hit_rate_decode(self) -> NDArray[np.float64]:
        """Hits over lookups of the decode steps at each capacity, (n_capacities,)."""
        return self.curve.hit_rate(self.capacities, decode_only=True)

    def at(self, capacities: ArrayLike) -> LruCurve:
        """The same curve at these capacities, in this order.

        Raises `InvalidInput` for what is no whole number, below 0, or in slots below what the largest event needs.
        """
        self.curve.hits(capacities)
        return LruCurve(self.curve, np.atleast_1d(np.asarray(capacities, dtype=np.int64)))

    def __repr__(self) -> str:
        return f"LruCurve(hits at {len(self.capacities)} capacities)"

    def _repr_html_(self) -> str:
        return html_rows(self.to_dict(), "An LRU at every capacity at which hits are gained")

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-ready, a row a capacity; `read_...` is what all misses read, prefill included."""
        columns = {
            f"capacity_{self.curve.unit}": self.capacities,
            "hit_rate": self.hit_rate,
            "hit_rate_decode": self.hit_rate_decode,
            f"read_{self.curve.unit}": self.curve.read(self.capacities),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def to_dataframe(self) -> pd.DataFrame:
        """The same as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.to_dict())


def lru_curve(
    trace: RoutingTrace, *, per_layer: bool = False, expert_bytes: int | Sequence[int] | NDArray[np.int64] | None = None
) -> LruCurve:
    """Hit rate of an LRU cache of experts at every capacity, from one pass (`traces.statistics.stack_distance`).

    expert_bytes: size of one expert, or one a layer (`trace.expert_bytes`, where recorded): the capacities are then
    bytes, and the curve is what `residency` replays. None counts slots of equal experts, as the caches of policies do;
    that curve begins at the largest event. per_layer: each layer has an even share of the capacity, not one pool.
    Raises `InvalidInput` for sizes below 1 or not one a layer.
    """
    curve = hit_curve.lru_curve(trace, _one_a_layer(trace, expert_bytes), per_layer=per_layer)
    return LruCurve(curve, curve.capacities)


def _one_a_layer(
    trace: RoutingTrace, expert_bytes: int | Sequence[int] | NDArray[np.int64] | None
) -> Sequence[int] | NDArray[np.int64] | None:
    if not isinstance(expert_bytes, int):
        return expert_bytes
    check_least("expert_bytes", expert_bytes, 1)
    return [expert_bytes] * trace.n_moe_layers
