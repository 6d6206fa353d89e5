"""`pregate generate`: a trained model makes tokens with its experts offloaded, its own gates deciding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.policies import policy_named
from pregate import extras
from pregate.cli import options
from pregate.cli.device import DeviceOptions
from pregate.cli.option_groups import takes
from pregate.cli.option_values import listed
from pregate.cli.output_paths import require_folder, require_picture, require_trace_file
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.atomic_files import refuse_overwriting
from traces.storage import save_trace

if TYPE_CHECKING:
    from pregate.trained.generation_result import DesignGeneration, Generation

_PROMPT = "Return a list of the items in the container, in the order in which "


@dataclass(frozen=True, slots=True)
class GenerationFiles:
    """What is written of a generation, and where."""

    timeline: Annotated[
        Path | None, typer.Option(help="Folder for a timeline of each design, for ui.perfetto.dev (JSON).")
    ] = None
    gantt: Annotated[
        Path | None, typer.Option(help="Draw one decode step of every design, one below the other (PNG or SVG).")
    ] = None
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write what the gates chose as a trace (.safetensors).")
    ] = None

    def check(self, read: Sequence[Path]) -> None:
        """Raise `InvalidInput` for what cannot be written, or would be written over what is `read`."""
        if self.output is not None:
            require_trace_file(self.output)
            refuse_overwriting(self.output, *read)
        if self.timeline is not None:
            require_folder(self.timeline / "timeline.json")
        if self.gantt is not None:
            require_picture(self.gantt)

    def draw(self, found: Generation) -> None:
        """The timelines, a file a design, and the picture of them."""
        if self.timeline is not None:
            from pregate.draw.perfetto import write_trace

            for one in found.designs:
                name = "".join(letter if letter.isalnum() else "_" for letter in one.policy)
                write_trace(one.timeline, self.timeline / f"{name}.json")
        if self.gantt is not None:
            from pregate.draw.timelines import gantt

            gantt({one.policy: one.timeline for one in found.designs}, self.gantt)

    def save(self, found: Generation) -> None:
        """The trace of what the gates chose."""
        if self.output is not None:
            save_trace(found.trace, self.output)
            typer.echo(f"wrote {self.output}: {found.trace.n_tokens} tokens, digest {found.trace.digest}", err=True)


@takes("files", GenerationFiles)
@takes("device", DeviceOptions)
def generate(
    *,
    model: Annotated[Path, typer.Argument(help="A trained model, as `pregate train` writes them (.safetensors).")],
    policies: Annotated[
        str, typer.Option(help="Designs, separated by commas, such as gpu_only,on_demand,pregate.")
    ] = "gpu_only,on_demand,prefetch_all",
    prompt: Annotated[str | None, typer.Option(help="Text to go on after; default: a sentence about lists.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A prompt a line, or .jsonl of {prompt: text} or {ids: [...]}.")
    ] = None,
    output_tokens: Annotated[int, typer.Option(help="Tokens made after a prompt, the likeliest.")] = 32,
    batch: Annotated[int, typer.Option(help="Prompts side by side.")] = 1,
    hardware: Annotated[
        str | None, typer.Option("--fit", help="A fit of this machine: what it predicts stands beside what was seen.")
    ] = None,
    device: DeviceOptions,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each design; medians are printed.")] = 3,
    files: GenerationFiles,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Have a trained model generate with its experts offloaded: its own gates decide, measured beside predicted.

    Example: pregate generate pregate_1.safetensors --policies gpu_only,on_demand,pregate --output-tokens 4
    """
    extras.require_torch()
    if prompt is not None and prompts is not None:
        raise InvalidInput("--prompt and --prompts both say what to go on after: give one")
    files.check([path for path in (model, prompts) if path is not None])
    device.check()
    from runtime.pregated.model_header import model_header

    model_header(model)
    named = [policy_named(one) for one in listed(policies)]
    from pregate.trained.generation import generate as run

    with spinner("generating") as update:
        found = run(
            model,
            prompts if prompts is not None else [_PROMPT if prompt is None else prompt],
            named,
            new_tokens=output_tokens,
            batch=batch,
            device=device.device(),
            hw=hardware,
            expert_tier=device.tier,
            repeats=repeats,
            say=update,
        )
        files.draw(found)
    _print(found, format)
    files.save(found)


def _print(found: Generation, format: str) -> None:
    if render.print_data(format, found.to_dict(), found.rows()):
        return
    predicted = found.machine is not None
    changed = any(one.n_changed for one in found.designs)
    same = "tokens of other experts' making where so said" if changed else "the same tokens under every design"
    table = render.new_table(f"{found.model}, gates {found.lookahead} ahead, {len(found.tokens[0])} tokens: {same}")
    table.add_column("design")
    paced = any(one.paced_tpot_s is not None for one in found.designs)
    names = ["TPOT", *(["predicted", "error"] if predicted else []), *(["error at gpu_only's pace"] if paced else [])]
    names += ["tokens/s", "nothing computes: ids", "experts"]
    if predicted:
        names += ["predicted: ids", "experts"]
    for name in [*names, "hits", "guesses right", *(["others executed", "tokens alike"] if changed else [])]:
        table.add_column(name, justify="right")
    for one in found.designs:
        table.add_row(one.policy, *_cells(one, predicted=predicted, paced=paced, changed=changed))
    render.print_table(table)
    for text in found.texts[:3]:
        typer.echo(f"went on: {text!r}", err=True)
    busy = [one.policy for one in found.designs if one.n_disturbed]
    if busy:
        typer.echo(f"warning: runs of {', '.join(busy)} were beside other work of this machine", err=True)


def _cells(one: DesignGeneration, *, predicted: bool, paced: bool, changed: bool) -> list[str]:
    """What stands in the row of one design, beside its name; columns that no design has are left out."""
    cells = [render.si(one.tpot_s, "s")]
    if predicted:
        cells += [render.si(one.predicted_tpot_s or 0.0, "s"), f"{100 * (one.error or 0.0):+.1f} %"]
    if paced:
        cells += ["" if one.paced_error is None else f"{100 * one.paced_error:+.1f} %"]
    cells += [f"{one.tokens_per_s:.1f}", f"{one.ids_wait_share:.1%}", f"{one.stall_share:.1%}"]
    if predicted:
        cells += [f"{one.predicted_ids_wait_share:.1%}", f"{one.predicted_stall_share:.1%}"]
    cells += [f"{one.hit_rate:.1%}", "-" if one.recall is None else f"{one.recall:.1%}"]
    if changed:
        cells += [str(one.n_changed), f"{one.tokens_alike:.0%}"]
    return cells
