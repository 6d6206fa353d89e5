"""What was found of schedules, kept where schedules are: who asks again has neither written nor timed anew.

An answer is a document of numbers and words. It is found by what it was made from: requests, platform, the question,
and the code that decides, prices and answers. Whatever is broken, foreign or of other code counts as absent and is
replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import compiled
import hwmodels
import offload
import simulator
import traces
from hwmodels.platform import Platform
from pregate.ask.capturing.own_policy_checks import is_own
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_key, source_digest
from traces.errors import InvalidFile
from traces.foundation.atomic_files import whole_file
from traces.foundation.documents import read_text

Answer = dict[str, Any]
"""JSON-ready: what is read back equals what was written, to the last bit of every number."""

VERSION = 1
MAX_BYTES = 1 << 20
"""The largest answer that is read or kept, unless it is said to be larger."""

_ROOMS = ("ask", "card", "engines", "measured")
"""Rooms of this package whose code an answer depends on, beside what stands in front of all rooms."""


def answer_key(question: str, requests: Sequence[Request], hw: Platform) -> str | None:
    """The key of what `question` is answered for `requests` on `hw`, the same in every process.

    None where a policy is a user's own: it is held to its promises every time.
    """
    keys = [None if is_own(one.policy) else lasting_key(one) for one in requests]
    return None if None in keys else said_key(question, (keys, hw.machine, hw.stack, hw.overridden, hw.fit))


def said_key(question: str, of: Sequence[object]) -> str:
    """The key of what `question` is answered for, where the words of each of `of` say all of it."""
    return hashlib.sha256(repr((VERSION, _code(), question, *of)).encode()).hexdigest()[:32]


def kept_answer(
    cache: ScheduleCache | None, key: str | None, make: Callable[[], Answer], most_bytes: int = MAX_BYTES
) -> Answer:
    """The answer that is kept under `key`, or what `make` says, which is kept from then on where it is of `most_bytes`
    at most.

    Without cache or key `make` is asked every time; a folder that cannot be written is done without.
    """
    if cache is None or key is None:
        return make()
    path = cache.folder / f"{key}.answer"
    found = _read(path, key, most_bytes)
    if found is None:
        found = make()
        text = json.dumps({"seal": _seal(key, found), "answer": found})
        if len(text) <= min(most_bytes, cache.max_bytes):
            with suppress(InvalidFile, OSError):
                with whole_file(path) as partial:
                    partial.write_text(text)
                cache.took(len(text))
    else:
        cache.used(path)
    return found


def _read(path: Path, key: str, most_bytes: int) -> Answer | None:
    """What was written to `path`; None where it is not there, or not what was written."""
    try:
        kept = json.loads(read_text(path, most_bytes))
        found = kept["answer"]
        return found if isinstance(found, dict) and kept["seal"] == _seal(key, found) else None
    except (InvalidFile, ValueError, KeyError, TypeError, RecursionError):
        return None


def _seal(key: str, found: Answer) -> str:
    """SHA-256 of an answer and of the key it is kept under: one of another key, or a flipped bit, is told."""
    return hashlib.sha256(json.dumps([key, found]).encode()).hexdigest()


@cache
def _code() -> str:
    """Digest of the code that an answer depends on."""
    here = Path(__file__).parents[2]
    files = sorted([*here.glob("*.py"), *(path for room in _ROOMS for path in (here / room).rglob("*.py"))])
    return source_digest([compiled, traces, offload, hwmodels, simulator], files)
