"""How right the predictions were: a row a number, and what all rows come to. Pure functions of a `Validation`.

Errors are signed, positive when too much was predicted: relative, except for `stall_s`, whose error is a difference of
shares of the measured makespan (`pregate.validation.scores.compared_number`). What is undefined is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from pregate.validation.outcome import COMPARED_METRICS, CaseOutcome, Validation
from pregate.validation.scores.compared_number import (
    Compared,
    compared_metric,
    compared_naive,
    compared_ops,
    compared_unit,
    score,
)
from pregate.validation.scores.rank_agreement import kendall_tau, regret, resolved_tau
from pregate.validation.scores.trustworthiness import trust_in

CHOSEN_BY = "tpot_s"
"""The metric that orders policies and that naive baselines predict."""

_HEADLINE = ("mape", "bias", "p50", "p90", "p99", "worst", "worst_case", "kendall_tau", "coverage")


def baselines_of(validation: Validation) -> tuple[str, ...]:
    """Names of the naive baselines, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for outcome in validation.outcomes for name in outcome.prediction.naive))


def rows(validation: Validation) -> list[dict[str, Any]]:
    """A row a case and metric, then a row a case and op kind; all with the same keys.

    `what` "metric" or "op" of `kind`; `predicted` with its interval `low` to `high`, `measured` (median over `n_runs`)
    with its range `measured_low` to `measured_high`, `error`, `inside` (the interval), in `unit`; of ops the mean time
    of one. `naive_*_error`: of the baselines, for `tpot_s`. `valid`: whether the case was measured.
    """
    baselines = baselines_of(validation)
    found: list[dict[str, Any]] = []
    for outcome in validation.outcomes:
        for metric in COMPARED_METRICS:
            naive = [compared_naive(outcome, name) if metric == CHOSEN_BY else None for name in baselines]
            errors = {
                f"naive_{name}_error": entry.error if entry is not None else None
                for name, entry in zip(baselines, naive, strict=True)
            }
            found.append(
                _row(outcome, "metric", metric, compared_metric(outcome, metric), compared_unit(metric)) | errors
            )
        for kind, number in compared_ops(outcome).items():
            nothing = dict.fromkeys(f"naive_{name}_error" for name in baselines)
            found.append(_row(outcome, "op", kind, number, "s an op") | nothing)
    return found


def _row(outcome: CaseOutcome, what: str, kind: str, number: Compared, unit: str) -> dict[str, Any]:
    case = {name: getattr(outcome.case, name) for name in outcome.case.__slots__}
    run = outcome.valid
    return case | {
        "what": what,
        "kind": kind,
        "unit": unit,
        "predicted": number.predicted,
        "low": number.interval[0] if number.interval else None,
        "high": number.interval[1] if number.interval else None,
        "measured": number.measured,
        "measured_low": number.span[0] if number.span else None,
        "measured_high": number.span[1] if number.span else None,
        "error": number.error,
        "inside": number.inside,
        "n_runs": len(run.runs) if run is not None else 0,
        "valid": run is not None,
    }


