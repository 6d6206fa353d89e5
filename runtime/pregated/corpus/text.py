"""Real text that comes with Python: its reference manual by topic, and the documentation strings of its library.

Licence: PSF-2.0, as Python's own. A document is held out for evaluation by a hash of its name, so that the same ones
are for every seed and arm.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from traces.errors import InvalidInput
from traces.foundation.documents import read_text

_HELD_OUT_OF = 8
"""One document in so many is held out."""

_LEFT_OUT = ("test", "site-packages", "dist-packages", "idlelib", "lib2to3", "pydoc_data", "config-")
MAX_TEXT_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Corpus:
    """Text to train on and text to be judged by, what it is, and its licence."""

    train: str
    held_out: str
    source: str
    licence: str

    def __post_init__(self) -> None:
        if min(len(self.train), len(self.held_out)) < 1024:
            raise InvalidInput(f"{self.source}: {len(self.train)} characters to train on, {len(self.held_out)} held "
                               f"out: at least 1024 each are needed, name a longer text")  # fmt: skip

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of both parts."""
        return hashlib.sha256(f"{self.train}\0{self.held_out}".encode()).hexdigest()[:16]


def python_documentation(*, docstrings: bool = True) -> Corpus:
    """The topics of Python's reference manual, and every documentation string of its library.

    Each string once. Without `docstrings` the topics alone: a quarter of the text in no time.
    """
    version = sysconfig.get_python_version()
    documents = {f"topic {name}": text for name, text in sorted(topics.items())}
    if docstrings:
        documents |= dict(_docstrings(Path(sysconfig.get_path("stdlib"))))
    source = f"reference manual{' and documentation strings' * docstrings} of Python {version}"
    return _split(documents, source, "PSF-2.0")


def corpus_of_file(path: Path) -> Corpus:
    """A text file of one's own, paragraphs being documents. Raises `InvalidFile` for one that is not text."""
    text = read_text(path, MAX_TEXT_BYTES)
    paragraphs = {f"{i} {part[:40]}": part for i, part in enumerate(text.split("\n\n")) if part.strip()}
    return _split(paragraphs, path.name, "not stated")


def _split(documents: dict[str, str], source: str, licence: str) -> Corpus:
    parts: tuple[list[str], list[str]] = ([], [])
    for name, text in documents.items():
        parts[zlib.crc32(name.encode()) % _HELD_OUT_OF == 0].append(text.strip())
    train, held_out = ("\n\n".join(part) for part in parts)
    return Corpus(train, held_out, source, licence)


def _docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """The documentation of each module of a library, all strings of one being a document."""
    seen: set[str] = set()
    for path in sorted(library.glob("**/*.py")):
        name = path.relative_to(library).as_posix()
        if name.startswith(_LEFT_OUT) or "/test" in name:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        parts = []
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and text not in seen:
                    seen.add(text)
                    parts.append(text)
        if parts:
            yield f"module {name}", "\n\n".join(parts)
