"""Hit rates of expert caches by pure replay: what a budget of HBM would hold, without any timing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offload.replay import CurveRow, curve_csv, residency_curve
from pregate.simulation import to_dataframe
from traces.errors import InvalidInput
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Residency", "residency"]


@dataclass(frozen=True, slots=True)
class Residency:
    """One row a budget and policy, in the order asked for; iterate over `rows`."""

    rows: tuple[CurveRow, ...]

    def __iter__(self) -> Iterator[CurveRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

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
    if isinstance(expert_bytes, int) and expert_bytes < 1:
        raise InvalidInput(f"expert_bytes = {expert_bytes} is below 1")
    if not policies or not budgets_mib:
        raise InvalidInput("no policies or no budgets to replay: give at least one of each, such as lru and 1000")
    for budget in budgets_mib:
        if not 0 < budget < 1e12:
            raise InvalidInput(f"budget = {budget:g} MiB: it must be above 0 and finite")
    sizes = [expert_bytes] * trace.n_moe_layers if isinstance(expert_bytes, int) else expert_bytes
    return Residency(tuple(residency_curve(trace, policies, budgets_mib, expert_bytes=sizes, seed=seed)))
