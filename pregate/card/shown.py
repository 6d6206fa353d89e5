"""A card as text, as Markdown and as HTML: the same lines, so that no two of them say different things."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pregate.card.card import N_SHOWN, Card
from pregate.card.choice import weakest
from pregate.card.judged import Expected, Judged
from pregate.draw.render import si

__all__ = ["html_of", "markdown_of", "summary_of", "text_of"]


_CHANGES = "Would change it"


@dataclass(frozen=True, slots=True)
class Told:
    """What a card says: a title, the verdict, a table of numbers, one of designs, and labelled sentences."""

    title: str
    verdict: str
    numbers: tuple[tuple[str, ...], ...]
    designs: tuple[tuple[str, ...], ...]
    sentences: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]


def told(card: Card) -> Told:
    """The words of a card."""
    job = card.job
    return Told(
        title=f"{card.model} on {card.parts}: {job.input_tokens} + {job.output_tokens} tokens, {job.batch} at once",
        verdict=card.verdict(),
        numbers=_numbers(card),
        designs=_designs(card),
        sentences=tuple(_sentences(card)),
        commands=tuple(_commands(card)),
    )


def _numbers(card: Card) -> tuple[tuple[str, ...], ...]:
    best, job = card.best, card.job
    each = best.tpot.inverse(1.0)
    rows = [
        (f"{best.design}", "expected", "95 % interval", "rests on"),
        ("first token", si(best.ttft.value, "s"), _seconds(best.ttft), best.ttft.tag),
        ("tokens/s a request", rate(each.value), _plain(each), each.tag),
        ("whole request", si(best.request.value, "s"), _seconds(best.request), best.request.tag),
    ]
    if job.batch > 1 or card.choice.objective == "throughput":
        all_of_them = rate(best.throughput.value), _plain(best.throughput), best.throughput.tag
        rows.append((f"tokens/s, {job.batch} at once", *all_of_them))
    return tuple(rows)


def _designs(card: Card) -> tuple[tuple[str, ...], ...]:
    """The best three, what runs now, and what is possible, not proven."""
    choice = card.choice
    shown = [(str(i), one) for i, one in enumerate(choice.ranked[:N_SHOWN], start=1)]
    if all(one is not choice.now for _, one in shown):
        shown.append(("", choice.now))
    n_beside = max(N_SHOWN - len(shown), choice.possible is not None)
    shown += [("?", one) for one in choice.beside[:n_beside]]
    tags = [one.estimate(choice.objective).tag for _, one in shown]
    same, marks = len(set(tags)) == 1, "* now, ~ not told from 1" + ", ? not proven" * (n_beside > 0)
    head = ("", f"{tags[0] if same else 'design'} ({marks})", "request", "tokens/s", "TTFT")
    if same:
        return (*head, "HBM"), *(_design(card, mark, one) for mark, one in shown)
    rows = [_design(card, mark, one, tag) for (mark, one), tag in zip(shown, tags, strict=True)]
    return (*head, "rests on", "HBM"), *rows


def _design(card: Card, mark: str, one: Judged, *tag: str) -> tuple[str, ...]:
    choice = card.choice
    marks = "*" * (one is choice.now) + "~" * (one is not choice.best and choice.straddles(one))
    return (
        mark + marks,
        str(one.design),
        si(one.request.value, "s"),
        rate(one.throughput.value),
        si(one.ttft.value, "s"),
        *tag,
        si(one.peak_hbm_bytes, "B"),
    )


def _sentences(card: Card) -> list[tuple[str, str]]:
    best, limit = card.best, card.limit
    points = card.turning_points
    changes = "; ".join(str(point) for point in points[:2]) or "nothing within a factor of 8 of any speed looked at"
    return [
        (
            "Speed limit (claimed)",
            f"TTFT {si(limit.ttft_s, 's')} ({limit.prompt_binds}), {rate(1 / limit.tpot_s)} tokens/s "
            f"({limit.token_binds}), {card.reached:.0%} reached",
        ),
        ("What binds", f"tokens: {_briefly(best.token_binds)}; prompt: {_briefly(best.prompt_binds)}"),
        (f"{_CHANGES} ({weakest(*(point.rests_on for point in points[:2]))})" if points else _CHANGES, changes),
        ("How sure", f"{best.request.why}; {card.basis}; routing {card.routing}" + _assumed(card)),
        ("Measure next", str(card.narrowing)),
    ]


def _briefly(binds: str) -> str:
    """A sentence of `what_binds` as what binds, and the lanes that are busy at all."""
    what, _, shares = binds.rstrip(")").partition(" (")
    what = what.removesuffix(" it").removesuffix(" binds").removesuffix(" bind")
    busy = [share for share in shares.replace("compute busy", "compute").split(", ") if not share.endswith(" 0%")]
    return f"{what} ({', '.join(busy).removeprefix(f'{what} ')})"


def _assumed(card: Card) -> str:
    cached = card.best.planned.tokens.policy.cache is not None
    return ", so hits are assumed" if card.routing == "synthetic" and cached else ""


def _commands(card: Card) -> list[tuple[str, str]]:
    said = [("Run it", str(card.flags))]
    other = card.choice.possible
    if card.possible_flags is not None and other is not None:
        said.append((f"Possible ({other.design})", str(card.possible_flags)))
    return said


def _seconds(estimate: Expected) -> str:
    low, high = estimate.interval
    return f"{si(low, 's')} to {si(high, 's')}"


def _plain(estimate: Expected) -> str:
    low, high = estimate.interval
    return f"{rate(low)} to {rate(high)}"


def rate(number: float) -> str:
    """Three digits, and never a power of ten."""
    rounded = float(f"{number:.3g}")
    return f"{number:.3g}" if abs(rounded) < 1000 else f"{rounded:,.0f}"


def text_of(card: Card, width: int) -> str:
    """The card as lines; tables are as wide as they are, sentences fold at `width`."""
    said = told(card)
    lines = [*_folded(said.title, width), *_folded(said.verdict, width), ""]
    lines += [*_columns(said.numbers, width), "", *_columns(said.designs, width), ""]
    for label, sentence in (*said.sentences, *said.commands):
        lines += _folded(f"{label}: {sentence}", width, "  ")
    return "\n".join(lines)


def summary_of(card: Card, width: int) -> str:
    """A few lines: what is asked, the verdict, each number with what it rests on, and how to run it."""
    said = told(card)
    best = card.best
    parts = [f"{name} {value} ({interval}, {tag})" for name, value, interval, tag in said.numbers[1:3]] + [
        f"{card.reached:.0%} of the claimed speed limit reached"
    ]
    lines = [*_folded(said.title, width), *_folded(said.verdict, width, "  ")]
    lines += _folded(f"{best.design}: {', '.join(parts)}", width, "  ")
    for label, sentence in (*said.sentences, *said.commands):
        if label.startswith((_CHANGES, "Run it")):
            lines += _folded(f"{label}: {sentence}", width, "  ")
    return "\n".join(lines)


def _folded(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned columns, the first texts left; the last columns give way where `width` is too small, and that is said."""
    n = len(rows[0])
    while True:
        widths = [max(len(row[i]) for row in rows) for i in range(n)]
        if sum(widths) + 2 * (n - 1) <= width or n <= 2:
            break
        n -= 1
    left = 2 if len(rows[0]) > 4 else 1
    dropped = [cell for cell in rows[0][n:] if cell]
    told = _folded(f"Left out, {width} columns are too few: {', '.join(dropped)}.", width, "  ") if dropped else []
    return [
        "  ".join(
            cell.ljust(size) if i < left else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row[:n], widths, strict=True))
        ).rstrip()
        for row in rows
    ] + told


