"""How often llama.cpp's importance matrix saw each expert: `NAME.counts`, a number an expert, of its GGUF form.

The layout: github.com/ggml-org/llama.cpp, tools/imatrix: for each matrix the sums of squared inputs and `counts`,
float32 [n_experts, 1], the tokens that came to each expert. The older binary form keeps no counts by expert.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.recording import refused
from traces.model.files.gguf_file import read_gguf, read_numbers

_COUNTS = re.compile(r"blk\.(\d{1,4})\.ffn_(gate_up|gate|up|down)_exps\.weight\.counts", re.ASCII)


def imatrix_counts(path: Path) -> NDArray[Any]:
    """Counts [n_layers, n_experts], layers without experts left out. Raises `InvalidFile` where there are none."""
    file = read_gguf(path)
    layers: dict[int, NDArray[Any]] = {}
    for tensor in file.tensors:
        match = _COUNTS.fullmatch(tensor.name)
        if match is not None and int(match[1]) not in layers:  # those of one layer's matrices are the same
            layers[int(match[1])] = read_numbers(path, tensor)
    if not layers:
        raise refused(
            path, "a GGUF file without counts of experts: an importance matrix of a Mixture-of-Experts model?"
        )
    if len({len(counts) for counts in layers.values()}) > 1:
        raise refused(path, "its layers have different numbers of experts")
    return np.stack([layers[layer] for layer in sorted(layers)])
