"""Routing in JSON documents that researchers published.

`gptoss_json`   gpt-oss fingerprints: `router_data`, a list of {"token_<position>": {"layer_<i>": {"selected_experts",
                "selected_probs"}}}; a document, or a list of them, each a sequence; decode only (Apache-2.0)
`olmoe_blocks`  allenai/OLMoE run_moe_analysis: JSON lines, a block of text each, `exp_ids` [token][slot][layer]: a
                block is one prefill step, nothing is decoded (Apache-2.0)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.files.arrays import whole_array
from traces.importers.files.text_lines import json_document, json_lines
from traces.importers.model_shape import GPT_OSS_EXPERTS
from traces.importers.recording import MAX_CELLS, ModelShape, Origin, TokenRows, recorded_trace, refused
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, RoutingTrace


def import_gptoss_json(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of gpt-oss fingerprints, decode only. Raises `InvalidFile`."""
    document = json_document(path)
    rows, layers = TokenRows(path), set()
    for sequence, example in enumerate(document if isinstance(document, list) else [document]):
        tokens = example.get("router_data") if isinstance(example, dict) else None
        if not isinstance(tokens, list):
            raise refused(path, f"example {sequence} has no list router_data")
        for token in tokens:
            for position, at_layer in _numbered(path, "token", token):
                for layer, choice in _numbered(path, "layer", at_layer):
                    layers.add(layer)
                    experts = choice.get("selected_experts") if isinstance(choice, dict) else None
                    if not isinstance(experts, list) or not isinstance(choice.get("selected_probs"), list | None):
                        raise refused(path, f"token {position} layer {layer} has no list selected_experts")
                    rows.add(1, sequence, Phase.DECODE, position, layer, experts, choice.get("selected_probs"))
    n_experts = shape.n_experts or GPT_OSS_EXPERTS.get(len(layers))
    origin = Origin("gpt-oss expert fingerprints", n_experts=n_experts, notes=("decode only",))
    return rows.trace(origin, shape)


def import_olmoe_blocks(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of blocks of text, each a prompt that nothing follows. Raises `InvalidFile`."""
    blocks: list[NDArray[np.int16]] = []
    n_cells = 0
    for number, record in json_lines(path):
        block = whole_array(path, f"exp_ids of line {number}", record.get("exp_ids"), 3).transpose(0, 2, 1)
        if blocks and block.shape[1:] != blocks[0].shape[1:]:
            raise refused(path, "layers or experts a token differ from the first block's", number)
        if block.min() < 0 or block.max() > MAX_EXPERTS:
            raise refused(path, f"expert ids from {block.min()} to {block.max()}", number)
        n_cells += block.size
        if n_cells > MAX_CELLS:
            raise refused(path, f"more than {MAX_CELLS} choices: split the recording")
        blocks.append(block.astype(np.int16))
    if not blocks:
        raise refused(path, "no rows: the file is empty")
    lengths = [len(block) for block in blocks]
    return recorded_trace(
        path,
        Origin("OLMoE run_moe_analysis", notes=("prefill only: nothing was decoded",)),
        shape,
        experts=np.concatenate(blocks),
        sequence=np.repeat(np.arange(len(blocks)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
        phase=np.zeros(sum(lengths), np.int8),
    )


def _numbered(path: Path, word: str, value: Any) -> list[tuple[int, Any]]:
    """The items of {"<word>_<n>": ...} with their numbers."""
    if not isinstance(value, dict):
        raise refused(path, f"a {word} is {type(value).__name__}, not an object")
    found = []
    for key, item in value.items():
        match = re.fullmatch(rf"{word}_(\d{{1,9}})", key, re.ASCII)
        if match is None:
            raise refused(path, f"key {key[:40]!r} is not {word}_<number>")
        found.append((int(match[1]), item))
    return found
