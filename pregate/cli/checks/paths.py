"""Files and folders on a command line: to read, or to write to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from traces.errors import InvalidInput


def recording(option: str, path: Path | str) -> None:
    """A file, or a recorded trace that ships."""

    from traces.recorded import recorded_path

    if recorded_path(str(path)) is None:
        file(option, path)


def recordings(option: str, paths: Sequence[Path]) -> None:
    """Several of them."""
    for path in paths:
        recording(option, path)


def file(option: str, path: Path | str) -> None:
    """A file that is there."""
    try:
        there = Path(path).exists()
    except (OSError, ValueError):
        return  # a name that no file can have: said by who opens it
    if not there:
        raise InvalidInput(f"{_named(option, path)}: cannot be read, there is no such file: check the path")


def folder(option: str, path: Path) -> None:
    """A folder that is there."""
    if not path.is_dir():
        raise InvalidInput(f"{_named(option, path)}: there is no such folder")


def _named(option: str, path: Path | str) -> str:
    """A path with its option; an argument's place says what it is."""
    return f"{option} {path}" if option.startswith("-") else str(path)


def picture(option: str, path: Path) -> None:
    """Where a picture can be written."""

    from pregate.cli.output_paths import require_picture

    require_picture(path)


def new_file(option: str, path: Path) -> None:
    """Where a file can be written."""

    from pregate.cli.output_paths import require_folder

    require_folder(path)
