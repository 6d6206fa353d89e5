"""What a host that decides as it goes costs: from what it was seen to take, alone and beside kernels, to constants.

By kind of op and by what came before it, since that is what the host has to make up its mind about in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.fits.fit import Fit, FittedConstant
from hwmodels.fits.fit_limits import can_be_ratio
from hwmodels.platform import platform_of
from hwmodels.quantity import ReadOnly
from offload.ops import OpKind

_Z95 = 1.96
_QUARTILE = 0.6745
_MOST = {"beside_kernels": 4.0, "slows_kernels": 1e3}
"""Kernels may get nowhere while the host decides. Then it has the interpreter: it keeps a quarter of its rate at least,
whatever else the machine did while that was measured.
"""


def with_deciding(fit: Fit, measured: Measurements) -> Fit:
    """`fit` with the constants of a run whose host decides as it goes (`hwmodels.kernels.roofline`); as it is where
    that was not measured.
    """
    found = _decisions(measured) | _live(fit, measured) | _together(measured) | _copies(measured)
    return replace(fit, kernels=ReadOnly({**fit.kernels, **found})) if found else fit


def _decisions(measured: Measurements) -> dict[str, FittedConstant]:
    found: dict[str, FittedConstant] = {}
    by_kind: dict[str, list[Sample]] = defaultdict(list)
    for sample in measured.of("decide"):
        kind, after = (str(sample.parameters[name]) for name in ("kind", "after"))
        if kind.upper() in OpKind.__members__ and sample.mean_s > 0:
            by_kind[kind].append(sample)
            found[f"{kind}.decide_after_{after}_s"] = _mean([sample])
    return found | {f"{kind}.decide_s": _mean(samples) for kind, samples in by_kind.items()}


def _mean(samples: Sequence[Sample]) -> FittedConstant:
    """The mean of all timings; what it may be, between the quartiles of the samples."""
    value = sum(sample.mean_s * sample.n for sample in samples) / sum(sample.n for sample in samples)
    low, high = min(sample.p25_s for sample in samples), max(sample.p75_s for sample in samples)
    return FittedConstant(value, (min(low, value), max(high, value)), tuple(sample.row for sample in samples))


def _live(fit: Fit, measured: Measurements) -> dict[str, FittedConstant]:
    """What ops take live over what the fit says of them, with experts resident and beside fetches.

    A ratio that no op can have tells of other work of the machine alone, and is left out.
    """
    found = {}
    figures = figures_of(platform_of(fit))
    for beside, name in (("nothing", "live"), ("fetches", "live_offloaded")):
        for sample in measured.of("live", beside=beside):
            priced = price_figures([sample.work], replace(figures, offloaded=beside == "fetches"))
            said_s = float(priced.duration_s[0])
            if not (sample.mean_s > 0 and said_s > 0):
                continue
            value, spread = sample.mean_s / said_s, 1 + _Z95 * sample.spread / 2 / _QUARTILE / sample.n**0.5
            key = f"{sample.work.kind.name.lower()}.{name}"
            if not can_be_ratio(key, value):
                continue
            found[key] = FittedConstant(value, (value / spread, value * spread), (sample.row,))
    return found


def _copies(measured: Measurements) -> dict[str, FittedConstant]:
    """What a copy takes of the core that the host decides on, where they have one."""
    samples = [one for one in measured.of("deciding") if one.parameters.get("beside") == "core"]
    kinds = [str(one.parameters["of"]) for one in samples]
    return {f"{kind}.core_s": _mean([one]) for kind, one in zip(kinds, samples, strict=True) if one.mean_s > 0}


def _together(measured: Measurements) -> dict[str, FittedConstant]:
    """How many times as long the host takes beside kernels, and kernels while the host decides: what each takes more is
    lost while both are at it, but for what the host lost to copies on its core.
    """
    seen: Mapping[tuple[object, object], Sample] = {
        (one.parameters.get("of"), one.parameters.get("beside")): one for one in measured.of("deciding")
    }
    both = seen.get(("both", "both"))
    pairs = {"beside_kernels": ("host", "kernels"), "slows_kernels": ("kernels", "host")}
    found = {}
    for name, (of, beside) in pairs.items():
        together, alone = seen.get((of, beside)), seen.get((of, "nothing"))
        if both is None or together is None or alone is None or not both.mean_s:
            return {}
        copies = seen.get((of, "copies"))
        lost_s = together.mean_s - alone.mean_s - (0.0 if copies is None else copies.mean_s)
        kept = 1 - lost_s / both.mean_s
        value = 1 / min(max(kept, 1 / _MOST[name]), 1.0)
        rows = tuple(one.row for one in (together, alone, both, copies) if one is not None)
        found[f"wait.{name}"] = FittedConstant(value, (max(1.0, value / 2), value * 2), rows)
    return found
