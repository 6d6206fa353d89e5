"""Finished tasks on disk, a file each, written whole: a sweep that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pregate.sweeps.planning import Hole
from pregate.sweeps.tasks import TaskOutcome
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import whole_file

FORMAT = "pregate.sweep.task"
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with the outcomes of the sweep whose digest is `spec`, by the digest of their task.

    Raises `InvalidInput` when the folder has those of another sweep, `InvalidFile` when it cannot be made.
    """

    folder: Path
    spec: str

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in self.folder.iterdir()]
        except OSError as error:
            raise InvalidFile(f"{self.folder}: cannot hold a checkpoint ({error.strerror or error})") from error
        others = {match[1] for name in names if (match := _NAME.fullmatch(name))} - {self.spec}
        if others:
            raise InvalidInput(
                f"{self.folder} holds what is done of another sweep ({min(others)}, this one is {self.spec}): remove "
                f"it, or choose another --checkpoint"
            )

    def load(self, task: str) -> TaskOutcome | None:
        """The outcome of a task, None when it is not there, not readable, or not what was written for this task."""
        try:
            with safe_open(self._path(task), framework="numpy") as file:
                header = json.loads((file.metadata() or {}).get(FORMAT, "null"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if header.pop("digest") != _digest(self.spec, task, header, arrays):
                return None
            hole = None if header["hole"] is None else Hole(*header["hole"])
            for name, texts in header["texts"].items():
                arrays[name] = np.array(texts, dtype=np.str_)[arrays[name]]
            return TaskOutcome(arrays, header["schedule_digest"], hole)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError):
            return None

    def save(self, task: str, outcome: TaskOutcome) -> None:
        """Write an outcome. Raises `InvalidFile` when it cannot be written."""
        arrays: dict[str, NDArray[Any]] = {}
        texts: dict[str, list[str]] = {}
        for name, values in outcome.fields.items():
            if values.dtype.kind in "OU":
                found, values = np.unique(values.astype(np.str_), return_inverse=True)
                texts[name] = found.tolist()
            arrays[name] = np.ascontiguousarray(values)
        hole = outcome.hole
        header: dict[str, Any] = {
            "schedule_digest": outcome.schedule_digest,
            "texts": texts,
            "hole": None if hole is None else [hole.reason, hole.needed_bytes, hole.memory],
        }
        header["digest"] = _digest(self.spec, task, header, arrays)
        with whole_file(self._path(task)) as partial:
            partial.write_bytes(save(arrays, metadata={FORMAT: json.dumps(header)}))

    def clear(self) -> None:
        """Remove what this sweep has kept, or a killed run half wrote, and the folder when nothing else is in it."""
        for pattern in (f"{self.spec}-*.safetensors", f".{self.spec}-*.partial"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, task: str) -> Path:
        return self.folder / f"{self.spec}-{task}.safetensors"


def _digest(spec: str, task: str, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of an outcome and of whose it is: a flipped bit, or a copy of another task's file, is told."""
    state = hashlib.sha256(json.dumps([spec, task, header], sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
