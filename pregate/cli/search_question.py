"""What `pregate optimize` searches, and by what it judges: its options, declared once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hwmodels.platform import machines_of
from pregate.cli import options, usual_designs
from pregate.cli.arguments import is_typed
from pregate.cli.consent import require_consent_along
from pregate.cli.option_values import build_cache, build_model, listed
from pregate.cli.speculative import drafting_of
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from pregate.sweeps.machines import MachineRecipe
    from pregate.sweeps.workloads import TraceRecipe


_USUAL = "gpu_only,on_demand,pregate"
_RANGE = re.compile(r"(.+?)\.\.(.+?)(?::(linear|log))?")
_SEARCHED = (
    "model", "hardware", "policies", "axis", "trace", "batch", "input_tokens", "output_tokens", "active", "cache",
    "speculative", "tier", "stack", "dtype", "formats", "top_k",
)  # fmt: skip
"""Options that a sweep's file takes the place of."""


@dataclass(frozen=True, slots=True)
class SearchQuestion:
    """A model, machines, designs and what varies, or a sweep's file of these; goals, and how they are looked for."""

    model: Annotated[str | None, typer.Argument(help="Model name, YAML file or Hugging Face config.json.")] = None
    sweep: Annotated[Path | None, typer.Option(help="Search what this file of `pregate sweep` states.")] = None
    hardware: Annotated[
        str | None, typer.Option(help="Machines, by comma; default: all that ship and that --stack runs on.")
    ] = None
    policies: Annotated[
        str | None, typer.Option(help=f"Designs, by comma; default: {_USUAL}, {usual_designs.OR_ENGINE}.")
    ] = None
    axis: Annotated[
        list[str] | None,
        typer.Option(help="What varies: batch=1,2,4 or link=pcie4-x16,pcie5-x16; a range: hbm_bytes=8GB..80GB:log."),
    ] = None
    minimize: Annotated[list[str] | None, typer.Option(help="A figure: price_usd, tpot_p99_s, ...")] = None
    maximize: Annotated[list[str] | None, typer.Option(help="A figure: tokens_per_s, hit_rate, ...")] = None
    subject_to: Annotated[
        list[str] | None, typer.Option(help="A constraint: tpot_p99_s<=50ms, tokens_per_s>=20, price_usd<=2000.")
    ] = None
    method: Annotated[str, typer.Option(help="exhaustive, optuna, or auto: exhaustive where small.")] = "auto"
    trials: Annotated[int | None, typer.Option(help="Points that Optuna tries; default: 2000.", min=1)] = None
    plot: Annotated[Path | None, typer.Option(help="Draw the front (PNG, SVG or PDF).")] = None
    jobs: options.Jobs = None
    trace: options.TraceFile = None
    batch: options.BatchOrMax = None
    input_tokens: options.InputTokens = 256
    output_tokens: options.OutputTokens = 256
    active: options.Active = None
    cache: options.CacheText = None
    speculative: options.Speculative = None
    tier: options.Tier = "dram"
    stack: options.Stack = None
    dtype: options.Dtype = None
    formats: options.Formats = None
    top_k: options.TopK = None
    seed: Annotated[int, typer.Option(help="Seed of synthetic traces and of Optuna.", min=0)] = 0
    yes: options.Yes = False

    def objectives(self) -> list[str]:
        """What is best, what is minimised first; none where nothing is asked for."""
        return [*(f"{name}:min" for name in self.minimize or ()), *(f"{name}:max" for name in self.maximize or ())]

    def searched(self, context: typer.Context) -> dict[str, Any]:
        """What is searched, as `pregate.optimize` takes it.

        Raises `InvalidInput` where nothing is named, or the search is larger than may be begun without consent.
        """
        if self.sweep is not None:
            found = {"seed": self.seed} | _of_file(context, self.sweep)
        elif self.model is not None:
            found = self._of_options(self.model)
        else:
            raise InvalidInput("nothing to search: name a model (`pregate models`), or a file with --sweep")
        if self.trials is not None:
            found["n_trials"] = self.trials
        if not self.yes:
            require_consent_along(found["model"], found["trace"], found["axes"])
        return found

    def _of_options(self, model: str) -> dict[str, Any]:
        architecture = build_model(model, self.dtype, self.top_k, self.formats)
        from pregate.ask.speculative import with_and_without
        from pregate.spellings.names import our_name

        stack = None if self.stack is None else our_name("stack", self.stack)
        drafting = drafting_of(self.speculative)
        axes, machines = _axes(self.axis or (), self.hardware, stack, {} if drafting is None else drafting.overrides)
        offloads = usual_designs.asks_about_offloading(self.cache, self.tier, axes=axes)
        engines = [] if stack is None or offloads else [stack]
        if self.policies is None:
            named = usual_designs.along_axes(_USUAL, architecture, engines)
        else:
            named = listed(self.policies)
        return {
            "model": architecture, "hw": machines, "trace": self._workload(), "axes": axes,
            "policies": with_and_without(named, drafting), "cache": build_cache(self.cache), "expert_tier": self.tier,
            "seed": self.seed,
        }  # fmt: skip

    def _workload(self) -> TraceRecipe:
        from pregate.sweeps.workloads import TraceRecipe

        n: int | Literal["max"] | None = None
        if self.batch is not None:
            n = "max" if self.batch == "max" else int(self.batch)
        if self.trace is None:
            return TraceRecipe(self.input_tokens, self.output_tokens, n, self.seed, n_active=self.active)
        return TraceRecipe(path=self.trace, batch=n)


