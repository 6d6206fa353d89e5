"""The report as one page: what it comes to first, then by metric, policy, group, op and case, then where it is from.

Self-contained: styles and pictures are inside, nothing is fetched. Every text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Any

from pregate.draw.palette import colours_of
from pregate.draw.render import si
from pregate.validation.outcome import COMPARED_METRICS, CaseOutcome, Validation
from pregate.validation.report import validation_plots
from pregate.validation.report.markup import (
    STYLE,
    cell,
    drawn_figure,
    number,
    policy_cell,
    section,
    table,
    word_cell,
    yes_cell,
)
from pregate.validation.scores.compared_number import compared_metric
from pregate.validation.scores.verdict import percent, verdict

_TITLES = {
    "tpot_s": "time per output token, mean",
    "tpot_p50_s": "time per output token, P50",
    "tpot_p99_s": "time per output token, P99",
    "ttft_s": "time to first token",
    "moe_layer_latency_s": "MoE layer latency",
    "makespan_s": "makespan",
    "stall_s": "stall, share of makespan (points)",
    "tokens_per_s": "tokens per second",
}


def page(validation: Validation, summary: Mapping[str, Any]) -> str:
    """The page as HTML; `summary` is the `summarise` of the validation."""
    sections = [
        _head(validation, summary),
        _problems(summary),
        _by_metric(summary),
        _pictures(validation),
        _by_policy(validation, summary),
        _by_model(summary),
        _choices(summary),
        _naive(summary),
        _ops(validation, summary),
        _timelines(validation),
        _cases(validation),
        _thrown_away(validation),
        _provenance(validation),
    ]
    title = escape(f"Validation of {validation.fit}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(filter(None, sections))
        + "\n</body>\n</html>\n"
    )  # fmt: skip


def _head(validation: Validation, summary: Mapping[str, Any]) -> str:
    bound = summary["achieved_over_bound"]["median"]
    exact = {True: "exact", False: "NOT exact", None: "-"}
    tiles = [
        (f"{summary['n']} of {summary['n'] + summary['n_invalid']}", "configurations measured"),
        (percent(summary["mape"]), "mean |error| of the time per output token"),
        (percent(summary["worst"]), "worst |error|"),
        (percent(summary["bias"], signed=True), "bias"),
        (number(summary["kendall_tau"]), "Kendall tau over all configurations"),
        (percent(summary["regret"]), "regret of the policy chosen, mean"),
        (percent(summary["coverage"]), "inside the predicted interval"),
        (exact[summary["bytes_exact"]], "bytes moved"),
        (exact[summary["residency_exact"]], "residency"),
        (summary["trust"]["level"], "trust in the times"),
        (number(bound), "pregate's time over its lower bound, median"),
    ]
    shown = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in tiles)
    origin = " - ".join(filter(None, [validation.provenance.get("date", ""), f"fit {validation.fit}"]))
    said = escape(verdict(summary)).replace(" %", "&nbsp;%")
    wrong = not summary["n"] or summary["mismatches"] or summary["differing_outputs"] or summary["failed"]
    state = "verdict" if summary["valid"] else "verdict bad" if wrong else "verdict part"
    return (
        f'<header>\n<h1>Predicted, then measured</h1>\n<p class="soft">{escape(origin)}</p>\n</header>\n'
        f'<p class="{state}">{said}</p>\n<div class="tiles">{shown}</div>'
    )


def _problems(summary: Mapping[str, Any]) -> str:
    """What keeps the figures from standing for all that was predicted; nothing when nothing does."""
    lines = [
        [word_cell(m["case"]), word_cell(f"{m['count']}: predicted {m['predicted']}, measured {m['measured']}")]
        for m in summary["mismatches"]
    ]
    for entry in summary["differing_outputs"]:
        said = ", ".join(f"{policy} {digest}" for policy, digest in entry["digests"].items())
        lines.append([word_cell(entry["group"]), word_cell(f"different hidden states: {said}")])
    lines += [[word_cell(name), word_cell("not measured")] for name in summary["thrown_away"]]
    lines += [[word_cell(name), word_cell(f"failed: {why}")] for name, why in summary["failed"].items()]
    lines += [[word_cell(name), word_cell(f"not run: {why}")] for name, why in summary["skipped"].items()]
    return section("Not as it should be", "", table(["where", "what"], lines, (0, 1))) if lines else ""


_SCORE_HEADS = ("n", "MAPE", "bias", "P50", "P90", "P99", "worst", "tau", "in interval")


def _scores(entry: Mapping[str, Any]) -> list[str]:
    return [
        cell(entry["n"]),
        cell(percent(entry["mape"])),
        cell(percent(entry["bias"], signed=True)),
        *[cell(percent(entry[name])) for name in ("p50", "p90", "p99", "worst")],
        cell(number(entry["kendall_tau"])),
        cell(percent(entry["coverage"])),
    ]


def _by_metric(summary: Mapping[str, Any]) -> str:
    lines = []
    for metric, entry in summary["metrics"].items():
        overall = entry["overall"]
        lines.append([word_cell(_TITLES[metric]), *_scores(overall), word_cell(overall["worst_case"] or "-")])
    note = (
        "Errors are predicted over measured, less 1; measured is the median over runs. MAPE is the mean, P50 to P99 "
        "percentiles of |error|. The stall is different: predicted and measured stall are both divided by the measured "
        "makespan, and the error is the difference, in percentage points."
    )
    return section("By metric", note, table(["metric", *_SCORE_HEADS, "worst configuration"], lines, (0, -1)))


def _pictures(validation: Validation) -> str:
    caption = (
        "Above, predicted against measured, each axis logarithmic; below, the error. A point is a configuration; bars "
        "across span its runs, bars upwards the predicted interval. Grey: within 10 %."
    )
    drawn = drawn_figure(partial(validation_plots.predicted_against_measured, validation), "scatter", caption)
    return section("Predicted against measured", "", drawn) if drawn else ""


def _by_policy(validation: Validation, summary: Mapping[str, Any]) -> str:
    colours = colours_of(outcome.case.policy for outcome in validation.outcomes)
    of = {metric: summary["metrics"][metric]["by_policy"] for metric in COMPARED_METRICS}
    lines = []
    for policy, entry in summary["policies"].items():
        tpot, bound = of["tpot_s"][policy], entry["achieved_over_bound"]
        others = [of[metric][policy]["mape"] for metric in ("ttft_s", "moe_layer_latency_s", "stall_s")]
        lines.append([
            policy_cell(policy, colours), *_scores(tpot)[:-2], *[cell(percent(mape)) for mape in others],
            cell(number(bound["median"])), cell(number(bound["worst"])),
            yes_cell(entry["bytes_exact"]), yes_cell(entry["residency_exact"]),
        ])  # fmt: skip
    heads = [
        "policy", *_SCORE_HEADS[:-2], "MAPE of TTFT", "of MoE layer", "stall (points)",
        "time / bound, median", "worst", "bytes exact", "residency exact",
    ]  # fmt: skip
    note = (
        "The time per output token, then the mean |error| of other metrics. Time / bound: measured makespan over the "
        "lower bound of the schedule at the times that its own ops took in that run; 1 is all that an order of these "
        "ops can do."
    )
    return section("By policy", note, table(heads, lines))


def _by_model(summary: Mapping[str, Any]) -> str:
    models = summary["metrics"]["tpot_s"]["by_model"]
    lines = [
        [word_cell(model), word_cell(_TITLES[metric]), *_scores(summary["metrics"][metric]["by_model"][model])]
        for model in models
        for metric in ("tpot_s", "ttft_s", "moe_layer_latency_s")
    ]
    return section("By model", "", table(["model", "metric", *_SCORE_HEADS], lines, (0, 1)))


def _choices(summary: Mapping[str, Any]) -> str:
    lines = []
    for group in summary["groups"]:
        wrong = group["predicted_best"] != group["measured_best"]
        lines.append([
            word_cell(group["group"]), cell(group["n"]), cell(group["predicted_best"] or "-", "text"),
            cell(group["measured_best"] or "-", "text strong" if wrong else "text"), cell(percent(group["regret"])),
            cell(number(group["kendall_tau"])), cell(number(group["kendall_tau_resolved"])),
        ])  # fmt: skip
    said = (
        "Regret: measured time of the policy predicted fastest, over the fastest measured, less 1; without gpu_only, "
        f"which moves nothing, it is {percent(summary['regret_offloading'])} on average and "
        f"{percent(summary['regret_offloading_worst'])} at worst. Tau is Kendall's tau-b, its mean within groups "
        f"{number(summary['kendall_tau_within'])}; resolved, it counts only pairs whose runs do not overlap: "
        f"{number(summary['kendall_tau_resolved'])} over all configurations."
    )
    heads = ["group", "n", "predicted fastest", "measured fastest", "regret", "tau", "tau, resolved"]
    return section("The policy to choose", said, table(heads, lines, (0, 2, 3)))


def _naive(summary: Mapping[str, Any]) -> str:
    mine = summary["metrics"]["tpot_s"]["overall"] | {
        name: summary[name] for name in ("kendall_tau_within", "regret", "regret_worst")
    }
    lines = [
        [
            word_cell(name),
            *[cell(percent(entry[key], signed=key == "bias")) for key in ("mape", "bias", "p90", "worst")],
            cell(number(entry["kendall_tau"])), cell(number(entry["kendall_tau_within"])),
            cell(percent(entry["regret"])), cell(percent(entry["regret_worst"])),
        ]
        for name, entry in {"pregate (this prediction)": mine, **summary["naive"]}.items()
    ]  # fmt: skip
    heads = ["predicted by", "MAPE", "bias", "P90", "worst", "tau", "tau within groups", "regret", "worst regret"]
    caption = "Mean |error| of the time per output token, by what predicted it."
    note = (
        "Rules of thumb at claimed rates, for the time per output token: roofline has transfers free, bandwidth has "
        "compute free, serialised adds both."
    )
    drawn = drawn_figure(partial(validation_plots.naive_bars, summary), "naive", caption)
    return section("Beside naive predictions", note, table(heads, lines), drawn)


def _ops(validation: Validation, summary: Mapping[str, Any]) -> str:
    lines = [
        [
            word_cell(kind.replace("_", " ")),
            cell(percent(entry["share"])),
            *_scores(entry)[:-2],
            word_cell(entry["worst_case"] or "-"),
        ]
        for kind, entry in summary["ops"].items()
    ]
    caption = (
        "Error of the mean time of an op in the decode phase, a point a configuration. In brackets the kind's share of "
        "the time of all ops; lanes overlap, so these are shares of the sum of op times, not of the wall."
    )
    heads = ["op", "share of op time", *_SCORE_HEADS[:-2], "worst configuration"]
    drawn = drawn_figure(partial(validation_plots.op_errors, validation), "ops", caption)
    return section("By op", "", drawn, table(heads, lines, (0, -1))) if lines else ""


def _timelines(validation: Validation) -> str:
    drawn = []
    for i, outcome in enumerate(validation.outcomes):
        caption = f"{outcome.case.name}: one decode step as predicted and, below, as measured, on one time axis."
        drawn.append(drawn_figure(partial(validation_plots.predicted_above_measured, outcome), f"timeline{i}", caption))
    return section("Both timelines", "", *drawn) if any(drawn) else ""


def _cases(validation: Validation) -> str:
    colours = colours_of(outcome.case.policy for outcome in validation.outcomes)
    heads = [
        "policy", "predicted", "interval", "measured", "least - most", "error", "in interval", "stall predicted",
        "stall measured", "time / bound", "runs", "schedule",
    ]  # fmt: skip
    lines: list[list[str]] = []
    group = None
    for outcome in validation.outcomes:
        if outcome.case.group != group:
            group = outcome.case.group
            lines.append([f'<th class="text group" colspan="{len(heads)}">{escape(_described(outcome))}</th>'])
        lines.append(_case(outcome, colours))
    note = "The time per output token; stall as a share of the measured makespan."
    return section("Every configuration", note, table(heads, lines, (0, -1)))


def _described(outcome: CaseOutcome) -> str:
    case = outcome.case
    ratio = "" if case.transfer_over_compute is None else f", transfer {case.transfer_over_compute:g} x compute"
    return f"{case.group}: {case.workload}{ratio}"


def _case(outcome: CaseOutcome, colours: Mapping[str, str]) -> list[str]:
    run = outcome.valid
    tpot, stall = (compared_metric(outcome, metric) for metric in ("tpot_s", "stall_s"))
    bound = run.median("makespan_s") / run.bound_s if run is not None and run.bound_s > 0 else None
    return [
        policy_cell(outcome.case.policy, colours),
        cell(_value(tpot.predicted)),
        cell(_range(tpot.interval)),
        cell(_value(tpot.measured)),
        cell(_range(tpot.span)),
        cell(percent(tpot.error, signed=True)),
        cell({None: "-", True: "yes", False: "no"}[tpot.inside]),
        cell(percent(stall.predicted)),
        cell(percent(stall.measured)),
        cell(number(bound)),
        cell(len(run.runs) if run is not None else "none", "" if run is not None else "bad"),
        word_cell(outcome.prediction.schedule_digest),
    ]


def _value(value_s: float | None) -> str:
    return "-" if value_s is None else si(value_s, "s")


def _range(ends: tuple[float, float] | None) -> str:
    """Both ends, the unit once when it is the same."""
    if ends is None:
        return "-"
    low, high = _value(ends[0]), _value(ends[1])
    number, _, unit = low.partition(" ")
    return f"{number if high.endswith(f' {unit}') else low} - {high}"


def _thrown_away(validation: Validation) -> str:
    lines = [
        [word_cell(outcome.case.name), word_cell(why)]
        for outcome in validation.outcomes
        for why in outcome.disturbances
    ]
    note = "Other work on the machine fell on these; they are in no figure above."
    return section("Runs thrown away", note, table(["configuration", "why"], lines, (0, 1))) if lines else ""


def _provenance(validation: Validation) -> str:
    known = {"fit": validation.fit, "predictions written before the first run": validation.predicted_first or "none"}
    known |= dict(validation.provenance)
    lines = [
        [word_cell(key), cell(value, "text wrap")]
        for key, value in {**known, **_dotted(validation.machine, "machine")}.items()
    ]
    return section("Where it is from", "", table(["what", "value"], lines, (0, 1)))


def _dotted(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested values under names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= _dotted(value, name) if isinstance(value, Mapping) else {name: value}
    return flat