def markdown_of(card: Card) -> str:
    """The card as Markdown."""
    said = told(card)
    lines = [f"## {_escaped(said.title)}", "", f"**{_escaped(said.verdict)}**", ""]
    for table in (said.numbers, said.designs):
        head, *rows = table
        lines += [_row(head), _row("---" for _ in head), *(_row(map(_escaped, row)) for row in rows), ""]
    lines += [f"- {_escaped(label)}: {_escaped(sentence)}" for label, sentence in said.sentences]
    lines += [f"- {_escaped(label)}: `{sentence.replace('`', chr(39))}`" for label, sentence in said.commands]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """Text whose marks Markdown does not read."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in text)


def html_of(card: Card) -> str:
    """The card as HTML; all text is escaped."""
    said = told(card)
    parts = [f"<h4>{html.escape(said.title)}</h4><p><b>{html.escape(said.verdict)}</b></p>"]
    for head, *rows in (said.numbers, said.designs):
        parts.append(
            "<table><tr>"
            + "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
            + "</tr>"
            + "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            + "</table>"
        )
    items = (f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>" for label, text in said.sentences)
    codes = (f"<dt>{html.escape(label)}</dt><dd><code>{html.escape(text)}</code></dd>" for label, text in said.commands)
    return "<div>" + "".join(parts) + "<dl>" + "".join((*items, *codes)) + "</dl></div>"
