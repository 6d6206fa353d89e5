"""Scores of every expert, of which the model's k largest are chosen: k comes from whoever reads them (`ModelShape`).

`router_logits` a file of `torch.save`: what transformers returns as `router_logits`, L tensors [n_tokens, n_experts] in
                a tuple or list, or in a dictionary under that name. One sequence, one prefill step
`gate_csv`      `layer_id,token_id,expert_0,...,expert_<E-1>` with gate probabilities, 0 where not chosen: k is what is
                not 0; phases are not recorded
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.recording import MAX_CELLS, ModelShape, Origin, TokenRows, recorded_trace, refused
from traces.importers.text_lines import text_lines, whole_numbers
from traces.importers.torch_archive import read_torch_archive
from traces.phase import Phase
from traces.routing import RoutingTrace

__all__ = ["GATE_CSV_HEADER", "import_gate_csv", "import_router_logits", "trace_of_scores"]

GATE_CSV_HEADER = re.compile(r"layer_id,token_id,expert_0(,expert_\d+)*\s*", re.ASCII)


def import_router_logits(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The `shape.top_k` largest logits, a prompt of one sequence. Raises `InvalidFile`."""
    document = read_torch_archive(path)
    layers = document.get("router_logits") if isinstance(document, dict) else document
    if not isinstance(layers, list | tuple) or not all(isinstance(layer, np.ndarray) for layer in layers) or not layers:
        raise refused(path, "no tuple of router_logits, a tensor a layer")
    return trace_of_scores(path, list(layers), shape)


def trace_of_scores(path: Path, layers: list[NDArray[Any]], shape: ModelShape) -> RoutingTrace:
    """The `shape.top_k` largest scores of each layer [n_tokens, n_experts], a prompt of one sequence. Raises
    `InvalidFile`.
    """
    form = layers[0].shape
    if len(form) != 2 or 0 in form or any(layer.shape != form or layer.dtype.kind != "f" for layer in layers):
        raise refused(path, f"router_logits are not {len(layers)} tensors [n_tokens, n_experts] of one shape")
    if shape.top_k is None or shape.top_k > form[1]:
        raise refused(path, f"holds scores of {form[1]} experts, not choices: say the model it is of (--model NAME)")
    if form[0] * len(layers) * shape.top_k > MAX_CELLS:
        raise refused(path, f"more than {MAX_CELLS} choices: split the recording")
    experts = np.stack([np.argsort(-layer, axis=1, kind="stable")[:, : shape.top_k] for layer in layers], axis=1)
    n_tokens = form[0]
    return recorded_trace(
        path,
        Origin("transformers router_logits", n_experts=form[1], notes=("taken as one prompt",)),
        shape,
        experts=experts,
        sequence=np.zeros(n_tokens, np.int32),
        position=np.arange(n_tokens),
        phase=np.full(n_tokens, Phase.PREFILL, np.int8),
    )


def import_gate_csv(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The experts whose probability is above 0. Raises `InvalidFile`."""
    rows = TokenRows(path)
    lines = text_lines(path)
    _, header = next(lines, (1, ""))
    if not GATE_CSV_HEADER.fullmatch(header):
        raise refused(path, f"columns are {header[:60]!r}, not layer_id,token_id,expert_0,...")
    n_experts = header.count(",") - 1
    for number, line in lines:
        parts = line.split(",")
        if len(parts) != n_experts + 2:
            raise refused(path, f"{len(parts)} fields, not {n_experts + 2}", number)
        layer, token = whole_numbers(path, number, parts[:2])
        try:
            scores = [float(part) for part in parts[2:]]
        except ValueError:
            raise refused(path, f"not numbers: {line[:60]!r}", number) from None
        chosen = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: -scores[i])
        rows.add(number, 0, Phase.DECODE, token, layer, chosen, [scores[i] for i in chosen])
    notes = ("phases are not recorded: every token counts as decode",)
    return rows.trace(Origin("gate probabilities as CSV", n_experts=n_experts, notes=notes), shape)
