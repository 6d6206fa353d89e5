"""What `pregate arrivals` is asked about, and its options, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options, usual_designs
from pregate.cli.option_values import distinct

if TYPE_CHECKING:
    from pregate.economics.batching import Server
    from traces.requests import ArrivalTrace


USUAL_RATE = 0.1
"""Requests a second of Poisson arrivals where nothing else is said."""


@dataclass(frozen=True, slots=True)
class ArrivalsQuestion:
    """A model, a machine, designs, requests that arrive, how they are served and what was promised."""

    model: options.Model
    hardware: options.Hardware
    policies: Annotated[
        str | None,
        typer.Option(help=f"Designs, by comma; default: {usual_designs.IN_QUEUES}, {usual_designs.OR_ENGINE}."),
    ] = None
    arrivals: Annotated[
        Path | None,
        typer.Option(
            "--arrivals",
            help="Who asks when: a table or JSON lines of times, tokens of prompts and of answers (Azure's, "
            "Mooncake's, or arrival_s,input_tokens,output_tokens); default: Poisson arrivals of one length.",
        ),
    ] = None
    rates: Annotated[
        str | None,
        typer.Option(help="Requests a second, by comma; default: as they arrive, or 0.1 of Poisson arrivals."),
    ] = None
    requests: Annotated[int, typer.Option(help="Requests: the first of a file.")] = 1000
    input_tokens: options.InputTokens = 256
    output_tokens: options.OutputTokens = 256
    slots: Annotated[int, typer.Option(help="Most requests side by side: -np, --max-num-seqs.")] = 8
    pass_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens that pass together at most (-b, --max-num-batched-tokens); default: 2,048, under vLLM 8,192 "
            "on cards of 70 GiB and more but the A100."
        ),
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(
            help="How prompts pass: beside tokens of other requests, in parts (vLLM, llama-server), or alone, whole "
            "and before these (SGLang); default: as the stack's engine does."
        ),
    ] = None
    prefix_cache: Annotated[
        int | None,
        typer.Option(
            help="Tokens of keys and values that memory is kept for and that are held from one request to the next, "
            "the least recently used given up first (vLLM says its GPU KV cache size at its start); for traces with "
            "hash_ids; default: none."
        ),
    ] = None
    max_ttft: Annotated[
        str | None, typer.Option(help="Promised 99th percentile of the time to the first token: 2s.")
    ] = None
    max_tpot: Annotated[
        str | None, typer.Option(help="Promised 99th percentile of the time per output token: 100ms.")
    ] = None
    basis: options.Basis = "own"
    assume: options.Assume = None
    assumptions: options.AssumptionsFile = None
    sets: options.Sets = None
    stack: options.Stack = None
    dtype: options.Dtype = None
    formats: options.Formats = None
    seed: options.Seed = 0

    def came(self) -> ArrivalTrace:
        """Who asks when: lengths are of Poisson arrivals, a file has its own."""
        if self.arrivals is None:
            from traces.requests import poisson_arrivals

            return poisson_arrivals(self.requests, USUAL_RATE, self.input_tokens, self.output_tokens, self.seed)
        from traces.importers.arrivals import load_arrivals

        return load_arrivals(self.arrivals).first(self.requests)

    def server(self) -> Server:
        """How they are served."""
        from pregate.economics.batching import Server

        return Server(self.slots, self.pass_tokens, self.prompts, self.prefix_cache)

    def rates_asked(self) -> tuple[float, ...]:
        """Requests a second; none is as a file has them."""
        if self.rates is None:
            return (USUAL_RATE,) if self.arrivals is None else ()
        return tuple(float(word) for word in distinct(self.rates, "--rates"))
