"""Every copy that `measure` times becomes a figure that predictions use, and what was not measured says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.measurements import Measurements, Sample, sample_of
from hwmodels.cost import price
from hwmodels.fits.fit_files import load_fit
from hwmodels.platform import load_platform, platform_of
from offload.ops import OpKind, Work
from tests import small_fits
from traces.errors import PregateError

MIB = 1 << 20
COPY, BACK = Work(OpKind.FETCH, copy_bytes=64 * MIB), Work(OpKind.RETURN, copy_bytes=64 * MIB)


def copy(way: str, n_bytes: int, bytes_per_s: float, **parameters: object) -> Sample:
    return sample_of(way, [n_bytes / bytes_per_s] * 3, n_bytes=n_bytes, **{"memory": "pinned", **parameters})


def measured(*more: Sample, **machine: object) -> Measurements:
    found = small_fits.measurements()
    return dataclasses.replace(found, samples=(*found.samples, *more), machine={**found.machine, **machine})


def both_ways(h2d: float, d2h: float) -> list[Sample]:
    rates = {"h2d": h2d, "d2h": d2h}
    return [copy(way, n * MIB, rate, beside="other way") for way, rate in rates.items() for n in (1, 16)]


def test_both_ways_at_once_have_the_cap_that_was_measured() -> None:
    alone = small_fits.LINK_BYTES_PER_S
    hw = platform_of(calibrate(measured(*both_ways(0.6 * alone, 0.5 * alone))))
    assert hw.machine.link.both_ways_bytes_per_s == pytest.approx(1.1 * alone)
    costs = price([COPY], hw)
    assert costs.crossed_s[0] / costs.link_s[0] == pytest.approx(2 / 1.1, rel=0.01)
    assert "fitted" in hw.machine.link.sources["both_ways_bytes_per_s"].source


def test_the_way_back_has_the_rate_that_was_measured() -> None:
    found = small_fits.measurements()
    there = [one for one in found.samples if one.what != "d2h"]
    back = [copy("d2h", n * MIB, 0.5 * small_fits.LINK_BYTES_PER_S, beside="nothing") for n in (1, 4, 16, 64)]
    hw = platform_of(calibrate(dataclasses.replace(found, samples=(*there, *back))))
    handed = Work(OpKind.READBACK, copy_bytes=64 * MIB)
    rate = handed.copy_bytes / float(price([handed], hw).link_s[0])
    assert rate == pytest.approx(0.5 * small_fits.LINK_BYTES_PER_S, rel=0.01)
    assert COPY.copy_bytes / float(price([COPY], hw).link_s[0]) > 1.5 * rate


def test_a_fit_of_a_described_machine_carries_its_link(tmp_path: Path) -> None:
    slow = [copy("h2d", n * MIB, 1e9, beside="nothing", memory="pageable") for n in (1, 4, 16, 64)]
    found = dataclasses.replace(
        measured(*slow, *both_ways(1.5e9, 1.5e9), spec="rtx-4090", name="rtx-4090", backend="cuda"), stack="streams"
    )
    fit = calibrate(found)
    assert fit.machine is None
    path = tmp_path / "rtx-4090.streams.yaml"
    path.write_text(fit.to_yaml(), encoding="utf-8")
    assert load_fit(path).link == fit.link
    hw = load_platform(str(path), overrides={"stack.host_memory": "pageable"})
    assert hw.machine.link.pageable_h2d_bytes_per_s == pytest.approx(1e9, rel=1e-3)
    assert hw.machine.link.both_ways_bytes_per_s == pytest.approx(3e9)
    assert hw.machine.link.mapped_h2d_bytes_per_s == load_platform("rtx-4090").machine.link.mapped_h2d_bytes_per_s
    assert load_platform(str(path)).calibration("fp32") == "fitted"
    moved = load_platform(str(path), overrides={"link": "pcie3-x16"})
    assert moved.machine.link.both_ways_bytes_per_s is None


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (
            {"warp_bytes_per_s": {"value": 1e9, "unit": "B/s"}},
            "unknown figure of a link 'warp_bytes_per_s'",
        ),
        ({"d2h_efficiency": {"value": 7.0, "unit": "1"}}, "no machine has that"),
        ({"both_ways_bytes_per_s": {"value": 1e9, "unit": "GB/s"}}, "a fit is written in SI"),
    ],
)
def test_a_link_that_no_copy_can_have_is_refused(link: object, message: str, tmp_path: Path) -> None:
    document = yaml.safe_load(small_fits.fit().to_yaml())
    document.pop("digest")
    path = tmp_path / "made-up.threads.yaml"
    path.write_text(yaml.safe_dump({**document, "link": link}), encoding="utf-8")
    with pytest.raises(PregateError, match=message):
        load_fit(path)


def test_what_the_host_pays_for_ops_of_no_kind_of_their_own_is_measured_too() -> None:
    issue = {"waits": 0, "found": "busy"}
    fit = calibrate(
        measured(
            sample_of("issue", [7e-6] * 5, lane="compute", **issue),
            sample_of("issue", [9e-6] * 5, lane="h2d", **issue),
            sample_of("issue", [5e-4] * 5, lane="h2d", waits=0, found="idle"),
            sample_of("launch", [4e-6] * 5, queue="full"),
            sample_of("launch", [8e-6] * 5, queue="as issued"),
        )
    )
    found = {name: fit.constants[name].value for name in ("launch_s", "copy_issue_s", "kernel_s")}
    assert found == pytest.approx({"launch_s": 7e-6, "copy_issue_s": 9e-6, "kernel_s": 4e-6})


def test_a_processor_says_that_it_plays_the_accelerator_and_that_no_disk_was_read() -> None:
    machine = platform_of(calibrate(measured())).machine
    assert machine.host.sources["peak_flop_per_s"].source.endswith("the processor plays the accelerator")
    disk = machine.storage.sources["read_bytes_per_s"]
    assert disk.source.startswith("assumed")
    assert disk.unverified


def test_the_host_of_a_device_nobody_describes_is_not_called_measured() -> None:
    """Its DRAM is not the device's memory and its arithmetic not the device's: nothing of either was timed."""
    found = dataclasses.replace(measured(backend="cuda"), stack="streams")
    machine = platform_of(calibrate(found)).machine
    for name in ("dram_bytes_per_s", "peak_flop_per_s"):
        assert machine.host.sources[name].source.startswith("assumed"), name
        assert machine.host.sources[name].unverified
    assert machine.host.dram_bytes_per_s != machine.accelerator.hbm_bytes_per_s
    assert machine.host.peak_flop_per_s != machine.accelerator.peak_flop_per_s["fp32"]
    assert "measured" in machine.accelerator.sources["hbm_bytes_per_s"].source


def test_a_setting_that_the_machine_did_not_say_is_assumed() -> None:
    machine = platform_of(calibrate(measured(assumed="clock_hz cache_bytes"))).machine
    assert machine.accelerator.sources["clock_hz"].source.startswith("assumed")
    assert machine.accelerator.sources["l2_bytes"].unverified
    assert not machine.accelerator.sources["hbm_bytes"].unverified
