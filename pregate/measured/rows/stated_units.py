"""Values and units as people write them: `1,250.5 tok/s`, `350 ms/token`, `73 %`, `TPOT (ms)`, `2.1k t/s`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hwmodels.quantity import ReadOnly
from traces.errors import InvalidInput
from traces.foundation.documents import NUMBER

UNITS: Mapping[str, Mapping[str, float]] = ReadOnly(
    {
        "s": {
            "s": 1.0,
            "sec": 1.0,
            "seconds": 1.0,
            "ms": 1e-3,
            "msec": 1e-3,
            "milliseconds": 1e-3,
            "us": 1e-6,
            "microseconds": 1e-6,
        },
        "tokens/s": dict.fromkeys(
            (
                "tokens/s",
                "token/s",
                "tokens/sec",
                "tokens/second",
                "token/sec",
                "token/second",
                "tok/s",
                "tok/sec",
                "tok/second",
                "toks/s",
                "toks/sec",
                "t/s",
                "tps",
            ),
            1.0,
        ),
        "requests/s": dict.fromkeys(
            ("requests/s", "request/s", "requests/sec", "req/s", "reqs/s", "req/sec", "rps", "qps"), 1.0
        ),
        "bytes": {"bytes": 1.0, "MB": 1e6, "GB": 1e9, "MiB": 2.0**20, "GiB": 2.0**30},
        "bytes/s": {"bytes/s": 1.0, "MB/s": 1e6, "GB/s": 1e9, "GiB/s": 2.0**30},
        "fraction": {"fraction": 1.0},
        "experts": {"experts": 1.0},
    }
)
"""How a unit may be written, by the unit that a metric is kept in."""

_NUMBER = r"[0-9.,eE+-]+"
_VALUE = re.compile(
    rf"~?\s*(?P<value>{_NUMBER})\s*(?:(?:\u00b1|\+/-)\s*[0-9.]+)?(?:(?P<kilo>[kK])(?![A-Za-z])|(?P<kilo_of>k)(?=t/|tok))?"
    r"\s*(?P<unit>%|[A-Za-z][A-Za-z/ ]{0,24})?"
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"(?:\d{1,3}(?:\.\d{3})+|\d+),\d+", re.ASCII)
_SPACED = re.compile(r"(?<!\S)~?(?P<number>[1-9]\d{0,2}(?:[ \u00a0\u202f'\u2019]\d{3})+(?=[^\d]|$))")
"""Thousands parted by a space or an apostrophe."""
_IN_BRACKETS = re.compile(r"(?P<metric>[^()\[\]]+?)\s*[(\[](?P<unit>[^()\[\]]+)[)\]]")
_TIME = re.compile(r"(?P<metric>\w+)(?<!_per)_(?P<unit>[mu]?s)", re.ASCII | re.IGNORECASE)
_RATE = re.compile(
    r"(?P<metric>.+?)[\s_-]+(?:in[\s_-]+)?(?:tok(?:en)?s?|t)\s*(?:/|[\s_]per[\s_])\s*s(?:ec(?:ond)?)?", re.IGNORECASE
)
_A_TOKEN = re.compile(r"/(?:(?:output|generated)\s?)?tok(?:en)?s?$", re.IGNORECASE)
_PERCENT = ("%", "percent", "pct")
_SHARE = ("", "fraction", "ratio", "share")


def value_and_unit(text: str) -> tuple[str, str]:
    """A value apart from its unit, without marks between thousands, `1,250.5`, `1.250,5`, `1 250`, and with a point for
    a decimal comma; the text as it is where it is not one of both.
    """
    match = _VALUE.fullmatch(_SPACED.sub(lambda one: re.sub(r"\D", "", one[0]), text.strip()))
    if match is None:
        return text, ""
    value, kilo = match["value"], match["kilo"] or match["kilo_of"]
    if _THOUSANDS.fullmatch(value):
        value = value.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(value):
        value = value.replace(".", "").replace(",", ".")
    if kilo and NUMBER.fullmatch(value):
        value = f"{1000 * float(value):.12g}"
    return value, (match["unit"] or "").strip()


def metric_and_unit(text: str) -> tuple[str, str]:
    """A metric apart from the unit that its cell states: `TPOT (ms)`, `decode tok/s`, `ttft_s`."""
    inside = _IN_BRACKETS.fullmatch(text.strip())
    if inside is not None:
        return inside["metric"], inside["unit"].strip()
    rate = _RATE.fullmatch(text.strip())
    if rate is not None:
        return rate["metric"], "tokens/s"
    time = _TIME.fullmatch(text.strip())
    return (time["metric"], time["unit"].lower()) if time is not None else (text, "")


def plain_unit(unit: str, metric: str) -> tuple[str, float]:
    """A unit without what it says of a token, and the factor that a percentage has: `ms/token`, `tokens per second`."""
    plain = re.sub(r"\s*/\s*", "/", re.sub(r"\s+per\s+", "/", unit.strip(), flags=re.IGNORECASE))
    if metric == "hit_rate":
        plain = plain.lower()
        return ("fraction", 0.01 if plain in _PERCENT else 1.0) if plain in (*_PERCENT, *_SHARE) else (unit, 1.0)
    return (_A_TOKEN.sub("", plain) if metric == "tpot" else plain), 1.0


def one_unit(stated: str, beside: str) -> str:
    """The unit of a value: of its own column, or the one that its metric names. Raises `InvalidInput` where both are
    stated and differ.
    """
    if stated and beside and _measured_in(stated) != _measured_in(beside):
        raise _two_units(stated, beside)
    return beside or stated


def own_unit(stated: str, beside: str) -> str:
    """The unit that stands beside a value, or else the one of its column: `0.18 s` below `TTFT (ms)` is 180 ms. Raises
    `InvalidInput` where both are stated and measure different things.
    """
    if stated and beside and _measured_in(stated)[0] != _measured_in(beside)[0]:
        raise _two_units(stated, beside)
    return beside or stated


def _two_units(stated: str, beside: str) -> InvalidInput:
    return InvalidInput(f"the value has the unit {beside[:24]!r}, its column or metric {stated[:24]!r}: leave one out")


def metric_of_unit(metric: str, unit: str) -> str:
    """The metric that a speed is of which is told as a time: of decode `tpot` where it is a token's, of a prompt
    `ttft`; any other as it is.
    """
    plain = plain_unit(unit, "tpot")[0].lower()
    if plain not in UNITS["s"]:
        return metric
    if metric == "decode_tokens_per_s" and plain != unit.strip().lower():
        return "tpot"
    return "ttft" if metric == "prefill_tokens_per_s" and plain == unit.strip().lower() else metric


def _measured_in(unit: str) -> tuple[str, float]:
    """What tells units apart, whatever they are called: the one that a metric is kept in, and its factor to that."""
    plain = plain_unit(unit, "tpot")[0]
    names = (plain, plain.lower())
    found = ((kept, kinds[name]) for kept, kinds in UNITS.items() for name in names if name in kinds)
    return next(found, ("%" if plain.lower() in _PERCENT else plain.lower(), 1.0))


_NO_FIGURE = re.compile(
    r"[^\d]*|(?:cuda[ _-]?)?(?:oom|out[ _-]of[ _-]memory|n/?a|fail|crash|error|time[ds]?[ _-]?out|dn[fr]|not? )\b.*",
    re.ASCII | re.IGNORECASE,
)
_RANGE = re.compile(r"[<>\u2264\u2265].*|[\d.,]+\s*(?:-|\u2013|to|\.\.)\s*\d.*", re.ASCII)


def why_no_figure(value: str) -> str:
    """Why a cell of a value holds none that a prediction can be held against: nothing was measured (`OOM`, `n/a`), or a
    range or a bound is stated; "" where it should be a number.
    """
    if _NO_FIGURE.fullmatch(value):
        return f"value {value[:40]!r}: nothing was measured"
    if _RANGE.fullmatch(value):
        return f"value {value[:40]!r} is a range or a bound: state the mean of what was measured"
    return ""
