"""What becomes of experts that are needed and not there: a policy's answers, checked against what can be executed.

Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from offload.decoding.decoding_pass import DecodingPass
from offload.decoding.policy_answers import checked_answers
from offload.decoding.unions import MoeBlock, Union
from offload.own_policies.policy_calls import ask_at
from offload.policy import BlockView, MissAction, OnMiss
from traces.errors import InvalidInput


def answer_misses(
    loop: DecodingPass, policy: str, on_miss: OnMiss, view: BlockView, block: MoeBlock, missing: Sequence[int]
) -> MoeBlock:
    """`block` as the policy called `policy` answers its `missing` experts: how they come, or what is executed instead.

    Raises `InvalidInput` for an answer that cannot be executed.
    """
    asked = ask_at(policy, "on_miss", on_miss, view, tuple(missing))
    how = checked_answers(policy, asked, view, missing)
    for expert, action in how.items():
        if action.bits is not None or action.share < 1:
            how[expert] = _in_part(loop, policy, expert, action)
        if action.instead is not None:
            _check_instead(loop, policy, block.moe_layer, expert, action.instead, missing)
    of, tokens = block.named.of(), block.named.of()
    for expert, action in how.items():
        if action.instead is not None:
            n_tokens = tokens.pop(expert)
            tokens[action.instead] = tokens.get(action.instead, 0) + n_tokens
        if action.instead is not None or action.bits is not None or action.place == "nowhere":
            loop.n_changed += of[expert]
    if tokens == of:
        return block._replace(how=how)
    experts = tuple(sorted(tokens))
    return block._replace(how=how, executed=Union(experts, tuple(tokens[expert] for expert in experts)))


def _check_instead(
    loop: DecodingPass, policy: str, moe_layer: int, expert: int, instead: int, missing: Sequence[int]
) -> None:
    """Raise `InvalidInput` unless expert `instead` is here, or on its way, and can be executed for `expert`."""
    where = f"policy {policy} executes expert {instead} instead of {expert}"
    if instead in missing or not loop.memory.has_or_awaits(moe_layer, instead):
        raise InvalidInput(f"{where}, which is not on the device either: name one that view.resident knows")
    if loop.micro is not None:
        raise InvalidInput(f"{where}: micro-batches share what the gates chose, leave micro= out")


def _in_part(loop: DecodingPass, policy: str, expert: int, action: MissAction) -> MissAction:
    """An answer that fetches less than all of an expert, its share in whole hidden units; raises `InvalidInput`."""
    n_units = loop.model.d_ff_expert
    what = f"at {action.bits:g} bits" if action.bits is not None else f"by {action.share:.3g} of it"
    where = f"policy {policy} fetches expert {expert} {what}"
    copies, stored = loop.memory.copies, loop.model.expert_dtype.bits
    if loop.execution.arriving != "each" or copies.stage or loop.host_tier is not None:
        raise InvalidInput(f"{where}: take a stack that runs experts one by one from their slots (streams) and DRAM")
    if action.bits is not None and action.bits > stored:
        raise InvalidInput(f"{where}: {loop.model.name} stores {stored:g}, give at most that")
    if action.share < 1:
        n_fetched = int(action.share * n_units + 0.5)
        return MissAction.CPU if not n_fetched else replace(action, share=n_fetched / n_units)
    return action
