"""`pregate arrivals`: percentiles of latency under requests that arrive and queue, at several rates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options, usual_designs
from pregate.cli.commands.cost import objective_of
from pregate.cli.left_unsaid import say_scale_of_fp8
from pregate.cli.option_values import assumed, build_machine, build_model, distinct
from pregate.cli.progress import spinner
from pregate.cli.trained_context import say_beyond_context
from pregate.draw import render

if TYPE_CHECKING:
    from pregate.economics.arrivals import ArrivalReport, UnderArrivals
    from pregate.economics.cost_draws import Estimate
    from traces.requests import ArrivalTrace

USUAL_RATE = 0.1
"""Requests a second of Poisson arrivals where nothing else is said."""

NOTHING_SERVES = 1
"""Exit status where no design serves any rate, or none keeps what was promised."""


def arrivals(
    model: options.Model,
    hardware: options.Hardware,
    policies: Annotated[
        str | None,
        typer.Option(help=f"Designs, by comma; default: {usual_designs.IN_QUEUES}, {usual_designs.OR_ENGINE}."),
    ] = None,
    arrivals: Annotated[
        Path | None,
        typer.Option(
            "--arrivals",
            help="Who asks when: a table or JSON lines of times, tokens of prompts and of answers (Azure's, "
            "Mooncake's, or arrival_s,input_tokens,output_tokens); default: Poisson arrivals of one length.",
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(help="Requests a second, by comma; default: as they arrive, or 0.1 of Poisson arrivals."),
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests: the first of a file.")] = 1000,
    input_tokens: options.InputTokens = 256,
    output_tokens: options.OutputTokens = 256,
    slots: Annotated[int, typer.Option(help="Most requests side by side: -np, --max-num-seqs.")] = 8,
    pass_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens that pass together at most (-b, --max-num-batched-tokens); default: 2,048, under vLLM 8,192 "
            "on cards of 70 GiB and more but the A100."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="How prompts pass: beside tokens of other requests, in parts (vLLM, llama-server), or alone, whole "
            "and before these (SGLang); default: as the stack's engine does."
        ),
    ] = None,
    max_ttft: Annotated[
        str | None, typer.Option(help="Promised 99th percentile of the time to the first token: 2s.")
    ] = None,
    max_tpot: Annotated[
        str | None, typer.Option(help="Promised 99th percentile of the time per output token: 100ms.")
    ] = None,
    basis: options.Basis = "own",
    assume: options.Assume = None,
    assumptions: options.AssumptionsFile = None,
    sets: options.Sets = None,
    stack: options.Stack = None,
    dtype: options.Dtype = None,
    formats: options.Formats = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Have designs serve requests as they arrive: percentiles of TTFT and TPOT at each rate, and what tokens cost.

    Example: pregate arrivals switch-base-8 --hardware a100-sxm4-80gb --policies pregate,gpu_only --requests 100
    """
    came = _asked(arrivals, requests, input_tokens, output_tokens, seed)
    architecture = build_model(model, dtype, None, formats)
    machine = build_machine(hardware, stack, None, sets)
    names = None if policies is None else distinct(policies, "--policies")
    say_scale_of_fp8((formats, dtype), [machine])
    say_beyond_context(architecture, int((came.input_tokens + came.output_tokens).max()))
    from pregate.economics.arrivals import under_arrivals

    with spinner("serving") as update:
        report = under_arrivals(
            architecture,
            machine,
            names,
            came,
            _rates(arrivals, rates),
            slots=slots,
            pass_tokens=pass_tokens,
            prompts=prompts,
            promise=objective_of(max_ttft, max_tpot),
            basis=basis,
            assumptions=assumed(assumptions, assume),
            seed=seed,
            progress=update,
        )
    if policies is None:
        usual_designs.say_engine(architecture, machine.stack.name)
    document = report.to_dict()
    if not render.print_data(format, document, document["rows"]):
        _print(report)
    raise typer.Exit(0 if any(row.keeps for row in report.rows) else NOTHING_SERVES)


def _rates(path: Path | None, text: str | None) -> tuple[float, ...]:
    """The rates of the options: none is as a file has it."""
    if text is None:
        return (USUAL_RATE,) if path is None else ()
    return tuple(float(word) for word in distinct(text, "--rates"))


def _asked(path: Path | None, n: int, input_tokens: int, output_tokens: int, seed: int) -> ArrivalTrace:
    """The requests of the options: lengths are of Poisson arrivals, a file has its own."""
    if path is None:
        from traces.requests import poisson_arrivals

        return poisson_arrivals(n, USUAL_RATE, input_tokens, output_tokens, seed)
    from traces.importers.arrivals import load_arrivals

    return load_arrivals(path).first(n)


def _print(report: ArrivalReport) -> None:
    table = render.new_table(
        f"{report.model} on {report.hardware}: {report.n_requests:,} requests of {report.source}, "
        f"{report.slots} at once at most"
    )
    table.add_column("design", no_wrap=True)
    for head in (
        "requests/s",
        "at once",
        "busy",
        "most/s",
        "TTFT p50",
        "TTFT p99",
        "TPOT p99",
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
        "In brackets: 95 % over what predictions may be off by and which requests come; grows: the queue may. At once: "
        f"as many as give the least p99 TTFT. {report.how_prompts_pass}"
    )
    print(f"Machine constants: {report.calibration}.")
    print(f"Routing: {report.routing}.")


def _cells(row: UnderArrivals) -> tuple[str, ...]:
    from pregate.card.display.phrases import rate

    asked, most = rate(row.requests_per_s), rate(row.capacity.value)
    if row.grows:
        return (row.design, asked, str(row.slots), "100%", most, "grows", "the queue grows", "-", "-")
    cost = row.usd_per_million
    return (
        row.design, asked, str(row.slots), f"{row.busy:.0%}", most,
        render.si(row.ttft_s[50].value, "s"), _time(row.ttft_s[99]), _time(row.tpot_s[99]),
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
