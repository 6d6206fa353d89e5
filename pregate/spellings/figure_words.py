"""Figures and objectives as others call them: read where a word means one of those that are known, or told of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from traces.errors import UnknownName, unknown_name

_FIRST = ("ttft", "ttft_s")
_TOKEN = ("tpot", "tpot_s")
_WHOLE = ("request", "makespan_s")
_RATE = ("throughput", "tokens_per_s")
_MONEY = ("price_usd", "usd_per_token_per_s")

_MEANT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("ttft", "ttft_s", "first_token", "time_to_first_token", "prefill", "prompt"), _FIRST),
        **dict.fromkeys(
            ("tpot", "tpot_s", "itl", "tbt", "time_per_output_token", "inter_token_latency", "token_latency"), _TOKEN
        ),
        "decode": (*_TOKEN, "decode_tokens_per_s"),
        **dict.fromkeys(("p50", "median", "tpot_p50", "p50_tpot"), ("tpot_p50_s",)),
        **dict.fromkeys(("p99", "tail", "tpot_p99", "p99_tpot", "itl_p99", "p99_itl"), ("tpot_p99_s",)),
        **dict.fromkeys(("e2e", "end_to_end", "request_latency", "total", "runtime", "makespan"), _WHOLE),
        **dict.fromkeys(("latency", "time", "delay"), ("request", "ttft_s", "tpot_s", "makespan_s")),
        **dict.fromkeys(
            ("throughput", "tps", "speed", "tokens", "tok_s", "tokens_s", "tok_per_s", "t_s", "tokens_per_s",
             "tokens_per_second"), _RATE,
        ),
        **dict.fromkeys(("cost", "usd", "money", "dollars"), _MONEY),
        "price": ("price_usd",),
        **dict.fromkeys(("hbm", "vram", "memory", "peak_hbm", "peak_memory", "gpu_memory"), ("peak_hbm_bytes",)),
        **dict.fromkeys(("hits", "hit", "hitrate", "cache_hits"), ("hit_rate",)),
        **dict.fromkeys(("traffic", "link_bytes", "pcie_bytes"), ("h2d_bytes",)),
        **dict.fromkeys(("stall", "stalled", "stalls"), ("stall_s", "stall_share")),
        **dict.fromkeys(("moe_layer", "layer", "layer_latency", "moe_layer_latency"), ("moe_layer_latency_s",)),
    }
)  # fmt: skip
"""What a word may mean, by the word: objectives of a card and figures of a run."""

_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("cost", "price", "usd", "money", "dollars", "price_usd", "usd_per_token_per_s"),
            "`pregate cost` has money, `pregate plan` of several machines what a million tokens cost",
        ),
        **dict.fromkeys(
            ("energy", "power", "watts", "joules", "joules_per_token"), "`pregate cost` has joules of a token"
        ),
        **dict.fromkeys(
            ("ttft_p99", "p99_ttft", "ttft_p99_s", "ttft_p50", "p50_ttft", "ttft_p50_s"),
            "percentiles of TTFT are of requests that queue, `pregate arrivals` has them",
        ),
    }
)
"""What another command answers, by the word."""


def figure_named(kind: str, word: str, known: Iterable[str]) -> str:
    """The one of `known` that `word` is or means. Raises `UnknownName`, with what it may mean where that is several,
    and the command that answers it where none here does.
    """
    names = tuple(known)
    if word in names:
        return word
    plain = re.sub(r"[\s/-]+", "_", word.strip().lower())
    meant = [name for name in dict.fromkeys((plain, *_MEANT.get(plain, ()))) if name in names]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UnknownName(f"unknown {kind} {word!r}: did you mean {' or '.join(map(repr, meant))}?")
    if plain in _ELSEWHERE:
        raise UnknownName(f"unknown {kind} {word!r}: {_ELSEWHERE[plain]}; here: {', '.join(names[:8])}")
    raise unknown_name(kind, word, names)
