"""The files that a command writes: whether they can be, asked before the work; timelines; and that they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from traces.errors import InvalidInput
from traces.foundation.atomic_files import require_writable

if TYPE_CHECKING:
    from offload.timeline import Timeline


def require_ledger(path: Path) -> None:
    """Raise `InvalidInput` before the work unless predictions can be written behind what the ledger has."""
    require_folder(path)
    if path.exists():
        from pregate.validation.ledger import load_ledger

        load_ledger(path)


def require_picture(path: Path) -> None:
    """Raise `InvalidInput` before the work unless `path` can become a picture."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InvalidInput(f"{path}: pictures are written as .png, .svg or .pdf")
    require_folder(path)


def require_folder(path: Path) -> None:
    """Raise `InvalidInput` before the work unless a file can be written at `path`."""
    if not path.resolve().parent.is_dir():
        raise InvalidInput(f"{path}: cannot be written, there is no folder {path.parent}")
    if path.is_dir():
        raise InvalidInput(f"{path}: it is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise InvalidInput(f"{path}: cannot be written, it is not a regular file: name another")
    require_writable(path.resolve().parent)


def require_folder_to_be(path: Path) -> None:
    """Raise `InvalidInput` before the work unless `path` is a folder to write to, or can become one."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise InvalidInput(f"{path}: cannot be made a folder, {there} is a file: name another")
    require_writable(path)


def require_trace_file(path: Path) -> None:
    """Raise `InvalidInput` before the work unless a trace can be written at `path`."""
    if path.suffix != ".safetensors":
        raise InvalidInput(f"{path}: a trace is written as safetensors, name it {path.stem or 'trace'}.safetensors")
    require_folder(path)


def require_timelines(timeline: Path | None, gantt: Path | None) -> None:
    """Raise `InvalidInput` before the work unless `--timeline` and `--gantt` can be written, each to its own file."""
    if gantt is not None:
        require_picture(gantt)
    if timeline is not None:
        require_folder(timeline)
    if gantt is not None and gantt == timeline:
        raise InvalidInput(f"--timeline and --gantt are both {gantt}: name two files")


def write_timelines(
    found: Timeline, policy: str, timeline: Path | None, gantt: Path | None, say: Callable[[str], None]
) -> None:
    """Write the timeline of `policy` for Perfetto, and one step of it as a picture, where a file is named."""
    if timeline is not None:
        from pregate.draw.perfetto import write_trace

        say(f"writing {timeline}")
        write_trace(found, timeline)
    if gantt is not None:
        from pregate.draw.timelines import gantt as draw

        say(f"drawing {gantt}")
        draw({policy: found}, gantt)


def say_written(*paths: Path | None) -> None:
    """Name the files that were written, on standard error."""
    for path in paths:
        if path is not None:
            typer.echo(f"wrote {path}", err=True)