def _of_file(context: typer.Context, path: Path) -> dict[str, Any]:
    """What a sweep's file states; a sample's ranges and number of points become ranges and trials."""
    from pregate.sweeps.sweep_file import read_sweep

    typed = [name for name in context.params if is_typed(context, name)]
    for name in typed:
        if name in _SEARCHED:
            raise InvalidInput(f"--sweep {path} states what is searched: leave out {name.replace('_', '-')}")
    arguments = read_sweep(path)
    sample, draws = arguments.pop("sample"), arguments.pop("draws")
    if draws:
        raise InvalidInput(f"{path}: draws = {draws}: a search has no intervals, leave it out")
    if sample is not None:
        arguments |= {"n_trials": sample.n, "seed": sample.seed}
    return arguments | ({"seed": context.params["seed"]} if "seed" in typed else {})


def _axes(
    texts: Sequence[str], hardware: str | None, stack: str | None, overrides: dict[str, float | str]
) -> tuple[dict[str, Any], MachineRecipe]:
    """The axes of the options, machines first where there are several. Raises `InvalidInput` for other text."""
    from pregate.spellings.machine_names import machines_listed
    from pregate.spellings.names import our_name
    from pregate.sweeps.machines import MachineRecipe

    named = [] if hardware is None else filter(None, machines_listed(hardware))
    machines = list(machines_of(stack)) if hardware is None else [our_name("hardware", one) for one in named]
    if not machines:
        raise InvalidInput(
            f"--hardware {hardware!r} names no machine: leave it out for every machine that --stack runs on"
        )
    axes: dict[str, Any] = {}
    for text in texts:
        name, _, values = text.partition("=")
        match = _RANGE.fullmatch(values)
        if not name or not values:
            raise InvalidInput(f"--axis {text!r} is neither NAME=VALUE,VALUE,... nor NAME=LOW..HIGH")
        if name in axes:
            raise InvalidInput(f"--axis {name} is given twice")
        axes[name] = listed(values) if match is None else tuple(part for part in match.groups() if part)
    if "hardware" in axes and hardware is not None:
        raise InvalidInput("--hardware and --axis hardware are the same: give one")
    if "hardware" not in axes and len(machines) > 1:
        axes = {"hardware": machines, **axes}
    return axes, MachineRecipe("" if "hardware" in axes else machines[0], stack, overrides or None)
