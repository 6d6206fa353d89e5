"""The loop closed on the machine that runs the tests: measure, calibrate, predict, run, compare.

Run alone, after all other tests: a neighbour would be timed as well. Bytes and residency must be exact whatever the
machine does. Times must be right within a wide bound, and policies in the right order, unless other work disturbed all
tries: then the test says that the machine was too busy, and nothing of its times.
"""

from __future__ import annotations

import math
import time

import pytest

from hwmodels.calibrate.calibration import calibrate
from hwmodels.platform import platform_of

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.check.cases import suite_named  # noqa: E402
from pregate.check.outcome import Validation  # noqa: E402
from pregate.check.scores import summarise  # noqa: E402
from pregate.check.session import Plan, validate  # noqa: E402
from pregate.check.verdict import verdict  # noqa: E402
from runtime.microbench.session import Settings, measure  # noqa: E402
from runtime.watch import Busy  # noqa: E402

WIDE = 0.25
"""Mean error of the time per token: a quarter, ten times what a quiet machine shows."""

TRIES = 3
PAUSE_S = 10.0
"""Between tries, for whatever disturbed the last one to end."""


def attempt() -> Validation:
    """A whole loop. Raises `Busy`."""
    measured = measure(Settings("cpu", quick=True))
    return validate(suite_named("quick"), platform_of(calibrate(measured)), Plan(repeats=1, tries=3))


def check_exact(found: Validation) -> None:
    """Other work changes times, never these."""
    for outcome in found.outcomes:
        assert outcome.measurement is not None
        assert outcome.measurement.exact == outcome.prediction.exact, outcome.case.name


def wrong_times(found: Validation) -> list[str]:
    """What is wrong with times that were measured undisturbed."""
    summary = summarise(found)
    wrong = [] if summary["mape"] <= WIDE else [f"times are {summary['mape']:.0%} off on average"]
    taus = {group["group"]: group["kendall_tau"] for group in summary["groups"] if group["kendall_tau"] is not None}
    wrong += [f"{name}: policies in the wrong order" for name, tau in taus.items() if not math.isclose(tau, 1.0)]
    return wrong


def test_predictions_hold_on_this_machine() -> None:
    said: list[str] = []
    for i in range(TRIES):
        time.sleep(PAUSE_S if i else 0.0)
        try:
            found = attempt()
        except Busy as busy:
            said.append(str(busy))
            continue
        check_exact(found)
        if not any(outcome.valid for outcome in found.outcomes):
            said.append(found.outcomes[0].disturbances[0])
            continue
        print(verdict(summarise(found)))
        wrong = wrong_times(found)
        if not wrong:
            return
        if i == TRIES - 1:
            pytest.fail("; ".join(wrong))
    pytest.skip(f"machine too busy: {said[-1]}")
