"""`pregate measure`: what this machine does, one thing at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwmodels.quantity import parse_override
from pregate import extras
from pregate.commands import options
from traces.errors import InvalidInput


def measure(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the measurements (JSON).")],
    backend: options.BackendName = "auto",
    dtypes: Annotated[str, typer.Option(help="Number formats, by comma: fp32, bf16, fp16.")] = "fp32",
    link: options.LinkSpeed = "2GB/s",
    storage: Annotated[Path | None, typer.Option(help="A folder whose disk is measured too.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A third of the points.")] = False,
    busy: Annotated[bool, typer.Option("--even-if-busy", help="Measure beside other work; the file says so.")] = False,
) -> None:
    """Measure this machine: copies, GEMMs, every kind of op, launches, waits, storage. About two minutes.

    Example: pregate measure -o measurements.json
    """
    extras.require_torch()
    from pregate.validation.session import provenance_of
    from runtime.microbench.session import Settings
    from runtime.microbench.session import measure as run_measure

    if not output.parent.is_dir():
        raise InvalidInput(f"{output}: there is no folder {output.parent}")
    name = extras.backend_named(backend)
    speed = parse_override(link, "bandwidth") if name == "cpu" and link != "memory" else None
    formats = tuple(word.strip() for word in dtypes.split(",") if word.strip())
    settings = Settings(name, formats, speed, storage, quick)
    with options.spinner("measuring") as update:
        found = run_measure(settings, provenance_of("pregate measure"), say=update, insist=not busy)
    found.save(output)
    print(f"{len(found.samples)} samples of {found.machine['name']} ({found.stack}) in {output}")
    if not found.is_clean:
        print(f"Not clean: {found.disturbances[0]}, and calibrate will refuse it. Measure again on a quiet machine.")
        raise typer.Exit(3)
