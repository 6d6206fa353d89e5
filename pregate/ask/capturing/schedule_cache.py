"""Captured schedules on disk, so that the next run, or another process, need not write them again.

A schedule is found by what it was made from: request, format and the code that wrote it. Whatever is broken, foreign
or of other code counts as absent and is replaced. Any number of processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import compiled
import offload
import traces
from offload.decode import Decoded
from offload.own_policies.own_policy_names import changed_fields
from offload.policy import Policy
from offload.schedule import COLUMNS, VERSION, Schedule
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.request import Request
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.foundation.documents import read_text

DEFAULT_FOLDER = Path("~/.cache/pregate/schedules")
MAX_BYTES = 4 << 30
"""What a folder may take (4 GiB); beyond it the schedules longest unused go."""
_LOOKS = 16
"""A writer looks a folder through at least so often while it fills it: others may fill it too."""
_KEPT = (".safetensors", ".answer")
"""Files that make up a folder: schedules, and what was found of some (`pregate.ask.capturing.answer_cache`)."""
_STALE_S = 86_400.0
"""Age at which what a killed writer left behind is removed."""
_COUNTS = (
    "n_lookups", "n_hits", "n_prefill_lookups", "n_prefill_hits", "n_changed",
    "n_host_lookups", "n_host_hits",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScheduleCache:
    """A folder of schedules, each `KEY.safetensors` with what the decode loop counted in `KEY.json`, and of answers.

    Raises `InvalidInput` for a bound below 0, `InvalidFile` when the folder cannot be made.
    """

    folder: Path
    max_bytes: int = MAX_BYTES
    _room: list[int] = field(default_factory=lambda: [0], init=False, repr=False, compare=False)
    """Bytes that may be written before the folder is looked through again: it may hold thousands of files."""

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise InvalidInput(f"a schedule cache of {self.max_bytes} bytes: 0 or more")
        object.__setattr__(self, "folder", Path(self.folder).expanduser().absolute())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise InvalidFile(f"{self.folder}: cannot be made ({reason}): choose another --cache-dir") from error

    def captured(self, asked: Request, *, compiled: bool | None = None) -> Captured:
        """The capture of a request: read, or written now and kept. `compiled` and errors as of `capture_request`."""
        key = lasting_key(asked)
        found = self.load(key) if key else None
        if found is not None:
            return Captured(asked, found)
        captured = capture_request(asked, compiled=compiled)
        if key:
            self.store(key, captured.decoded)
        return captured

    def load(self, key: str) -> Decoded | None:
        """What is kept under a key; None when it is not there, or not what was written. Its digest is checked."""
        try:
            counted = json.loads(read_text(self._path(key, "json"), 1 << 12))
            counts = [counted[name] for name in _COUNTS]
            schedule = Schedule.load(self._path(key, "safetensors"))
        except (InvalidFile, ValueError, KeyError, TypeError):
            return None
        if counted.get("seal") != _seal(key, schedule.digest, counts) or any(
            type(count) is not int or count < 0 for count in counts
        ):
            return None
        self.used(self._path(key, "safetensors"))
        return Decoded(schedule, *counts)

    def store(self, key: str, decoded: Decoded) -> None:
        """Keep a schedule; does nothing where the folder cannot be written: a cache may fail, a run may not."""
        if sum(getattr(decoded.schedule, name).nbytes for name in COLUMNS) > self.max_bytes:
            return
        counts: dict[str, Any] = {name: getattr(decoded, name) for name in _COUNTS}
        counts["seal"] = _seal(key, decoded.schedule.digest, list(counts.values()))
        with suppress(InvalidFile, OSError):
            decoded.schedule.save(self._path(key, "safetensors"))
            with whole_file(self._path(key, "json")) as partial:
                partial.write_text(json.dumps(counts))
            self.took(self._path(key, "safetensors").stat().st_size)

    def used(self, path: Path) -> None:
        """A file of the folder was used now: it is the last to go."""
        with suppress(OSError):
            os.utime(path)

    def took(self, n_bytes: int) -> None:
        """So much more is kept: what was unused longest makes room where the folder may be full."""
        self._room[0] -= n_bytes
        if self._room[0] < 0:
            self._room[0] = min(self._trim(), self.max_bytes // _LOOKS)

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / f"{key}.{suffix}"

    def _trim(self) -> int:
        """Remove what was unused longest until the rest fits, and say how much more does; what another process removes
        meanwhile is gone.
        """
        kept: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with suppress(OSError):
                found = path.stat()
                if path.suffix == ".partial" and path.name.startswith(".") and time.time() - found.st_mtime > _STALE_S:
                    path.unlink()
                elif path.suffix in _KEPT:
                    kept.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.max_bytes:
                break
            total -= size
            with suppress(OSError):
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
        return self.max_bytes - total


def _seal(key: str, digest: str, counts: Sequence[Any]) -> str:
    """SHA-256 of what is kept and of the key it is kept under: an entry of another key, or a flipped bit, is told."""
    return hashlib.sha256(json.dumps([key, digest, *counts]).encode()).hexdigest()


def schedules_in(cache_dir: str | Path | ScheduleCache | bool | None) -> ScheduleCache | None:
    """The cache of schedules in a folder; None and True: the usual one, which is done without where it cannot be
    written; False: none.
    """
    if isinstance(cache_dir, ScheduleCache) or cache_dir is False:
        return cache_dir or None
    try:
        return ScheduleCache(DEFAULT_FOLDER if cache_dir in (None, True) else Path(str(cache_dir)))
    except InvalidInput:
        if cache_dir in (None, True):
            return None
        raise


def lasting_key(asked: Request) -> str | None:
    """The key of a request that is the same in every process, or None for code of one's own that another run cannot
    recognise: all of it has to be in one file, which reads no other.
    """
    policy = lasting_policy(asked.policy)
    if policy is None:
        return None
    kept = [sorted(experts) for experts in asked.placed.kept if experts]
    parts = (
        VERSION, _code(), asked.model, asked.trace.digest, policy, asked.execution, asked.expert_tier, asked.plan, kept,
        asked.placed.n_cards,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def is_lasting(policy: Policy) -> bool:
    """Whether another run can recognise the policy."""
    return lasting_policy(policy) is not None


def lasting_policy(policy: Policy) -> str | None:
    """What a policy is, the same in every process; None for code of one's own that another run cannot recognise."""
    return _own_fields(policy) if policy.source is not None else _policy_fields(policy)


