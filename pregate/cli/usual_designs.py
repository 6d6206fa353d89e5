"""The designs of a command where `--policies` names none: its own, or what the engine of the stack runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import typer

from pregate.cli.assumption_lines import say_in_turn_alone
from pregate.cli.option_values import distinct

if TYPE_CHECKING:
    from hwmodels.platform import Platform
    from pregate.card.job import Workpiece
    from traces.model.architecture import ModelArchitecture
    from traces.routing import RoutingTrace


OR_ENGINE = "or what the engine of --stack runs"
"""Of the help of `--policies`, behind the designs of a command."""

OFFLOADING = "gpu_only,on_demand,prefetch_all,pregate"
"""Designs of offloading, one of a kind: the default of `compare` and `crossover`."""

IN_QUEUES = "on_demand,pregate,pregate+lru,gpu_only"


_OF_OFFLOADING = ("lookahead", "cache_ratio", "tier_bytes", "expert_tier")
"""Axes that no design of an engine has."""


def asks_about_offloading(
    cache: str | None, tier: str, *, placement: str | None = None, axes: Collection[str] = ()
) -> bool:
    """Whether a cache, a tier, a placement or what varies says that what engines do by default is not asked about."""
    return cache is not None or tier != "dram" or placement is not None or not set(_OF_OFFLOADING).isdisjoint(axes)


def of_work(
    usual: str, model: ModelArchitecture, hw: Platform, work: Callable[[], Workpiece], *, takes_one: bool = False
) -> list[str]:
    """`usual`, or the designs of the engine of `hw` for `work`, which is told; `takes_one`: as of `say_engine`."""
    from pregate.card.designs import engine_offers, with_own_gates
    from pregate.card.engine_defaults import settled_designs

    if not engine_offers(hw.stack.name) or model.is_encoder_decoder:
        return list(with_own_gates(distinct(usual, "--policies"), model))
    found = list(settled_designs(model, hw, work()))
    say_engine(model, hw.stack.name, takes_one=takes_one)
    say_in_turn_alone(model, [hw])
    return found


def of_trace(
    usual: str, model: ModelArchitecture, hw: Platform, trace: RoutingTrace, *, takes_one: bool = False
) -> list[str]:
    """The same for a `trace`."""
    from pregate.card.job import recorded_job

    return of_work(usual, model, hw, lambda: recorded_job(model, trace), takes_one=takes_one)


def along_axes(usual: str, model: ModelArchitecture, stacks: Sequence[str], *, takes_one: bool = False) -> list[str]:
    """`usual`, or what the engine runs that all `stacks` are, whatever the memory, which is told."""
    from pregate.card.designs import with_own_gates
    from pregate.card.engine_defaults import engine_designs

    found = engine_designs(stacks[0]) if len(set(stacks)) == 1 else ()
    if not found or model.is_encoder_decoder:
        return list(with_own_gates(distinct(usual, "--policies"), model))
    say_engine(model, stacks[0], takes_one=takes_one)
    return list(found)


def say_engine(model: ModelArchitecture, stack: str, *, takes_one: bool = False) -> None:
    """One line on standard error where the designs are those of the engine that `stack` is, or the first of them is the
    only one that a command takes.
    """
    from pregate.card.designs import engine_offers

    if engine_offers(stack) and not model.is_encoder_decoder:
        one = f"the design is the first that {stack} runs here; --policy asks for another"
        several = f"designs are those that {stack} runs; --policies asks for others"
        typer.echo(f"note: {one if takes_one else several}", err=True)
