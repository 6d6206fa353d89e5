"""How often experts were chosen, in documents of tensors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNTS = (
    "logical_count", "tokens_per_expert", "expert_counts", "expert_count", "expert_load", "expert_load_window",
    "counts", "activation_freq", "expert_frequency",
)  # fmt: skip
"""Names of a table [n_layers, n_experts], or of one a step: SGLang, Megatron, vLLM."""
_OF_A_LAYER = re.compile(r"[\w.]*?(\d{1,4})[a-z_.]*", re.ASCII)


def tensor_counts(document: Any) -> NDArray[Any] | None:
    """The table in a document of tensors: alone, under a name, a row a layer, or by forward pass; None: no counts."""
    if isinstance(document, np.ndarray):
        return document
    if not isinstance(document, dict):
        return None
    for key in COUNTS:
        if isinstance(document.get(key), np.ndarray):
            return np.asarray(document[key])
    rows = {str(key): row for key, row in document.items() if isinstance(row, np.ndarray) and row.ndim == 1}
    layers = {name: match for name in rows if (match := _OF_A_LAYER.fullmatch(name))}
    if len(layers) == len(document) > 0 and len({row.shape for row in rows.values()}) == 1:
        return np.stack([rows[name] for name in sorted(rows, key=lambda name: int(layers[name][1]))])
    return _by_pass(document.get("records"), document.get("last_physical_to_logical_map"))


def _by_pass(records: Any, logical: Any) -> NDArray[Any] | None:
    """Counts of physical experts [n_layers, n_physical] of each record, added up by `logical`, as many."""
    if not isinstance(records, list) or not isinstance(logical, np.ndarray) or logical.ndim != 2:
        return None
    counts = [record.get("global_physical_count") for record in records if isinstance(record, dict)]
    known = bool(counts) and all(isinstance(one, np.ndarray) and one.shape == logical.shape for one in counts)
    if (
        not known
        or logical.dtype.kind not in "iu"
        or logical.size == 0
        or not 0 <= logical.min() <= logical.max() < logical.shape[1]
    ):
        return None
    total = np.zeros((len(logical), int(logical.max()) + 1))
    for one in counts:
        for layer, row in enumerate(np.asarray(one, dtype=np.float64)):
            np.add.at(total[layer], logical[layer], row)
    return total