def _own_fields(policy: Policy) -> str | None:
    """The code that a user's own policy is made of, and what it has otherwise; None where these do not say all."""
    source = policy.source
    if source is None or not source.code.is_closed:
        return None
    changed = changed_fields(policy)
    if any(callable(value) and _function_name(value) is None for value in changed.values()):
        return None
    told = {name: _function_name(value) if callable(value) else value for name, value in changed.items()}
    return f"{source!r}, {sorted(told.items())!r}"


def _policy_fields(policy: Policy) -> str | None:
    """The fields of a policy with its functions by name, None when one is not of this project."""
    described = []
    for one in fields(policy):
        value = getattr(policy, one.name)
        if callable(value):
            value = _function_name(value)
            if value is None:
                return None
        described.append(f"{one.name}={value!r}")
    return ", ".join(described)


def _function_name(function: Callable[..., Any]) -> str | None:
    """A function at the top of a module of `offload`, or a value of a class there."""
    is_value = hasattr(function, "__dataclass_fields__")
    home = type(function) if is_value else function
    module, name = getattr(home, "__module__", ""), getattr(home, "__qualname__", "<")
    told = repr(function) if is_value else name
    if module.partition(".")[0] != offload.__name__ or "<" in name or " at 0x" in told:
        return None
    return f"{module}.{told}"


@cache
def _code() -> str:
    """Digest of the code that decides what a schedule holds."""
    return source_digest([compiled, offload, traces], [Path(__file__).with_name("capture.py")])


def source_digest(packages: Sequence[ModuleType], files: Sequence[Path] = ()) -> str:
    """16 hex digits of the SHA-256 of all Python source in `packages` and of `files`."""
    state = hashlib.sha256()
    rooms = [Path(package.__file__ or "").parent for package in packages]
    for path in (*sorted(path for room in rooms for path in room.rglob("*.py")), *files):
        state.update(path.read_bytes())
    return state.hexdigest()[:16]
