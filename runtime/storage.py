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
from runtime.model.weights import Experts
from runtime.programs.program import ExpertKey
from traces.errors import InvalidFile


class ExpertFile:
    """The experts `keys` in a file of its own in `folder`, one after the other, each on a page.

    The file loses its name as soon as it is open: whatever ends the process, the system takes its room back, and
    `close` does before. `direct`: whether reads go past the page cache (O_DIRECT). Raises `InvalidFile` when the folder
    has not the room or the file cannot be written or read; it leaves nothing behind then.
    """

    def __init__(self, folder: Path, keys: Iterable[ExpertKey], experts: Experts) -> None:
        self._offsets: dict[ExpertKey, int] = {}
        self.n_bytes = experts.model.expert_bytes
        self._stride = round_up(self.n_bytes, PAGE_BYTES)
        self._folder = folder
        self._file, self._unbuffered, self.direct = -1, -1, False
        wanted = list(dict.fromkeys(keys))
        try:
            free = shutil.disk_usage(folder).free
            if len(wanted) * self._stride > free:
                raise InvalidFile(
                    f"{folder}: {len(wanted)} experts take {len(wanted) * self._stride / 1e9:.1f} GB, the disk has "
                    f"{free / 1e9:.1f} GB free: name another folder, or a smaller model"
                )
            self._open()
            self._write(wanted, experts)
            self._settle()
        except OSError as error:
            self.close()
            raise InvalidFile(f"{folder}: experts cannot be stored there ({error.strerror or error})") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Once to write and, where that works, once more to read unbuffered; then it needs no name."""
        self._file, name = tempfile.mkstemp(prefix="experts-", suffix=".bin", dir=self._folder)
        try:
            unbuffered = getattr(os, "O_DIRECT", 0)  # Linux only, and not every file system has it
            if unbuffered:
                with contextlib.suppress(OSError):
                    self._unbuffered = os.open(name, os.O_RDONLY | unbuffered)
        finally:
            os.unlink(name)

    def _write(self, keys: list[ExpertKey], experts: Experts) -> None:
        buffer = aligned(self._stride)
        with os.fdopen(self._file, "wb", closefd=False) as file:
            for i, key in enumerate(keys):
                experts.copy_to(buffer[: self.n_bytes], key)
                file.write(buffer.numpy().data)
                self._offsets[key] = i * self._stride
            file.flush()
            os.fsync(file.fileno())

    def _settle(self) -> None:
        """Unbuffered where that reads; else what is cached now is dropped, and the system may cache what is read."""
        if self._unbuffered >= 0:
            with contextlib.suppress(OSError):
                os.preadv(self._unbuffered, [aligned(PAGE_BYTES).numpy().data], 0)
                self.direct = True
                return
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, key: ExpertKey, target: Tensor, n_bytes: int) -> int:
        """Read the expert `key` into `target`, whole pages of host memory; returns `n_bytes`, those of them that were
        asked for. Raises `InvalidFile`.
        """
        view, done = target.numpy().data, 0
        file = self._unbuffered if self.direct else self._file
        while done < self._stride:
            try:
                n = os.preadv(file, [view[done : self._stride]], self._offsets[key] + done)
            except OSError as error:
                raise InvalidFile(f"{self._folder}: experts cannot be read ({error.strerror or error})") from error
            if n <= 0:
                raise InvalidFile(f"{self._folder}: the file ends within expert {key[1]} of MoE layer {key[0]}")
            done += n
        return n_bytes

    def close(self) -> None:
        """The file is gone, and its room free again."""
        for file in (self._file, self._unbuffered):
            if file >= 0:
                os.close(file)
        self._file = self._unbuffered = -1
