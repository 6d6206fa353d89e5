"""What a row says where nothing is read, and what no metric here is of: a reason, in place of a wrong prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.measured.rows.served_load import SERVED_METRICS
from pregate.spellings.models import model_and_format
from pregate.spellings.names import our_name

_BATCH = re.compile(
    r"\b(?:concurren\w*|batch(?:[ _-]?size)?|bs|parallel(?: requests)?|users|clients)\s*(?:of|=|:)?\s*(\d{1,5})\b"
    r"|\b(\d{1,5}|two|three|four|eight|sixteen)\s*(?:concurrent|parallel|simultaneous|users|clients)\b",
    re.IGNORECASE | re.ASCII,
)
_IN_WORDS = {"two": 2, "three": 3, "four": 4, "eight": 8, "sixteen": 16}
_FORMAT = re.compile(
    r"\b(?:[2-8][ -]?bit|int[48]|fp8|fp4|nf4|awq|gptq|bnb|mxfp4|nvfp4|hqq|i?q[1-8]_\w+|[2-8](?:\.\d+)?[ ]?bpw)\b",
    re.IGNORECASE,
)
_ALONE = ("prefill_tokens_per_s", "decode_tokens_per_s")
_OF_LLAMA = ("llama-cpp", "ik-llama")
_TOKENS_HANDED_OVER = 256
"""From here on a batch of llama.cpp is likely that of its flag, 2048 where nothing is said."""
_OTHER_METRICS = (
    (
        re.compile(
            r"(?:tpot|itl|tbt|ttft|e2el?|latency)[ _](?:p[\d.]+|std|max|min)"
            r"|(?:p[\d.]+|std|max|min|peak)[ _](?:tpot|itl|tbt|ttft|e2el?|latency|.*throughput)",
            re.I,
        ),
        "means are, and percentiles 50, 90, 95 and 99",
    ),
    (
        re.compile(r"(?:avg |average |mean )?latency|(?:total|wall|run|elapsed|execution)[ _]?time|duration", re.I),
        "state what a token takes as tpot, the first one as ttft, a request as e2el",
    ),
    (re.compile(r"interactivity|.*(?:/|\bper[ _])\s?user", re.I), "state what a token takes, 1 over it, as tpot"),
    (re.compile(r".*(?:/|\bper[ _])\s?(?:gpu|card|device)", re.I), "state that of all cards"),
    (
        re.compile(
            r"goodput|input (?:token )?throughput|"
            r"power|watts?|(?:tok(?:en)?s?)\s*(?:/|per)\s*(?:j(?:oule)?|w(?:att)?|usd|\$)|perplexity|ppl|"
            r"load time|speed-?up",
            re.I,
        ),
        "state requests, output tokens or all tokens a second",
    ),
)
"""What a metric may be that nothing here predicts, and what to state in its place."""


def is_other_metric(text: str) -> bool:
    """Whether a metric is one that nothing here predicts: a percentile, a rate of one card or one user."""
    return any(form.fullmatch(text.strip()) for form, _ in _OTHER_METRICS)


def unread_reason(row: Mapping[str, str]) -> str:
    """Why a row is not predicted as its cells have it: a batch or a format that stands in the note alone, or a metric
    of something else; "" where there is nothing of the kind.
    """
    metric = row["metric"].strip()
    for form, instead in _OTHER_METRICS:
        if form.fullmatch(metric) and metric not in SERVED_METRICS:
            return f"{metric[:40]}: no metric that is predicted: {instead}"
    at_once, stack = row["batch"], our_name("stack", row["stack"])
    if metric in _ALONE and stack.startswith(_OF_LLAMA) and at_once.isdigit() and int(at_once) >= _TOKENS_HANDED_OVER:
        return (
            f"batch {at_once}: as many sequences at once, or tokens that {stack} is handed together? Put the latter in "
            f"policy, -b {at_once}, the former into concurrency"
        )
    note = row["note"]
    batch = _BATCH.search(note)
    said = (batch[1] or batch[2]).lower() if batch else "1"
    n = _IN_WORDS.get(said) or int(said)
    if n > 1 and not row["batch"]:
        return f"the note says {batch[0][:40]!r}: put how many ran at once into the column batch"  # type: ignore[index]
    stored = _FORMAT.search(note)
    if stored and not row["formats"] and not model_and_format(row["model"])[1] and not row["policy"]:
        return f"the note says {stored[0]!r}: put how weights are stored into the column formats"
    return ""
