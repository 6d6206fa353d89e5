"""The tables of docs/natural-batches.md: errors of batches with nothing forced, and experts by batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.platform import load_platform
from pregate.measured.isca24.machine_fit import HARDWARE, STACK
from pregate.measured.isca24.natural_routing import natural_routing
from pregate.measured.reproduction import published_activation
from traces.model.architecture import load_architecture
from traces.phase import Phase

RESULTS = Path(__file__).parents[1] / "results" / "isca24.json"

DESIGNS = ("gpu_only", "pregate", "on_demand", "prefetch_all")
METRICS = {"moe_layer_latency": "layer", "throughput": "tokens/s", "peak_gpu_memory": "memory"}
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def kept(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the rows of `pregate reproduce isca24 --format json`, what the table needs of batches with nothing forced."""
    wanted = ("model", "design", "batch", "metric", "error", "fitted")
    return [
        {name: row[name] for name in wanted}
        for row in rows
        if int(row["batch"]) > 1 and not int(row["forced_active_experts"] or 0) and row["metric"] in METRICS
    ]


def errors() -> str:
    """Signed errors in per cent, a row a model and batch, a column a design; `*`: a constant was fitted on it."""
    cells: dict[tuple[str, int], dict[str, list[str]]] = {}
    for row in json.loads(RESULTS.read_text())["natural_batches"]:
        mark = "*" if row["fitted"] else ""
        said = f"{METRICS[row['metric']]} {100 * row['error']:+.1f}{mark}"
        cells.setdefault((row["model"], int(row["batch"])), {}).setdefault(row["design"], []).append(said)
    lines = [f"| model | batch | {' | '.join(DESIGNS)} |", "|---|---|" + "---|" * len(DESIGNS)]
    for (model, batch), by_design in sorted(cells.items(), key=lambda item: (item[0][1], len(item[0][0]), item[0][0])):
        lines.append(f"| {model} | {batch} | {' | '.join(', '.join(by_design[name]) for name in DESIGNS)} |")
    return "\n".join(lines)


def unions() -> str:
    """Distinct experts of a layer and step, the mean of 256 steps and six layers, by batch."""
    activation = published_activation(load_platform(HARDWARE, STACK))
    lines = [f"| experts | gates | {' | '.join(map(str, BATCHES))} |", "|---|---|" + "---|" * len(BATCHES)]
    for name in ("switch-base-8", "switch-base-64", "switch-base-128"):
        model = load_architecture(name)
        for pregated, said in ((False, "their own block's"), (True, "a later block's")):
            found = []
            for batch in BATCHES:
                trace = natural_routing(model, batch, activation, 0, pregated=pregated)
                decoded = trace.experts[trace.phase == Phase.DECODE][:, model.n_encoder_moe_layers :, 0]
                chosen = np.sort(decoded.reshape(-1, batch, decoded.shape[1]), axis=1)
                found.append(1 + float((np.diff(chosen, axis=1) > 0).sum(axis=1).mean()))
            lines.append(f"| {model.n_experts} | {said} | {' | '.join(f'{value:.1f}' for value in found)} |")
    return "\n".join(lines)
