"""One number, predicted and measured: its error, and whether its interval holds.

`stall_s` is different from the rest: predicted and measured stall are both divided by the measured makespan, and the
error is the difference of these shares (0.02 is two percentage points). A relative error of a stall near zero means
nothing. Every other error is relative: predicted / measured - 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pregate.validation.outcome import Case, CaseOutcome, OpTime
from pregate.validation.scores.rank_agreement import kendall_tau

SHARES = frozenset({"stall_s"})
"""Metrics compared as shares of the measured makespan."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A number of a case. None for what is not there: no valid run, no interval, a share of nothing.

    `span`: least and most over the valid runs. `shares`: the error is the difference, not relative.
    """

    case: Case
    predicted: float | None
    measured: float | None
    interval: tuple[float, float] | None = None
    span: tuple[float, float] | None = None
    shares: bool = False

    @property
    def error(self) -> float | None:
        """Signed: positive when too much was predicted. None without a measurement, or relative to nothing."""
        if self.predicted is None or self.measured is None:
            return None
        if self.shares:
            return self.predicted - self.measured
        return self.predicted / self.measured - 1 if self.measured > 0 else None

    @property
    def inside(self) -> bool | None:
        """Whether the measured value lies in the interval; None when there is either no interval or no value."""
        if self.interval is None or self.measured is None:
            return None
        return self.interval[0] <= self.measured <= self.interval[1]


def compared_unit(metric: str) -> str:
    """Of what `compared_metric` returns."""
    return "share of makespan" if metric in SHARES else "tokens/s" if metric == "tokens_per_s" else "s"


def compared_metric(outcome: CaseOutcome, metric: str) -> Compared:
    """A metric of a case, in the unit that `unit_of` says."""
    predicted = outcome.prediction.metrics[metric]
    interval = outcome.prediction.intervals.get(metric)
    run = outcome.valid
    if metric not in SHARES:
        if run is None:
            return Compared(outcome.case, predicted, None, interval)
        return Compared(outcome.case, predicted, run.median(metric), interval, run.span(metric))
    whole_s = run.median("makespan_s") if run is not None else 0.0
    if run is None or whole_s <= 0:
        return Compared(outcome.case, None, None, shares=True)
    (low, high), part = run.span(metric), run.median(metric)
    share = None if interval is None else (interval[0] / whole_s, interval[1] / whole_s)
    return Compared(outcome.case, predicted / whole_s, part / whole_s, share, (low / whole_s, high / whole_s), True)


def compared_naive(outcome: CaseOutcome, baseline: str) -> Compared | None:
    """What a naive baseline says of `tpot_s`; None when it says nothing of this case."""
    if baseline not in outcome.prediction.naive:
        return None
    mine = compared_metric(outcome, "tpot_s")
    return Compared(outcome.case, outcome.prediction.naive[baseline], mine.measured, span=mine.span)


def compared_ops(outcome: CaseOutcome) -> dict[str, Compared]:
    """Mean time of an op (s) by kind, of the decode phase."""
    said = outcome.prediction.ops
    seen = outcome.valid.ops if outcome.valid is not None else {}
    kinds = dict.fromkeys([*said, *seen])
    return {kind: Compared(outcome.case, _mean_s(said.get(kind)), _mean_s(seen.get(kind))) for kind in kinds}


def _mean_s(op: OpTime | None) -> float | None:
    return op.total_s / op.n if op is not None and op.n else None


def score(numbers: Iterable[Compared]) -> dict[str, Any]:
    """Errors of many numbers, JSON-ready: what has no error is left out, and `n` says how many are left.

    `mape`: mean |error|; `bias`: mean error; `p50`, `p90`, `p99`: of |error|, interpolated; `worst`: largest |error|,
    of `worst_case`; `kendall_tau` of predicted and measured values; `coverage`: share of the `n_intervals` numbers with
    an interval that holds the measured value. None where there is nothing to say.
    """
    all_numbers = list(numbers)
    scored = [number for number in all_numbers if number.error is not None]
    inside = [number.inside for number in all_numbers if number.inside is not None]
    return {
        "n": len(scored),
        **_errors(scored),
        "kendall_tau": kendall_tau([n.predicted or 0.0 for n in scored], [n.measured or 0.0 for n in scored]),
        "coverage": sum(inside) / len(inside) if inside else None,
        "n_intervals": len(inside),
    }


def _errors(scored: Sequence[Compared]) -> dict[str, Any]:
    if not scored:
        return dict.fromkeys(("mape", "bias", "p50", "p90", "p99", "worst", "worst_case"))
    errors = np.array([number.error for number in scored], dtype=np.float64)
    p50, p90, p99 = np.percentile(np.abs(errors), [50, 90, 99])
    worst = int(np.argmax(np.abs(errors)))
    return {
        "mape": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "worst": float(np.abs(errors)[worst]),
        "worst_case": scored[worst].case.name,
    }
