"""`pregate explain`: where the time of one design goes, and which number of the machine would change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options
from pregate.cli.output_paths import require_picture, say_written
from pregate.cli.progress import spinner
from pregate.cli.question import ENGINES, Question, asks
from pregate.draw import render

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.ask.explanation import Explanation


@asks(*ENGINES)
def explain(
    *,
    policy: options.PolicyOrUsual = None,
    metric: options.Metric = "makespan_s",
    question: Question,
    tornado: Annotated[Path | None, typer.Option(help="Draw what 10 % of each number does (PNG or SVG).")] = None,
) -> None:
    """Explain what one design waits for: shares of the critical path, exact elasticities of a metric by every number.

    Example: pregate explain switch-base-8 --hardware a100-sxm4-80gb --output-tokens 8 --tornado out.png
    """
    if tornado is not None:
        require_picture(tornado)
    architecture, machine, workload = question.subject()
    name = question.one_design(policy, architecture, machine, workload)
    (chosen,), cache = question.designs([name], architecture)
    from pregate.ask.calibration_summary import describe_calibration
    from pregate.ask.explanation import explain as run_explain
    from pregate.ask.routing_source import describe_routing

    with spinner("explaining") as update:
        update(chosen.name)
        workload = question.trace_of(chosen, architecture, machine, workload, cache)
        explanation = run_explain(
            architecture, machine, workload, chosen, cache=cache, expert_tier=question.tier, metric=metric,
        )  # fmt: skip
        if tornado is not None:
            from pregate.draw.tornado_plot import tornado as draw

            update(f"drawing {tornado}")
            draw(explanation, tornado)
    if not render.print_data(question.format, explanation.to_dict(), explanation.rows()):
        for table in _tables(explanation):
            render.print_table(table)
        print(explanation.verdict())
        constants = describe_calibration(machine, architecture, [explanation.result], [chosen])
        print(f"Machine constants: {constants}.")
        print(f"Routing: {describe_routing(architecture, workload, [explanation.result])}.")
    say_written(tornado)


def _tables(explanation: Explanation) -> list[Table]:
    """The shares, then the numbers that matter."""
    from pregate.ask.explanation import MOVE

    result = explanation.result
    shares = render.new_table(f"Critical path of {result.policy}")
    for column in ("spent on", "time", "share"):
        shares.add_column(column, justify="left" if column == "spent on" else "right")
    for name, seconds in sorted(explanation.seconds.items(), key=lambda item: -item[1]):
        if seconds:
            shares.add_row(name, render.si(seconds, "s"), f"{explanation.shares[name]:.1%}")
    shown = explanation.that_matter()
    held = "; of accelerator.n_sm with whole waves of tiles held" if "accelerator.n_sm" in shown else ""
    numbers = render.new_table(
        f"{explanation.metric} = {explanation.value:.4g} on {result.hardware} ({result.stack})",
        f"% for 1 %: exact for this schedule{held}.",
    )
    for column in ("number", "value", "% for 1 %", f"-{MOVE:.0%}", f"+{MOVE:.0%}"):
        numbers.add_column(column, justify="left" if column == "number" else "right")
    for key in shown:
        swing = explanation.swings[key]
        changes = [f"{swing.low / explanation.value - 1:+.2%}", f"{swing.high / explanation.value - 1:+.2%}"]
        numbers.add_row(key, f"{swing.value:.4g}", f"{explanation.elasticities[key]:+.3f}", *changes)
    return [shares, numbers]
