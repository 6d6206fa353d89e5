"""`pregate compare`: several designs on one workload and machine, one table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from offload.policies.policy_descriptions import DESIGNS
from pregate.cli import options, usual_designs
from pregate.cli.assumption_lines import as_no_engine_has
from pregate.cli.option_values import build_modes, listed
from pregate.cli.progress import spinner
from pregate.cli.question import Question, asks
from pregate.draw import render

if TYPE_CHECKING:
    from pregate.ask.comparison import Comparison

NOTHING_FITS = 1
"""Exit status where no design fits the machine."""


@asks()
def compare(
    *,
    question: Question,
    policies: Annotated[
        str | None,
        typer.Option(
            help="Designs, by comma: pregate, pregate(2), on_demand+lru:0.1, ./mine.py:MyPolicy; or all. Default: "
            f"{usual_designs.OFFLOADING}, {usual_designs.OR_ENGINE}."
        ),
    ] = None,
) -> None:
    """Compare designs: MoE-layer latency, tokens/s, TTFT, TPOT, HBM, link traffic; who wins and what binds it.

    Example: pregate compare switch-base-128 --hardware a100-sxm4-80gb
    """
    named = None if policies is None else question.several(DESIGNS if policies == "all" else listed(policies))
    architecture, machine, workload = question.subject()
    names = (
        named
        if named is not None
        else question.several(question.usual(usual_designs.OFFLOADING, architecture, machine, workload))
    )
    chosen, cache = question.designs(names, architecture)
    from pregate.ask.comparison import compare as run_compare
    from pregate.ask.ranked_designs import kept_in_view
    from pregate.ask.routing_source import describe_routing

    with spinner("simulating") as update:
        comparison = run_compare(
            architecture,
            machine,
            lambda policy: question.trace_of(policy, architecture, machine, workload, cache),
            chosen,
            cache=cache,
            expert_tier=question.tier,
            engine=question.engine,
            modes=build_modes(question.modes),
            check=question.check,
            progress=update,
        )
    document = comparison.to_dict()
    unfit = [row | {"fits": False} for row in document["does_not_fit"]]
    if not render.print_data(question.format, document, document["results"] + unfit):
        batch = question.batch if question.fills_memory else max(workload.batch, 1)
        title = f"{architecture.name} on {machine.hardware} ({machine.stack.name}), batch {batch}"
        render.print_table(render.comparison_table(comparison, title, with_batch=question.fills_memory))
        ahead = render.prefetch_table(comparison)
        if ahead is not None:
            render.print_table(ahead)
        print(comparison.verdict())
        print("Tokens/s are output tokens over the whole run, prompt included.")
        if said := _under_way(comparison):
            print(said)
        if taken := as_no_engine_has(question, architecture, machine):
            print(taken)
        print(f"Machine constants: {comparison.calibration}.")
        print(f"Routing: {describe_routing(architecture, workload, comparison)}.")
        if in_view := kept_in_view(workload, chosen, cache):
            print(in_view)
        if question.check:
            print(options.CHECKED)
    raise typer.Exit(0 if comparison.results else NOTHING_FITS)


def _under_way(comparison: Comparison) -> str:
    """That memory is of all cards that layers have in turn, and a batch of several requests passes them alone here; ""
    where none does.
    """
    in_turn = [one for one in comparison if re.search(r"@turns=(?!1\b)", one.policy)]
    said = "peak HBM is of all stages together"
    if any(one.batch_size > 1 for one in in_turn):
        said += ", and one batch of tokens is under way; `pregate plan` and `pregate cost` have one a stage"
    return f"{', '.join(one.policy for one in in_turn)}: {said}." if in_turn else ""
