"""One file a command, and their names: where each lives, its one line of help. One is imported when it is called.

In their order: questions, this machine and measurements, traces, trained models, what ships. The list of all has what
stands before the colon of each line.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from pregate.cli.arguments import check_arguments, check_together, is_typed
from pregate.cli.checks.by_option import check_words
from pregate.cli.coercion import coerced_here
from pregate.cli.own_code import load_own_policies


class Entry(NamedTuple):
    """`home`: `module:attribute`, a function or a `Typer` of several; `help`: the first line of what it says itself."""

    home: str
    help: str


COMMANDS: dict[str, Entry] = {
    "plan": Entry(
        "plan:plan",
        "Say what to run on a machine, or which machine to take: how fast, how sure that is, and what would change it.",
    ),
    "compare": Entry(
        "compare:compare",
        "Compare designs: MoE-layer latency, tokens/s, TTFT, TPOT, HBM, link traffic; who wins and what binds it.",
    ),
    "explain": Entry(
        "explain:explain",
        "Explain what one design waits for: shares of the critical path, exact elasticities of a metric by every "
        "number.",
    ),
    "simulate": Entry(
        "simulate:simulate",
        "Simulate one design op by op and write its timeline.",
    ),
    "crossover": Entry(
        "crossover:crossover",
        "Find where another design becomes the best along one axis: to 0.1 %, or to the unit of a count.",
    ),
    "explore": Entry(
        "explore:explore",
        "Write a page to play with: sliders for machine and workload, winners, waits and a timeline, in one file.",
    ),
    "sweep": Entry(
        "sweep:sweep",
        "Sweep machines and workloads: write the dataset, say which policy wins where. A rerun goes on where one "
        "stopped.",
    ),
    "optimize": Entry(
        "optimize:optimize",
        "Find the cheapest or fastest machine and design: all settings that meet every constraint, and the Pareto "
        "front.",
    ),
    "tune": Entry(
        "tune:tune",
        "Tune a design for a trace: policy, lookahead, caches, chunks, precision, placement; whether it still holds.",
    ),
    "arrivals": Entry(
        "arrivals:arrivals",
        "Have designs serve requests as they arrive: percentiles of TTFT and TPOT at each rate, and what tokens cost.",
    ),
    "cost": Entry(
        "cost:cost",
        "Say what designs cost: money and energy per token and request, machines for a rate, payback, with ranges.",
    ),
    "poc": Entry(
        "poc:poc",
        "Plan a proof of concept: candidates and costs, what to measure first, what to accept, when to go back.",
    ),
    "measure": Entry(
        "measure:measure",
        "Measure this machine: copies, GEMMs, every kind of op, launches, waits, storage. About four minutes.",
    ),
    "calibrate": Entry(
        "calibrate:calibrate",
        "Fit this machine and its software on what was measured: constants, their covariance, leave-one-out errors.",
    ),
    "run": Entry(
        "run:run",
        "Execute one design for real on this machine: random weights of the true shapes, the trace's routing.",
    ),
    "validate": Entry(
        "validate:validate",
        "Hold predictions against real runs: predict, write that down, run, and say how right the predictions were.",
    ),
    "reproduce": Entry(
        "reproduce:reproduce",
        "Predict every row of a table of measurements: predicted, measured, error, and the accuracy of each group.",
    ),
    "ledger": Entry(
        "ledger:ledger",
        "Score predictions against what was measured afterwards: held, failed, by how much. Failures stay.",
    ),
    "monitor": Entry(
        "monitor:monitor",
        "Watch a service after launch: skew, hits, stalls, cold experts, drift of routing, and what to do. Alerts "
        "exit 1.",
    ),
    "trace": Entry(
        "trace:app",
        "Import, synthesise, fit and describe routing traces.",
    ),
    "residency": Entry(
        "residency:residency",
        "Replay a trace through expert caches, without timing: hit rates, and what Belady would add, by capacity.",
    ),
    "predictors": Entry(
        "predictors:predictors",
        "Judge predictors on a recorded trace: recall by lookahead, experts guessed and layer, beside controls.",
    ),
    "record": Entry(
        "record:record",
        "Record which experts a Hugging Face model chooses: hooks on its routers while it generates, prefill and "
        "decode.",
    ),
    "train": Entry(
        "train:train",
        "Train a small model whose gates look ahead: conventional gates first, moved 1, 2, 3 blocks, fine-tuned, "
        "compared.",
    ),
    "generate": Entry(
        "generate:generate",
        "Have a trained model generate with its experts offloaded: its own gates decide, measured beside predicted.",
    ),
    "models": Entry(
        "catalogue:models",
        "The models that ship with pregate.",
    ),
    "hardware": Entry(
        "catalogue:hardware",
        "The machines that ship with pregate.",
    ),
    "policies": Entry(
        "catalogue:policies",
        "The designs that ship with pregate, and who published them.",
    ),
}


def root() -> typer.Typer:
    """The command line with every command on it."""
    app = typer.Typer(
        name="pregate",
        help="Predict the latency of offloaded Mixture-of-Experts inference, and how sure that prediction is.",
        epilog="Begin with: pregate plan qwen3-30b-a3b --hardware rtx-4090 --formats q4_k_m",
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        **PLAIN | {"cls": Commands},
    )
    app.callback()(_options)
    return app


def _version(asked: bool) -> None:
    if asked:
        from pregate import __version__

        print(f"pregate {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Predict the latency of offloaded Mixture-of-Experts inference, and how sure that prediction is.

    Without a command: what this machine is taken for, and what to expect of three well-known models on it.
    """
    if context.invoked_subcommand is None:
        from pregate.cli.commands.plan import here

        here()


class Command(TyperCommand):
    """A command that takes each of its options once, and numbers in ASCII digits."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, `--help` included."""
        return coerced_here(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line. Raises `InvalidInput` for what is given twice, or of no use."""
        params = self.get_params(ctx)
        check_arguments(params, args)
        words = [word.partition("=")[0] for word in args]
        rest = super().parse_args(ctx, args)
        load_own_policies(
            self.name, {param.name: ctx.params.get(param.name) for param in params if is_typed(ctx, param.name)}
        )
        check_together(self.name, {param.opts[-1] for param in params if is_typed(ctx, param.name)})
        typed = {param.name: param for param in params if is_typed(ctx, param.name)}
        check_words(self.name, {name: (_spelt(param, words), ctx.params.get(name)) for name, param in typed.items()})
        return rest


def _spelt(param: Any, words: Collection[str]) -> str:
    """A parameter as a user typed it among `words`, or its longest spelling; an argument's name."""
    return str(next((word for word in words if word in param.opts), max(param.opts, key=len)))


class Group(TyperGroup):
    """Several commands under one name."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, `--help` included."""
        return coerced_here(super().get_params(ctx))


PLAIN: dict[str, Any] = {
    "cls": Group,
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
"""How every application looks: plain help, errors as they are, no completion to install."""


class Commands(Group):
    """The group of all commands. The list and its help import none of them; a call imports one."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=entry.help, short_help=f"{entry.help.partition(':')[0].rstrip('.')}.")
            for name, entry in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` name, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _imported(name), rest


def _imported(name: str) -> Any:
    module, _, attribute = COMMANDS[name].home.partition(":")
    found = getattr(import_module(f"pregate.cli.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        app = found
    else:
        app = typer.Typer(**PLAIN)
        app.command(name, cls=Command)(found)
    command = get_command(app)
    command.name = name
    return command
