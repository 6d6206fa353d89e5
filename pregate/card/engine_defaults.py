"""The designs that a question is about where nobody names any and its stack is an engine: those that engine runs.

As on a card (`pregate.card.designs`): with as much of the model in HBM as fits, where the question is of one workload.
"""

from __future__ import annotations

from hwmodels.platform import Platform
from pregate.card.designs import all_planned, brings_weights, engine_offers
from pregate.card.job import Workpiece
from traces.model.architecture import ModelArchitecture


def engine_designs(stack: str) -> tuple[str, ...]:
    """What an engine offers, whatever the workload and the memory; none where `stack` is no engine's.

    As many layers on the host as HBM asks for is `experts=cpu:fit`; other numbers that hang on memory are left out.
    """
    named = (name.replace("experts=cpu:{fewest}", "experts=cpu:fit") for name in engine_offers(stack))
    return tuple(name for name in named if "{" not in name)


def settled_designs(model: ModelArchitecture, hw: Platform, work: Workpiece, *, few: bool = False) -> tuple[str, ...]:
    """What the engine of `hw` offers for `work`, its numbers settled: what fits, then what would not. `few`: where all
    fits in HBM, none that brings weights over the link.

    None where its stack is no engine's, or no engine runs `model`.
    """
    stack = hw.stack.name
    if not engine_offers(stack) or model.is_encoder_decoder:
        return ()
    unfit: list[str] = []
    fit = [
        planned.design.policy
        for planned in all_planned(model, work, {stack: hw}, lambda name, _: unfit.append(name.partition("/")[2]))
    ]
    if few and "gpu_only" in fit:
        return tuple(name for name in fit if not brings_weights(name))
    return tuple(dict.fromkeys([*fit, *(name for name in unfit if ":N" not in name and "/N" not in name)]))
