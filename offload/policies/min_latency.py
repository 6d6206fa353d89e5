"""`min_latency`: a missing expert is fetched or computed on the host, whichever is cheaper (Fiddler, ICLR 2025).

The paper and its released code differ, and so do the presets. Both hold what is popular in HBM.

Differs: popularity is the trace's own unless `--popularity` names counts from before.
"""

from __future__ import annotations

from offload.answers.cheaper import CheaperEach, ShorterLane
from offload.policy import Cache, Policy


def min_latency_paper() -> Policy:
    """The longer of the two lanes is made as short as can be, as in the paper (arXiv:2402.07033, section 3.3)."""
    return Policy("min_latency/paper", on_miss=ShorterLane(), cache=Cache("static"))


def min_latency_released() -> Policy:
    """Every expert decides alone, for the least sum of both lanes, as in the code (efeslab/fiddler, mixtral.py)."""
    return Policy("min_latency/released", on_miss=CheaperEach(), cache=Cache("static"))
