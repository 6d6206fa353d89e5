"""The pieces of a report's page: cells, tables, sections, pictures, and the style that all share.

A text becomes HTML here, escaped; what these functions return is HTML already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from pregate.validation.report.theme import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d9dee3; --paper: #ffffff; --card: #f4f6f8;
  --good: #00714f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #39424c; --paper: #14181d;
  --card: #1d232a; --good: #4cc99b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1180px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p { max-width: 52rem; margin: .4rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.verdict { font-size: 1.12rem; padding: .9rem 1.1rem; background: var(--card); border-left: 5px solid var(--good);
  border-radius: 4px; max-width: none; margin: 1.1rem 0; }
.verdict.part { border-color: #c98a00; } .verdict.bad { border-color: var(--bad); }
td.good { color: var(--good); } td.bad { color: var(--bad); font-weight: 600; } td.strong { font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); gap: .6rem; margin: 1rem 0; }
.tiles > div { background: var(--card); border-radius: 4px; padding: .55rem .75rem; }
.tiles b { display: block; font-size: 1.3rem; font-weight: 600; line-height: 1.3; }
.tiles span { color: var(--soft); font-size: .8rem; line-height: 1.25; display: block; }
@media (max-width: 760px) { .tiles { grid-template-columns: repeat(2, 1fr); } }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; vertical-align: bottom; line-height: 1.25; white-space: normal;
  max-width: 6.5rem; }
th.text, td.text { text-align: left; }
th.group { padding-top: 1rem; color: var(--ink); max-width: none; white-space: nowrap; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
i.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .45em; }
figure { margin: 1rem 0; } svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #ccc; --paper: #fff; --card: #f4f4f4;
  --good: #00714f; --bad: #b3261e; font-size: 9.5px; }
  body { font-size: 1rem; max-width: none; padding: 0; } .tiles { grid-template-columns: repeat(5, 1fr); }
  figure, tr, .tiles > div { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; } }
"""


def cell(value: object, style: str = "") -> str:
    """A cell; `style`: "text" for words, "bad" for what must not be."""
    return f'<td class="{style}">{escape(str(value))}</td>' if style else f"<td>{escape(str(value))}</td>"


def word_cell(value: object) -> str:
    """A cell of words."""
    return cell(value, "text")


def policy_cell(name: str, colours: Mapping[str, str]) -> str:
    """A policy beside the colour it has in the pictures."""
    return f'<td class="text"><i class="swatch" style="background:{colours[name]}"></i>{escape(name)}</td>'


def yes_cell(value: bool | None) -> str:
    """Yes or NO; a dash when nobody knows."""
    return cell("-") if value is None else cell("yes", "good") if value else cell("NO", "bad")


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], of_words: Sequence[int] = (0,)) -> str:
    """Cells as `cell` makes them under `heads`; `of_words`: the columns of words, the others hold numbers."""
    left = {i % len(heads) for i in of_words}
    top = "".join(
        f'<th scope="col"{" class=text" if i in left else ""}>{escape(head)}</th>' for i, head in enumerate(heads)
    )
    body = "\n".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def section(title: str, note: str, *parts: str) -> str:
    """A heading, a note under it, and `parts` that are HTML."""
    said = f'<p class="soft">{escape(note)}</p>' if note else ""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", said, *parts, "</section>"])


def drawn_figure(draw: Callable[[], Figure | None], name: str, caption: str) -> str:
    """A picture with its caption; nothing when there is nothing to draw."""
    drawn = draw()
    if drawn is None:
        return ""
    return f"<figure>\n{inline_svg(drawn, name, caption)}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"
