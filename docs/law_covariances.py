"""What drawing the constants of laws would add to their intervals: `python docs/law_covariances.py` prints it.

For each law of a fit: what predictions scatter by where constants are drawn from their covariance, over shapes drawn
within what was measured, beside the scatter on families left out, which intervals draw from. What a cache holds of
weights read in turn (`cache`, `kept`) is left as it is: no prediction asks for it.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from hwmodels.compute_formats import computes_in
from hwmodels.fits.fit_files import fit_names, load_fit
from hwmodels.laws.benchmark_conditions import MEASURED
from hwmodels.laws.fitted_law import FittedLaw
from hwmodels.laws.rates import CardRates
from hwmodels.specs.machine_files import load_machine
from hwmodels.specs.spec import Accelerator
from traces.model.dtypes import find_dtype

_OF_BENCHMARKS = ("cache", "kept")
_SHAPES, _DRAWS, _SEED = 200, 200, 20_261_128


def constants_scatter(law: FittedLaw, accelerator: Accelerator) -> float:
    """Root mean square of ln(predicted with drawn constants / predicted)."""
    rng = np.random.default_rng(_SEED)
    shapes = {name: np.exp(rng.uniform(*np.log(span), _SHAPES)).round() for name, span in law.within.items()}
    if "n_kv_heads" in shapes:
        shapes["n_kv_heads"] = np.minimum(shapes["n_kv_heads"], shapes["n_heads"])
    if "top_k" in shapes:
        shapes["top_k"] = np.minimum(shapes["top_k"], shapes["n_experts"])
    stated = accelerator.peak_flop_per_s
    rate = stated[computes_in(law.compute, stated)]
    rates = CardRates(rate, accelerator.hbm_bytes_per_s, float(accelerator.n_sm), float(accelerator.l2_bytes))
    draws = rng.multivariate_normal(np.zeros(len(law.values)), np.array(law.covariance), _DRAWS)
    draws[:, [name in _OF_BENCHMARKS for name in law.values]] = 0.0
    logs = [_log_seconds(law, dict(zip(law.values, np.exp(row), strict=True)), rates, shapes) for row in draws]
    plain = _log_seconds(law, dict.fromkeys(law.values, 1.0), rates, shapes)
    return float(np.sqrt(np.mean((np.array(logs) - plain) ** 2)))


def _log_seconds(
    law: FittedLaw, factors: dict[str, float], rates: CardRates, shapes: dict[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    values = {name: value * factors[name] for name, value in law.values.items()}
    bits = find_dtype(law.stored).bits
    return np.log(np.asarray(MEASURED[law.form](values, rates, shapes, bits, law.kernel).total_s))


def main() -> None:
    """Print a line a form, the middle and the largest of its laws."""
    found = defaultdict(list)
    for name in fit_names():
        fit = load_fit(name)
        for law in fit.laws:
            drawn = constants_scatter(law, load_machine(fit.hardware).accelerator)
            found[law.form].append((drawn, law.families.scatter, f"{fit.hardware} {law.stored}"))
    print("law, laws, scatter by constants (middle), on families left out (middle), wider by at most")
    for form, rows in found.items():
        wider = [(math.hypot(drawn, left) / left - 1, what) for drawn, left, what in rows]
        most, what = max(wider)
        middle = [float(np.median(column)) for column in ([row[0] for row in rows], [row[1] for row in rows])]
        print(f"{form}, {len(rows)}, {middle[0]:.1%}, {middle[1]:.1%}, {most:.0%} ({what})")


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
