"""`pregate explore`: one HTML file with sliders, the winner map, waits and a timeline, computed where it is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pregate.cli import options, usual_designs
from pregate.cli.assumption_lines import say_weights
from pregate.cli.option_values import build_machine, build_model, distinct, machine_names
from pregate.cli.output_paths import require_folder, say_written
from pregate.cli.progress import spinner
from pregate.page import DESIGNS
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture

Value = TypeVar("Value", int, float)
_USUAL = ",".join(DESIGNS)


def explore(
    models: Annotated[list[str], typer.Argument(help="Models, as for `compare`; the page has a list of them.")],
    hardware: Annotated[str, typer.Option(help="Machines (`pregate hardware`) or YAML files, by comma.")],
    output: options.Page,
    policies: Annotated[
        str | None, typer.Option(help=f"Designs, by comma; default: {_USUAL}, {usual_designs.OR_ENGINE}.")
    ] = None,
    batches: Annotated[str, typer.Option(help="Stops of the batch slider.")] = "1,4,16",
    prompts: Annotated[str, typer.Option(help="Stops of the prompt slider, tokens a sequence.")] = "32,256",
    active: Annotated[
        str, typer.Option(help="Stops of active experts: shares of all, forced in each layer; 0 as routed.")
    ] = "0,0.25,1",
    hbm_factors: Annotated[str, typer.Option(help="Stops of HBM, as multiples of a machine's own.")] = "0.25,0.5,1,2",
    output_tokens: Annotated[int, typer.Option(help="Generated tokens a sequence.")] = 8,
    stack: options.Stack = None,
    dtype: options.Dtype = None,
    formats: options.Formats = None,
    seed: options.Seed = 0,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep nothing on disk of what the page holds.")] = False,
) -> None:
    """Write a page to play with: sliders for machine and workload, winners, waits and a timeline, in one file.

    Example: pregate explore switch-base-8 --hardware a100-sxm4-80gb --batches 1 --prompts 32 -o page.html
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise InvalidInput(f"{output}: a page ends in .html")
    require_folder(output)
    sliders = {
        "batches": _numbers(batches, "--batches", int),
        "prompts": _numbers(prompts, "--prompts", int),
        "actives": _numbers(active, "--active", float),
        "hbm_factors": _numbers(hbm_factors, "--hbm-factors", float),
    }
    architectures = [build_model(name, dtype, None, formats) for name in models]
    machines = [build_machine(name, stack, None, None) for name in machine_names(hardware)]
    for architecture in architectures:
        say_weights(architecture, machines)
    designs = (
        usual_designs.along_axes(_USUAL, _least_said(architectures), [machine.stack.name for machine in machines])
        if policies is None
        else distinct(policies, "--policies")
    )
    from pregate.page.writing import explore_page

    with spinner("writing the page") as update:
        explore_page(
            architectures, machines, output, designs, progress=update, output_tokens=output_tokens, seed=seed,
            cache_dir=not no_cache, **sliders,
        )  # fmt: skip
    say_written(output)


def _least_said(models: list[ModelArchitecture]) -> ModelArchitecture:
    """The model that decides which designs all can run: an encoder-decoder, which runs on no engine, where one is."""
    return next((model for model in models if model.is_encoder_decoder), models[0])


def _numbers(text: str, option: str, kind: Callable[[str], Value]) -> tuple[Value, ...]:
    """The numbers of a slider, by comma. Raises `InvalidInput` for a word that is none."""
    found = []
    for word in distinct(text, option):
        try:
            found.append(kind(word if word.isascii() else "?"))
        except ValueError:
            raise InvalidInput(f"{option} {word!r} is no number: name stops by comma, such as 1,4,16") from None
    return tuple(found)
