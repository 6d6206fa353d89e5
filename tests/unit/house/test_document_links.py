"""Every relative link of the documents and notebooks leads somewhere: to a file, a folder or a heading."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:", re.I)


def documents() -> list[Path]:
    """Markdown and notebooks of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md", "*.ipynb"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = listed.stdout.split("\n") if listed.returncode == 0 else []
    found = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return found or sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")])


def prose(path: Path) -> str:
    """Its text without code, in which brackets are no links."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(path: Path) -> set[str]:
    """Of the headings of a document, as forges make them."""
    bare = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    seen: dict[str, int] = {}
    found = set()
    for title in re.findall(r"^#{1,6} (.+)$", bare, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.add(slug if slug not in seen else f"{slug}-{seen[slug]}")
        seen[slug] = seen.get(slug, 0) + 1
    return found


def links(path: Path) -> Iterator[tuple[str, str]]:
    """The file and the anchor of each relative link."""
    for target in LINK.findall(prose(path)):
        if not OUTSIDE.match(target):
            name, _, anchor = target.partition("#")
            yield unquote(name), anchor


def broken(path: Path) -> list[str]:
    """The links of a document that lead nowhere."""
    wrong = []
    for name, anchor in links(path):
        target = (path.parent / name).resolve() if name else path
        inside = target == ROOT or ROOT in target.parents
        if not (inside and target.exists()):
            wrong.append(name)
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            wrong.append(f"{name}#{anchor}")
    return wrong


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    assert broken(path) == []


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A `title`, twice\n\n```\n# no title\n```\n\n# A title, twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-title-twice-1) ![c](https://x.y/z) `[code](no.md)` [d](no.md) "
        "[e](there.md#no-title) [f](../outside.md)\n"
    )
    assert broken(page) == ["no.md", "there.md#no-title", "../outside.md"]


def test_every_document_is_named_in_the_index() -> None:
    told = {name for name, _ in links(ROOT / "docs" / "README.md")}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - told == set()


def test_every_picture_of_the_documents_is_shown() -> None:
    shown = {Path(name).name for path in documents() if path.suffix == ".md" for name, _ in links(path)}
    assert {path.name for path in (ROOT / "docs" / "pictures").iterdir()} - shown == set()


def test_the_first_page_is_short_and_in_a_readers_order() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    order = ("**pregate predicts", "generated: demo", "timelines.png", "## How right", "## Use it", "## Go on")
    places = [text.index(mark) for mark in order]
    assert places == sorted(places)


ROOMS = ("compiled", "traces", "offload", "hwmodels", "simulator", "runtime", "pregate")
MODULE = re.compile(rf"(?<![\w/])(?:{'|'.join(ROOMS)}|docs|benchmarks|tests)/[\w/]+\.py\b")


def named_modules() -> Iterator[tuple[str, str]]:
    """Modules by path, as documents and docstrings name them. The log says what was, so it may name what is no more."""
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    for path in (*documents(), *sources):
        if path.name != "LOG.md":
            for name in MODULE.findall(path.read_text(encoding="utf-8")):
                yield str(path.relative_to(ROOT)), name


def test_every_module_that_is_named_is_there() -> None:
    assert [(where, name) for where, name in named_modules() if not (ROOT / name).is_file()] == []


def test_every_decision_has_a_number_of_its_own_and_stands_in_the_index() -> None:
    text = (ROOT / "DECISIONS.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    rows = re.findall(r"^\| ([^|]+) \| ([\d, ]+) \|$", text, re.MULTILINE)
    assert {int(number) for _, row in rows for number in row.split(",")} == set(numbers)
    assert len({subject for subject, _ in rows}) == len(rows)
    assert all(row == ", ".join(map(str, sorted({*map(int, row.split(","))}))) for _, row in rows)
