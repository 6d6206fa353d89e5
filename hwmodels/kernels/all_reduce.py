"""Sums over cards that share every layer: what each has is added up, and all have the sum.

Cards that read each other's memory, or two, do so in one kernel (vLLM: csrc/custom_all_reduce.cuh, whose limits these
are): a short message each card reads whole of all others, a longer one its part of all, which the others read then.
Otherwise parts go round a ring (Patarasuk and Yuan 2009): 2 (n - 1) steps, each of an n-th of the message. Either way a
card takes in 2 (n - 1) / n of a long message. Held against measured times in LOG.md, 2026-11-30. What a card sends to
one other goes as fast as a sum over two.
"""

from __future__ import annotations

import math

from hwmodels.figures import Figures, Number
from hwmodels.stacks.stack import BETWEEN_CARDS
from offload.ops import Work
from traces.errors import InvalidInput

_READ_WHOLE = {2: 1 << 62, 4: 512 << 10, 8: 256 << 10}
"""Bytes of a message, by how many cards at most, that each card reads whole of all others."""

_PEER = "accelerator.peer_bytes_per_s"


def all_reduce_s(work: Work, figures: Figures) -> Number:
    """The time of a sum over `work.n_entries` cards, each with `work.copy_bytes`. Raises `InvalidInput` where the stack
    does not say what that takes.
    """
    n, message = work.n_entries, work.copy_bytes
    direct, rate = _rate(figures)
    taken = 2 * (n - 1) * message / n
    start_s, share = figures.stack_constant("all_reduce_s"), figures.stack_constant("peer_efficiency")
    if direct or n == 2:
        most = next((most for cards, most in _READ_WHOLE.items() if n <= cards), 0)
        taken = (n - 1) * message if message < most else taken
    else:
        start_s = 2 * (n - 1) * figures.stack_constant("ring_step_s")
        share = figures.stack_constant("ring_efficiency")
    return start_s + taken / (rate * share)


def send_s(work: Work, figures: Figures) -> Number:
    """The time in which a card of `work.n_entries` sends its part of `work.copy_bytes` to another, and the cards there
    gather the parts: half a sum over them, by its bytes. Raises as `all_reduce_s`.
    """
    n, (_, rate) = work.n_entries, _rate(figures)
    bytes_per_s = rate * figures.stack_constant("peer_efficiency")
    sent_s = figures.stack_constant("all_reduce_s") + work.copy_bytes / n / bytes_per_s
    if n == 1:
        return sent_s
    return sent_s + all_reduce_s(work._replace(copy_bytes=math.ceil(work.copy_bytes / 2)), figures)


def _rate(figures: Figures) -> tuple[bool, Number]:
    """Whether cards read each other's memory, and how fast, or over the host's link."""
    if "stack.all_reduce_s" not in figures.values:
        raise InvalidInput(
            f"stack {figures.stack.name} does not say what a sum over cards takes: state "
            f"{', '.join(BETWEEN_CARDS)} in its file"
        )
    direct = _PEER in figures.values
    return direct, figures[_PEER] if direct else figures["link.d2h_bytes_per_s"]
