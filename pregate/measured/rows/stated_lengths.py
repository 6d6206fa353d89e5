"""The lengths of a row's requests in one cell: `512+128`, `pp512+tg128`, `1k in / 1k out`, or shares, `0.5-1.5`.

Two counts are tokens of the prompt and of the answer and go to columns of their own; shares stay, for who asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORDS = r"(?:pp|tg|isl|osl|in(?:put)?|out(?:put)?|prompt|prefill|decode|gen(?:erated|eration)?|completion|answer)"
_ONE = (
    rf"(?:(?P<before{{0}}>{_WORDS})(?:[ _](?:len(?:gth)?|tokens?))?\s*[=:]?\s*)?"
    rf"(?P<n{{0}}>\d{{{{1,3}}}}(?:,\d{{{{3}}}})+|\d{{{{1,7}}}}\s?[kK]?)(?:\s*tok(?:en)?s?\b)?(?:\s*(?P<after{{0}}>{_WORDS}))?"
)
_PAIR = re.compile(
    rf"{_ONE.format(0)}\s*(?:\+|/|:|x|\u00d7|\u2192|->|,|;|\band\b|\s)\s*{_ONE.format(1)}", re.IGNORECASE | re.ASCII
)
_MARKED = re.compile(r"\d{1,3}(?:,\d{3})+,\d{1,3}|\d{1,3}(?:,\d{3}){2,}", re.ASCII)
"""Commas between thousands and between counts: `1,024,128`."""
_OF_ANSWERS = ("tg", "osl", "out", "decode", "gen", "completion", "answer")


def with_lengths(cells: Mapping[str, str]) -> dict[str, str]:
    """A row whose `lengths` are two counts with these in the columns of tokens; as it is otherwise. Where a column says
    another count, or both counts are of one kind, the row has a reason.
    """
    row, stated = dict(cells), cells.get("lengths", "").strip()
    pair = _PAIR.fullmatch(stated)
    if pair is None:
        return row
    if _MARKED.fullmatch(stated):
        why = f"lengths {stated[:40]!r}: which comma parts two counts? Write 1024+128"
        return row | {"lengths": "", "reason": row.get("reason") or why}
    kinds = [_kind(pair[f"before{i}"] or pair[f"after{i}"] or "") for i in (0, 1)]
    if kinds[0] and kinds[0] == kinds[1]:
        return row | {"reason": row.get("reason") or f"lengths {stated[:40]!r}: a prompt and an answer: 512+128"}
    counts = [count_of(pair[f"n{i}"]) for i in (0, 1)]
    if kinds[0] == "output" or kinds[1] == "input":
        counts.reverse()
    row["lengths"] = ""
    for column, count in zip(("input_tokens", "output_tokens"), counts, strict=True):
        if row.get(column) and row[column] != count:
            why = f"{column} is {row[column][:20]}, and lengths say {stated[:40]!r}: leave one out"
            row["reason"] = row.get("reason") or why
        row[column] = count
    return row


def _kind(word: str) -> str:
    return "" if not word else "output" if word.lower().startswith(_OF_ANSWERS) else "input"


_AROUND = re.compile(
    r"(?:(?:pp|tg|bs|batch|isl|osl|b|n)\s*[=:]?\s*(?=\d)|~|\u2248|about\s+)?(?P<count>\d.*?)(?:\s*tok(?:en)?s?)?",
    re.IGNORECASE,
)


def count_of(text: str) -> str:
    """A count as digits: `4k`, `8K`, `1M`, `1,024`, `~500`, `512 tokens`, `bs=4`; other text as it is."""
    plain = text.strip()
    around = _AROUND.fullmatch(plain)
    inner = around["count"].strip() if around else plain
    if re.fullmatch(r"\d{1,3}(,\d{3})+", inner, re.ASCII):
        return inner.replace(",", "")
    binary = re.fullmatch(r"(\d{1,4})\s?([kKM])", inner, re.ASCII)
    if binary:
        return str(int(binary[1]) << (20 if binary[2] == "M" else 10))
    return inner if inner.isascii() and inner.isdigit() else plain
