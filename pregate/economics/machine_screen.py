"""Ranked machines as text, one screen or all of them, as Markdown and as HTML."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable

from pregate.card.display.one_screen import COLUMNS, DETAILS
from pregate.card.display.phrases import bound_by, rate, rate_head, rates
from pregate.card.display.text_layout import cut, folded, in_columns
from pregate.card.display.whole_card import escaped
from pregate.card.judged_design import Expected
from pregate.draw.render import si
from pregate.economics.cost_draws import Estimate
from pregate.economics.machine_ranking import MachineRanking, RankedMachine, usd

Rows = list[tuple[str, ...]]

_SHORT = {
    "what the host computes": "host", "storage reads": "storage",
    "launches and synchronisation on the host": "launches",
}  # fmt: skip
"""What binds, in a word where a table has it."""

_CARD = "The card of one machine: the same with one name, --hardware {}"

_NAMED = 2
"""Machines that the model does not fit which a screen names."""

_PLAIN = 14
"""Columns of a machine's name that a table has at least, where it is too narrow for the whole name."""


def ranking_screen(found: MachineRanking, width: int, n_lines: int) -> str:
    """One screen: verdicts, the numbers of the best machines, their designs, and how to see the card of one."""
    above = cut(folded(_title(found), width), 1, width)
    above += cut(folded(found.verdict(), width, "  "), 3, width)
    above += cut(folded(found.cost_verdict(), width, "  "), 2, width)
    below = [line for text in _notes(found, brief=True) for line in cut(folded(text, width, "  "), 2, width)]
    below.append(_CARD.format(shlex.quote(found.best.hardware)))
    n = len(found.machines)
    room = (n_lines - len(above) - len(below) - 2) // 2
    shown = n if n <= room or width < COLUMNS else max(room - 1, 1)
    numbers, designs = (
        in_columns(_numbers(found, shown, width), width, 2)[0],
        in_columns(_designs(found, shown), width, 3)[0],
    )
    if shown < n:
        designs.append(f"and {n - shown} more: {DETAILS} has all")
    parts = [above, numbers, designs, below]
    gaps = n_lines - sum(map(len, parts))
    for i in (2, 1, 3)[: max(gaps, 0)]:
        parts[i] = ["", *parts[i]]
    return "\n".join(line for part in parts for line in part)


def ranking_text(found: MachineRanking, width: int) -> str:
    """Every machine, what the model does not fit, and every assumption."""
    n = len(found.machines)
    lines = [line for text in (_title(found), *_verdicts(found)) for line in folded(text, width, "  ")]
    lines += ["", *in_columns(_numbers(found, n, width), width, 2)[0]]
    lines += ["", *in_columns(_designs(found, n), width, 3)[0], ""]
    for text in _notes(found, brief=False):
        lines += folded(text, width, "  ")
    if found.assumed:
        lines.append("Assumed (--assume NAME=NUMBER for your own):")
        for name, one in found.assumed.items():
            lines += folded(f"  {name} = {one}", width, "    ")
    return "\n".join([*lines, _CARD.format(shlex.quote(found.best.hardware))])


def ranking_markdown(found: MachineRanking) -> str:
    """Verdicts, both tables and notes."""
    lines = [f"## {escaped(_title(found))}", ""]
    lines.append("\n\n".join(f"**{escaped(text)}**" for text in _verdicts(found)))
    for head, *rows in _tables(found):
        lines += ["", _row(map(escaped, head)), _row("---" for _ in head), *(_row(map(escaped, row)) for row in rows)]
    return "\n".join([*lines, "", *(f"- {escaped(text)}" for text in _notes(found, brief=False))])


def ranking_html(found: MachineRanking) -> str:
    """The same as HTML; all text is escaped."""
    parts = [f"<h4>{html.escape(_title(found))}</h4>"]
    parts += [f"<p><b>{html.escape(text)}</b></p>" for text in _verdicts(found)]
    for head, *rows in _tables(found):
        titles = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
        body = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        parts.append(f"<table><tr>{titles}</tr>{''.join(body)}</table>")
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in _notes(found, brief=False))
    return f"<div>{''.join(parts)}<ul>{notes}</ul></div>"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _title(found: MachineRanking) -> str:
    job, n = found.job, len(found.machines) + len(found.unfit)
    return f"{found.model} on {n} machines: {job.input_tokens} + {job.output_tokens} tokens, {job.batch} at once"


