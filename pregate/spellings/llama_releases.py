"""Which stack of ours a release of llama.cpp is: by its build, a pull request, or a date.

Builds are numbered in the order of their commits, pull requests and issues in that of their opening. What they are held
against are the pull requests that changed how experts are computed on CUDA (github.com/ggml-org/llama.cpp): 13014
(2025-04-18) multiplies all experts of one token in one kernel and lets no host wait for their ids; 15525 (2025-08)
sorts rows by expert on the device, in tiles as wide as an expert's tokens; 18958 (2026-01-20) multiplies experts of up
to eight tokens as vectors. Builds of those days lie between ones with dates: 4291 is of 2024-12-09, 6097 of 2025-08-06,
6709 of 2025-10-08, 7709 of 2026-01-09, 9450 of 2026-06-01.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NOW = "llama-cpp"


@dataclass(frozen=True, slots=True)
class _Until:
    """A stack of releases before a build, a pull request, a month; some twenty builds are in doubt at an end."""

    stack: str
    build: int
    pull: int
    month: tuple[int, int]


_RELEASES = (
    _Until("llama-cpp-2023", 5170, 13014, (2025, 4)),
    _Until("llama-cpp-2025", 6270, 15525, (2025, 9)),
    _Until("llama-cpp-late-2025", 7900, 18958, (2026, 2)),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMED = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    "nov(?:ember)?|dec(?:ember)?"
)
_BUILD = re.compile(
    r"(?:\b(?:build|version|release)s?\b[:=]?\s*(?:[0-9a-f]{7,40}\s*)?\(?|\b(?=b\d))b?(?P<build>\d{4,5})\b(?![.-]\d)",
    re.IGNORECASE | re.ASCII,
)
_BATCHES = {f"b{1 << n}" for n in range(10, 16)}
"""Sizes of batches, as `b2048`, which are no builds."""
_DATE = re.compile(
    rf"(?<![\d-])(?P<year>20[2-9]\d)-(?P<month>\d\d)(?:-\d\d)?(?![\d-])"
    rf"|\b(?P<named>{_NAMED})\.?\s+(?:\d{{1,2}},?\s+)?(?P<of>20[2-9]\d)\b",
    re.IGNORECASE | re.ASCII,
)
_PULL = re.compile(r"\b(?:ggml-org|ggerganov)/llama\.cpp/(?:pull|issues)/(?P<pull>\d{1,6})\b", re.IGNORECASE | re.ASCII)


def of_build(text: str) -> tuple[str, str]:
    """The stack of the build that `text` names (`b6123`, `build: 1c5eba6f (3266)`), and these words; else nothing."""
    for found in _BUILD.finditer(text):
        if found[0].lower() not in _BATCHES:
            build = int(found["build"])
            return next((one.stack for one in _RELEASES if build < one.build), NOW), f"build {build}"
    return "", ""


def of_date(text: str) -> tuple[str, str]:
    """The stack of the first month that `text` names (`2025-07-30`, `December 2023`), and the month; else nothing."""
    found = _DATE.search(text)
    if found is None:
        return "", ""
    named = found["named"]
    month = _MONTHS.index(named[:3].lower()) + 1 if named else int(found["month"])
    year = int(found["year"] or found["of"])
    if not 1 <= month <= len(_MONTHS):
        return "", ""
    return next((one.stack for one in _RELEASES if (year, month) < one.month), NOW), f"{year}-{month:02}"


def of_pull(text: str) -> tuple[str, str]:
    """The stack of the pull request or issue of llama.cpp that `text` links to, and its number; else nothing. Talk goes
    on below discussions for years: those say nothing.
    """
    found = _PULL.search(text)
    if found is None:
        return "", ""
    pull = int(found["pull"])
    return next((one.stack for one in _RELEASES if pull < one.pull), NOW), f"pull request or issue {pull}"
