"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from traces.errors import InvalidFile

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    A reader sees the old file or the whole new one, and a failure leaves nothing behind. A link is followed; what
    exists and is not a regular file is left alone. Raises `InvalidFile` when the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if not target.parent.is_dir():
            raise InvalidFile(f"{path}: cannot be written, there is no folder {target.parent}")
        if target.exists() and not target.is_file():
            raise InvalidFile(f"{path}: cannot be written, it is not a regular file")
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        os.replace(partial, target)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
