"""How requests came to a server that a row was measured on: how many, how fast, how long, and to how many slots."""

from __future__ import annotations

import math
from dataclasses import dataclass

from traces.errors import InvalidInput, unknown_name

PERCENTILES = (50, 90, 95, 99)
"""Percentiles over requests that a row may have."""

OF_REQUESTS = ("ttft", "tpot", "e2el")
SERVED_METRICS = (
    "tokens_per_s", "total_tokens_per_s", "requests_per_s", *OF_REQUESTS,
    *(f"{metric}_p{p}" for metric in OF_REQUESTS for p in PERCENTILES),
)  # fmt: skip
"""What requests that come one by one are measured by."""

_MOST_REQUESTS = 100_000


@dataclass(frozen=True, slots=True)
class ServedLoad:
    """So many `requests`, at `rate` a second (infinite: as soon as a client is free, of which the row's batch says how
    many there are), prompts and answers from the first to the last of `lengths` times the row's tokens.

    `slots`: what the server runs side by side at most, 0 as the engine does; `prompts`: as of `Server`, "" as the
    engine does; `offline`: all requests are in the engine before it starts.
    """

    requests: int
    rate: float = math.inf
    lengths: tuple[float, float] = (1.0, 1.0)
    slots: int = 0
    prompts: str = ""
    offline: bool = False

    def __str__(self) -> str:
        low, high = self.lengths
        said = {
            "requests": self.requests, "rate": "" if math.isinf(self.rate) else f"{self.rate:g}",
            "lengths": "" if low == high == 1 else f"{low:g}-{high:g}", "slots": self.slots or "",
            "prompts": self.prompts,
        }  # fmt: skip
        words = [f"{name}={value}" for name, value in said.items() if value != ""]
        return ";".join([*words, *(["offline"] if self.offline else [])])


def load_named(text: str, where: str = "load") -> ServedLoad:
    """A load as `str` writes it, words parted by `;`. Raises `InvalidInput` or `UnknownName` for another."""
    said: dict[str, str] = dict(
        (name.strip(), value.strip()) for name, _, value in (word.partition("=") for word in text.split(";"))
    )
    known = ("requests", "rate", "lengths", "slots", "prompts", "offline")
    for name in said:
        if name not in known:
            raise unknown_name("word", name, known, where)
    try:
        low, _, high = said.get("lengths", "1-1").partition("-")
        load = ServedLoad(
            int(said["requests"]), float(said.get("rate", "inf")), (float(low), float(high or low)),
            int(said.get("slots", "0")), said.get("prompts", ""), "offline" in said,
        )  # fmt: skip
    except (KeyError, ValueError):
        raise InvalidInput(
            f"{where} {text[:60]!r}: requests=320;rate=4;lengths=0.5-1;slots=8;prompts=alone is one"
        ) from None
    low_, high_ = load.lengths
    if not 1 <= load.requests <= _MOST_REQUESTS or not load.rate > 0 or not 0 <= low_ <= high_ <= 2 or load.slots < 0:
        raise InvalidInput(
            f"{where} {text[:60]!r}: from 1 to {_MOST_REQUESTS:,} requests, at a rate above 0, lengths from 0 to 2"
        )
    if load.prompts not in ("", "beside", "alone"):
        raise unknown_name("way of prompts", load.prompts, ("beside", "alone"), where)
    return load


def metric_of_requests(metric: str) -> tuple[str, int]:
    """The metric that is a percentile over requests, and which; 0 of a mean or of another metric: `ttft_p99`."""
    name, _, percentile = metric.rpartition("_p")
    return (name, int(percentile)) if name in (*OF_REQUESTS, "itl") and percentile.isdigit() else (metric, 0)
