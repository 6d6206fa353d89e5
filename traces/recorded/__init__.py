"""Recorded routing traces that ship with the project: real models on real prompts, by name.

Each is what `pregate trace import` made of a public recording; SOURCES.md has the commands, the origin and the licence
of each, the header of the file itself its provenance.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def recorded_names() -> list[str]:
    """The names of the traces that ship."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def recorded_path(name: str) -> Path | None:
    """The file of the trace called `name`; None when no such trace ships."""
    return _FOLDER / f"{name}.safetensors" if name in recorded_names() else None
