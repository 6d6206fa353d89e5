"""A proof of concept as one page: the verdict, candidates, what to measure and accept, commands, assumptions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape

from pregate.draw.render import si
from pregate.economics.cost_draws import Estimate
from pregate.economics.poc import Poc
from pregate.validation.report.markup import STYLE, cell, section, table, word_cell

_STYLE = """
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
td.wrap { min-width: 9rem; }
@media (max-width: 700px) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody { display: block; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; border: 0; white-space: normal;
    overflow-wrap: anywhere; }
  td.text { text-align: right; } td.wrap { min-width: 0; }
  td::before { content: attr(data-head); color: var(--soft); text-align: left; flex: none; max-width: 45%; }
}
"""
"""Commands fold, on paper too; on a phone a row of a table is its cells below each other, each with its head."""


def poc_page(poc: Poc) -> str:
    """The page as HTML, nothing fetched, every text from outside escaped."""
    sections = [_head(poc), _candidates(poc), _measurements(poc), _thresholds(poc), _commands(poc), _assumptions(poc)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(poc.asked.title)}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _head(poc: Poc) -> str:
    asked, report = poc.asked, poc.report
    promises = [
        f"{name} at most {si(value, 's')}"
        for name, value in (("first token", asked.ttft_s), ("each token", asked.tpot_s))
        if value
    ]
    question = (
        f"{report.model} on {report.hardware}: {asked.requests_per_s:g} requests/s of {asked.input_tokens} + "
        f"{asked.output_tokens} tokens" + (", " + ", ".join(promises) if promises else "")
    )
    state = "verdict" if poc.chosen is not None and poc.chosen.cheapest_in >= 0.95 else "verdict part"
    return (
        f'<header>\n<h1>{escape(asked.title)}</h1>\n<p class="soft">{escape(question)}</p>\n</header>\n'
        f'<p class="{state}">{escape(_verdict(poc))}</p>'
    )


def _verdict(poc: Poc) -> str:
    said = poc.verdict()
    if poc.chosen is None or not said.startswith("Try "):
        return said
    days = poc.chosen.payback_days
    return said if days is None else f"{said} It has paid {_shown(days, 'days', never='never')}."


def _candidates(poc: Poc) -> str:
    lines = []
    for one in poc.report.designs:
        served = one.served
        days = None if one.payback_days is None else _shown(one.payback_days, "days", never="never")
        payback = "runs now" if served.design == poc.report.now else days or "-"
        lines.append([
            word_cell(served.design), cell(served.batch), cell(si(served.ttft_s, "s")), cell(si(served.tpot_s, "s")),
            cell(f"{served.requests_per_s:.3g}"), cell(si(served.peak_hbm_bytes, "B")),
            _range_cell(one.per_million_tokens), _range_cell(one.joules_per_token), _range_cell(one.n_machines),
            _range_cell(one.total),
            cell(f"{one.cheapest_in:.0%}"), cell(payback),
        ])  # fmt: skip
    heads = [
        "design", "batch", "first token", "each token", "requests/s", "peak HBM", "USD/M tokens", "J/token",
        "machines", "total USD", "cheapest in", "pays in",
    ]  # fmt: skip
    unserved = "".join(f"<li>{escape(one.reason)}</li>" for one in poc.report.unserved)
    note = (
        "A batch starts and ends together; of the batches tried the one counts that serves most within the promise. In "
        f"brackets: 95 % over all assumptions. Machine constants: {poc.report.calibration}."
    )
    return section("Candidates", note, _table(heads, lines), f"<ul>{unserved}</ul>" if unserved else "")


def _range_cell(found: Estimate) -> str:
    """The figure, and below it its interval."""
    value, _, ends = _shown(found).partition(" [")
    return (
        f'<td><span>{escape(value)}<br><span class="soft">[{escape(ends)}</span></span></td>' if ends else cell(value)
    )


def _measurements(poc: Poc) -> str:
    lines = [[word_cell(one.name), cell(f"{one.share:.0%}"), cell(one.how, "text wrap")] for one in poc.measurements]
    note = "What the choice between the two cheapest hangs on, by share of the variance: measure this, and ask again."
    if not lines:
        return section("Measure first", "Nothing that is in doubt moves this choice.")
    return section("Measure first", note, _table(["what", "share", "how"], lines, (0, 2)))


def _thresholds(poc: Poc) -> str:
    if not poc.thresholds:
        return ""
    lines = [
        [
            word_cell(one.figure), word_cell(one.predicted), word_cell(one.accept),
            cell(one.roll_back, "text wrap"), cell(one.watch, "text wrap"),
        ]
        for one in poc.thresholds
    ]  # fmt: skip
    note = (
        "Accepted is what was promised, or else as far as the prediction may be off. A figure beyond that while "
        "nothing is slower means that the prediction is wrong, not the design: measure and ask again."
    )
    heads = ["figure", "predicted", "accept", "go back", "watch"]
    return section("Accept, go back, watch", note, _table(heads, lines, (0, 1, 2, 3, 4)))


def _commands(poc: Poc) -> str:
    asked = poc.asked
    where = f"{shlex.quote(asked.model)} --hardware {shlex.quote(asked.hardware)}"
    where += f" --stack {shlex.quote(asked.stack)}" if asked.stack else ""
    where += f" --formats {shlex.quote(asked.formats)}" if asked.formats else ""
    shape = f"--input-tokens {asked.input_tokens} --output-tokens {asked.output_tokens}"
    names = shlex.quote(",".join([asked.now, *asked.candidates]))
    lines = [f"pregate compare {where} {shape} --policies {names}"]
    if poc.chosen is not None:
        chosen = poc.chosen.served
        lines += [
            f"pregate explain {where} {shape} --batch {chosen.batch} --policy {shlex.quote(chosen.design)}",
            "pregate measure -o m.json && pregate calibrate m.json -o fit.yaml",
            "pregate validate --suite quick --fit fit.yaml -o report",
        ]
    said = escape("\n".join(lines))
    return section("Ask again", "The same questions on the command line.", f"<pre>{said}</pre>")


def _assumptions(poc: Poc) -> str:
    lines = [
        [
            word_cell(name), *(cell(f"{float(f'{number:.4g}'):g}") for number in (one.value, one.low, one.high)),
            word_cell(one.unit), cell(one.source, "text wrap"), word_cell(one.date),
        ]
        for name, one in poc.report.assumed.items()
    ]  # fmt: skip
    return section(
        "Assumed", "", _table(["name", "value", "low", "high", "unit", "source", "date"], lines, (0, 4, 5, 6))
    )


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], of_words: Sequence[int] = (0,)) -> str:
    """A table whose cells know their heads, and that stays one to a screen reader where it is not laid out as one."""
    named = [
        [
            one.replace("<td", f'<td role="cell" data-head="{escape(head)}"', 1)
            for head, one in zip(heads, line, strict=True)
        ]
        for line in lines
    ]
    html = table(heads, named, of_words).replace("<table>", '<table role="table">', 1)
    return html.replace("<tr>", '<tr role="row">').replace('<th scope="col"', '<th role="columnheader" scope="col"')


def _shown(found: Estimate, unit: str = "", never: str = "-") -> str:
    def said(value: float) -> str:
        if value == float("inf"):
            return never
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    text = (
        said(found.value) if found.low == found.high else f"{said(found.value)} [{said(found.low)}, {said(found.high)}]"
    )
    return text if text == never or not unit else f"{text} {unit}"