def _verdicts(found: MachineRanking) -> list[str]:
    return [text for text in (found.verdict(), found.cost_verdict()) if text]


def _tables(found: MachineRanking) -> tuple[Rows, Rows]:
    return _numbers(found, len(found.machines), None), _designs(found, len(found.machines))


def _numbers(found: MachineRanking, n: int, width: int | None) -> Rows:
    """Request, tokens/s and TTFT of the first `n`, the last two with intervals; names cut where `width` asks for it."""
    batch = found.job.batch
    head = ("", "machine", "request", rate_head(batch), "TTFT")
    rows: Rows = [head]
    for i, one in enumerate(found.machines[:n]):
        best = one.best
        each = best.tpot.inverse(1.0) if batch == 1 else best.throughput
        rows.append(
            (
                _place(found, i),
                one.hardware,
                si(best.request.value, "s"),
                f"{rate(each.value)} ({rates(each)})",
                _seconds(best.ttft),
            )
        )
    if width is None:
        return rows
    others = sum(max(len(row[i]) for row in rows) + 2 for i in (0, 2, 3, 4))
    return [(place, _shortened(name, max(width - others, _PLAIN)), *rest) for place, name, *rest in rows]


def _seconds(time: Expected) -> str:
    """A time and its interval, in one unit."""
    value, unit = si(time.value, "s").split()
    low, high = (end * float(value.replace(",", "")) / time.value for end in time.interval)
    return f"{value} {unit} ({rate(low)} to {rate(high)})"


def _designs(found: MachineRanking, n: int) -> Rows:
    """The best design of the first `n`, what its tokens wait for, and what a million of them cost."""
    rows: Rows = [("", "best design", "binds", f"USD/M tokens ({found.basis})")]
    for i, one in enumerate(found.machines[:n]):
        rows.append((_place(found, i), str(one.best.design), _binds(one), _usd(one.per_million_tokens)))
    return rows


def _place(found: MachineRanking, i: int) -> str:
    return f"{i + 1}{'~' if found.machines[i] in found.rivals else ''}"


def _binds(one: RankedMachine) -> str:
    what, _ = bound_by(one.best.token_binds)
    for words, short in _SHORT.items():
        what = what.replace(words, short)
    return what.removesuffix(" share the time")


def _usd(cost: Estimate | None) -> str:
    return "-" if cost is None else f"{usd(cost.value)} ({usd(cost.low)} to {usd(cost.high)})"


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 2]}.."


def _notes(found: MachineRanking, *, brief: bool) -> list[str]:
    """What numbers rest on, marks, what has no cost and what the model does not fit."""
    resting: dict[str, list[str]] = {}
    for i, one in enumerate(found.machines, 1):
        resting.setdefault(one.best.estimate(found.objective).tag, []).append(str(i))
    most, *others = sorted(resting, key=lambda tag: -len(resting[tag]))
    tags = "; ".join(f"{', '.join(resting[tag])} {tag}" for tag in others)
    mark = "; ~ too close to 1 to tell" if found.rivals else ""
    notes = [f"95 %, {most}{f' ({tags})' if tags else ''}{mark}; routing {found.routing}"]
    lacking = [one for one in found.machines if one.per_million_tokens is None]
    if lacking and brief:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        notes.append(f"No cost of {lacking[0].hardware}{more}: {lacking[0].lacks.rpartition(': ')[2]}")
    elif lacking:
        notes.append("No cost: " + "; ".join(f"{one.hardware}, {one.lacks}" for one in lacking))
    if found.unfit:
        names = [name if brief else f"{name} ({_reason(reason)})" for name, reason in found.unfit]
        more = f" and {len(names) - _NAMED} more" if brief and len(names) > _NAMED else ""
        notes.append(f"No design fits {', '.join(names[:_NAMED] if brief else names)}{more}")
    return notes


def _reason(reason: str) -> str:
    """Why nothing fits, without the model and what to try."""
    return reason.partition(": try ")[0].partition("no design fits ")[2].removeprefix("(").removesuffix(")")
