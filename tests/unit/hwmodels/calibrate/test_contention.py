"""Copies and the host's processor in one memory: what it is measured by, where it is kept, and what it costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import pregate
from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.contention import contention_figures
from hwmodels.calibrate.measurements import Measurements, Sample, sample_of
from hwmodels.cost import price, price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform, platform_of
from offload.ops import OpKind
from offload.work import cpu_expert_work, expert_copy_work
from pregate.ask.capturing.capture import capture
from pregate.cli.option_values import build_modes
from simulator.definition import des
from simulator.events import event_engine
from simulator.modes import Modes, NotFifo
from tests import small_fits
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput

MODEL = MODELS["shared experts, three matrices"]
TRACE = routing(MODEL, batch=3, seed=2)
SHARES = {"host.copies_beside_cpu": 0.75, "host.cpu_beside_copies": 0.9}
DRAM = Modes(dram_shared=True)


def hw(**more: float) -> pregate.Platform:
    """A machine whose host is slow enough that both sides are busy at once."""
    return load_platform("rtx-4090", "streams", {"host.dram_bytes_per_s": 3e8, "link.h2d_bytes_per_s": 1e8, **more})


def test_only_what_reads_host_memory_keeps_less_of_its_rate() -> None:
    works = [expert_copy_work(MODEL, OpKind.FETCH), cpu_expert_work(MODEL, 1), cpu_expert_work(MODEL, 1 << 20)]
    costs = price(works, hw(**SHARES))
    assert costs.contended.tolist()[:2] == pytest.approx([0.75, 0.9])
    assert costs.contended[2] > 0.99  # arithmetic waits for no memory
    assert price(works, hw()).contended.tolist() == [1.0, 1.0, 1.0]
    many = price_figures(works, figures_of(hw(**SHARES)).with_values({"host.copies_beside_cpu": np.array([0.5, 1])}), 2)
    assert many.contended[0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("design", ["on_demand:split", "min_latency/paper+static:4", "on_demand:split_within"])
def test_simpy_and_the_compiled_engine_agree_and_nothing_is_quicker(design: str) -> None:
    captured = capture(MODEL, hw(**SHARES), TRACE, design)
    schedule, machine = captured.decoded.schedule, hw(**SHARES)
    costs = price(schedule.works, machine)
    defined, found = des.simulate(schedule, costs, 1 << 40, DRAM), event_engine.simulate(schedule, costs, DRAM)
    assert np.array_equal(found.end_s, defined.end_s)
    alone = event_engine.simulate(schedule, costs)
    assert found.makespan_s > alone.makespan_s
    worst = 1 / min(SHARES.values())
    assert found.makespan_s <= alone.makespan_s * worst


def test_a_simulation_knows_the_mode_and_says_what_it_lacks() -> None:
    plain, shared = (pregate.simulate(MODEL, hw(**SHARES), TRACE, "on_demand:split", modes=m) for m in (Modes(), DRAM))
    assert shared.tpot_s > plain.tpot_s
    with pytest.raises(InvalidInput, match=r"--set host\.copies_beside_cpu"):
        pregate.simulate(MODEL, hw(), TRACE, "on_demand:split", modes=DRAM)
    with pytest.raises(NotFifo, match="host memory shared"):
        pregate.simulate(MODEL, hw(**SHARES), TRACE, "on_demand:split", modes=DRAM, engine="recurrence")
    assert build_modes("dram,hbm") == Modes(hbm_shared=True, dram_shared=True)
    with pytest.raises(InvalidInput, match="twice"):
        build_modes("dram,dram")
    for wrong in (0.0, 1.5, -1.0):
        with pytest.raises(InvalidInput, match="copies_beside_cpu"):
            hw(**{"host.copies_beside_cpu": wrong})


def test_a_sweep_along_a_share_says_what_a_simulation_says() -> None:
    axis = "host.copies_beside_cpu"
    with pytest.warns(UserWarning, match="event: host memory shared"):
        grid = pregate.sweep(
            MODEL, hw(**SHARES), TRACE, policies=["on_demand:split=0.4"], axes={axis: [0.6, 1.0]}, modes=DRAM
        )
    for i, share in enumerate((0.6, 1.0)):
        machine = hw(**{**SHARES, axis: share})
        alone = pregate.simulate(MODEL, machine, TRACE, "on_demand:split=0.4", modes=DRAM)
        assert float(grid.tpot_s.isel({axis: i, "policy": 0})) == alone.tpot_s


def timed(of: str, beside: str, median_s: float) -> Sample:
    return sample_of("contention", [median_s] * 5, of=of, beside=beside, n_bytes=1000)


def measured(h2d_s: float, cpu_s: float) -> Measurements:
    """Each takes 1 s alone, and so long beside the other."""
    together = (timed("h2d", "nothing", 1.0), timed("cpu", "nothing", 1.0))
    together += (timed("h2d", "cpu", h2d_s), timed("cpu", "h2d", cpu_s), timed("h2d", "gemv", 9.0))
    usual = small_fits.measurements()
    return dataclasses.replace(usual, samples=(*usual.samples, *together))


def test_shares_are_times_alone_over_times_together() -> None:
    assert contention_figures(measured(1.25, 1.6)) == {"copies_beside_cpu": 0.8, "cpu_beside_copies": 0.625}
    assert contention_figures(measured(0.99, 1.0)) == {"copies_beside_cpu": 1.0, "cpu_beside_copies": 1.0}
    assert contention_figures(small_fits.measurements()) == {}
    with pytest.raises(InvalidInput, match=r"h2d beside cpu keeps 0\.001"):
        contention_figures(measured(1000.0, 1.0))


def test_a_fit_of_a_machine_that_nobody_describes_carries_them() -> None:
    fit = calibrate(measured(1.25, 1.6))
    machine = platform_of(fit).machine
    assert (machine.host.copies_beside_cpu, machine.host.cpu_beside_copies) == (0.8, 0.625)
    assert "beside the other" in machine.host.sources["copies_beside_cpu"].source
    assert calibrate(small_fits.measurements()).machine.host.copies_beside_cpu is None


def test_a_fit_file_keeps_them(tmp_path: Path) -> None:
    fit = calibrate(measured(1.25, 1.6))
    (tmp_path / "fit.yaml").write_text(fit.to_yaml())
    assert load_platform(str(tmp_path / "fit.yaml")).machine.host.cpu_beside_copies == 0.625
