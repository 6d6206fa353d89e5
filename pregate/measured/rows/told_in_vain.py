"""What a row says where nothing is read, and what no metric here is of: a reason, in place of a wrong prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.spellings.models import model_and_format

__all__ = ["told_in_vain"]

_BATCH = re.compile(
    r"\b(?:concurren\w*|batch(?:[ _-]?size)?|bs|parallel(?: requests)?|users|clients)\s*(?:of|=|:)?\s*(\d{1,5})\b"
    r"|\b(\d{1,5})\s*(?:concurrent|parallel)\b",
    re.IGNORECASE | re.ASCII,
)
_FORMAT = re.compile(
    r"\b(?:[2-8][ -]?bit|int[48]|fp8|fp4|nf4|awq|gptq|bnb|mxfp4|nvfp4|hqq|i?q[1-8]_\w+|[2-8](?:\.\d+)?[ ]?bpw)\b",
    re.IGNORECASE,
)
_OTHER_METRIC = re.compile(
    r"pp\s?\d+\s*\+\s*tg\s?\d+.*|(?:req(?:uest)?s?)\s*(?:/|per)\s*s(?:ec(?:ond)?)?|goodput|power|watts?|"
    r"(?:tok(?:en)?s?)\s*(?:/|per)\s*(?:j(?:oule)?|w(?:att)?|usd|\$)|perplexity|ppl|load time|"
    r"(?:e2e|total) latency",
    re.IGNORECASE,
)


def told_in_vain(row: Mapping[str, str]) -> str:
    """Why a row is not predicted as its cells have it: a batch or a format that stands in the note alone, or a metric
    of something else; "" where there is nothing of the kind.
    """
    other = _OTHER_METRIC.fullmatch(row["metric"].strip())
    if other is not None:
        return f"{other[0][:40]}: no metric that is predicted: rates of prompt and answer stand in rows of their own"
    note = row["note"]
    batch = _BATCH.search(note)
    n = int(batch[1] or batch[2]) if batch else 1
    if n > 1 and not row["batch"]:
        return f"the note says {batch[0][:40]!r}: put how many ran at once into the column batch"  # type: ignore[index]
    stored = _FORMAT.search(note)
    if stored and not row["formats"] and not model_and_format(row["model"])[1] and not row["policy"]:
        return f"the note says {stored[0]!r}: put how weights are stored into the column formats"
    return ""
