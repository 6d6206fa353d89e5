"""The tables of docs/field.md, from the committed predictions in results/field.json.

`python docs/field_tables.py` writes that file anew: what `pregate reproduce field --format json` prints, but the notes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwmodels.specs.spread import SPREADS_FILE, shipped_spread
from pregate.draw.field_tables import error_percent as percent
from traces.errors import InvalidFile
from traces.foundation.documents import read_yaml

RESULTS = Path(__file__).resolve().parents[1] / "results" / "field.json"
MECHANISMS = Path(__file__).with_name("field_mechanisms.yaml")
MISSED = 0.2
"""A source that is missed by more has its mechanism named."""
_WORST = 12
_STATES = ("open", "row", "modelled")


def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(RESULTS.read_text())
    return document


def accuracy() -> str:
    """One line a group."""
    lines = [
        "| rows | n | MAPE | median | bias | worst | tau | link alone | roofline | first row repeated |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for score in _document()["scores"]:
        rules = score["baselines"]
        tau = "-" if score["kendall_tau"] is None else f"{score['kendall_tau']:.2f}"
        cells = [
            score["group"], str(score["n"]), percent(score["mape"]), percent(score["median"]),
            f"{100 * score['bias']:+.0f}", percent(score["worst"]), tau,
            *(percent(rules.get(name)) for name in ("link", "roofline", "repeat")),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def missed_sources() -> dict[tuple[str, str], dict[str, Any]]:
    """The scores of sources by metric that are missed by more than `MISSED`: (source, metric) to its score."""
    by_group = {f"{row['metric']}, {row['source']}": (row["source"], row["metric"]) for row in _document()["rows"]}
    return {
        by_group[score["group"]]: score
        for score in _document()["scores"]
        if score["group"] in by_group and score["mape"] > MISSED
    }


def mechanisms() -> dict[tuple[str, str], tuple[str, str]]:
    """What `field_mechanisms.yaml` says: (source, metric) to state and mechanism. Raises `InvalidFile` for no state."""
    found = {}
    for source, metrics in read_yaml(MECHANISMS).sections():
        for metric, entry in metrics.sections():
            state = entry.text("state")
            if state not in _STATES:
                raise InvalidFile(f"{MECHANISMS.name}: {source}: state {state!r}: {', '.join(_STATES)}")
            found[source, metric] = state, entry.text("is")
            entry.done()
    return found


def by_source() -> str:
    """Every judged source: rows by metric, how far off, what set a constant, and why it is missed where it is."""
    rows, told = _document()["rows"], mechanisms()
    lines = [
        "| source, metric | rows | error, % | bias | a row of it set | missed because |",
        "|---|---|---|---|---|---|",
    ]
    by_group = {f"{row['metric']}, {row['source']}": (row["source"], row["metric"]) for row in rows}
    for score in _document()["scores"]:
        pair = by_group.get(score["group"])
        if pair is None:
            continue
        source, metric = pair
        roles = sorted({row["role"] for row in rows if row["source"] == source and row["role"] and not row["reason"]})
        state, why = told.get(pair, ("", ""))
        cells = [
            f"{source}, {metric}", str(score["n"]), percent(score["mape"]), f"{100 * score['bias']:+.0f}",
            ", ".join("its stack" if role == "stack" else role.removeprefix("fit ") for role in roles) or "nothing",
            f"{why} ({state})" if why else "",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def headline() -> str:
    """The overall scores of decode and prefill, in a sentence each."""
    document = _document()
    scored = [row for row in document["rows"] if row["scored"]]
    said = [f"{len(scored)} of {len(document['rows'])} rows are scored."]
    for title, metric in (("Decode", "decode_tokens_per_s"), ("Prefill", "prefill_tokens_per_s")):
        score = next(entry for entry in document["scores"] if entry["group"] == metric)
        rules = score["baselines"]
        said.append(
            f"{title}, {score['n']} rows: {percent(score['mape'])} % off on average, {percent(score['median'])} % at "
            f"the median, Kendall's tau {score['kendall_tau']:.2f}; a roofline is {percent(rules['roofline'])} % off, "
            f"the first row of the same machine repeated {percent(rules['repeat'])} %."
        )
    return " ".join(said)


def against_repeating() -> str:
    """Where the first row repeated misses by more than 25 %: whether a prediction misses by half of that at most."""
    lines = ["| source, metric | rows | MAPE | first row repeated | at most half |", "|---|---|---|---|---|"]
    groups = _document()["against_repeating"]
    for one in groups:
        held = "pass" if one["holds"] else "miss"
        lines.append(
            f"| {one['group']} | {one['n']} | {percent(one['mape'])} | {percent(one['repeat_mape'])} | {held} |"
        )
    n_held = sum(one["holds"] for one in groups)
    return "\n".join([*lines, "", f"{n_held} of {len(groups)} pass."])


def intervals() -> str:
    """How many rows that nothing was fitted on lie in their 95 % interval, and what the constants scatter."""
    held = _document()["coverage"]
    spread = shipped_spread()
    said = (
        f"{held['n_inside']} of {held['n']} rows that nothing was fitted on ({percent(held['n_inside'] / held['n'])} "
        f"%) lie in the 95 % interval that the other sources give them; half of the intervals reach no further than "
        f"{held['median_factor']:.2f} times the prediction, or a {held['median_factor']:.2f}th of it."
    )
    lines = [said, "", "| constant | scale of ln | sources that bear on it |", "|---|---|---|"]
    seen = {key: n for key, n in spread.n_bearing.items() if n}
    lines += [f"| {key} | {spread.constants[key]:.2f} | {n} |" for key, n in seen.items()]
    lines.append(f"| a row by itself | {spread.row:.2f} | {spread.n_sources} |")
    taken: dict[float, list[str]] = {}
    for key, sigma in spread.constants.items():
        if key not in seen:
            taken.setdefault(sigma, []).append(key)
    said = "; ".join(f"{sigma:.2f}: {', '.join(keys)}" for sigma, keys in taken.items())
    lines += ["", f"On the others no row bears. Their scales are taken to be {said}."]
    return "\n".join([*lines, *_group_intervals()])


def _group_intervals() -> list[str]:
    """The same by metric, stack and what binds: how many are inside, and whether the intervals are as wide as they
    should be.
    """
    from pregate.measured.constants.spreads import EXPECTED_SHARE

    groups = _document().get("group_coverage", {})
    if not groups:
        return []
    share = f"off at the median, of half an interval ({EXPECTED_SHARE:.2f} is right)"
    lines = ["", f"| rows | n | sources | inside, % | half within a factor of | {share} |", "|---|---|---|---|---|---|"]
    for name, one in groups.items():
        inside = percent(one["n_inside"] / one["n"])
        widths = f"{one['median_factor']:.2f} | {one['median_share']:.2f}"
        lines.append(f"| {name} | {one['n']} | {one['n_sources']} | {inside} | {widths} |")
    return lines


def carried_over() -> str:
    """What constants of the other sources, or of the other machines, are worth, by constant."""
    lines = [
        "| constant | of a new | rows | groups | as shipped | by the others | by its own rows | scatter of ln |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in _document()["carried"]:
        off = " | ".join(percent(one[name]) for name in ("shipped", "others", "own"))
        what = f"{one['constant']} | {one['by']} | {one['n_rows']} | {one['n_groups']}"
        lines.append(f"| {what} | {off} | {one['scatter']:.2f} |")
    return "\n".join(lines)


def worst() -> str:
    """The rows that are furthest off."""
    rows = sorted((row for row in _document()["rows"] if row["scored"]), key=lambda row: -abs(row["error"]))[:_WORST]
    lines = ["| row | measured | predicted | error, % |", "|---|---|---|---|"]
    for row in rows:
        predicted = f"{row['predicted']:.4g}"
        lines.append(f"| {row['name']} | {row['value']:.4g} {row['unit']} | {predicted} | {100 * row['error']:+.0f} |")
    return "\n".join(lines)


def unsaid() -> str:
    """Why rows are left out."""
    lines = ["| why | rows |", "|---|---|"]
    lines += [f"| {reason} | {n} |" for reason, n in _document()["unsaid"].items()]
    return "\n".join(lines)


def main() -> None:
    """Predict every row, and keep what the tables need."""
    from pregate.measured.constants.carried_constants import carried
    from pregate.measured.constants.spreads import fit_spread, group_coverage, interval_coverage, residuals
    from pregate.measured.rows.table import read_field
    from pregate.measured.table_prediction import predict_table

    result = predict_table(read_field())
    rows_off = residuals(result)
    SPREADS_FILE.write_text(fit_spread(rows_off).to_yaml(), encoding="utf-8")
    shipped_spread.cache_clear()
    document = result.to_dict() | {
        "coverage": interval_coverage(rows_off).to_dict(), "carried": [one.to_dict() for one in carried(rows_off)],
        "group_coverage": {name: one.to_dict() for name, one in group_coverage(rows_off).items()},
    }  # fmt: skip
    kept = ("name", "source", "metric", "value", "unit", "role", "reason", "predicted", "error", "ci95", "scored")
    document["rows"] = [{name: row[name] for name in kept} for row in document["rows"]]
    text = json.dumps(document, indent=1)
    RESULTS.write_text(
        json.dumps(json.loads(text, parse_float=lambda digits: float(f"{float(digits):.6g}")), indent=1) + "\n"
    )


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
