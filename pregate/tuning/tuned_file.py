"""A tuning as YAML, which `pregate sweep` runs as it is and the next `pregate tune --after` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pregate.sweeps.sweep_file import read_sweep
from pregate.sweeps.workloads import TraceRecipe
from pregate.tuning.settings import DEFAULT
from pregate.tuning.tuned import Tuned
from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file


def write_tuned(
    tuned: Tuned,
    path: Path,
    *,
    model: str,
    hardware: str,
    trace: str,
    formats: Mapping[str, str],
    sets: Mapping[str, Any],
) -> None:
    """Write what was chosen, the default beside it, to `path`, and what it gains as a comment."""
    document: dict[str, Any] = {"model": model, "hardware": hardware, "stack": tuned.stack, "trace": trace}
    if sets:
        document["set"] = dict(sets)
    if formats:
        document["formats"] = dict(formats)
    document["policies"] = list(dict.fromkeys([tuned.best.policy, DEFAULT]))
    if tuned.chunk_mib is not None:
        document["modes"] = {"link": "priority", "chunk_bytes": f"{tuned.chunk_mib:g}MiB"}
    told = [f"# {tuned.objective}: {gain.told(name)}" for name, gain in tuned.gains.items()]
    with whole_file(path) as partial:
        text = yaml.safe_dump(document, sort_keys=False, width=110, allow_unicode=True)
        partial.write_text("\n".join([*told, text]), encoding="utf-8")


def read_tuned(path: Path) -> tuple[str, Path]:
    """The design of an earlier tuning and the trace it was made on. Raises `InvalidInput` for what is no tuning."""
    arguments = read_sweep(path)
    trace = arguments["trace"]
    if not arguments["policies"] or not isinstance(trace, TraceRecipe) or trace.path is None:
        raise InvalidInput(f"{path}: no tuning: `pregate tune -o` writes one, with its trace and the design it chose")
    return str(arguments["policies"][0]), Path(trace.path)
