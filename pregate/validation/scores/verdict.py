"""What the numbers of a validation come to: a few plain sentences for people, reasons to fail for a gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from traces.errors import InvalidInput

_TOLD = 0.01
"""The least share of a run whose interruptions are told."""

_SHOWN = 3
"""How many mismatches a reason names before it only counts."""


def percent(value: float | None, *, signed: bool = False) -> str:
    """A fraction in per cent; a dash for None."""
    return "-" if value is None else f"{100 * value:{'+' if signed else ''}.1f} %"


def verdict(summary: Mapping[str, Any]) -> str:
    """How right the times and their order are; what is exact and what was thrown away; how far times can be trusted;
    and where groups are missing, which.

    `summary`: of `pregate.validation.scores.validation_summary.summarise`.
    """
    if not summary["n"]:
        nothing = "Nothing was measured, so nothing is known of how right the predictions are"
        return f"{nothing}. {_thrown_away(summary)}.{_missing(summary)}"
    exact = f"{_exact(summary)}; {_thrown_away(summary)}{_interrupted(summary)}"
    return f"{_accuracy(summary)}{_order(summary)}. {exact}.{_trust(summary)}{_missing(summary)}"


def _accuracy(summary: Mapping[str, Any]) -> str:
    n, few = summary["n"], summary["n"] == 1
    over = "the one configuration" if few else f"{n} configurations"
    if summary["mape"] is None:
        return f"No time per output token was measured in {over}"
    if few:
        return f"The time per output token was predicted {percent(summary['mape'])} off in {over} that was measured"
    return (
        f"The time per output token was predicted {percent(summary['mape'])} off on average over {over}, "
        f"{percent(summary['worst'])} at worst ({summary['worst_case']})"
    )


def _order(summary: Mapping[str, Any]) -> str:
    tau = summary["kendall_tau"]
    order = "" if tau is None else f", and their order to a Kendall tau of {tau:.3f}"
    if summary["regret"] is None:
        return order
    worst = f"{percent(summary['regret_worst'])} at worst"
    return f"{order}; taking the policy predicted fastest costs {percent(summary['regret'])} on average, {worst}"


def _exact(summary: Mapping[str, Any]) -> str:
    names = {"bytes_exact": "transferred bytes", "residency_exact": "residency"}
    right = [name for key, name in names.items() if summary[key]]
    parts = (
        [f"{' and '.join(right)} match{'' if len(right) == 2 or 'bytes' in right[0] else 'es'} exactly"]
        if right
        else []
    )
    for key, name in names.items():
        what = key.removesuffix("_exact")
        cases = {entry["case"] for entry in summary["mismatches"] if entry["what"] == what}
        if cases:
            parts.append(f"{name} do{'' if what == 'bytes' else 'es'} NOT match in {_n(len(cases), 'configuration')}")
        elif summary[key] is None:
            parts.append(f"{name} {'were' if what == 'bytes' else 'was'} not compared")
    if summary["differing_outputs"]:
        parts.append(f"policies of {_n(len(summary['differing_outputs']), 'group')} end in DIFFERENT hidden states")
    said = ", ".join(parts)
    return said[0].upper() + said[1:]


def _thrown_away(summary: Mapping[str, Any]) -> str:
    runs, cases = summary["n_runs_thrown_away"], summary["n_invalid"]
    if not runs and not cases:
        return "nothing was thrown away" if summary["n"] else "There was nothing to measure"
    whole = summary["n"] + cases
    parts = [f"{cases} of {_n(whole, 'configuration')}"] if cases else []
    parts += [_n(runs, "single run")] if runs else []
    were = "was" if (cases or runs) == 1 and len(parts) == 1 else "were"
    said = f"{' and '.join(parts)} {were} thrown away because the machine was busy"
    return said if summary["n"] else said[0].upper() + said[1:]


def _interrupted(summary: Mapping[str, Any]) -> str:
    """What is left out of the times; nothing when that is less than a hundredth."""
    share = summary.get("interrupted", 0.0)
    return f"; interruptions by other work, up to {percent(share)} of a run, are left out" if share >= _TOLD else ""


def _trust(summary: Mapping[str, Any]) -> str:
    """A sentence on how far the times can be trusted."""
    trust = summary["trust"]
    return f" Trust in the times is {trust['level']}: {'; '.join(trust['reasons']) or 'nothing disturbed them'}."


def _missing(summary: Mapping[str, Any]) -> str:
    """A sentence on groups without figures; nothing when there are none."""
    said = {"failed": "failed", "skipped": "left out for lack of time"}
    parts = [f"{_n(len(summary[key]), 'group')} {what}" for key, what in said.items() if summary[key]]
    return f" {', '.join(parts)}." if parts else ""


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def failures(summary: Mapping[str, Any], max_mape: float | None) -> list[str]:
    """Reasons why a gate must not open; none: it may. `max_mape`: limit of the MAPE of `tpot_s` (None: no limit).

    Configurations that a busy machine or the time cost are no reason while others were measured. Raises `InvalidInput`
    for a limit that is not above 0.
    """
    if max_mape is not None and not (math.isfinite(max_mape) and max_mape > 0):
        raise InvalidInput(f"max_mape = {max_mape:g}: give a fraction above 0, such as 0.07 for 7 %")
    if not summary["n"]:
        return ["nothing was measured: machine too busy" if summary["n_invalid"] else "nothing was measured"]
    reasons = [f"{group} failed: {why}" for group, why in summary["failed"].items()]
    mape = summary["mape"]
    if max_mape is not None and mape is None:
        reasons.append("no time per output token was measured")
    elif max_mape is not None and mape > max_mape:
        reasons.append(f"MAPE of tpot_s is {100 * mape:.2f} %, the limit is {100 * max_mape:g} %")
    for what in ("bytes", "residency"):
        wrong = [entry for entry in summary["mismatches"] if entry["what"] == what]
        if wrong:
            reasons.append(f"{what} not exact: {_named(wrong)}")
        elif summary[f"{what}_exact"] is None:
            reasons.append(f"{what} not compared: no run says what it moved and found")
    for entry in summary["differing_outputs"]:
        digests = ", ".join(f"{policy} {digest}" for policy, digest in entry["digests"].items())
        reasons.append(f"{entry['group']}: policies end in different hidden states: {digests}")
    return reasons


def doubts(summary: Mapping[str, Any], max_mape: float | None) -> list[str]:
    """Reasons why the machine was too busy for a gate to open or to stay shut; none where its times can be judged.

    Of an error above `max_mape` that may be the machine's as well as the model's, and of times that say nothing. What
    is exact needs no quiet machine: where `failures` has other reasons, they stand.
    """
    trust = summary["trust"]
    why, way_out = "; ".join(trust["reasons"]), "stop other work, try again, or judge it as it is (--even-if-busy)"
    if trust["level"] == "none":
        return [f"the times say nothing ({why}): {way_out}"]
    mape = summary["mape"]
    if trust["level"] == "low" and max_mape is not None and mape is not None and mape > max_mape:
        return [f"an error above {100 * max_mape:g} % may be the machine's, trust is low ({why}): {way_out}"]
    return []


def _named(wrong: Sequence[Mapping[str, Any]]) -> str:
    said = [
        f"{entry['case']} {entry['count']} {entry['measured']} instead of {entry['predicted']}"
        for entry in wrong[:_SHOWN]
    ]
    more = len(wrong) - _SHOWN
    return "; ".join([*said, f"and {more} more"] if more > 0 else said)
