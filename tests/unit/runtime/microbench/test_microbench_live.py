"""What it costs to decide op by op, as it is measured: every kind of sample that constants are made of."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from hwmodels.calibrate.measurements import Sample  # noqa: E402
from hwmodels.calibrate.sample_kinds import check_kind  # noqa: E402
from offload.ops import Lane  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.microbench import live  # noqa: E402
from runtime.microbench.live import AtOnce, live_samples  # noqa: E402
from runtime.pregated.training.experiment_plan import SHORT  # noqa: E402

CORE = {("fetch", "core"), ("readback", "core"), ("host", "copies")}
"""What is measured where host and copies have one core."""


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "_SHAPE", SHORT)
        patch.setattr(live, "_NEW_TOKENS", 5)
        return live_samples(CpuBackend)


def test_every_kind_of_sample_is_one_that_files_may_hold(samples: list[Sample]) -> None:
    assert {one.what for one in samples} == {"decide", "live", "deciding"}
    for one in samples:
        check_kind(one, "a test")


def test_decisions_are_told_by_the_op_before(samples: list[Sample]) -> None:
    pairs = {(one.parameters["kind"], one.parameters["after"]) for one in samples if one.what == "decide"}
    assert {("experts", "asked"), ("wait", "readback"), ("gate", "self_attention"), ("step", "head")} <= pairs


def test_ops_are_timed_alone_and_beside_fetches(samples: list[Sample]) -> None:
    timed = {(one.parameters["kind"], one.parameters["beside"]) for one in samples if one.what == "live"}
    assert {("experts", "nothing"), ("gate", "nothing"), ("wait", "fetches"), ("readback", "fetches")} <= timed


def test_what_both_take_together_is_of_one_run(samples: list[Sample]) -> None:
    found = {(one.parameters["of"], one.parameters["beside"]): one for one in samples if one.what == "deciding"}
    assert set(found) - CORE == {
        ("host", "kernels"), ("host", "nothing"), ("kernels", "host"), ("kernels", "nothing"), ("both", "both"),
    }  # fmt: skip


def test_copies_are_seen_at_work_where_the_host_has_one_core_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_SHAPE", SHORT)
    backend = CpuBackend()
    run = live._Probe().run(backend, "on_demand", None)
    worked_s, copies = backend.worked_s(), np.isin(run.schedule.lane, (Lane.H2D, Lane.D2H))
    assert (worked_s[copies] > 0).all()
    assert not worked_s[~copies].any()
    for shares in (True, False):
        backend.copies_on_host_core = shares
        samples = {(one.parameters["of"], one.parameters["beside"]) for one in live._of_copies(run.schedule, backend)}
        assert samples == ({("fetch", "core"), ("readback", "core")} if shares else set())
    assert 0 <= live._lost_to_copies_s(run, backend) <= worked_s.sum()


def test_spans_overlap_as_long_as_both_last() -> None:
    starts, ends = np.array([0.0, 5.0]), np.array([2.0, 6.0])
    assert live._overlap_s(starts, ends, np.array([1.0, 7.0]), np.array([5.5, 8.0])) == pytest.approx(1.5)


def test_a_back_end_that_runs_at_once_keeps_what_it_ran() -> None:
    probe = live._Probe()
    backend = AtOnce()
    first = probe.run(backend, "gpu_only", None)
    again = probe.run(CpuBackend(), "gpu_only", None)
    assert first.measured.digest == again.measured.digest
    assert len(backend.kept) == len(first.schedule)
