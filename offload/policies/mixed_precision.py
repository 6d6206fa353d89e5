"""`mixed_precision`: a missing expert comes whole, in fewer bits or not at all, by its gate score (HOBBIT).

Up to an unimportance of 0.6 it comes as stored, up to 0.9 in a quarter of the bits, else it is skipped. Copies in fewer
bits pass through, or a cache of their own keeps them (`copies=`); what is there as stored is used as stored.

Differs: nothing is brought ahead; the cache goes by frequency, not by the system's weighted sum of several ranks.
"""

from __future__ import annotations

from offload.answers.by_score import Scored
from offload.policy import Cache, Policy
from traces.errors import InvalidInput

HIGH, LOW = 0.6, 0.9
"""The thresholds of arXiv:2411.01433."""


def mixed_precision(high: float = HIGH, low: float = LOW, bits: float | None = None, copies: float = 0.0) -> Policy:
    """Beside a cache of what was used most, in all HBM that is left. `bits`: of a parameter, None a quarter of them.
    `copies`: of the cache's bytes, the share that keeps copies of so many; without one they pass through.
    Raises `InvalidInput` for a share outside 0 to 1.
    """
    if not 0 <= copies < 1:
        raise InvalidInput(f"copies = {copies:g} of the cache's bytes in fewer bits: from 0, below 1")
    said = [f":{word}={value:g}" for word, value, usual in (("high", high, HIGH), ("low", low, LOW)) if value != usual]
    said += [f":{word}={value:g}" for word, value in (("bits", bits), ("copies", copies)) if value]
    start, cache, name = Scored(high, low, bits), Cache("lfu"), "".join(["mixed_precision", *said])
    return Policy(name, start=start, cache=cache, is_exact=False, low_share=copies, low_bits=bits)
