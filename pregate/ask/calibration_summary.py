"""What a prediction rests on, a fit or claims, and what of it the fit has not seen; in words for a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwmodels.compute_formats import computes_in
from hwmodels.fits.coverage import FitCoverage, beyond_fit, coverage
from hwmodels.platform import Platform
from offload.policy import Policy
from offload.schedule import Schedule
from pregate.ask.capturing.capture import Captured
from traces.model.architecture import ModelArchitecture

if TYPE_CHECKING:
    from pregate.ask.simulation import SimulationResult


def calibration(stated: str, beyond: str) -> str:
    """What a prediction rests on: as its platform says (`stated`), "fitted" only where nothing is beyond the fit."""
    return "extrapolated" if stated == "fitted" and beyond else stated


def coverage_of(captured: Captured, hw: Platform) -> FitCoverage:
    """What of a captured schedule the platform's fit covers, each work as often as it runs."""
    return coverage(captured.decoded.schedule.works, hw, _runs(captured.decoded.schedule))


def beyond_fit_of(captured: Captured, hw: Platform) -> str:
    """The first thing of a captured schedule that the platform's fit has not seen, in words; "" none."""
    return beyond_fit(captured.decoded.schedule.works, hw, _runs(captured.decoded.schedule))


def _runs(schedule: Schedule) -> list[int]:
    """How often each work of a schedule runs."""
    counts: list[int] = np.bincount(schedule.cost, minlength=len(schedule.works)).tolist()
    return counts


_FILE = "all=mxfp4_moe"
"""What files of a model whose experts were published in mxfp4 are made by (llama.cpp)."""


def describe_calibration(
    hw: Platform, model: ModelArchitecture, results: Sequence[SimulationResult], policies: Iterable[Policy]
) -> str:
    """What the results of one comparison rest on, those of `policies`, in plain words."""
    words = hw.describe_calibration(model.dtype.name)
    unseen = _of_several(sorted({result.beyond_fit for result in results if result.beyond_fit}))
    if unseen and hw.calibration(model.dtype.name) == "fitted":
        words += f", but not {', '.join(unseen)}: extrapolated"
    if hw.fit is not None and (hw.fit.laws or hw.fit.gemm_tables):
        words += _told_shares([result.fitted_share for result in results])
    if hw.stack.packed_compute and _is_as_published(model):
        words += (
            f"; {model.name} is taken with 16 bits beside its experts: of a file called MXFP4, say --formats {_FILE}"
        )
    asked = dict.fromkeys(model.compute_format(stored) for part, stored in model.formats.items() if part != "kv")
    stated = hw.machine.accelerator.peak_flop_per_s
    for wanted in asked:
        if (wider := computes_in(wanted, stated)) != wanted:
            words += f"; {hw.hardware} states no {wanted} rate and computes it in {wider}"
    if any(policy.placement.zero_copies for policy in policies):
        words += "; whether rows beyond 64 read weights of the host again is not known, intervals hold both"
    return words


_SHARE = re.compile(r"(.+) \((\d+)% of their time\)")


def _of_several(told: Sequence[str]) -> list[str]:
    """What a fit has not seen, each thing once, with its least and its most share of the time."""
    shares: dict[str, list[int]] = {}
    for one in told:
        match = _SHARE.fullmatch(one)
        shares.setdefault(match[1] if match else one, []).extend([int(match[2])] if match else [])
    return [name + (f" ({_span(found)}% of their time)" if found else "") for name, found in shares.items()]


def _span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(most) if least == most else f"{least} to {most}"


def _is_as_published(model: ModelArchitecture) -> bool:
    """Whether its experts are in mxfp4 and all else as wide as activations, as gpt-oss is published."""
    beside = (model.stored_attention_dtype, model.stored_head_dtype)
    return model.expert_dtype.name == "mxfp4" and not any(stored.is_packed for stored in beside)


def _told_shares(shares: Sequence[float]) -> str:
    """How much of the kernels' time, from the least to the most of several results, a fit was measured on."""
    if not shares:
        return ""
    least, most = f"{min(shares):.0%}".rstrip("%"), f"{max(shares):.0%}".rstrip("%")
    told = most if least == most else f"{least} to {most}"
    return f"; {told} % of the kernels' time at measured shapes and formats"
