"""What the host pays to issue an op of each kind, from samples of a run in which it had nothing else to wait for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.fits.fit import FittedConstant
from offload.ops import OpKind

_EXPERTS, _GATE = (kind.name.lower() for kind in (OpKind.EXPERTS, OpKind.GATE))
_TWO_MATRICES = 2
_N_TERMS = 4


def issue_times(measured: Measurements) -> dict[str, FittedConstant]:
    """`KIND.issue_s` of each kind, the median of its samples of decoding; of experts also `issue_rows_s`, more for one
    whose tokens are gathered, and `issue_gated_s`, more for one of three matrices.

    What closes a block is launched with its last expert, once a block as its gate is: the gate's `issue_s` has it.
    """
    by_kind: dict[str, list[Sample]] = defaultdict(list)
    for sample in measured.of("issue"):
        kind = sample.parameters.get("kind")
        if isinstance(kind, str) and kind.upper() in OpKind.__members__:
            by_kind[kind].append(sample)
    found = {kind: _middle(samples) for kind, samples in by_kind.items()}
    named = {f"{kind}.issue_s": one for kind, one in found.items() if one.value > 0}
    told = [sample for sample in _decoding(by_kind[_EXPERTS]) if "closes" in sample.parameters]
    if len(told) > _N_TERMS:
        named |= _of_experts(told, named)
    return named


def _of_experts(samples: Sequence[Sample], named: dict[str, FittedConstant]) -> dict[str, FittedConstant]:
    """Least squares over what tells the samples apart, no term below 0; each sample weighs by its own time."""
    from scipy.optimize import nnls

    terms = np.array([[1.0, *(float(value) for value in _told(sample))] for sample in samples])
    median_s = np.array([sample.median_s for sample in samples])
    if not (median_s > 0).all():
        return {}
    (base_s, gather_s, close_s, gated_s), _ = nnls(terms / median_s[:, None], np.ones(len(samples)))
    rows = tuple(dict.fromkeys(sample.row for sample in samples))
    spread = float(np.std(median_s / (terms @ [base_s, gather_s, close_s, gated_s])))
    values = {
        f"{_EXPERTS}.issue_s": base_s,
        f"{_EXPERTS}.issue_rows_s": gather_s,
        f"{_EXPERTS}.issue_gated_s": gated_s,
        f"{_GATE}.issue_s": close_s + (named[f"{_GATE}.issue_s"].value if f"{_GATE}.issue_s" in named else 0.0),
    }
    return {
        name: FittedConstant(
            float(value), (float(value) * max(1 - 2 * spread, 0.0), float(value) * (1 + 2 * spread)), rows
        )
        for name, value in values.items()
        if value > 0
    }


def _told(sample: Sample) -> tuple[int, int, int]:
    """Whether an expert's tokens are gathered, whether it closes its block, whether it has a third matrix."""
    gathers, closes, matrices = (int(sample.parameters[name]) for name in ("gathers", "closes", "matrices"))
    return gathers, closes, int(matrices > _TWO_MATRICES)


def _decoding(samples: Sequence[Sample]) -> list[Sample]:
    """Those of decoding, or all where there are none."""
    return [one for one in samples if one.parameters.get("phase") == "decode"] or list(samples)


def _middle(samples: Sequence[Sample]) -> FittedConstant:
    low, value, high = np.quantile([sample.median_s for sample in _decoding(samples)], (0.05, 0.5, 0.95)).tolist()
    return FittedConstant(value, (min(low, value), max(high, value)), tuple(dict.fromkeys(one.row for one in samples)))
