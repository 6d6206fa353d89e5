"""What gates have revealed so far in one pass, and what a policy may therefore see. Nothing here may know time."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from offload.caches.gate_output import GateOutput, gate_output
from offload.decoding.decoding_pass import DecodingPass
from offload.decoding.unions import Unions
from offload.own_policies.policy_calls import ask
from offload.policy import BlockView, Policy
from traces.routing import Step


class Revealed:
    """The blocks of one pass whose experts a gate has selected: of `unions`, the first `n`, and those `from_before` on.

    `first`: the MoE layer of the model that block 0 is.
    """

    def __init__(
        self, loop: DecodingPass, policy: Policy, first: int, unions: Unions, step: Step, encoding: bool
    ) -> None:
        self._loop, self._policy, self._first, self._unions = loop, policy, first, unions
        self._step, self._encoding = step, encoding
        self.n = 0
        self.from_before = len(unions)
        """The first of the blocks that the pass before has selected for; without any, how many there are."""

    def gated(self, i: int) -> None:
        """The gate of block `i` has run, which selects as far ahead as the policy says."""
        self.n = max(self.n, i + self._policy.lookahead + 1)

    def selected_before(self, i: int) -> bool:
        """Whether the experts of block `i` are known before its own gate runs."""
        return 0 < i < self.n or i >= self.from_before

    def view(self, i: int) -> BlockView:
        """What a policy may see at block `i`."""
        union, loop, step, first = self._unions[i], self._loop, self._step, self._first
        return BlockView(
            i_step=loop.i_step,
            block=i,
            n_blocks=len(self._unions),
            n_experts=loop.model.n_experts,
            active=union.experts,
            tokens=union.tokens,
            revealed=self._experts,
            resident=lambda other, expert: loop.memory.has(first + other, expert),
            chosen=lambda other: self._of_tokens(step.experts, other),
            gate_weights=lambda other: self._of_tokens(step.gate_weights, other),
            predicted=lambda other: self._predicted(i, other),
            sequences=step.sequence,
            brought=loop.memory.brought(first + i),
        )

    def output(self, i: int) -> GateOutput:
        """What the gate of block `i` says, which has run, for a cache that looks at more than lookups."""
        self._experts(i)  # from here on the step has them
        layer, weights = self._first + i, self._step.gate_weights
        chosen, of_layer = self._step.experts[:, layer], None if weights is None else weights[:, layer]
        return gate_output(self._loop.i_step, layer, chosen, of_layer, self._loop.new_request)

    def _experts(self, other: int) -> tuple[int, ...] | None:
        known = 0 <= other < min(self.n, len(self._unions)) or self.from_before <= other < len(self._unions)
        return self._unions[other].experts if known else None

    def _of_tokens(self, values: NDArray[Any] | None, other: int) -> NDArray[Any] | None:
        return None if values is None or self._experts(other) is None else values[:, self._first + other]

    def _predicted(self, i: int, other: int) -> NDArray[Any] | None:
        """What the policy's predictor says at block `i` of a later one."""
        predictor = self._policy.predictor
        if predictor is None or self._encoding or not i < other < len(self._unions):
            return None
        chosen, n_experts = self._step.experts[:, self._first + other], self._loop.model.n_experts
        return ask(self._policy.name, "predictor", predictor, self._loop.i_step, other, chosen, n_experts)
