"""`pregate record`: the routing of a Hugging Face model while it generates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pregate.cli import options
from pregate.cli.output_paths import require_trace_file
from pregate.cli.progress import spinner
from pregate.extras import require_torch
from traces.errors import InvalidInput
from traces.foundation.atomic_files import refuse_overwriting
from traces.foundation.documents import open_regular
from traces.model.architecture import load_architecture
from traces.model.configs.huggingface import config_in
from traces.storage import save_trace


def record(
    model: Annotated[Path, typer.Option(help="Folder of a Hugging Face model: config.json and safetensors.")],
    prompts: Annotated[Path, typer.Option(help="A prompt a line, or .jsonl of {prompt: text} or {ids: [...]}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the trace (.safetensors).")],
    output_tokens: Annotated[int, typer.Option(help="Most tokens generated after a prompt.")] = 64,
    batch: Annotated[int, typer.Option(help="Prompts that run side by side.")] = 1,
    sample: Annotated[bool, typer.Option(help="Draw tokens, rather than take the likeliest.")] = False,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu or cuda.")] = "auto",
    seed: options.Seed = 0,
) -> None:
    """Record which experts a Hugging Face model chooses: hooks on its routers while it generates, prefill and decode.

    Example: pregate record --model ./olmoe --prompts prompts.txt -o olmoe.safetensors
    """
    require_trace_file(output)
    refuse_overwriting(output, prompts)
    if batch > 4096 or output_tokens > 1 << 20:
        raise InvalidInput(f"batch {batch}, output tokens {output_tokens}: at most 4096 and {1 << 20}")
    load_architecture(config_in(model))
    with open_regular(prompts):
        require_torch()
    from runtime.recording.record import record as run_record

    with spinner("recording") as update:
        trace = run_record(
            model, prompts, output_tokens=output_tokens, batch=batch, sample=sample, seed=seed, device=device,
            progress=update,
        )  # fmt: skip
    save_trace(trace, output)
    typer.echo(
        f"wrote {output}: {trace.n_tokens} tokens, {trace.n_moe_layers} MoE layers, digest {trace.digest}", err=True
    )
