"""What becomes of a wrong guess, other than that the right expert is fetched late: another one is executed for it.

Both change what the model says, by how much no schedule can tell; a result says of how many choices. Systems that
substitute choose by likeness of experts, which is not in a trace: here the first that is there is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from offload.policy import BlockView, MissAction


def executes_guessed(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Execute what was wrongly brought for the block instead, in the order in which it came; fetch the rest."""
    return _instead(missing, (expert for expert in view.brought if expert not in view.active))


def executes_resident(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Execute any other expert of the block that is on the device instead; fetch where there is none left."""
    there = (e for e in range(view.n_experts) if e not in view.active and view.resident(view.block, e))
    return _instead(missing, there)


def _instead(missing: Sequence[int], spare: Iterable[int]) -> dict[int, MissAction]:
    """Each of `spare` for one of `missing`, so that no token has an expert twice."""
    left = iter(spare)
    found = {expert: next(left, None) for expert in missing}
    return {expert: MissAction.FETCH if one is None else MissAction(instead=one) for expert, one in found.items()}
