"""gpt-oss decode traces recorded with forward hooks on the router, packed as one npz.

Arrays: experts uint8 (T, n_layers, k) in rank order; probs float (T, n_layers, k), softmax over the chosen
k; position int32 (T,) absolute; seq_start int64 (S+1,); token_id int32 (T,), opaque and not used. Decode
tokens only. Sequences run one after another, one token a step; `traces.transforms.rebatching.rebatch` runs them side by
side. The number of experts comes from `<name>.meta.json` beside the file, or else from the published
configurations of the two gpt-oss models by their number of layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile, InvalidInput
from traces.foundation.documents import parse_yaml, read_text
from traces.importers.files.arrays import npz_arrays
from traces.importers.model_shape import GPT_OSS_EXPERTS
from traces.importers.recording import ModelShape
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, Provenance, RoutingTrace


def import_gptoss_npz(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing in a gpt-oss npz, with gate weights. Raises `InvalidFile` when it is not one."""
    found = npz_arrays(path, ("experts", "seq_start", "position"), ("probs",))
    experts, position = found["experts"], found["position"]
    start: NDArray[Any] = found["seq_start"]
    probabilities = found.get("probs")
    if experts.ndim != 3 or experts.dtype.kind not in "iu":
        raise InvalidFile(f"{path}: experts is {experts.dtype} {experts.shape}, not integers (T, n_layers, k)")
    n_tokens = len(experts)
    if start.ndim != 1 or start.dtype.kind not in "iu" or start.size < 2:
        raise InvalidFile(f"{path}: seq_start is {start.dtype} {start.shape}, not integers (n_sequences + 1,)")
    lengths = start[1:].astype(np.int64) - start[:-1].astype(np.int64)
    if start[0] != 0 or start[-1] != n_tokens or (lengths < 1).any():
        raise InvalidFile(f"{path}: seq_start must rise from 0 to the {n_tokens} tokens of experts")
    model, n_experts = _model(path, experts.shape[1], shape)
    try:
        return RoutingTrace(
            experts=experts,
            gate_weights=probabilities,
            sequence=np.repeat(np.arange(lengths.size), lengths),
            position=position,
            phase=np.full(n_tokens, Phase.DECODE, np.int8),
            step=np.arange(n_tokens, dtype=np.int32),
            n_experts=n_experts,
            provenance=Provenance(
                model=model,
                source=path.name,
                licence="not stated in the file",
                recorder="forward hooks on the router, greedy decode",
                note="decode only: prefill routing was not recorded",
            ),
        )
    except InvalidInput as error:
        raise InvalidFile(f"{path}: {error}") from error


def _model(path: Path, n_layers: int, shape: ModelShape) -> tuple[str, int]:
    """Model name and number of experts, from the side file or the number of layers."""
    side = path.with_suffix(".meta.json")
    if side.exists():
        about = parse_yaml(read_text(side), str(side))
        n_experts = about.integer("num_experts", minimum=1)
        if n_experts > MAX_EXPERTS:
            raise InvalidFile(f"{side}: num_experts = {n_experts} is above {MAX_EXPERTS}")
        return about.text("model"), n_experts
    if shape.n_experts is not None:
        return "not stated in the file", shape.n_experts
    if n_layers not in GPT_OSS_EXPERTS:
        raise InvalidFile(f"{path}: {n_layers} layers fit no gpt-oss model: state num_experts in {side.name}")
    return f"gpt-oss with {n_layers} layers", GPT_OSS_EXPERTS[n_layers]
