"""A whole card as text, as Markdown and as HTML: the same words, so that no two of them say different things."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pregate.card.card import Card
from pregate.card.display.phrases import (
    assumed_hits,
    bound_by,
    changed_by,
    design_row,
    in_words,
    now_in_words,
    rate,
    rate_head,
    rates,
    run_lines,
    seconds,
    shown_designs,
)  # fmt: skip
from pregate.card.display.text_layout import folded, in_columns
from pregate.draw.render import si
from pregate.engines.writing import Flags

_N_REASONS = 3
"""Designs that do not fit of which the reason is said."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a card says: a title, the verdict, a table of numbers, one of designs, labelled sentences, and how to run
    what is recommended or possible.
    """

    title: str
    verdict: str
    numbers: tuple[tuple[str, ...], ...]
    designs: tuple[tuple[str, ...], ...]
    sentences: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, Flags], ...]


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
        ("first token", si(best.ttft.value, "s"), seconds(best.ttft), best.ttft.tag),
        ("tokens/s a request", rate(each.value), rates(each), each.tag),
        ("whole request", si(best.request.value, "s"), seconds(best.request), best.request.tag),
    ]
    if job.batch > 1 or card.choice.objective == "throughput":
        all_of_them = rate(best.throughput.value), rates(best.throughput), best.throughput.tag
        rows.append((f"tokens/s, {job.batch} at once", *all_of_them))
    return tuple(rows)


def _designs(card: Card) -> tuple[tuple[str, ...], ...]:
    choice = card.choice
    shown = shown_designs(choice)
    tags = [one.estimate(choice.objective).tag for _, one in shown]
    same, n_beside = len(set(tags)) == 1, sum(mark == "?" for mark, _ in shown)
    marks = f"* {now_in_words(choice).split()[-1]}, ~ too close to 1" + ", ? not proven" * (n_beside > 0)
    head = ("", f"{tags[0] if same else 'design'} ({marks})", "request", rate_head(card.job.batch), "TTFT")
    if same:
        return (*head, "HBM"), *(design_row(choice, mark, one) for mark, one in shown)
    rows = [design_row(choice, mark, one, tag) for (mark, one), tag in zip(shown, tags, strict=True)]
    return (*head, "rests on", "HBM"), *rows


def _sentences(card: Card) -> list[tuple[str, str]]:
    best, limit = card.best, card.limit
    words = in_words(best)
    said = [
        *([(f"What {best.design} is", words)] if words else []),
        (
            "Speed limit (claimed)",
            f"TTFT {si(limit.ttft_s, 's')} ({limit.prompt_binds}), {rate(1 / limit.tpot_s)} tokens/s "
            f"({limit.token_binds}), {card.reached:.0%} reached",
        ),
        ("What binds", f"tokens: {_briefly(best.token_binds)}; prompt: {_briefly(best.prompt_binds)}"),
        changed_by(card, len(card.turning_points)),
        ("How sure", f"{best.request.why}; {card.basis}; routing {card.routing}" + assumed_hits(card)),
        ("Measure next", str(card.narrowing)),
    ]
    if card.unfit:
        more = f"; and {len(card.unfit) - _N_REASONS} more" if len(card.unfit) > _N_REASONS else ""
        reasons = (f"{name} ({reason.partition(': try ')[0]})" for name, reason in card.unfit[:_N_REASONS])
        said.append(("Does not fit", "; ".join(reasons) + more))
    return said


def _briefly(binds: str) -> str:
    what, shares = bound_by(binds)
    return f"{what} ({', '.join(f'{name} {share}'.removeprefix(f'{what} ') for name, share in shares.items())})"


def _commands(card: Card) -> list[tuple[str, Flags]]:
    other, flags = card.choice.possible, card.possible_flags
    possible = [] if other is None or flags is None else [(f"Possible ({other.design})", flags)]
    return [("Run it", card.flags), *possible]


def text_of(card: Card, width: int) -> str:
    """The whole card as lines; tables are as wide as they are, sentences fold at `width`."""
    said = told(card)
    lines = [*folded(said.title, width), *folded(said.verdict, width), ""]
    lines += [*_columns(said.numbers, width), "", *_columns(said.designs, width), ""]
    for label, sentence in said.sentences:
        lines += folded(f"{label}: {sentence}", width, "  ")
    for label, flags in said.commands:
        lines += run_lines(label, flags, width)
    return "\n".join(lines)


def summary_of(card: Card, width: int) -> str:
    """A few lines: what is asked, the verdict, each number with what it rests on, and how to run it."""
    said = told(card)
    best = card.best
    parts = [f"{name} {value} ({interval}, {tag})" for name, value, interval, tag in said.numbers[1:3]] + [
        f"{card.reached:.0%} of the claimed speed limit reached"
    ]
    lines = [*folded(said.title, width), *folded(said.verdict, width, "  ")]
    lines += folded(f"{best.design}: {', '.join(parts)}", width, "  ")
    lines += folded(": ".join(changed_by(card, 2)), width, "  ")
    return "\n".join([*lines, *run_lines("Run it", card.flags, width)])


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned columns, the first texts left; where `width` is too small, which columns gave way is said."""
    lines, dropped = in_columns(rows, width, n_left=2 if len(rows[0]) > 4 else 1)
    told = folded(f"Left out, {width} columns are too few: {', '.join(dropped)}.", width, "  ") if dropped else []
    return lines + told


def markdown_of(card: Card) -> str:
    """The card as Markdown."""
    said = told(card)
    lines = [f"## {escaped(said.title)}", "", f"**{escaped(said.verdict)}**", ""]
    for table in (said.numbers, said.designs):
        head, *rows = table
        lines += [_row(map(escaped, head)), _row("---" for _ in head), *(_row(map(escaped, row)) for row in rows), ""]
    lines += [f"- {escaped(label)}: {escaped(sentence)}" for label, sentence in said.sentences]
    for label, flags in said.commands:
        command = f" `{flags.command.replace('`', chr(39))}`" if flags.command else ""
        lines.append(f"- {escaped(label)}:{command}" + f" {escaped(flags.left_out)}".rstrip())
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
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
    codes = (
        f"<dt>{html.escape(label)}</dt><dd><code>{html.escape(flags.command)}</code> {html.escape(flags.left_out)}</dd>"
        for label, flags in said.commands
    )
    return "<div>" + "".join(parts) + "<dl>" + "".join((*items, *codes)) + "</dl></div>"