def summarise_validation(validation: Validation) -> dict[str, Any]:
    """Every score, JSON-ready. At the top those of `tpot_s`; then by metric, policy, group, baseline, op kind.

    `bytes_exact`, `residency_exact`: whether every count matched (None: none was compared); `mismatches` names what
    did not. `outputs_equal`: whether all policies of each group ended in the same hidden states. `failed`, `skipped`:
    groups without figures, and why. `trust`: how far the times can be trusted, and why. `valid`: the figures stand for
    all that was predicted: something was measured, no group is missing, all counts were compared and matched, outputs
    equal, and the times can be trusted. A summary that is not valid still says what it can of the cases it has.
    """
    outcomes = validation.outcomes
    measured = [outcome for outcome in outcomes if outcome.valid is not None]
    metrics = {metric: _of_metric(outcomes, metric) for metric in COMPARED_METRICS}
    order = _ordering([compared_metric(outcome, CHOSEN_BY) for outcome in measured])
    exactness = _exactness(measured)
    differing = _differing_outputs(measured)
    trust = trust_in(validation)
    sound = bool(measured) and exactness["bytes_exact"] and exactness["residency_exact"] and not differing
    complete = len(measured) == len(outcomes) and not validation.failed and not validation.skipped
    return {
        "metric": CHOSEN_BY,
        **{name: metrics[CHOSEN_BY]["overall"][name] for name in _HEADLINE},
        **order,
        **exactness,
        "outputs_equal": not differing if measured else None,
        "differing_outputs": differing,
        "n": len(measured),
        "n_invalid": len(outcomes) - len(measured),
        "n_runs": sum(len(outcome.valid.runs) for outcome in measured if outcome.valid is not None),
        "n_runs_thrown_away": sum(len(outcome.disturbances) for outcome in outcomes),
        "interrupted": max(
            (outcome.valid.interrupted for outcome in measured if outcome.valid is not None), default=0.0
        ),
        "thrown_away": [outcome.case.name for outcome in outcomes if outcome.valid is None],
        "failed": dict(validation.failed),
        "skipped": dict(validation.skipped),
        "trust": trust.to_dict(),
        "valid": bool(sound and complete and not trust.is_doubtful),
        "achieved_over_bound": _over_bound([o for o in measured if o.case.policy.startswith("pregate")]),
        "metrics": metrics,
        "policies": {policy: _of_policy(mine) for policy, mine in _by(outcomes, lambda o: o.case.policy).items()},
        "groups": [_of_group(name, group) for name, group in _by(outcomes, lambda o: o.case.group).items()],
        "naive": {name: _of_baseline(measured, name) for name in baselines_of(validation)},
        "ops": _of_ops(measured),
        "fit": validation.fit,
        "predicted_first": validation.predicted_first,
        "provenance": dict(validation.provenance),
        "machine": dict(validation.machine),
    }


def _by(outcomes: Iterable[CaseOutcome], key: Callable[[CaseOutcome], str]) -> dict[str, list[CaseOutcome]]:
    """Outcomes by what `key` says, in the order in which that first appears."""
    parts: dict[str, list[CaseOutcome]] = {}
    for outcome in outcomes:
        parts.setdefault(key(outcome), []).append(outcome)
    return parts


def _parts(numbers: Sequence[Compared], field: str) -> dict[str, dict[str, Any]]:
    names = dict.fromkeys(getattr(number.case, field) for number in numbers)
    return {name: score(n for n in numbers if getattr(n.case, field) == name) for name in names}


def _of_metric(outcomes: Sequence[CaseOutcome], metric: str) -> dict[str, Any]:
    numbers = [compared_metric(outcome, metric) for outcome in outcomes]
    return {
        "unit": compared_unit(metric),
        "overall": score(numbers),
        "by_policy": _parts(numbers, "policy"),
        "by_model": _parts(numbers, "model"),
    }


def _ordering(numbers: Sequence[Compared]) -> dict[str, Any]:
    """How well policies are ordered: tau within groups, over pairs that the runs tell apart, and the regret."""
    scored = [number for number in numbers if number.error is not None]
    groups: dict[str, list[Compared]] = {}
    for number in scored:
        groups.setdefault(number.case.group, []).append(number)
    taus = [tau for group in groups.values() if (tau := kendall_tau(*_times(group))) is not None]
    regrets = _regrets(groups)
    offloading = _regrets({name: [n for n in group if n.case.policy != "gpu_only"] for name, group in groups.items()})
    worst = max(regrets, key=lambda name: regrets[name], default=None)
    return {
        "kendall_tau_within": fmean(taus) if taus else None,
        "kendall_tau_resolved": _resolved(scored),
        "regret": fmean(regrets.values()) if regrets else None,
        "regret_worst": regrets[worst] if worst is not None else None,
        "regret_worst_group": worst,
        "regret_offloading": fmean(offloading.values()) if offloading else None,
        "regret_offloading_worst": max(offloading.values(), default=None),
    }


def _times(numbers: Sequence[Compared]) -> tuple[list[float], list[float]]:
    """Predicted and measured values of numbers that have both."""
    pairs = [(n.predicted, n.measured) for n in numbers if n.predicted is not None and n.measured is not None]
    return [p for p, _ in pairs], [m for _, m in pairs]


def _resolved(numbers: Sequence[Compared]) -> float | None:
    return resolved_tau(_times(numbers)[0], [number.span or (0.0, 0.0) for number in numbers])


def _regrets(groups: Mapping[str, Sequence[Compared]]) -> dict[str, float]:
    found = {name: regret(*_times(group)) for name, group in groups.items()}
    return {name: value for name, value in found.items() if value is not None}


