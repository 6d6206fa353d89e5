"""`pregate measure`: what this machine does, one thing at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodels.fits.trust import LEVELS
from hwmodels.quantity import ReadOnly, parse_override
from pregate import extras
from pregate.cli import options
from pregate.cli.output_paths import require_folder
from pregate.cli.progress import spinner
from traces.errors import InvalidInput, unknown_name
from traces.foundation.atomic_files import whole_file

if TYPE_CHECKING:
    from hwmodels.calibrate.measurements import Measurements


def measure(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the measurements (JSON).")],
    backend: options.BackendName = "auto",
    dtypes: Annotated[str, typer.Option(help="Number formats, by comma: fp32, bf16, fp16.")] = "fp32",
    link: options.LinkSpeed = "2GB/s",
    graphs: options.Graphs = False,
    storage: Annotated[Path | None, typer.Option(help="A folder whose disk is measured too.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A third of the points, in under a minute.")] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget-s", help="Seconds; what no fit needs is left out beyond. Default: 240, 45 with --quick."
        ),
    ] = None,
    busy: Annotated[
        bool, typer.Option("--even-if-busy", help="Keep measurements that say nothing; the file says so.")
    ] = False,
    share: Annotated[
        bool, typer.Option("--share", help="Write the fit itself (YAML), with its conditions, for hwmodels/fits/.")
    ] = False,
) -> None:
    """Measure this machine: copies, GEMMs, every kind of op, launches, waits, storage. About four minutes.

    All of it is measured in rounds: what was disturbed is measured again, and how far the figures can be trusted is
    said at the end.

    With --share the file is the fit, with clocks, throttling, PCIe, memory nodes and driver, and no name of yours in
    it: a machine by pull request.

    Example: pregate measure -o measurements.json
    """
    extras.require_torch()
    if share:
        _require_yaml(output)
    _require_places(output, storage)
    from pregate.running.devices import require_graphs
    from pregate.validation.session import provenance_of
    from runtime.machine.conditions import ConditionsWatch
    from runtime.microbench.session import Settings, cpu_link
    from runtime.microbench.session import measure as run_measure

    name = extras.backend_named(backend)
    speed = parse_override(link, "bandwidth") if name == "cpu" and link != "memory" else None
    cpu_link(speed)
    formats = _formats(dtypes, name)
    require_graphs(name, graphs)
    settings = Settings(name, formats, speed, storage, quick, graphs, budget)
    watch = ConditionsWatch(name) if share else None
    with spinner("measuring", lines=True) as update:

        def say(line: str) -> None:
            if watch is not None:
                watch.look()
            update(line)

        found = run_measure(settings, provenance_of("pregate measure"), say=say, insist=not busy)
    if watch is not None:
        _share(found, watch.found(), output, insist=not busy)
        return
    found.save(output)
    print(f"{len(found.samples)} samples of {found.machine['name']} ({found.stack}) in {output}")
    print(f"Trust in them: {found.trust}")


def _require_yaml(output: Path) -> None:
    """Raise `InvalidInput` unless the file's name is that of a fit."""
    if output.suffix not in (".yaml", ".yml"):
        raise InvalidInput(f"--output {output}: a shared fit is a YAML file, name it .yaml")


def _share(found: Measurements, conditions: Mapping[str, Any], output: Path, *, insist: bool) -> None:
    """Fit what was measured, and write the fit with its conditions."""
    from hwmodels.calibrate.calibration import calibrate

    provenance = {"command": "pregate measure --share", "measurements": found.digest}
    fit = replace(calibrate(found, provenance, insist=insist), conditions=ReadOnly(conditions))
    with whole_file(output) as partial:
        partial.write_text(fit.to_yaml(), encoding="utf-8")
    print(f"{len(found.samples)} samples of {fit.hardware} ({fit.stack}), fitted, in {output}")
    print(f"Trust in them: {found.trust}")
    place = f"hwmodels/fits/{fit.name}.yaml"
    if found.trust.level in LEVELS[:2]:
        print(f"--hardware {output} takes it; to share it, open a pull request with it as {place}")
    else:
        print(f"--hardware {output} takes it; measure on a quiet machine, without --quick, before it becomes {place}")


def _require_places(output: Path, storage: Path | None) -> None:
    """Raise `InvalidInput` for what would go wrong minutes later: nowhere to write, nothing to read from."""
    require_folder(output)
    if storage is not None and not storage.is_dir():
        raise InvalidInput(f"--storage {storage}: there is no such folder")


def _formats(text: str, backend: str) -> tuple[str, ...]:
    """The number formats named in `text`. Raises `UnknownName`, and `InvalidInput` for a CPU without fp32, by which it
    is described.
    """
    from runtime.memory import TYPES

    formats = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in formats:
        if name not in TYPES:
            raise unknown_name("number format", name, TYPES)
    if not formats or (backend == "cpu" and "fp32" not in formats):
        raise InvalidInput(f"--dtypes {text!r}: fp32 must be among them, such as --dtypes fp32,bf16")
    return formats
