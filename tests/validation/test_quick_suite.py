"""The loop closed on the machine that runs the tests: measure, calibrate, predict, run, compare.

Whatever else the machine does, it finishes, bytes, residency and hidden states are exact, and the verdict says how far
the times can be trusted. Times must be right, within a wide bound, where that trust is high; else they are printed.
"""

from __future__ import annotations

import math

import pytest

from hwmodels.calibrate.calibration import calibrate
from hwmodels.fits.trust import LEVELS
from hwmodels.platform import platform_of

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.validation.cases import suite_named  # noqa: E402
from pregate.validation.scores.validation_summary import summarise_validation  # noqa: E402
from pregate.validation.scores.verdict import failures, verdict  # noqa: E402
from pregate.validation.session import ValidationPlan, validate  # noqa: E402
from runtime.microbench.session import Settings, measure  # noqa: E402

WIDE = 0.25
"""Mean error of the time per token: a quarter, ten times what a quiet machine shows."""


def test_the_quick_suite_finishes_exactly_and_is_right_where_the_machine_can_be_trusted() -> None:
    measured = measure(Settings("cpu", quick=True), insist=False)
    found = validate(
        suite_named("quick"), platform_of(calibrate(measured, insist=False)), ValidationPlan(repeats=2, tries=2)
    )
    summary = summarise_validation(found)
    print(verdict(summary))
    assert summary["n"] == len(found.outcomes) == 6
    for outcome in found.outcomes:
        assert outcome.measurement is not None
        assert outcome.measurement.exact == outcome.prediction.exact, outcome.case.name
    assert summary["outputs_equal"]
    assert failures(summary, None) == []
    assert summary["trust"]["level"] in LEVELS
    assert f"Trust in the times is {summary['trust']['level']}" in verdict(summary)
    if summary["trust"]["level"] == "high":
        assert summary["mape"] <= WIDE
        taus = {group["group"]: group["kendall_tau_resolved"] for group in summary["groups"]}
        assert all(tau is None or math.isclose(tau, 1.0) for tau in taus.values()), taus
