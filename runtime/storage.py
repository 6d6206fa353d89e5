"""Experts in a file: written once, then read for real, past the page cache where the file system allows."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from runtime.memory import PAGE_BYTES, aligned, round_up
from runtime.program import Key
from runtime.weights import Experts
from traces.errors import InvalidFile

__all__ = ["ExpertFile"]


class ExpertFile:
    """The experts `keys` in a file of its own in `folder`, one after the other, each on a page; gone after `close`.

    `direct`: whether reads go past the page cache (O_DIRECT). Raises `InvalidFile` when the folder has not the room or
    the file cannot be written or read; it leaves nothing behind then.
    """

    def __init__(self, folder: Path, keys: Iterable[Key], experts: Experts) -> None:
        self._offsets: dict[Key, int] = {}
        self.n_bytes = experts.model.expert_bytes
        self._stride = round_up(self.n_bytes, PAGE_BYTES)
        self._path: Path | None = None
        self._file, self.direct = -1, False
        wanted = list(dict.fromkeys(keys))
        try:
            free = shutil.disk_usage(folder).free
            if len(wanted) * self._stride > free:
                raise InvalidFile(
                    f"{folder}: {len(wanted)} experts take {len(wanted) * self._stride / 1e9:.1f} GB, the disk has "
                    f"{free / 1e9:.1f} GB free: name another folder, or a smaller model"
                )
            self._write(folder, wanted, experts)
            self._open()
        except OSError as error:
            self.close()
            raise InvalidFile(f"{folder}: experts cannot be stored there ({error.strerror or error})") from error
        except BaseException:
            self.close()
            raise

    def _write(self, folder: Path, keys: list[Key], experts: Experts) -> None:
        handle, name = tempfile.mkstemp(prefix="experts-", suffix=".bin", dir=folder)
        self._path = Path(name)
        buffer = aligned(self._stride)
        with os.fdopen(handle, "wb") as file:
            for i, key in enumerate(keys):
                experts.copy_to(buffer[: self.n_bytes], key)
                file.write(buffer.numpy().data)
                self._offsets[key] = i * self._stride
            file.flush()
            os.fsync(file.fileno())

    def _open(self) -> None:
        """Unbuffered where that works; else what is cached now is dropped, and the system may cache what is read."""
        assert self._path is not None
        unbuffered = getattr(os, "O_DIRECT", 0)  # Linux only, and not every file system has it
        with contextlib.suppress(OSError):
            self._file = os.open(self._path, os.O_RDONLY | unbuffered)
            os.preadv(self._file, [aligned(PAGE_BYTES).numpy().data], 0)
            self.direct = unbuffered != 0
            return
        self._close_file()
        self._file = os.open(self._path, os.O_RDONLY)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, key: Key, target: Tensor) -> int:
        """Read the expert `key` into `target`, whole pages of host memory; returns its bytes. Raises `InvalidFile`."""
        view, done = target.numpy().data, 0
        while done < self._stride:
            try:
                n = os.preadv(self._file, [view[done : self._stride]], self._offsets[key] + done)
            except OSError as error:
                raise InvalidFile(f"{self._path}: cannot be read ({error.strerror or error})") from error
            if n <= 0:
                raise InvalidFile(f"{self._path}: ends within expert {key[1]} of MoE layer {key[0]}")
            done += n
        return self.n_bytes

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """The file is closed and removed."""
        self._close_file()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