def _of_group(name: str, outcomes: Sequence[CaseOutcome]) -> dict[str, Any]:
    """Which policy was predicted fastest, which was, among those that were measured."""
    numbers = [compared_metric(outcome, CHOSEN_BY) for outcome in outcomes if outcome.valid is not None]
    scored = [number for number in numbers if number.error is not None]
    times = _times(scored)
    return {
        "group": name,
        "n": len(scored),
        "n_invalid": sum(outcome.valid is None for outcome in outcomes),
        "predicted_best": min(scored, key=lambda n: n.predicted or 0.0).case.policy if scored else None,
        "measured_best": min(scored, key=lambda n: n.measured or 0.0).case.policy if scored else None,
        "regret": regret(*times),
        "kendall_tau": kendall_tau(*times),
        "kendall_tau_resolved": _resolved(scored),
    }


def _of_policy(outcomes: Sequence[CaseOutcome]) -> dict[str, Any]:
    measured = [outcome for outcome in outcomes if outcome.valid is not None]
    exactness = _exactness(measured)
    sound = bool(measured) and exactness["bytes_exact"] and exactness["residency_exact"]
    return {
        "n": len(measured),
        "n_invalid": len(outcomes) - len(measured),
        "bytes_exact": exactness["bytes_exact"],
        "residency_exact": exactness["residency_exact"],
        "valid": bool(sound and len(measured) == len(outcomes)),
        "achieved_over_bound": _over_bound(measured),
    }


def _of_baseline(measured: Sequence[CaseOutcome], baseline: str) -> dict[str, Any]:
    numbers = [entry for outcome in measured if (entry := compared_naive(outcome, baseline)) is not None]
    return score(numbers) | _ordering(numbers) | {"by_policy": _parts(numbers, "policy")}


def _exactness(measured: Sequence[CaseOutcome]) -> dict[str, Any]:
    """Counts that had to match. One that is there on one side only does not match."""
    compared = {"bytes": 0, "residency": 0}
    wrong: list[dict[str, Any]] = []
    for outcome in measured:
        said, seen = outcome.prediction.exact, outcome.valid.exact if outcome.valid is not None else {}
        for name in dict.fromkeys([*said, *seen]):
            what = "bytes" if name.endswith("_bytes") else "residency"
            compared[what] += 1
            if said.get(name) != seen.get(name):
                wrong.append(
                    {"case": outcome.case.name, "what": what, "count": name}
                    | {"predicted": said.get(name), "measured": seen.get(name)}
                )
    exact = {
        f"{what}_exact": all(entry["what"] != what for entry in wrong) if n else None for what, n in compared.items()
    }
    return exact | {"mismatches": wrong}


def _differing_outputs(measured: Sequence[CaseOutcome]) -> list[dict[str, Any]]:
    found = []
    for name, group in _by(measured, lambda o: o.case.group).items():
        digests = {o.case.policy: o.valid.output_digest for o in group if o.valid is not None}
        if len(set(digests.values())) > 1:
            found.append({"group": name, "digests": digests})
    return found


def _over_bound(measured: Sequence[CaseOutcome]) -> dict[str, Any]:
    """Measured makespan over the schedule's lower bound at the measured op times: 1 is all that a policy can do."""
    ratios = {
        o.case.name: o.valid.median("makespan_s") / o.valid.bound_s
        for o in measured
        if o.valid is not None and o.valid.bound_s > 0
    }
    worst = max(ratios, key=lambda name: ratios[name], default=None)
    return {
        "n": len(ratios),
        "median": median(ratios.values()) if ratios else None,
        "worst": ratios[worst] if worst is not None else None,
        "worst_case": worst,
    }


def _of_ops(measured: Sequence[CaseOutcome]) -> dict[str, dict[str, Any]]:
    """By op kind: errors of the mean time of an op, and the kind's share of the time of all ops measured in decode.

    Lanes overlap, so shares are of the sum of op times, not of the wall.
    """
    numbers: dict[str, list[Compared]] = {}
    total_s: dict[str, float] = {}
    for outcome in measured:
        for kind, number in compared_ops(outcome).items():
            numbers.setdefault(kind, []).append(number)
            seen = outcome.valid.ops.get(kind) if outcome.valid is not None else None
            total_s[kind] = total_s.get(kind, 0.0) + (seen.total_s if seen is not None else 0.0)
    whole_s = sum(total_s.values())
    scores = {kind: score(mine) for kind, mine in numbers.items()}
    return {
        kind: {**entry, "share": total_s[kind] / whole_s if whole_s > 0 else None}
        for kind, entry in sorted(scores.items(), key=lambda item: -total_s[item[0]])
    }
