"""Policies in files of a user's own."""

from __future__ import annotations

from hwmodels.platform import load_platform
from tests.small_models import MODELS, routing

MODEL = MODELS["decoder-only"]
HW = load_platform("rtx-4090")
TRACE = routing(MODEL, batch=1, seed=5)
AGAIN = """
from pregate import Buffers, Decisions, Fetch, Policy


def again(facts):
    last = {}

    def prefetch(view):
        last[view.block] = view.active
        after = view.block + 1
        return [Fetch(after, last[after])] if after in last and after < view.n_blocks else []

    return Decisions(prefetch=prefetch)


def Again(slots: int = 2, word: str = "") -> Policy:
    return Policy("again", start=again, buffers=lambda n_active, n_experts: Buffers(n_active, slots * n_active))


PLAIN = Policy("plain")
NUMBER = 7


def Needs(depth):
    return Policy("needs")


def Other():
    return "a policy"


def Broken(depth=1):
    return 1 // 0


def Leaves():
    exit(0)
"""


def made(text: str) -> str:
    return f"from pregate import *\nfrom pregate import Fetch, MissAction, Policy\n{text}\n"
