"""A validation in the time there is: what no longer fits, or fails, is reported by name and costs no other group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from offload.slots.memory import CapacityExceeded
from tests.small_fits import platform
from tests.small_models import MODELS
from tests.told_watch import Watch

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.validation import session  # noqa: E402
from pregate.validation.cases import CaseGroup, CaseWorkload  # noqa: E402
from pregate.validation.report import markup  # noqa: E402
from pregate.validation.report.page import page  # noqa: E402
from pregate.validation.report.report_files import gate  # noqa: E402
from pregate.validation.runs import case_runner, group_runner  # noqa: E402
from pregate.validation.runs.case_runner import Runner  # noqa: E402
from pregate.validation.scores.validation_summary import summarise_validation  # noqa: E402
from pregate.validation.scores.verdict import verdict  # noqa: E402
from pregate.validation.session import ValidationPlan, validate  # noqa: E402
from runtime.run import OutputMismatch  # noqa: E402

WORKLOAD = CaseWorkload(1, 4, 3, seed=1)
GROUPS = [
    CaseGroup(MODELS["decoder-only"], WORKLOAD, ("on_demand",), link_bytes_per_s=speed, hbm_share=0.5)
    for speed in (10e6, 20e6, 30e6)
]
NAMES = [group.name for group in GROUPS]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet machine, and pages whose pictures are made but not written out."""
    monkeypatch.setattr(case_runner, "LoadWatch", Watch)
    monkeypatch.setattr(markup, "inline_svg", lambda figure, name, description: f"<svg>{name}</svg>")


@pytest.fixture
def ten_seconds_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the measuring of a group advances."""
    now, real = [0.0], Runner.measure

    def measure(self: Runner, group: Sequence[Any], drawn: Any = ()) -> Any:
        now[0] += 10.0
        return real(self, group, drawn)

    monkeypatch.setattr(Runner, "measure", measure)
    monkeypatch.setattr(group_runner, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))


@pytest.mark.parametrize(("budget_s", "n_run"), [(35.0, 3), (25.0, 2), (15.0, 1), (0.0, 0)])
def test_groups_that_no_longer_fit_are_left_out_and_named(
    budget_s: float | None, n_run: int, ten_seconds_a_group: None
) -> None:
    found = validate(GROUPS, platform(), ValidationPlan(repeats=1, budget_s=budget_s))
    assert [outcome.case.group for outcome in found.outcomes] == NAMES[:n_run]
    assert list(found.skipped) == NAMES[n_run:]
    summary = summarise_validation(found)
    assert summary["valid"] == (n_run == 3)
    assert all("s were left" in why for why in summary["skipped"].values())
    assert gate(found) == ([] if n_run else ["nothing was measured"])
    if 0 < n_run < 3:
        assert verdict(summary).endswith(f" {3 - n_run} group{'s' * (n_run == 1)} left out for lack of time.")
        assert "not run: " in page(found, summary)


def failing(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """As `real`, but it fails for the second group."""

    def call(first: Any, *rest: Any, **named: Any) -> Any:
        subject = rest[0] if rest and isinstance(rest[0], list) else first
        name = subject.name if isinstance(subject, CaseGroup) else subject[0].case.group
        if name == NAMES[1]:
            raise error
        return real(first, *rest, **named)

    return call


@pytest.mark.parametrize(
    ("where", "what", "error"),
    [
        (session, "prepare_cases", CapacityExceeded("gpu_only: 90 GB do not fit", 90)),
        (Runner, "measure", OutputMismatch("on_demand and pregate end in different hidden states")),
        (Runner, "measure", RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")),
    ],
)
def test_a_group_that_fails_costs_no_other_and_shuts_the_gate(
    where: Any, what: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, what, failing(getattr(where, what), error))
    found = validate(GROUPS, platform(), ValidationPlan(repeats=1))
    assert [outcome.case.group for outcome in found.outcomes] == [NAMES[0], NAMES[2]]
    reason = str(error).partition("\n")[0]
    assert found.failed == {NAMES[1]: reason}
    summary = summarise_validation(found)
    assert not summary["valid"]
    assert gate(found) == [f"{NAMES[1]} failed: {reason}"]
    assert verdict(summary).endswith(" 1 group failed.")
    assert f"failed: {reason}" in page(found, summary)
    with pytest.raises(type(error)):
        validate(GROUPS[1:2], platform(), ValidationPlan(repeats=1))
