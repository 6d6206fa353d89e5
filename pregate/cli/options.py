"""The options that commands share, declared once, and the workload and machine they describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hwmodels.platform import Platform
from hwmodels.quantity import parse_override
from offload.policies import cache_named
from offload.policy import Cache
from pregate import api
from simulator.modes import Modes
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

__all__ = [
    "CHECKED",
    "Active",
    "BackendName",
    "Batch",
    "CacheText",
    "Check",
    "Dtype",
    "Engine",
    "Format",
    "Graphs",
    "Hardware",
    "Hbm",
    "InputTokens",
    "LinkSpeed",
    "Model",
    "ModesText",
    "OutputFormat",
    "OutputTokens",
    "Popularity",
    "Seed",
    "Sets",
    "Stack",
    "Tier",
    "TopK",
    "TraceFile",
    "Yes",
    "as_recorded",
    "build_cache",
    "build_machine",
    "build_model",
    "build_modes",
    "build_trace",
    "check_storage",
    "require_folder",
    "require_picture",
    "spinner",
]  # fmt: skip


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


Model = Annotated[str, typer.Argument(help="Model name (`pregate models`), YAML file or Hugging Face config.json.")]
Hardware = Annotated[str, typer.Option("--hardware", help="Machine (`pregate hardware`) or YAML file.")]
Stack = Annotated[str | None, typer.Option(help="Software stack; default: the one fitted on the machine.")]
TraceFile = Annotated[Path | None, typer.Option("--trace", help="Routing trace; default: a synthetic one.")]
Popularity = Annotated[
    Path | None,
    typer.Option("--popularity", help="How often each expert is chosen: a table of counts, or a trace to count."),
]
Batch = Annotated[int | None, typer.Option(help="Sequences side by side; default: as recorded, or 1.")]
InputTokens = Annotated[int, typer.Option(help="Prompt tokens a sequence (synthetic traces).")]
OutputTokens = Annotated[int, typer.Option(help="Generated tokens a sequence (synthetic traces).")]
Active = Annotated[int | None, typer.Option(help="Force this many active experts a layer (synthetic traces).")]
CacheText = Annotated[str | None, typer.Option("--cache", help="Expert cache: EVICTION:RATIO or EVICTION:SLOTS.")]
Hbm = Annotated[str | None, typer.Option(help="HBM of the accelerator, such as 24GiB.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override a number: link.h2d_bytes_per_s=64e9, stack.sync_s=5us.")
]
Seed = Annotated[int, typer.Option(help="Seed of synthetic traces.", min=0)]
Tier = Annotated[str, typer.Option(help="Where experts wait: dram or ssd.")]
Engine = Annotated[str, typer.Option(help="auto, des (SimPy, the definition), recurrence, event or stream.")]
Check = Annotated[bool, typer.Option("--check", help="Run SimPy, the definition, too: every op must get its times.")]
Yes = Annotated[bool, typer.Option("--yes", help="Go on with a workload that takes many minutes.")]
CHECKED = "Checked: SimPy gives every op the same start and end, bit for bit."
ModesText = Annotated[
    str | None, typer.Option("--modes", help="Not FIFO: shared or priority, chunk:1MiB, hbm, cancel; comma-separated.")
]
TopK = Annotated[int | None, typer.Option(help="Experts a token, where a trace overrode the model's.")]
BackendName = Annotated[str, typer.Option("--backend", help="auto (CUDA where there is a device), cpu or cuda.")]
Graphs = Annotated[
    bool, typer.Option("--graphs", help="CUDA: run sections of layers as CUDA graphs, not kernel by kernel.")
]
LinkSpeed = Annotated[
    str, typer.Option("--link", help="Link that the CPU back end imitates: 2GB/s, or memory for as fast as that.")
]
Dtype = Annotated[str | None, typer.Option(help="Weights in this format instead of the published one.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="table, json or csv.")]


def build_model(name: str, dtype: str | None, top_k: int | None) -> ModelArchitecture:
    """The model of the options."""
    return api.load_model(name, dtype=dtype, top_k=top_k)


def build_machine(hardware: str, stack: str | None, hbm: str | None, sets: list[str] | None) -> Platform:
    """The machine of the options. Raises `InvalidInput` for a `--set` that is no KEY=VALUE or is given twice."""
    overrides: dict[str, float | str] = {}
    for text in sets or []:
        key, separator, value = text.partition("=")
        if not separator or not key or not value:
            raise InvalidInput(f"--set {text!r} is not KEY=VALUE, such as link.h2d_bytes_per_s=64e9")
        if key in overrides:
            raise InvalidInput(f"--set {key} is given twice")
        overrides[key] = value
    if hbm is not None:
        overrides["hbm_bytes"] = hbm
    return api.load_hardware(hardware, stack, overrides)


def check_storage(tier: str, storage: Path | None) -> None:
    """Raise `InvalidInput` for a folder of experts that do not wait there."""
    if storage is not None and tier != "ssd":
        raise InvalidInput("--storage is for experts that wait there: add --tier ssd, or leave it out")


def build_cache(text: str | None) -> Cache | None:
    """The cache of the options."""
    return None if text is None else cache_named(text)


def build_modes(text: str | None) -> Modes:
    """The modes of the options: `shared` or `priority` links, `chunk:1MiB`, `hbm` shared, `cancel`."""
    given: dict[str, Any] = {}
    for word in (text or "").split(","):
        match word.strip().partition(":"):
            case ("", _, _):
                continue
            case ("shared" | "priority" as link, "", _) if given.get("link", link) == link:
                given["link"] = link
            case ("shared" | "priority", "", _):
                raise InvalidInput("--modes: a link is shared or by priority, not both")
            case ("chunk", ":", _) if "chunk_bytes" in given:
                raise InvalidInput("--modes: chunk is given twice: give it once")
            case ("chunk", ":", size):
                given["chunk_bytes"] = int(parse_override(size, "size"))
            case ("hbm", "", _):
                given["hbm_shared"] = True
            case ("cancel", "", _):
                given["cancel"] = True
            case _:
                raise unknown_name(
                    "mode", word.strip(), ["shared", "priority", "chunk:1MiB", "hbm", "cancel"], "--modes"
                )
    return Modes(**given)


def build_trace(
    model: ModelArchitecture,
    path: Path | None,
    *,
    batch: int | None,
    input_tokens: int,
    output_tokens: int,
    active: int | None,
    seed: int,
    popularity: Path | None = None,
    yes: bool = True,
) -> RoutingTrace:
    """The trace of the options: a file (its sequences run at the batch asked for) or a synthetic one."""
    if path is not None:
        if active is not None:
            raise InvalidInput("--active forces a synthetic trace: leave it out, or leave out --trace")
        if (input_tokens, output_tokens, seed) != (256, 256, 0):
            raise InvalidInput("--input-tokens, --output-tokens and --seed make a synthetic trace: leave out --trace")
        if popularity is not None:
            raise InvalidInput("--popularity shapes a synthetic trace: leave it out, or leave out --trace")
        return api.load_trace(path, batch=batch, model=model)
    if not yes:
        _require_consent(model, output_tokens, 1 if batch is None else batch, input_tokens)
    counted = None if popularity is None else api.load_popularity(popularity, model=model)
    return api.synthesize(
        model, input_tokens, output_tokens, 1 if batch is None else batch, seed, n_active=active, popularity=counted
    )


LARGE_JOB_LAYERS = 5_000_000
"""Forward passes x layers of a workload that is simulated without being asked again: some minutes a design."""

_LAYERS_PER_S = 20_000
"""Layers that are decoded, priced and timed a second, of the order of magnitude, by one core."""


def _require_consent(model: ModelArchitecture, output_tokens: int, batch: int, input_tokens: int) -> None:
    """Raise `InvalidInput` for a workload that takes long, saying how long: `--yes` is the way on."""
    layers = max(output_tokens, 1) * model.decoder.n_layers
    cells = (input_tokens + output_tokens) * max(batch, 1) * model.n_moe_layers * model.top_k
    if layers > LARGE_JOB_LAYERS or cells > 20 * LARGE_JOB_LAYERS:
        minutes = max(layers, cells / 20) / _LAYERS_PER_S / 60
        raise InvalidInput(
            f"--output-tokens {output_tokens} x batch {batch} is {layers:.2g} layers to simulate, some {minutes:.0f} "
            f"minutes and {cells * 4 / 1e9:.1f} GB a design: add --yes, or take fewer tokens"
        )


def require_picture(path: Path) -> None:
    """Raise `InvalidInput` before the work unless `path` can become a picture."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InvalidInput(f"{path}: pictures are written as .png, .svg or .pdf")
    require_folder(path)


def require_folder(path: Path) -> None:
    """Raise `InvalidInput` before the work unless a file can be written at `path`."""
    if not path.resolve().parent.is_dir():
        raise InvalidInput(f"{path}: cannot be written, there is no folder {path.parent}")
    if path.is_dir():
        raise InvalidInput(f"{path}: it is a folder: name a file in it")


def as_recorded(model: ModelArchitecture, trace: RoutingTrace, dtype: str | None) -> ModelArchitecture:
    """The model with experts of the size that the trace recorded, unless a format was asked for."""
    from pregate.ask.recorded_size import with_recorded_experts

    return model if dtype is not None else with_recorded_experts(model, trace)


@contextmanager
def spinner(title: str, *, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """A moving line on standard error while long work runs; `update(text)` says what is being done.

    `lines`: where standard error is no terminal, a line for each, for work of minutes that a log should show.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, markup=False)
    with console.status(title) as status:

        def update(what: str) -> None:
            status.update(Text(f"{title}: {what}"))
            if lines and not console.is_terminal:
                typer.echo(f"{title}: {what}", err=True)

        yield update
