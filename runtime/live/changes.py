"""What a run executes of what its gates choose: an expert on the device instead of one that is missing, the same in
fewer bits, or none at all.

Its tokens are then another model's. What follows from it is the gates' own: they see other hidden states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from offload.decoding.unions import Union
from offload.policy import BlockView, MissAction, OnMiss, Policy
from runtime.programs.passes import Pass
from traces.errors import InvalidInput
from traces.routing import Step

FORESEES = (
    "policy {} knows what gates say with all experts as they are, and executes others: take a design that decides as "
    "it goes, such as on_demand"
)

_At = tuple[int, int]


class Changes:
    """The choices of one run, and what becomes of them; written to its passes and steps, which `places` are.

    `left`: by pass and MoE layer, experts that no op computes yet; `left_out`: choices (n_tokens, top_k) that none
    takes the place of. `said`: what gates chose. `rounded`: choices (n_tokens, top_k) whose expert came in fewer bits,
    and in how many.
    """

    def __init__(self, policy: Policy, places: Sequence[tuple[Pass, Step]]) -> None:
        self._policy, self._places = policy, places
        self._factors: list[float] = []
        self.left: dict[_At, int] = {}
        self.left_out: dict[_At, NDArray[np.bool_]] = {}
        self.said: dict[_At, NDArray[np.int16]] = {}
        self.rounded: dict[_At, list[tuple[NDArray[np.bool_], float]]] = {}

    @property
    def n_changed(self) -> int:
        """Choices for which another expert was executed, the same in fewer bits, or none."""
        others = (int((said != self._places[i][0].experts[:, layer]).sum()) for (i, layer), said in self.said.items())
        return sum(others) + sum(int(mask.sum()) for masks in self.rounded.values() for mask, _ in masks)

    def chosen(self, i_pass: int, moe_layer: int, said: NDArray[np.int16]) -> Union:
        """What a gate has `said` (n_tokens, top_k), without what its tokens do without."""
        one, step = self._places[i_pass]
        at = i_pass, moe_layer
        self.said[at] = said
        skipping, weights = self._policy.skipping, step.gate_weights
        if skipping is not None and weights is not None:
            skipped = skipping.left_out(said, weights[:, moe_layer], moe_layer, step.experts.shape[1])
            if skipped.any():
                self.left_out[at] = skipped
                said = np.where(skipped, -1, said).astype(np.int16)
        one.experts[:, moe_layer] = step.experts[:, moe_layer] = said
        counts = sorted(Counter(expert for expert in said.ravel().tolist() if expert >= 0).items())
        self.left[at] = len(counts)
        return Union(tuple(expert for expert, _ in counts), tuple(n for _, n in counts))

    def watching(self, on_miss: OnMiss) -> OnMiss:
        """`on_miss`, whose answers are carried out."""

        def answer(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
            found = on_miss(view, missing)
            for expert, action in found.items():
                if isinstance(action, MissAction):
                    self._carry_out(view, expert, action)
            return found

        return answer

    def _carry_out(self, view: BlockView, expert: int, action: MissAction) -> None:
        """Have the tokens of `expert` meet what the answer says. Raises `InvalidInput` for fewer bits under a policy
        that is said to be exact.
        """
        if action.instead is None and action.place != "nowhere" and action.bits is None:
            return
        if action.bits is not None and self._policy.is_exact:
            raise InvalidInput(
                f"policy {self._policy.name} fetches expert {expert} in {action.bits:g} bits and is said to be exact: "
                f"state is_exact=False"
            )
        if not self._policy.can_be_built:
            raise InvalidInput(FORESEES.format(self._policy.name))
        one, _ = self._places[view.i_step]
        at = view.i_step, self._first(one, view) + view.block
        executed = one.experts[:, at[1]]
        mine = executed == expert
        if action.bits is not None:
            self.rounded.setdefault(at, []).append((mine, action.bits))
            return
        if action.instead is None:
            self.left_out[at] = mine | self.left_out.get(at, np.zeros_like(mine))
        executed[mine] = -1 if action.instead is None else action.instead
        self.left[at] = len(np.unique(executed[executed >= 0]))

    def _first(self, one: Pass, view: BlockView) -> int:
        """The MoE layer of the model that block 0 of a pass is: a decoder's come last."""
        return 0 if one.encoding else one.experts.shape[1] - view.n_blocks
