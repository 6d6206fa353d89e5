"""Scores of every expert, of which the model's k largest are chosen: k comes from whoever reads them (`ModelShape`).

`router_logits` a file of `torch.save`: what transformers returns as `router_logits`, L tensors [n_tokens, n_experts] in
                a tuple or list, or in a dictionary under that name, a batch of one or flat: one sequence. Of
                `generate` a tuple of such a pass, of which the first is the prompt
`gate_csv`      `layer_id,token_id,expert_0,...,expert_<E-1>` with gate probabilities, 0 where not chosen: k is what is
                not 0; phases are not recorded
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.files.text_lines import text_lines, whole_numbers
from traces.importers.files.torch_archive import read_torch_archive
from traces.importers.recording import MAX_CELLS, ModelShape, Origin, TokenRows, recorded_trace, refused
from traces.phase import Phase
from traces.routing import RoutingTrace

GATE_CSV_HEADER = re.compile(r"layer_id,token_id,expert_0(,expert_\d+)*\s*", re.ASCII)


def import_router_logits(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The `shape.top_k` largest logits, a prompt of one sequence. Raises `InvalidFile`."""
    passes = _passes(read_torch_archive(path))
    if not passes or not all(len(layers) == len(passes[0]) > 0 for layers in passes):
        raise refused(path, "no tuple of router_logits, a tensor a layer, or one of such a pass")
    for layers in passes:
        if {layer.shape[-1:] for layer in layers} != {passes[0][0].shape[-1:]} or len(layers[0].shape) != 2:
            raise refused(path, f"router_logits are not {len(layers)} tensors [n_tokens, n_experts] of one shape")
    lengths = [len(layers[0]) for layers in passes]
    phase = np.repeat([Phase.PREFILL, *[Phase.DECODE] * (len(passes) - 1)], lengths)
    try:
        whole = [np.concatenate([layers[i] for layers in passes]) for i in range(len(passes[0]))]
    except ValueError as error:
        raise refused(path, "router_logits of a layer differ in axes from pass to pass") from error
    return trace_of_scores(path, whole, shape, phase)


def _passes(document: Any) -> list[list[NDArray[Any]]]:
    """The tensors of each layer, of each forward pass; empty for another document."""
    if isinstance(document, dict):
        document = document.get("router_logits")
    if not isinstance(document, list | tuple):
        return []
    if all(isinstance(layer, np.ndarray) for layer in document):
        return [[layer[0] if layer.ndim == 3 and len(layer) == 1 else layer for layer in document]]
    inner = [_passes(one) for one in document if isinstance(one, list | tuple | dict)]
    return [layers for passes in inner for layers in passes] if len(inner) == len(document) else []


def trace_of_scores(
    path: Path, layers: list[NDArray[Any]], shape: ModelShape, phase: NDArray[Any] | None = None
) -> RoutingTrace:
    """The `shape.top_k` largest scores of each layer [n_tokens, n_experts], of one sequence; a prompt where `phase`
    says nothing. Raises `InvalidFile`.
    """
    form = layers[0].shape
    if len(form) != 2 or 0 in form or any(layer.shape != form or layer.dtype.kind != "f" for layer in layers):
        raise refused(path, f"router_logits are not {len(layers)} tensors [n_tokens, n_experts] of one shape")
    top_k = shape.top_k or _not_zero(layers)
    if top_k is None or top_k > form[1]:
        raise refused(path, f"holds scores of {form[1]} experts, not choices: say the model it is of (--model NAME)")
    if form[0] * len(layers) * top_k > MAX_CELLS:
        raise refused(path, f"more than {MAX_CELLS} choices: split the recording")
    if any(np.isnan(layer).any() for layer in layers):
        raise refused(path, "a score is not a number (NaN): is the recording whole?")
    experts = np.stack([np.argsort(-layer, axis=1, kind="stable")[:, :top_k] for layer in layers], axis=1)
    n_tokens = form[0]
    note = "taken as one prompt" if phase is None else "taken as one sequence"
    return recorded_trace(
        path,
        Origin("transformers router_logits", n_experts=form[1], notes=(note,)),
        shape,
        experts=experts,
        sequence=np.zeros(n_tokens, np.int32),
        position=np.arange(n_tokens),
        phase=np.full(n_tokens, Phase.PREFILL, np.int8) if phase is None else phase.astype(np.int8),
    )


def _not_zero(layers: list[NDArray[Any]]) -> int | None:
    """How many scores of every row are above 0, where the others are 0 and all rows have as many; None otherwise."""
    if any(layer.min() < 0 for layer in layers):
        return None
    counts = {int(n) for layer in layers for n in np.unique(np.count_nonzero(layer, axis=1))}
    return min(counts) if len(counts) == 1 and 0 < min(counts) < layers[0].shape[1] else None


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
