"""Tables of the documents between marks: `<!-- generated: NAME -->` and `<!-- end: NAME -->`, and what a page holds.

`generated` is made anew by every build. `measured` takes minutes: the program that makes it writes it, and a build
makes some of its rows anew, which have to stand in the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

Mark = Literal["generated", "measured"]


def rewritten(text: str, makers: Mapping[str, Callable[[], str]], mark: Mark = "generated") -> str:
    """`text` with every part under `mark` made anew. Raises `KeyError` for a part nobody makes."""

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {mark}: {name} -->\n{makers[name]()}\n<!-- end: {name} -->"

    return re.sub(rf"<!-- {mark}: (?P<name>\w+) -->.*?<!-- end: (?P=name) -->", made, text, flags=re.DOTALL)


def write(page: Path, makers: Mapping[str, Callable[[], str]], mark: Mark = "measured") -> None:
    """Have the parts of a page under `mark` made anew."""
    page.write_text(rewritten(page.read_text(), makers, mark))


def drifted_rows(page: Path, rows: Iterable[str]) -> list[str]:
    """Of `rows`, just made, those that the page does not have."""
    lines = set(page.read_text().splitlines())
    return [row for row in rows if row not in lines]
