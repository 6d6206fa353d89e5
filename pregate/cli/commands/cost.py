"""`pregate cost`: money and energy of designs, every assumption printed with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options, usual_designs
from pregate.cli.assumption_lines import say_scale_of_fp8, say_weights
from pregate.cli.option_values import assumed, build_machine, build_model, distinct
from pregate.cli.progress import spinner
from pregate.cli.trained_context import say_beyond_context
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from pregate.economics.cost_draws import Estimate
    from pregate.economics.costing import CostReport
    from pregate.economics.serving import LatencyPromise

_USUAL = "on_demand,on_demand+lru,pregate,pregate+lru,gpu_only"

NOTHING_SERVES = 1
"""Exit status where no design serves the requests."""


def cost(
    model: options.Model,
    hardware: options.Hardware,
    policies: Annotated[
        str | None,
        typer.Option(
            help=f"Designs, by comma; the first is what runs now. Default: {_USUAL}, {usual_designs.OR_ENGINE}."
        ),
    ] = None,
    input_tokens: options.InputTokens = 256,
    output_tokens: options.OutputTokens = 256,
    rate: Annotated[float, typer.Option(help="Requests a second to serve.")] = 0.1,
    max_ttft: Annotated[str | None, typer.Option(help="Promised time to the first token: 2s, 500ms.")] = None,
    max_tpot: Annotated[str | None, typer.Option(help="Promised time per output token: 100ms.")] = None,
    basis: options.Basis = "own",
    batches: Annotated[str, typer.Option(help="Batches that are tried.")] = "1,2,4,8,16,32",
    assume: options.Assume = None,
    assumptions: options.AssumptionsFile = None,
    sets: options.Sets = None,
    stack: options.Stack = None,
    dtype: options.Dtype = None,
    formats: options.Formats = None,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Say what designs cost: money and energy per token and request, machines for a rate, payback, with ranges.

    Example: pregate cost switch-base-8 --hardware a100-sxm4-80gb --policies on_demand,pregate --output-tokens 16
    """
    architecture = build_model(model, dtype, None, formats)
    machine = build_machine(hardware, stack, None, sets)
    say_scale_of_fp8((formats, dtype), [machine])
    say_weights(architecture, [machine])
    say_beyond_context(architecture, input_tokens + output_tokens)
    tried = _batches(batches)
    if policies is None:
        from pregate.card.job import RequestLoad, workpiece

        job = RequestLoad(input_tokens, max(output_tokens, 2), tried[-1])
        names = usual_designs.of_work(_USUAL, architecture, machine, lambda: workpiece(architecture, job))
    else:
        names = distinct(policies, "--policies")
    from pregate.economics.costing import costs

    with spinner("costing") as update:
        report = costs(
            architecture,
            machine,
            names,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            requests_per_s=rate,
            objective=objective_of(max_ttft, max_tpot),
            basis=basis,
            batches=tried,
            assumptions=assumed(assumptions, assume),
            progress=update,
        )
    document = report.to_dict()
    if not render.print_data(format, document, document["designs"]):
        _print(report)
    raise typer.Exit(0 if report.designs else NOTHING_SERVES)


def objective_of(max_ttft: str | None, max_tpot: str | None) -> LatencyPromise:
    """What the options promise."""
    from hwmodels.quantity import parse_override
    from pregate.economics.serving import LatencyPromise

    return LatencyPromise(*(None if text is None else parse_override(text, "time") for text in (max_ttft, max_tpot)))


def _batches(text: str) -> tuple[int, ...]:
    words = distinct(text, "--batches")
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= 4096 for word in words):
        raise InvalidInput(f"--batches {text!r}: whole numbers from 1 to 4096, by comma")
    return tuple(sorted(int(word) for word in words))


def _print(report: CostReport) -> None:
    table = render.new_table(
        f"{report.model} on {report.hardware}, {'rented' if report.basis == 'rent' else 'bought'}: "
        f"{report.request.input_tokens} + {report.request.output_tokens} tokens, {report.requests_per_s:g} requests/s"
    )
    table.add_column("design", no_wrap=True)
    heads = ("batch", "TTFT", "TPOT", "USD/M tokens", "J/token", "machines", "total USD", "cheapest in")
    for head in heads:
        table.add_column(head, justify="right")
    for design in report.designs:
        served = design.served
        table.add_row(
            served.design, str(served.batch), render.si(served.ttft_s, "s"), render.si(served.tpot_s, "s"),
            _shown(design.per_million_tokens), _shown(design.joules_per_token), _shown(design.n_machines),
            _shown(design.total), f"{design.cheapest_in:.0%}",
        )  # fmt: skip
    render.print_table(table)
    for one in report.unserved:
        print(f"Not served: {one.reason}.")
    for design in report.designs:
        if design.served.n_under_way > 1:
            print(f"{design.served.design}: {design.served.n_under_way} parts of a batch under way, one a stage.")
    print(report.verdict())
    costs = ", ".join(f"{one.served.design} {_shown(one.per_request, 1000)}" for one in report.designs)
    print(f"USD for a thousand requests: {costs}.")
    paid = [f"{one.served.design} {_days(one.payback_days)}" for one in report.designs if one.payback_days is not None]
    if paid:
        print(f"A change from {report.now} has paid in: {', '.join(paid)}.")
    if report.gpus_for_gpu_only > 1:
        print(f"gpu_only would need {report.gpus_for_gpu_only} of these cards, for memory alone.")
    if report.drivers:
        top = list(report.drivers.items())[:3]
        print(f"What the choice hangs on: {', '.join(f'{name} {share:.0%}' for name, share in top)} of its variance.")
    print(
        "In brackets: 95 % over all assumptions; tokens are output tokens. Batches start and end together: continuous "
        "batching serves more, queues make TTFT longer."
    )
    print(f"Machine constants: {report.calibration}.")
    print("Assumed, what the choice hangs on first (--assume NAME=NUMBER for your own):")
    for name, figure in sorted(report.assumed.items(), key=lambda one: -report.drivers.get(one[0], 0)):
        print(f"  {name} = {figure}")


def _shown(found: Estimate, times: int = 1) -> str:
    value, low, high = (_figure(times * number) for number in (found.value, found.low, found.high))
    return value if found.low == found.high == found.value else f"{value} [{low}, {high}]"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _days(found: Estimate) -> str:
    def said(days: float) -> str:
        return "never" if days == float("inf") else f"{days:.3g}"

    if found.low == found.value == found.high == float("inf"):
        return "never"
    return f"{said(found.value)} [{said(found.low)}, {said(found.high)}] days"
