"""`bandwidth_split`: the misses of a block are divided between link and host by their bandwidths (FreeToken).

The link brings B_link / (B_link + B_cpu) of what is missing while the host computes the rest, so that both end at once.
`bandwidth_split` divides whole experts by their count, rounded to the nearest; `bandwidth_split/within` divides the
hidden units of every missing expert, which hits the fraction exactly and adds two partial results.

Differs: the bandwidths are those of each beside the other only where the host's shares are known (`pregate measure`).
"""

from __future__ import annotations

from offload.answers.by_bandwidth import ByBandwidth, ByBandwidthWithin
from offload.policy import Cache, Policy


def bandwidth_split() -> Policy:
    """Whole experts, beside a cache of what was used last."""
    return Policy("bandwidth_split", on_miss=ByBandwidth(), cache=Cache("lru"))


def bandwidth_split_within() -> Policy:
    """A share of every missing expert, beside a cache of the most popular, which are whole."""
    return Policy("bandwidth_split/within", on_miss=ByBandwidthWithin(), cache=Cache("static"))
