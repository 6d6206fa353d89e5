"""Measured copies from each kind of host memory become the figures of a link that predictions use."""

from __future__ import annotations

import dataclasses

import pytest

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.host_memory import memory_figures
from hwmodels.calibrate.measured_machine import machine_of
from hwmodels.platform import platform_of
from tests import small_fits
from tests.measured_copies import SIZES, copies, with_copies
from traces.errors import InvalidInput


def test_a_rate_and_a_latency_are_found_for_every_kind_that_was_timed() -> None:
    measured = with_copies(*copies("pageable", 2e-5, 0.8e9), *copies("mapped", 3e-5, 0.5e9))
    found = memory_figures(measured)
    assert found["pageable_h2d_bytes_per_s"] == pytest.approx(0.8e9, rel=1e-6)
    assert found["pageable_copy_latency_s"] == pytest.approx(2e-5, rel=1e-6)
    assert found["mapped_h2d_bytes_per_s"] == pytest.approx(0.5e9, rel=1e-6)
    assert found["mapped_copy_latency_s"] == pytest.approx(3e-5, rel=1e-6)


def test_a_gathered_expert_takes_what_small_pinned_copies_took() -> None:
    measured = dataclasses.replace(
        small_fits.measurements(),
        samples=(*copies("pinned", 1e-5, 2e9), *copies("pageable", 2e-5, 0.8e9)),
    )
    assert memory_figures(measured)["gathered_h2d_bytes_per_s"] == pytest.approx(32768 / (1e-5 + 32768 / 2e9))


def test_where_one_kind_of_memory_was_timed_nothing_is_said_of_others() -> None:
    assert memory_figures(small_fits.measurements()) == {}
    assert memory_figures(with_copies(*copies("mapped", 3e-5, 0.5e9, SIZES[:2]))) == {}


def test_copies_that_took_no_time_are_refused() -> None:
    still = [dataclasses.replace(sample, mean_s=0.0) for sample in copies("mapped", 1e-5, 1e9)]
    with pytest.raises(InvalidInput, match="took no time at all: measure again"):
        memory_figures(with_copies(*still))


def test_a_machine_that_nobody_describes_has_them_in_its_link_and_predicts_with_them() -> None:
    measured = with_copies(*copies("mapped", 3e-5, 0.5e9))
    machine = machine_of(measured)[1]
    assert machine is not None
    assert machine.link.mapped_h2d_bytes_per_s == pytest.approx(0.5e9, rel=1e-6)
    assert "measured" in machine.link.sources["mapped_copy_latency_s"].source
    hw = platform_of(calibrate(measured), {"stack.host_memory": "mapped"})
    assert hw.machine.link == dataclasses.replace(
        machine.link, sources=hw.machine.link.sources, d2h_efficiency=hw.machine.link.d2h_efficiency
    )
    assert hw.stack.host_memory == "mapped"
