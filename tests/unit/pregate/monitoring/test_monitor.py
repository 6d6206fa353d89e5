"""`monitor`: figures by hand, alerts where something moved and none where nothing did, and what the command says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

import pregate
from pregate.monitoring.alerts import Thresholds
from pregate.monitoring.report import ServedDesign, monitor
from pregate.monitoring.window_figures import gate_confidence, routed_as_before, window_figures
from tests.command_line import Run
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.statistics.popularity import PopularityProfile

MADE = Provenance("any", "synthetic")


def decoded(experts: np.ndarray, n_sequences: int, n_experts: int, **more: np.ndarray) -> RoutingTrace:
    """Decode tokens (n_tokens, n_layers, top_k), sequence after sequence, one a step."""
    n = len(experts)
    length = n // n_sequences
    return RoutingTrace(
        experts=experts.astype(np.int16),
        sequence=np.repeat(np.arange(n_sequences, dtype=np.int32), length),
        position=np.tile(np.arange(length, dtype=np.int32), n_sequences),
        phase=np.full(n, Phase.DECODE, dtype=np.int8),
        step=np.arange(n, dtype=np.int32),
        n_experts=n_experts,
        provenance=MADE,
        **more,
    )


def traffic(seed: int, favourite: int = 0, *, n_sequences: int = 24) -> RoutingTrace:
    """Two layers of eight experts; half of all choices fall on one."""
    rng = np.random.default_rng(seed)
    shares = np.full(8, 0.5 / 7)
    shares[favourite] = 0.5
    experts = rng.choice(8, (n_sequences * 16, 2, 1), p=shares)
    weights = rng.uniform(0.5, 0.7, experts.shape).astype(np.float32)
    return decoded(experts, n_sequences, 8, gate_weights=weights)


def test_figures_by_hand() -> None:
    experts = np.array([[[0, 1]], [[0, 1]], [[0, 2]], [[0, 1]]])
    reference = PopularityProfile(np.array([[9.0, 1.0, 5.0, 0.0]]), MADE)
    found = window_figures(decoded(experts, 1, 4), reference, 0.5)
    assert found.skew == pytest.approx(4 / 2)
    assert found.reuse == pytest.approx(4 / 6)
    assert found.n_unused == 1
    assert found.static_hit_rate == pytest.approx(5 / 8)  # experts 0 and 2 are held
    assert found.best_static_hit_rate == pytest.approx(7 / 8)
    assert found.lru_hit_rate == pytest.approx(4 / 8)  # by hand: 2 cold, both, one of two, one of two
    assert found.entropy == pytest.approx(-(0.5 * math.log2(0.5) + 0.375 * math.log2(0.375) + 0.125 * -3) / 2)


def test_stand_ins_for_quality_by_hand() -> None:
    experts = np.array([[[0, 1]], [[1, 0]], [[0, 2]], [[0, 2]]])
    weights = np.array([[[0.6, 0.2]], [[0.5, 0.5]], [[0.9, 0.1]], [[0.0, 0.0]]], dtype=np.float32)
    trace = decoded(experts, 2, 4, gate_weights=weights)
    np.testing.assert_allclose(gate_confidence(trace), [0.75, 0.5, 0.9, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(routed_as_before(trace), [np.nan, 1.0, np.nan, 1.0])
    assert gate_confidence(decoded(experts, 2, 4)) is None


def test_nothing_moved_is_no_alert() -> None:
    report = monitor({"later": traffic(1)}, traffic(0))
    assert report.alerts == ()
    assert report.windows[0].drift.p_value > 0.01
    assert report.windows[0].placement.p_value > 0.01


def test_what_moved_is_an_alert_with_what_to_do() -> None:
    report = monitor({"same": traffic(1), "moved": traffic(2, favourite=3)}, traffic(0))
    assert {alert.window for alert in report.alerts} == {"moved"}
    by_kind = {alert.kind: alert for alert in report.alerts}
    assert set(by_kind) == {"drift", "experts", "placement"}
    assert "place anew" in by_kind["placement"].to_do
    assert "2 experts went cold and 2 hot" in by_kind["experts"].what
    assert "layer 0 expert 3" in by_kind["experts"].what


def test_a_less_certain_gate_is_an_alert_without_drift() -> None:
    later = traffic(1)
    assert later.gate_weights is not None
    doubting = dataclasses.replace(later, gate_weights=later.gate_weights * np.float32(0.6))
    report = monitor({"later": doubting}, traffic(0))
    assert [alert.kind for alert in report.alerts] == ["gate_confidence"]
    assert "retraining" in report.alerts[0].to_do


def test_false_alarms_are_shared_by_the_windows() -> None:
    """Held to alpha over the number of windows, which more permutations must be able to show."""
    windows = {f"{i}": traffic(i + 1) for i in range(11)}
    with pytest.raises(InvalidInput, match="999 permutations cannot show less"):
        monitor(windows, traffic(0), n_permutations=999)
    assert monitor(windows, traffic(0)).alerts == ()


def test_reports_of_traffic_that_did_not_move_are_alerts_as_often_as_stated_at_most() -> None:
    """Many experts and little traffic, so that counts fit what they were counted on far better than the next window.
    150 reports held to 10 %: 15 with an alert, above 26 in less than one of 300 cases.
    """
    rng = np.random.default_rng(4)
    shares = rng.dirichlet(np.full(32, 0.7), size=16)  # of each request, as prompts of different subjects

    def window() -> RoutingTrace:
        chosen = [rng.choice(32, (12, 2, 1), p=shares[i]) for i in rng.integers(16, size=8)]
        weights = rng.uniform(0.5, 0.7, (96, 2, 1)).astype(np.float32)
        return decoded(np.concatenate(chosen), 8, 32, gate_weights=weights)

    limits = Thresholds(alpha=0.1)
    reports = [monitor({"w": window()}, window(), thresholds=limits, n_permutations=99, seed=i) for i in range(150)]
    assert sum(bool(report.alerts) for report in reports) <= 26


def test_with_a_design_stalls_and_hits_are_those_of_its_simulation() -> None:
    model, machine = pregate.load_model("mixtral-mini-8"), pregate.load_hardware("rtx-3060-12gb")
    trace = pregate.synthesize(model, 4, 16, 6)
    report = monitor({"same": trace}, trace, design=ServedDesign(model, machine, "on_demand+lru:0.5"))
    result = pregate.simulate(model, machine, trace, "on_demand+lru:0.5")
    assert report.windows[0].simulated is not None
    assert report.windows[0].simulated.stall_share == result.stall_share
    assert report.windows[0].simulated.hit_rate == result.hit_rate
    assert report.windows[0].simulated == report.reference_simulated
    assert report.alerts == ()


def test_the_command_exits_1_with_alerts_and_0_without(run: Run, tmp_path: Path) -> None:
    for name, trace in {"at": traffic(0), "same": traffic(1), "moved": traffic(2, favourite=3)}.items():
        pregate.save_trace(trace, tmp_path / f"{name}.safetensors")
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("at", "same", "moved")}
    status, said, _ = run("monitor", files["same"], "--reference", files["at"])
    assert status == 0
    assert "No alert" in said
    status, said, _ = run("monitor", files["same"], files["moved"], "--reference", files["at"], "--format", "json")
    assert status == 1
    document = json.loads(said)
    assert document["n_alerts"] == 3
    assert [window["alerts"] == [] for window in document["windows"]] == [True, False]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--held", "0"], "--held 0: a share above 0"),
        (["--alpha", "2"], "--alpha 2: a share"),
        (["--model", "mixtral-mini-8"], "--model and --hardware together"),
        (["--hit-rate-loss", "0"], "--hit-rate-loss 0: a share above 0"),
    ],
)
def test_what_cannot_be_monitored_is_refused_in_one_line(run: Run, tmp_path: Path, words: list[str], said: str) -> None:
    file = tmp_path / "at.safetensors"
    pregate.save_trace(traffic(0), file)
    status, _, error = run("monitor", str(file), "--reference", str(file), *words)
    assert status == 2
    assert said in error
    assert error.count("\n") == 1


def test_thresholds_are_shares() -> None:
    with pytest.raises(InvalidInput, match="stall_rise = 5"):
        Thresholds(stall_rise=5.0)
    with pytest.raises(InvalidInput, match="no window"):
        monitor({}, traffic(0))
