"""Constants of a law from a table of kernels, and how well it says families of shapes that were left out.

Least squares of ln(predicted / measured), errors above 5 % counting less than their square, over rows drawn with a
fixed seed, as many of each family: the same rows every time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.calibrate.public_tables.clock_ticks import RankAgreement, rank_agreement
from hwmodels.calibrate.public_tables.kernel_tables import KernelTable
from hwmodels.compute_formats import computes_in
from hwmodels.laws.benchmark_conditions import MEASURED
from hwmodels.laws.fitted_law import MOST_TIME_S, FittedLaw, HeldOut
from hwmodels.laws.law_forms import FORMS
from hwmodels.laws.rates import CardRates
from hwmodels.quantity import ReadOnly
from hwmodels.specs.spec import Accelerator
from traces.model.dtypes import find_dtype

MOST_ROWS = 2500
"""Rows of a table that are fitted."""

_SEED = 20_260_828
_FOLDS = 5
_SOFT = 0.05
"""Relative error from which a row counts by its error, not by the square of it."""

_REACH = 4.0
"""How far from its start, in logarithms, a constant may end."""

_SHARES = ("peak", "memory", "sustained", "kept")
"""Constants that are shares of what is claimed: at most 1 (of a cache that holds more than it says: 2)."""

_LEAST_SPREAD, _VAGUE = 0.02, 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Constants:
    """Constants by name and the covariance of their logarithms."""

    values: Mapping[str, float]
    covariance: NDArray[np.float64]


def drawn_rows(table: KernelTable, n: int = MOST_ROWS) -> KernelTable:
    """At most `n` rows, families in turn until there are enough."""
    if len(table) <= n:
        return table
    rng = np.random.default_rng(_SEED)
    order = rng.permutation(len(table))
    family = table.family[order]
    nth = np.zeros(len(order), np.int64)  # how many of its family come before
    for one in np.unique(family):
        mine = np.flatnonzero(family == one)
        nth[mine] = np.arange(len(mine))
    chosen = order[np.argsort(nth, kind="stable")[:n]]
    return table.rows(np.sort(chosen))


def predicted(values: Mapping[str, float], table: KernelTable, rates: CardRates) -> NDArray[np.float64]:
    """Seconds of every row, (n_rows,)."""
    bits = find_dtype(table.stored).bits
    return np.asarray(MEASURED[table.form](values, rates, table.shapes, bits, table.kernel).total_s)


def rates_of(table: KernelTable, accelerator: Accelerator) -> CardRates:
    """What the makers of `accelerator` claim for kernels like those of `table`."""
    stated = accelerator.peak_flop_per_s
    rate = stated[computes_in(table.compute, stated)]
    return CardRates(rate, accelerator.hbm_bytes_per_s, float(accelerator.n_sm), float(accelerator.l2_bytes))


def table_roofline_s(table: KernelTable, rates: CardRates) -> NDArray[np.float64]:
    """The longer of all arithmetic and all reading at the claimed rates, (n_rows,): what a law has to better."""
    of, size = table.shapes, find_dtype(table.stored).bits / 8
    if "gemm" in table.form:
        flop, read = 2 * of["m"] * of["n"] * of["k"], of["n"] * of["k"] * size
    elif table.form == "experts":
        rows, weights = of["n_tokens"] * of["top_k"], (of["n_up"] + 1) * of["d_model"] * of["d_ff"]
        flop, read = 2 * rows * weights, np.minimum(rows, of["n_experts"]) * weights * size
    elif "latent" in table.form:
        prompt, widths = table.form == "latent_context", of["key_width"] + of["value_width"]
        entry = of["n_heads"] * widths * 2 if prompt else of["key_width"] * size
        read = of["n_sequences"] * of["context"] * entry
        pairs = of["context"] * (of["context"] + 1) / 2 if prompt else of["context"]
        flop = 2 * of["n_sequences"] * of["n_heads"] * widths * pairs
    else:
        prompt = table.form == "context_attention"
        read = 2 * of["n_sequences"] * of["context"] * of["n_kv_heads"] * of["head_width"] * size
        pairs = of["context"] * (of["context"] + 1) / 2 if prompt else of["context"]
        flop = 4 * of["n_sequences"] * of["n_heads"] * of["head_width"] * pairs
    return np.asarray(np.maximum(flop / rates.flop_per_s, read / rates.bytes_per_s))


def solve_law(table: KernelTable, rates: CardRates, start: Mapping[str, float] | None = None) -> Constants:
    """The constants of a law on all rows of `table`."""
    from scipy.optimize import least_squares

    names = list(FORMS[table.form].constants)
    usual = np.log([at for _, at in FORMS[table.form].constants.values()])
    bounds = np.array([usual - _REACH, usual + _REACH])
    for i, (name, (dimension, _)) in enumerate(FORMS[table.form].constants.items()):
        if name in _SHARES:
            bounds[1, i] = np.log(2.0 if name == "kept" else 1.0)
        elif dimension == "time":
            bounds[1, i] = min(bounds[1, i], np.log(MOST_TIME_S))
    began = usual if start is None else np.log([start[name] for name in names])

    def residuals(log_c: NDArray[np.float64]) -> NDArray[np.float64]:
        values = dict(zip(names, np.exp(log_c).tolist(), strict=True))
        return np.log(predicted(values, table, rates) / table.seconds)

    began = np.clip(began, bounds[0] + 1e-9, bounds[1] - 1e-9)
    found = least_squares(residuals, began, bounds=bounds, loss="soft_l1", f_scale=_SOFT, max_nfev=200, ftol=1e-6)
    scatter = max(float(np.median(np.abs(found.fun))) * 1.4826, _LEAST_SPREAD)
    information = found.jac.T @ found.jac / scatter**2 + np.eye(len(names)) / _VAGUE**2
    covariance = np.linalg.inv(information)
    values = dict(zip(names, np.exp(found.x).tolist(), strict=True))
    return Constants(ReadOnly(values), (covariance + covariance.T) / 2)


def held_out_rows(table: KernelTable, rates: CardRates, start: Mapping[str, float]) -> NDArray[np.float64]:
    """Seconds of every row, (n_rows,), predicted by a fit without its family: families in five parts."""
    families = np.random.default_rng(_SEED).permutation(np.unique(table.family))
    seconds = np.full(len(table), np.nan)
    for part in np.array_split(families, min(_FOLDS, len(families))):
        out = np.isin(table.family, part)
        if out.all():
            continue
        without = solve_law(table.rows(~out), rates, start)
        seconds[out] = predicted(without.values, table.rows(out), rates)
    return seconds


def errors_of(seconds: NDArray[np.float64], measured: NDArray[np.float64]) -> HeldOut:
    """The errors of what was predicted; rows that were not (nan) do not count."""
    from scipy.stats import kendalltau

    said = np.isfinite(seconds)
    ratio = seconds[said] / measured[said]
    errors = np.abs(ratio - 1)
    tau = float(kendalltau(seconds[said], measured[said]).statistic) if len(ratio) > 1 else 0.0
    scatter = float(np.sqrt(np.mean(np.log(ratio) ** 2)))
    median, p90 = np.quantile(errors, (0.5, 0.9)).tolist()
    return HeldOut(
        n=int(said.sum()),
        mape=float(errors.mean()),
        median=median,
        p90=p90,
        bias=float((ratio - 1).mean()),
        tau=tau if math.isfinite(tau) else 0.0,
        scatter=scatter,
    )


def fit_law(table: KernelTable, rates: CardRates) -> tuple[FittedLaw, RankAgreement | None]:
    """The law of a table with its errors on families that were left out, and their ranking where its clock ticks."""
    drawn = drawn_rows(table)
    constants = solve_law(drawn, rates)
    left_out = held_out_rows(drawn, rates, constants.values)
    families = errors_of(left_out, drawn.seconds)
    windowed = table.windowed
    windows = None
    if windowed is not None:
        windows = errors_of(predicted(constants.values, windowed, rates), windowed.seconds)
    axes = FORMS[table.form].axes
    within = {name: (float(table.shapes[name].min()), float(table.shapes[name].max())) for name in axes}
    values = {name: float(f"{value:.5g}") for name, value in constants.values.items()}
    covariance = tuple(tuple(float(f"{x:.5g}") for x in row) for row in constants.covariance.tolist())
    law = FittedLaw(
        form=table.form,
        compute=table.compute,
        stored=table.stored,
        kernel=table.kernel,
        values=ReadOnly(values),
        covariance=covariance,
        within=ReadOnly(within),
        families=families,
        elsewhere=None,
        windows=windows,
        source=ReadOnly({**table.source, "rows": str(len(table)), "fitted_rows": str(len(drawn))}),
    )
    return law, rank_agreement(left_out, drawn.seconds)
