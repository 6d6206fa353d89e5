"""What `pregate plan` is asked about, and its options, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodels.specs.set_options import parse_sets
from pregate.cli import options
from pregate.cli.option_values import build_model, distinct, machine_names
from pregate.cli.trained_context import longest_of, say_beyond_context
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture


@dataclass(frozen=True, slots=True)
class CardQuestion:
    """A model, machines, requests and what they are judged by, as options state them."""

    model: options.Model
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            help="Machine (`pregate hardware`), or with its host: 'RTX 4090 + 9950X 96GB'; or YAML file; several by "
            "comma are ranked; default: this machine.",
        ),
    ] = None
    host: Annotated[
        str | None,
        typer.Option(
            help="Host by name or file, with its memory: '9950X, 96GB DDR5-6000'; default: the machine's usual one."
        ),
    ] = None
    link: Annotated[str | None, typer.Option(help="Link by name or file, in place of the machine's usual one.")] = None
    stack: Annotated[
        str | None, typer.Option(help="Software to look at, by comma; default: all that run such a model.")
    ] = None
    trace: options.TraceFile = None
    objective: Annotated[str, typer.Option(help="request, ttft, tpot or throughput.")] = "request"
    now: Annotated[
        str | None, typer.Option("--now", help="What runs today: STACK/DESIGN, such as llama-cpp/gpu_only@layers=cpu.")
    ] = None
    policies: Annotated[
        str | None, typer.Option(help="Designs to judge beside those of the software, by comma: ./mine.py:MyPolicy.")
    ] = None
    input_tokens: Annotated[int, typer.Option(help="Prompt tokens of a request.")] = 512
    output_tokens: Annotated[int, typer.Option(help="Generated tokens of a request.")] = 256
    batch: Annotated[int | None, typer.Option("--batch", "--concurrency", help="Requests at once; default: 1.")] = None
    popularity: options.Popularity = None
    hbm: options.Hbm = None
    dram: Annotated[str | None, typer.Option(help="Memory of the host, such as 96GB.")] = None
    sets: options.Sets = None
    dtype: options.Dtype = None
    formats: options.Formats = None
    top_k: options.TopK = None
    seed: options.Seed = 0
    basis: Annotated[
        str | None, typer.Option(help="Of several machines: own (bought, with electricity; the default) or rent.")
    ] = None
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", help="Of several machines: a figure of their cost, as of `pregate cost`."),
    ] = None

    def architecture(self) -> ModelArchitecture:
        """The model as it is published, or in the formats asked for."""
        return build_model(self.model, self.dtype, self.top_k, self.formats)

    def overrides(self) -> dict[str, float | str]:
        """What `--set` says, and options of their own that say the same. Raises `InvalidInput` for one said twice."""
        found: dict[str, float | str] = {**parse_sets(self.sets)}
        own = {"host": self.host, "link": self.link, "hbm_bytes": self.hbm, "host.dram_bytes": self.dram}
        for key, value in own.items():
            if value is not None and found.setdefault(key, value) != value:
                raise InvalidInput(f"--set {key} is given twice: give it once")
        return found

    def machines(self) -> list[str]:
        """The machines by name, none: this one. Raises `InvalidInput` for what is asked of one only, or of several."""
        names = [] if self.hardware is None else machine_names(self.hardware)
        if len(names) > 1 and self.now is not None:
            raise InvalidInput("--now is what runs on one machine: leave it out, or name one machine")
        if len(names) < 2 and (self.basis, self.assume) != (None, None):
            raise InvalidInput(
                "--basis and --assume are of several machines: name them by comma, or ask `pregate cost`"
            )
        return names

    def stacks(self) -> list[str] | None:
        """The software to look at; None: all that runs such a model."""
        return None if self.stack is None else [name.strip() for name in self.stack.split(",")]

    def requests(self, model: ModelArchitecture) -> dict[str, Any]:
        """What is asked of `model`, as `pregate.plan` and `rank_machines` take it: requests or a trace, designs, goal.

        Tells of requests that are longer than what the model was trained on.
        """
        from pregate.card.job import RequestLoad
        from pregate.routing_traces import load_popularity, load_trace

        trace = None if self.trace is None else load_trace(self.trace, batch=self.batch, model=model)
        job = None if trace is not None else RequestLoad(self.input_tokens, self.output_tokens, self.batch or 1)
        say_beyond_context(model, self.input_tokens + self.output_tokens if trace is None else longest_of(trace))
        return {
            "job": job,
            "trace": trace,
            "objective": self.objective,
            "stacks": self.stacks(),
            "popularity": None if self.popularity is None else load_popularity(self.popularity, model=model),
            "seed": self.seed,
            "policies": [] if self.policies is None else distinct(self.policies, "--policies"),
        }
