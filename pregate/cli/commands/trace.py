"""`pregate trace import|synth|fit|stats`: routing traces from recordings, from dials, and looked at."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pregate.cli import options
from pregate.cli.commands import PLAIN, Command
from pregate.cli.consent import require_consent
from pregate.cli.option_values import build_model
from pregate.cli.output_paths import require_trace_file
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.atomic_files import refuse_overwriting
from traces.importers import IMPORTERS
from traces.recorded.listing import recorded_listing

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture
    from traces.synthesis.dials import Dials

app = typer.Typer(help="Import, synthesise, fit and describe routing traces.", no_args_is_help=True, **PLAIN)

TraceArgument = Annotated[Path, typer.Argument(help="Routing trace, or a recording pregate can import.")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="The model it is of, where the file does not say its experts.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write the trace (.safetensors).")]


EveryExpert = Annotated[
    bool, typer.Option(help="Leave the active fraction at 1: what one prompt did not use, another may.")
]


@app.command("import", cls=Command)
def import_(
    file: Annotated[Path, typer.Argument(help="The recording.")],
    output: Output,
    format: Annotated[
        str | None, typer.Option(help=f"Its format; default: as the file shows. {', '.join(IMPORTERS)}.")
    ] = None,
    model: ModelName = None,
    batch: Annotated[int | None, typer.Option(help="Run this many of its sequences side by side.")] = None,
    sequences: Annotated[
        str | None, typer.Option(help="Keep these sequences only: 0:12, or 0,3,7; as the recording numbers them.")
    ] = None,
    gate_weights: Annotated[bool, typer.Option(help="Keep the gates' weights.")] = True,
    source: Annotated[str | None, typer.Option(help="Where the recording is from, for the provenance.")] = None,
    licence: Annotated[str | None, typer.Option(help="Its licence, for the provenance.")] = None,
) -> None:
    """Import a recorded trace: the file shows its format, and what it leaves out of its model is the model's.

    Example: pregate trace import qwen.route.csv -o qwen.safetensors
    """
    refuse_overwriting(output, file)
    require_trace_file(output)
    from pregate import routing_traces
    from traces.storage import save_trace
    from traces.transforms.rebatching import rebatch

    trace = routing_traces.import_trace(file, format, model=_model(model))
    if sequences is not None:
        trace = trace.of_sequences(_numbers(sequences))
    if not gate_weights:
        trace = replace(trace, gate_weights=None)
    origin = trace.provenance
    origin = replace(origin, source=source or origin.source, licence=licence or origin.licence)
    if sequences is not None:
        origin = replace(origin, note="; ".join(filter(None, (origin.note, f"sequences {sequences}"))))
    trace = replace(trace, provenance=origin)
    if batch is not None:
        trace = rebatch(trace, batch)
    save_trace(trace, output)
    typer.echo(
        f"wrote {output}: {trace.n_tokens} tokens, {trace.n_moe_layers} MoE layers, digest {trace.digest}", err=True
    )
    if trace.provenance.note:
        typer.echo(f"note: {trace.provenance.note}", err=True)


def _model(name: str | None) -> ModelArchitecture | None:
    return None if name is None else build_model(name, None, None)


def _numbers(text: str) -> list[int]:
    """`0:12` is 0 to 11, `0,3,7` those three. Raises `InvalidInput` for anything else."""
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})|\d{1,9}(,\d{1,9})*", text.strip(), re.ASCII)
    if match is None:
        raise InvalidInput(f"--sequences {text!r} is neither FIRST:LAST, such as 0:12, nor numbers, such as 0,3,7")
    if match[1] is not None:
        return list(range(int(match[1]), int(match[2])))
    return [int(word) for word in text.split(",")]


@app.command("list", cls=Command)
def list_(format: options.OutputFormat = options.Format.table) -> None:
    """The recorded traces that ship with pregate; a command takes one by name: --trace NAME.

    Example: pregate trace list
    """
    rows = [one.to_dict() for one in recorded_listing()]
    if render.print_data(format, rows, rows):
        return
    table = render.new_table("Recorded traces")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    render.print_table(table)


@app.command("synth", cls=Command)
def synth(
    model: options.Model,
    output: Output,
    input_tokens: options.InputTokens = 256,
    output_tokens: options.OutputTokens = 256,
    batch: options.Batch = None,
    active: options.Active = None,
    zipf: Annotated[float | None, typer.Option(help="Zipf exponent of expert popularity; 0 is uniform.")] = None,
    repeat: Annotated[float | None, typer.Option(help="Probability of repeating an expert at the next token.")] = None,
    correlation: Annotated[
        float | None, typer.Option(help="Probability of following the layer before by a fixed map.")
    ] = None,
    affinity: Annotated[
        float | None, typer.Option(help="How far sequences differ in the experts they keep to: 0 to 1.")
    ] = None,
    active_fraction: Annotated[float | None, typer.Option(help="Share of each layer's experts ever used.")] = None,
    popularity: options.Popularity = None,
    top_k: options.TopK = None,
    seed: options.Seed = 0,
    yes: options.Yes = False,
) -> None:
    """Synthesise a trace from dials, or with a forced number of active experts.

    Dials not given are those fitted to a recording of the model, where one ships, or the default ones.

    Example: pregate trace synth mixtral-8x7b --output-tokens 64 --repeat 0.3 -o trace.safetensors
    """
    require_trace_file(output)
    from pregate import routing_traces
    from traces.storage import save_trace

    architecture = build_model(model, None, top_k)
    if not yes:
        require_consent(architecture, input_tokens=input_tokens, output_tokens=output_tokens, batch=batch)
    given = {
        "zipf_exponent": zipf, "repeat_probability": repeat, "layer_correlation": correlation,
        "active_fraction": active_fraction, "sequence_affinity": affinity,
    }  # fmt: skip
    dials = _dials(architecture, {name: value for name, value in given.items() if value is not None})
    trace = routing_traces.synthesize(
        architecture, input_tokens, output_tokens, 1 if batch is None else batch, seed, dials=dials, n_active=active,
        popularity=None if popularity is None else routing_traces.load_popularity(popularity, model=architecture),
    )  # fmt: skip
    save_trace(trace, output)
    typer.echo(f"wrote {output}: {trace.n_tokens} tokens, digest {trace.digest}", err=True)


def _dials(model: ModelArchitecture, given: dict[str, float]) -> Dials | None:
    """The model's dials with those given in their place; None where none is given."""
    from pregate import routing_traces

    return replace(routing_traces.default_dials(model)[0], **given) if given else None


