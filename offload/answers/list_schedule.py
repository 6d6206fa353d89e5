"""Misses scheduled over host, device and link before any begins: greedy, over three timelines (HybriMoE, DAC 2025).

The device begins with what is resident. The host takes the missing expert that serves fewest tokens, the link the one
that serves most, and of the two the choice that is done first is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offload.policy import BlockView, MissAction
from offload.policy_parts.miss_costs import MissCosts, known, loads_of


@dataclass(frozen=True, slots=True)
class ListScheduled:
    """The answer to each miss as a simulated schedule of the block gives it, in copies of one expert."""

    costs: MissCosts | None = None

    def __call__(self, view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        """The answer to each missing expert."""
        costs, left = known(self.costs), deque(loads_of(view, missing))
        device, host, link, absent = 0.0, costs.handover, 0.0, frozenset(missing)
        for expert, n_tokens in zip(view.active, view.tokens, strict=True):
            device += 0.0 if expert in absent else costs.on_device(n_tokens)
        answers = {}
        while left:
            few, most = left[-1], left[0]
            host_ends = host + costs.on_host(few.n_tokens)
            device_ends = max(device, link + 1.0) + costs.on_device(most.n_tokens)
            if host_ends <= device_ends:
                answers[left.pop().expert], host = MissAction.CPU, host_ends
            else:
                answers[left.popleft().expert], link, device = MissAction.FETCH, link + 1.0, device_ends
        return answers
