"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from traces.errors import InvalidFile

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    A reader sees the old file or the whole new one, and a failure leaves nothing behind. Raises `InvalidFile` when the
    file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if not path.parent.is_dir():
            raise InvalidFile(f"{path}: cannot be written, there is no folder {path.parent}")
        if path.is_dir():
            raise InvalidFile(f"{path}: cannot be written, it is a folder")
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)
