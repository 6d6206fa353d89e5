"""Tables of docs/machines.md: what was fitted on every machine, and how well laws of kernels say the unseen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwmodels.fits.fit import UNSEEN_SCATTER, Fit
from hwmodels.fits.fit_files import fit_names, load_fit
from hwmodels.platform import load_platform, machines_of
from hwmodels.specs.machine_files import hardware_names

RESULTS = Path(__file__).resolve().parents[1] / "results" / "kernel_laws.json"

_STACK = "vllm"


def machines() -> str:
    """Every machine: what is fitted on it, on what, and how well, or whose laws it is lent."""
    fitted: dict[str, list[Fit]] = {}
    for name in fit_names():
        fit = load_fit(name)
        fitted.setdefault(fit.hardware, []).append(fit)
    lines = ["| machine | stack | what is fitted | on | error left out |", "|---|---|---|---|---|"]
    claimed = []
    for name in hardware_names():
        lines += [_fit_line(name, fit) for fit in fitted.get(name, ())]
        if not any(fit.laws for fit in fitted.get(name, ())):
            lent = load_platform(name, _STACK).fit if name in machines_of(_STACK) else None
            if lent is not None:
                lines.append(_lent_line(name, lent))
            elif name not in fitted:
                claimed.append(name)
    return "\n".join([*lines, "", f"Claimed figures only, whatever the stack: {', '.join(claimed)}."])


def _fit_line(name: str, fit: Fit) -> str:
    if not fit.laws:
        source = fit.provenance.get("source", fit.provenance.get("table", "published rows"))
        return f"| {name} | {fit.stack} | {len(fit.constants)} constants of the stack | {source[:60]} | |"
    errors = [law.families.mape for law in fit.laws]
    what = ", ".join(dict.fromkeys(f"{law.form} ({_formats(fit, law.form)})" for law in fit.laws))
    on = f"{fit.provenance['package']}, {fit.provenance['engine']} {fit.provenance['version']}"
    return f"| {name} | {fit.stack} | {what} | {on} | {min(errors):.0%} to {max(errors):.0%} on families |"


def _formats(fit: Fit, form: str) -> str:
    return ", ".join(law.stored for law in fit.laws if law.form == form)


def _lent_line(name: str, lent: Fit) -> str:
    errors = [law.elsewhere.mape for law in lent.laws if law.elsewhere is not None]
    if not errors:
        told = "not known: no other was fitted"
    elif all(error.scatter >= UNSEEN_SCATTER for error in lent.left_out.values()):
        told = "not known: it is like none that was fitted"
    else:
        told = f"{min(errors):.0%} to {max(errors):.0%} on a machine left out"
    return f"| {name} | {lent.stack} | extrapolated: the laws of {lent.hardware} | its family | {told} |"


def errors() -> str:
    """A row for each law: families left out, the law of the nearest relative, a plain roofline; misses in bold."""
    rows = json.loads(RESULTS.read_text())["rows"]
    lines = [
        "| machine | engine | law | format | rows | families left out | bias | tau | its ceiling | a tick apart | bar "
        "| machine left out | bar | in windows | roofline |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_error_line(row) for row in rows]
    seen = [row for row in rows if row["machine"] is not None]
    told = (
        f"{_count(rows, 'met')} of {len(rows)} laws are within their bar on families left out, "
        f"{_count(seen, 'machine_met')} of {len(seen)} on a machine left out; "
        f"{sum(abs(row['families']['bias']) <= 0.05 for row in rows)} are biased by 5 % at most, and "
        f"{sum(row['families']['tau'] >= 0.9 for row in rows)} rank at tau 0.9 or better. {_below(rows)}"
    )
    return "\n".join([*lines, "", told])


def _below(rows: Sequence[dict[str, Any]]) -> str:
    """Of the laws below tau 0.9, how far they are from what the clock of their tables leaves."""
    low = [row for row in rows if row["families"]["tau"] < 0.9]
    if not low:
        return ""
    if any(row["ranking"] is None for row in low):
        raise ValueError("a law below tau 0.9 whose table does not tick: the page has no words for it")
    short = [row["ranking"]["ceiling"] - row["families"]["tau"] for row in low]
    apart = [row["ranking"]["apart"] for row in low]
    return (
        f"The other {len(low)} are within {max(short):.3f} of their ceilings, {sum(gap < 0.03 for gap in short)} "
        f"of them within 0.03, and have tau {min(apart):.2f} to {max(apart):.2f} over pairs more than a tick apart."
    )


def _error_line(row: dict[str, Any]) -> str:
    families, machine, windows = row["families"], row["machine"], row["windows"]
    near = "-" if machine is None else _marked(f"{machine['mape']:.1%}", row["machine_met"])
    ranking = row["ranking"]
    ranked = ("-", "-") if ranking is None else (f"{ranking['ceiling']:.2f}", f"{ranking['apart']:.2f}")
    cells = (
        row["gpu"], f"{row['engine']} {row['version']}", row["law"], row["stored"], f"{row['rows']:,}",
        _marked(f"{families['mape']:.1%}", row["met"]), f"{families['bias']:+.1%}", f"{families['tau']:.2f}",
        *ranked, f"{row['bar']:.0%}", near, f"{row['machine_bar']:.0%}",
        "-" if windows is None else f"{windows['mape']:.1%}", f"{row['roofline']['mape']:.0%}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _marked(text: str, met: bool) -> str:
    return text if met else f"**{text}**"


def _count(rows: Sequence[dict[str, Any]], key: str) -> int:
    return sum(bool(row[key]) for row in rows)