@app.command("fit", cls=Command)
def fit(
    trace: TraceArgument,
    seed: options.Seed = 0,
    every_expert: EveryExpert = False,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Set the synthetic dials from a trace and report how near the synthetic statistics come.

    Example: pregate trace fit trace.safetensors --format json
    """
    import numpy as np

    from pregate import routing_traces
    from traces.synthesis.fitting import fit_dials

    with spinner("fitting"):
        fitted = fit_dials(routing_traces.load_trace(trace), np.random.default_rng(seed), every_expert=every_expert)
    document = fitted.to_dict()
    if render.print_data(format, document, document["comparisons"]):
        return
    dials = document["dials"]
    exponents = np.atleast_1d(dials.pop("zipf_exponent"))
    print(f"zipf_exponent: mean {exponents.mean():.3f}, {exponents.min():.3f} to {exponents.max():.3f} by layer")
    for name, value in dials.items():
        print(f"{name}: {value:.4g}")
    table = render.new_table("Synthetic against recorded")
    table.add_column("statistic")
    for column in ("recorded", "synthetic", "difference", "fitted to"):
        table.add_column(column, justify="right")
    for row in document["comparisons"]:
        share = "-" if row["relative"] is None else f"{row['relative']:+.1%}"
        table.add_row(
            row["name"], f"{row['recorded']:.4g}", f"{row['synthetic']:.4g}", share, "yes" if row["fitted"] else ""
        )
    render.print_table(table)


@app.command("stats", cls=Command)
def stats(trace: TraceArgument, format: options.OutputFormat = options.Format.table) -> None:
    """Reuse, entropy, distinct experts per batch, LRU hit rates and load imbalance of a trace.

    Example: pregate trace stats trace.safetensors --format json
    """
    from pregate import routing_traces
    from traces.statistics.locality import trace_statistics

    with spinner("counting"):
        document = trace_statistics(routing_traces.load_trace(trace)).to_dict()
    if render.print_data(format, document, [_load_row(layer) for layer in document["load"]]):
        return
    for key in ("n_tokens", "n_decode_tokens", "n_sequences", "n_moe_layers", "n_experts", "top_k"):
        print(f"{key}: {document[key]}")
    for key, title in (("reuse", "reuse at lag"), ("distinct_experts", "distinct experts, batch of"),
                       ("lru_hit_rate", "LRU hit rate, share resident")):  # fmt: skip
        for at, value in document[key].items():
            print(f"{title} {at}: {'-' if value is None else f'{value:.4g}'}")
    table = render.new_table("Load by MoE layer")
    rows = [_load_row(layer) for layer in document["load"]]
    for column in rows[0]:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    render.print_table(table)


def _load_row(layer: dict[str, Any]) -> dict[str, Any]:
    """One layer's load without the counts of every expert."""
    kept = {key: value for key, value in layer.items() if not isinstance(value, list) or len(value) <= 8}
    if not kept:
        raise InvalidInput("the trace has no layer that decode tokens visit")
    return {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in kept.items()}
