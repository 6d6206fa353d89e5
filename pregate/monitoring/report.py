"""Windows of routing against a reference: what moved, whether by chance, what it costs, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pregate.monitoring.alerts import Alert, Thresholds, alerts_of
from pregate.monitoring.placement_loss import PlacementLoss, placement_loss
from pregate.monitoring.window_figures import PROXIES, WindowFigures, window_figures
from traces.errors import InvalidInput
from traces.foundation.type_checks import check_value
from traces.routing import RoutingTrace
from traces.statistics.drift import DriftTest, MeanShift, drift_between, mean_shift
from traces.statistics.popularity import popularity_of

if TYPE_CHECKING:
    from hwmodels.platform import Platform
    from traces.model.architecture import ModelArchitecture


_LEAST_PERMUTATIONS = 999


@dataclass(frozen=True, slots=True)
class ServedDesign:
    """What serves the traffic: with it each window is simulated, and its stalls and hits are those of this design."""

    model: ModelArchitecture
    hardware: Platform
    policy: str = "pregate"


@dataclass(frozen=True, slots=True)
class Simulated:
    """A window under the design that serves it. Seconds; shares of 1."""

    tpot_s: float
    stall_share: float
    hit_rate: float
    calibration: str


@dataclass(frozen=True, slots=True)
class Window:
    """One trace, held against the reference. `simulated` is None where no design was given."""

    name: str
    figures: WindowFigures
    drift: DriftTest
    placement: PlacementLoss
    proxies: Mapping[str, MeanShift]
    simulated: Simulated | None
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """The reference, every window, and the thresholds they were judged by."""

    reference: str
    reference_figures: WindowFigures
    reference_simulated: Simulated | None
    thresholds: Thresholds
    windows: tuple[Window, ...] = field(default_factory=tuple)

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Of all windows."""
        return tuple(alert for window in self.windows for alert in window.alerts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; null where a figure has no value."""
        found: dict[str, Any] = _plain(asdict(self))
        found["n_alerts"] = len(self.alerts)
        return found


def monitor(
    windows: Mapping[str, RoutingTrace],
    reference: RoutingTrace,
    *,
    reference_name: str = "reference",
    design: ServedDesign | None = None,
    held: float = 0.25,
    thresholds: Thresholds | None = None,
    n_permutations: int | None = None,
    seed: int = 0,
) -> MonitorReport:
    """Judge each of `windows`, by name. Reports in which nothing moved are an alert no more often than
    `thresholds.alpha`: drift and each proxy of each window are held to alpha over their number (Bonferroni), and
    experts and placement are told only where routing drifted. Stalls and hits are no tests.

    `held`: the share of every layer's experts that a placement or a cache keeps in HBM. `n_permutations`: None takes
    what alpha needs, 999 at least. Raises `InvalidInput` for
    no window, traces of different models or too short ones.
    """
    if not windows:
        raise InvalidInput("no window to monitor: give one trace at least")
    check_value("monitor: held", held, float)
    if not 0 < held <= 1:
        raise InvalidInput(f"held = {held:g}: the share of a layer's experts in HBM, above 0 and at most 1")
    limits = Thresholds() if thresholds is None else thresholds
    alpha = limits.alpha / (len(windows) * (1 + len(PROXIES)))
    n = max(_LEAST_PERMUTATIONS, math.ceil(1 / alpha)) if n_permutations is None else n_permutations
    if 1 / (1 + n) > alpha:
        raise InvalidInput(
            f"{n} permutations cannot show less than {1 / (1 + n):.2g}, and alpha {limits.alpha:g} over "
            f"{1 + len(PROXIES)} tests of {len(windows)} windows is {alpha:.2g}: take {math.ceil(1 / alpha)} "
            "permutations or a larger alpha"
        )
    counted = popularity_of(reference)
    before, simulated = window_figures(reference, counted, held), _simulated(design, reference)
    judged = []
    for name, trace in windows.items():
        drift = drift_between(reference, trace, n_permutations=n, alpha=alpha, seed=seed)
        figures, now = window_figures(trace, counted, held), _simulated(design, trace)
        proxies = _proxies(reference, trace, n, seed)
        n_held = round(figures.held * trace.n_experts)
        placement = placement_loss(reference, trace, n_held, n_permutations=n, seed=seed)
        alerts = alerts_of(name, figures, drift, placement, proxies, _shares(simulated), _shares(now), limits, alpha)
        judged.append(Window(name, figures, drift, placement, proxies, now, alerts))
    return MonitorReport(reference_name, before, simulated, limits, tuple(judged))


def _proxies(reference: RoutingTrace, trace: RoutingTrace, n_permutations: int, seed: int) -> dict[str, MeanShift]:
    found = {}
    for name, of in PROXIES.items():
        before, now = of(reference), of(trace)
        if before is not None and now is not None:
            found[name] = mean_shift(reference, trace, before, now, n_permutations=n_permutations, seed=seed)
    return found


def _simulated(design: ServedDesign | None, trace: RoutingTrace) -> Simulated | None:
    if design is None:
        return None
    from pregate.ask.simulation import simulate

    result = simulate(design.model, design.hardware, trace, design.policy)
    return Simulated(result.tpot_s, result.stall_share, result.hit_rate, result.calibration)


def _shares(simulated: Simulated | None) -> tuple[float, float] | None:
    """Share of the time stalled, and hit rate."""
    return None if simulated is None else (simulated.stall_share, simulated.hit_rate)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
