"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread

from traces.errors import InvalidFile, InvalidInput


def refuse_overwriting(output: Path, *inputs: Path | None) -> None:
    """Raise `InvalidInput` when `output` is one of the files that it is made of, by whatever name or link."""
    for path in inputs:
        if path is not None and output.exists() and path.exists() and output.samefile(path):
            raise InvalidInput(f"{output}: it is what is read, and would be overwritten: write to another file")


def require_writable(folder: Path) -> None:
    """Raise `InvalidFile` unless a file can be made in `folder`, or in what of it is there already.

    A file is made and gone at once: permissions alone do not tell, of a disk that is read-only or no disk.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return
    except OSError as error:
        raise InvalidFile(
            f"{folder}: cannot be written to ({error.strerror or error}): choose another folder"
        ) from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    A reader sees the old file or the whole new one, and a failure, or SIGTERM, leaves nothing behind; of several that
    write the same path at once, on whatever thread or machine, the last one stays. A link is followed; what exists and
    is not a regular file is left alone. Raises `InvalidFile` when the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    try:
        if not target.parent.is_dir():
            raise InvalidFile(f"{path}: cannot be written, there is no folder {target.parent}")
        if target.exists() and not target.is_file():
            raise InvalidFile(f"{path}: cannot be written, it is not a regular file")
        with _cleared_when_terminated(partial):
            partial.touch()  # as open to others as the user's mask has it, whatever the writer makes of it
            mode = stat.S_IMODE(partial.stat().st_mode)
            yield partial
            partial.chmod(mode)
            os.replace(partial, target)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _cleared_when_terminated(partial: Path) -> Iterator[None]:
    """Have a process that is asked to end (SIGTERM) remove `partial` first, where nobody else waits for that signal."""
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
