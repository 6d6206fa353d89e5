"""Values and units as people write them: `1,250.5 tok/s`, `350 ms/token`, `73 %`, `TPOT (ms)`."""

from __future__ import annotations

import re

__all__ = ["metric_and_unit", "plain_unit", "value_and_unit"]

_NUMBER = r"[0-9.,eE+-]+"
_VALUE = re.compile(
    rf"~?\s*(?P<value>{_NUMBER})\s*(?:(?:\u00b1|\+/-)\s*[0-9.]+)?\s*(?P<unit>%|[A-Za-z][A-Za-z/ ]{{0,24}})?"
)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_IN_BRACKETS = re.compile(r"(?P<metric>[^()\[\]]+?)\s*[(\[](?P<unit>[^()\[\]]+)[)\]]")
_RATE = re.compile(
    r"(?P<metric>.+?)[\s_-]+(?:in[\s_-]+)?(?:tok(?:en)?s?|t)\s*(?:/|[\s_]per[\s_])\s*s(?:ec(?:ond)?)?", re.IGNORECASE
)
_A_TOKEN = re.compile(r"/(?:(?:output|generated)\s?)?tok(?:en)?s?$", re.IGNORECASE)
_PERCENT = ("%", "percent", "pct")
_SHARE = ("", "fraction", "ratio", "share")


def value_and_unit(text: str) -> tuple[str, str]:
    """A value apart from its unit, without commas between thousands; the text as it is where it is not one of both."""
    match = _VALUE.fullmatch(text.strip())
    if match is None:
        return text, ""
    value = match["value"]
    return value.replace(",", "") if _THOUSANDS.fullmatch(value) else value, (match["unit"] or "").strip()


def metric_and_unit(text: str) -> tuple[str, str]:
    """A metric apart from the unit that its cell states: `TPOT (ms)`, `decode tok/s`."""
    inside = _IN_BRACKETS.fullmatch(text.strip())
    if inside is not None:
        return inside["metric"], inside["unit"].strip()
    rate = _RATE.fullmatch(text.strip())
    return (rate["metric"], "tokens/s") if rate is not None else (text, "")


def plain_unit(unit: str, metric: str) -> tuple[str, float]:
    """A unit without what it says of a token, and the factor that a percentage has: `ms/token`, `tokens per second`."""
    plain = re.sub(r"\s*/\s*", "/", re.sub(r"\s+per\s+", "/", unit.strip(), flags=re.IGNORECASE))
    if metric == "hit_rate":
        plain = plain.lower()
        return ("fraction", 0.01 if plain in _PERCENT else 1.0) if plain in (*_PERCENT, *_SHARE) else (unit, 1.0)
    return (_A_TOKEN.sub("", plain) if metric in ("tpot", "ttft") else plain), 1.0
