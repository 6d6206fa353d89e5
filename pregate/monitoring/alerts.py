"""When a window is an alert, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pregate.monitoring.placement_loss import PlacementLoss
from pregate.monitoring.window_figures import WindowFigures
from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields
from traces.statistics.drift import DriftTest, MeanShift


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is an alert. `alpha`: false alarms over all windows of a report, and over all that is tested in them;
    `hit_rate_loss` and `stall_rise`: shares of 1, a hit rate this much lower or stalls this much more of the time than
    in the reference.
    """

    alpha: float = 0.01
    hit_rate_loss: float = 0.05
    stall_rise: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.alpha < 1:
            raise InvalidInput(f"alpha = {self.alpha:g}: a probability between 0 and 1, such as 0.01")
        for name in ("hit_rate_loss", "stall_rise"):
            if not 0 < getattr(self, name) <= 1:
                raise InvalidInput(f"{name} = {getattr(self, name):g}: a share above 0, at most 1, such as 0.05")


@dataclass(frozen=True, slots=True)
class Alert:
    """`what` was found in `window`, and what `to_do` about it."""

    window: str
    kind: str
    what: str
    to_do: str


def alerts_of(
    name: str,
    now: WindowFigures,
    drift: DriftTest,
    placement: PlacementLoss,
    proxies: Mapping[str, MeanShift],
    served_before: tuple[float, float] | None,
    served_now: tuple[float, float] | None,
    limits: Thresholds,
    alpha: float,
) -> tuple[Alert, ...]:
    """The alerts of one window, each test held to `alpha`; experts and placement are told where routing moved at all.

    `served_...`: share of the time stalled and hit rate of the design, if one is given.
    """
    moved = lost = None
    if drift.p_value <= alpha:
        lost = _placement(now, placement, limits, alpha)
        moved = _drifted(drift, lost=lost is not None)
    found: list[tuple[str, str, str] | None] = [
        moved,
        None if moved is None else _shifted_experts(drift),
        lost,
        *(_proxy(proxy, shift, alpha) for proxy, shift in proxies.items()),
    ]
    if served_before is not None and served_now is not None:
        found.append(_stalls(served_before[0], served_now[0], limits))
        found.append(_hits(served_before[1], served_now[1], limits))
    return tuple(Alert(name, *one) for one in found if one is not None)


def _drifted(drift: DriftTest, *, lost: bool) -> tuple[str, str, str]:
    what = (
        f"routing moved: distance {drift.distance:.3f}, {drift.by_chance:.3f} by chance alone, p = {drift.p_value:.3g}"
    )
    if not drift.by_sequence:
        what += "; too few sequences to exchange, so p is too small"
    if lost:
        to_do = "take this window as the new reference once two more agree with it, and place anew by --popularity"
    else:
        to_do = "keep the placement, which still holds what is asked for; judge predictors learnt on the reference anew"
    return "drift", what, to_do


def _shifted_experts(drift: DriftTest) -> tuple[str, str, str] | None:
    if not drift.colder and not drift.hotter:
        return None
    named = [
        f"layer {one.layer} expert {one.expert} {one.reference_share:.1%} -> {one.observed_share:.1%}"
        for one in (*drift.colder[:2], *drift.hotter[:2])
    ]
    what = f"{len(drift.colder)} experts went cold and {len(drift.hotter)} hot: {', '.join(named)}"
    return (
        "experts",
        what,
        "free the slots of the cold ones for the hot ones; check load limits where experts are spread",
    )


def _placement(
    now: WindowFigures, placement: PlacementLoss, limits: Thresholds, alpha: float
) -> tuple[str, str, str] | None:
    if placement.p_value > alpha or placement.by_chance - placement.hit_rate <= limits.hit_rate_loss:
        return None
    what = (
        f"a static placement of {now.held:.0%} holds {placement.hit_rate:.1%} of what is asked for, "
        f"{placement.by_chance:.1%} if routing had not moved; placed anew at most {now.best_static_hit_rate:.1%}"
    )
    return "placement", what, "place anew by the counts of this window (--popularity TRACE), or hold experts by an LRU"


def _proxy(proxy: str, shift: MeanShift, alpha: float) -> tuple[str, str, str] | None:
    if shift.p_value > alpha:
        return None
    what = f"{proxy} {shift.reference:.3f} -> {shift.observed:.3f}, p = {shift.p_value:.3g}"
    if proxy == "routed_as_before":
        return proxy, what, "look for answers that repeat themselves, and for prompts that are alike"
    to_do = (
        "measure quality on labelled prompts; retraining of pre-gates is due where it fell, or where their recall did "
        "(pregate predictors TRACE)"
    )
    return proxy, what, to_do


def _stalls(before: float, now: float, limits: Thresholds) -> tuple[str, str, str] | None:
    if now - before <= limits.stall_rise:
        return None
    return "stalls", f"stalled {now:.1%} of the time, {before:.1%} in the reference", "compare designs on this window"


def _hits(before: float, now: float, limits: Thresholds) -> tuple[str, str, str] | None:
    if not before - now > limits.hit_rate_loss:
        return None
    what = f"the design's cache hits {now:.1%}, {before:.1%} in the reference"
    return "hits", what, "place anew by the counts of this window, or give the cache more slots"
