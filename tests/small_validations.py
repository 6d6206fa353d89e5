"""Small validations for tests: a few configurations whose scores can be computed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

from offload.timeline import Timeline
from pregate.validation.outcome import (
    COMPARED_METRICS,
    Case,
    CaseOutcome,
    CasePrediction,
    Measurement,
    OpTime,
    Validation,
)

ZERO = OpTime(10, 0.01)


def metrics(tpot_s: float, stall_s: float = 0.0) -> dict[str, float]:
    """Ten tokens, the first after two token times; nothing else matters to the tests."""
    values = dict.fromkeys(COMPARED_METRICS, tpot_s)
    values |= {"ttft_s": 2 * tpot_s, "makespan_s": 11 * tpot_s, "stall_s": stall_s}
    return values | {"tokens_per_s": 10 / (11 * tpot_s) if tpot_s else 0.0}


def outcome(
    policy: str,
    predicted_s: float,
    measured_s: tuple[float, ...] | None,
    *,
    group: str = "mini/b1",
    model: str = "mini",
    stalls_s: tuple[float, float] = (0.0, 0.0),
    interval: tuple[float, float] | None = None,
    naive: Mapping[str, float] | None = None,
    exact: tuple[Mapping[str, int], Mapping[str, int]] = ({"h2d_bytes": 5, "hits": 2}, {"h2d_bytes": 5, "hits": 2}),
    ops: tuple[Mapping[str, OpTime], Mapping[str, OpTime]] | None = None,
    bound_s: float = 1.0,
    output: str = "same",
    disturbances: tuple[str, ...] = (),
    timelines: tuple[Timeline | None, Timeline | None] = (None, None),
) -> CaseOutcome:
    """A configuration predicted at `predicted_s` a token and run at each of `measured_s`; None: too busy."""
    said, seen = ops or ({"experts": ZERO}, {"experts": ZERO})
    intervals = {} if interval is None else {"tpot_s": interval}
    prediction = CasePrediction(
        metrics(predicted_s, stalls_s[0]), intervals, naive or {}, said, exact[0], bound_s, "d1", timelines[0]
    )
    run = None
    if measured_s is not None:
        runs = tuple(metrics(value, stalls_s[1]) for value in measured_s)
        run = Measurement(runs, seen, exact[1], bound_s, output, disturbances, timelines[1])
    return CaseOutcome(Case(f"{group}/{policy}", group, model, "batch 1", 1, 3.0, policy), prediction, run)


def validation(*outcomes: CaseOutcome, machine: Mapping[str, object] | None = None) -> Validation:
    """With provenance made up."""
    provenance = {"date": "2026-11-24", "command": "pregate validate", "commit": "abc"}
    return Validation(outcomes, provenance, machine or {"processor": "a processor", "n_cores": 2}, "a-fit", "p1")


def full(timelines: tuple[Timeline | None, Timeline | None] = (None, None)) -> Validation:
    """Five configurations of two models: with an interval, op by op, disturbed, in another group, too busy to run."""
    naive = {"roofline": 0.5, "bandwidth": 0.7, "serialised": 1.4}
    ops = ({"experts": ZERO, "fetch": OpTime(5, 0.2)}, {"experts": OpTime(10, 0.011), "fetch": OpTime(5, 0.25)})
    return validation(
        outcome("gpu_only", 1.02, (1.0, 1.01), naive=naive),
        outcome("pregate", 2.1, (2.0, 1.9, 2.2), interval=(1.8, 2.4), naive=naive, ops=ops, timelines=timelines),
        outcome("on_demand", 3.1, (3.0,), stalls_s=(2.0, 3.0), naive=naive, ops=ops, disturbances=("a busy core",)),
        outcome("pregate", 4.0, (4.4,), group="b", model="other"),
        outcome("lru", 4.0, None, group="b", model="other"),
        machine={"processor": "a processor", "link": {"h2d_bytes_per_s": 1e9}, "odd": math.nan},
    )
