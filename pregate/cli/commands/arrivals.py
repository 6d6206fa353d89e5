"""`pregate arrivals`: percentiles of latency under requests that arrive and queue, at several rates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from pregate.cli import options, usual_designs
from pregate.cli.arrivals_question import ArrivalsQuestion
from pregate.cli.assumption_lines import say_scale_of_fp8, say_weights
from pregate.cli.commands.cost import objective_of
from pregate.cli.option_groups import takes
from pregate.cli.option_values import assumed, build_machine, build_model, distinct
from pregate.cli.progress import spinner
from pregate.cli.trained_context import say_beyond_context
from pregate.draw import render

if TYPE_CHECKING:
    from pregate.economics.arrival_report import ArrivalReport, UnderArrivals
    from pregate.economics.cost_draws import Estimate

NOTHING_SERVES = 1
"""Exit status where no design serves any rate, or none keeps what was promised."""


@takes("question", ArrivalsQuestion)
def arrivals(*, question: ArrivalsQuestion, format: options.OutputFormat = options.Format.table) -> None:
    """Have designs serve requests as they arrive: percentiles of TTFT and TPOT at each rate, and what tokens cost.

    Example: pregate arrivals switch-base-8 --hardware a100-sxm4-80gb --policies pregate,gpu_only --requests 100
    """
    came = question.came()
    architecture = build_model(question.model, question.dtype, None, question.formats)
    machine = build_machine(question.hardware, question.stack, None, question.sets)
    names = None if question.policies is None else distinct(question.policies, "--policies")
    say_scale_of_fp8((question.formats, question.dtype), [machine])
    say_weights(architecture, [machine])
    say_beyond_context(architecture, int((came.input_tokens + came.output_tokens).max()))
    from pregate.economics.arrivals import under_arrivals

    with spinner("serving") as update:
        report = under_arrivals(
            architecture, machine, names, came, question.rates_asked(), question.server(),
            promise=objective_of(question.max_ttft, question.max_tpot), basis=question.basis,
            assumptions=assumed(question.assumptions, question.assume), seed=question.seed, progress=update,
        )  # fmt: skip
    if names is None:
        usual_designs.say_engine(architecture, machine.stack.name)
    document = report.to_dict()
    if not render.print_data(format, document, document["rows"]):
        _print(report)
    raise typer.Exit(0 if any(row.keeps for row in report.rows) else NOTHING_SERVES)


def _print(report: ArrivalReport) -> None:
    table = render.new_table(
        f"{report.model} on {report.hardware}: {report.n_requests:,} requests of {report.source}, "
        f"{report.slots} at once at most"
    )
    table.add_column("design", no_wrap=True)
    for head in (
        "requests/s",
        "TTFT p99",
        "TPOT p99",
        "TTFT p50",
        "max requests/s",
        "busy",
        "at once",
        "USD/M tokens",
    ):
        table.add_column(head, justify="right")
    for row in sorted(report.rows, key=lambda row: row.requests_per_s):
        table.add_row(*_cells(row))
    if report.rows:
        render.print_table(table)
    for one in report.unserved:
        print(f"Not served: {one.reason}.")
    for sentence in report.verdict():
        print(sentence)
    if report.n_left_out:
        print(f"Left out, without a prompt or an answer: rows of the file, {report.n_left_out:,}.")
    if report.no_cost:
        print(f"No cost: {report.no_cost}.")
    print(
        "In brackets: 95 % over what predictions may be off by and which requests come; grows: the queue may. "
        "Max requests/s: beyond it the queue grows. At once: as many as give the least p99 TTFT."
    )
    print(f"USD: of output tokens, on a machine that serves this rate alone. {report.how_prompts_pass}")
    print(f"Machine constants: {report.calibration}.")
    print(f"Routing: {report.routing}.")


def _cells(row: UnderArrivals) -> tuple[str, ...]:
    from pregate.card.display.phrases import rate

    asked, most = rate(row.requests_per_s), rate(row.capacity.value)
    if row.grows:
        return (row.design, asked, "the queue grows", "-", "grows", most, "100%", str(row.slots), "-")
    cost = row.usd_per_million
    return (
        row.design, asked, _time(row.ttft_s[99]), _time(row.tpot_s[99]), render.si(row.ttft_s[50].value, "s"),
        most, f"{row.busy:.0%}", str(row.slots),
        "-" if cost is None else f"{rate(cost.value)} [{rate(cost.low)}, {rate(cost.high)}]",
    )  # fmt: skip


def _time(found: Estimate) -> str:
    """A time and its interval in one unit; "-" where there is none."""
    if math.isnan(found.value):
        return "-"
    from pregate.card.display.phrases import rate

    value, unit = render.si(found.value, "s").split()
    scale = float(value.replace(",", "")) / found.value if found.value else 1.0
    low, high = (rate(end * scale) for end in (found.low, found.high))
    return f"{value} {unit} [{low}, {'grows' if found.high == float('inf') else high}]"
