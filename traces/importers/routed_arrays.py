"""Arrays of chosen experts or of router scores, in npy, npz, safetensors, a file of `torch.save` or nested JSON lists.

`routed_array` whole numbers [tokens, layers, k], or layers first where the model says which axis they are
`router_array` scores [layers, tokens, n_experts], stacked or an array a layer, of which the k largest are chosen
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from traces.importers.arrays import MAX_UNPACKED_BYTES, npy_array, npz_arrays, npz_headers, whole_array
from traces.importers.recording import ModelShape, refused
from traces.importers.routed_experts import trace_of_tokens
from traces.importers.router_scores import trace_of_scores
from traces.importers.text_lines import json_document, regular_file
from traces.importers.torch_archive import read_torch_archive
from traces.routing import RoutingTrace

__all__ = ["ROUTED", "import_routed_array", "import_router_array", "kind_of_arrays", "kind_of_npz"]

ROUTED = (
    "routed_experts", "experts", "topk_ids", "topk_indices", "selected_experts", "expert_ids", "expert_indices",
    "router_indices", "topk_experts", "arr_0", "",
)  # fmt: skip
"""Names of an array of chosen experts; the empty one of a file that holds one array alone."""
_SCORES = ("router_logits", "logits", "router_scores", "router_probs", "gate_logits", "arr_0", "")
_OF_A_LAYER = re.compile(r"[\w.]*?(\d{1,4})[a-z_.]*", re.ASCII)
_MATRIX, _STACK = 2, 3


def kind_of_npz(path: Path) -> str | None:
    """The format of an npz file by the names, axes and types of its arrays; None: neither choices nor scores."""
    headers = npz_headers(path)
    whole = any(name in ROUTED and len(form) == _STACK and kind in "iu" for name, (form, kind) in headers.items())
    if whole:
        return "routed_array"
    forms = {form for form, kind in headers.values() if kind == "f"}
    stacked = len(headers) == 1 and all(len(form) == _STACK for form in forms)
    by_layer = len(headers) > 1 and len(forms) == 1 and len(next(iter(forms))) == _MATRIX
    if not (forms and (stacked or (by_layer and all(_OF_A_LAYER.fullmatch(name) for name in headers)))):
        return None
    return kind_of_arrays(npz_arrays(path, tuple(headers)))


def kind_of_arrays(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """The format of arrays by name; counts are neither choices (these are whole numbers by type) nor scores, which
    are below 0 or add up to 1.
    """
    if any(name in ROUTED and array.ndim == _STACK and array.dtype.kind in "iu" for name, array in arrays.items()):
        return "routed_array"
    if not arrays or not all(array.dtype.kind == "f" and array.size for array in arrays.values()):
        return None
    named = any(name in _SCORES and array.ndim == _STACK for name, array in arrays.items())
    if not named and not all(array.ndim == _MATRIX and _OF_A_LAYER.fullmatch(name) for name, array in arrays.items()):
        return None
    below = any(bool((array < 0).any()) for array in arrays.values())
    one = all(np.allclose(array.sum(axis=-1), 1.0, atol=1e-2) for array in arrays.values())
    return "router_array" if below or one else None


def import_routed_array(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of one array of choices, all of it decode. Raises `InvalidFile`."""
    arrays = _arrays(path)
    found = [name for name in ROUTED if name in arrays]
    if not found:
        raise refused(path, f"no array of {', '.join(ROUTED[:-1])}")
    array = whole_array(path, found[0] or "the array", arrays[found[0]], _STACK)
    return trace_of_tokens(path, _layers_second(path, array, shape, otherwise=1), shape)


def import_router_array(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The `shape.top_k` largest scores, a prompt of one sequence. Raises `InvalidFile`."""
    arrays = {name: np.asarray(array) for name, array in _arrays(path).items()}
    if len(arrays) == 1:
        (stack,) = arrays.values()
    else:
        if len({array.shape for array in arrays.values()}) != 1:
            raise refused(path, "its layers' scores are not of one shape")
        numbers = {name: _OF_A_LAYER.fullmatch(name) for name in arrays}
        order = sorted(arrays, key=lambda name: int(match[1]) if (match := numbers[name]) else -1)
        stack = np.stack([arrays[name] for name in order])
    if stack.ndim != _STACK or stack.dtype.kind != "f" or 0 in stack.shape:
        raise refused(path, f"{stack.dtype} {stack.shape} are no scores [layers, tokens, experts]")
    return trace_of_scores(path, list(_layers_second(path, stack, shape, otherwise=0).swapaxes(0, 1)), shape)


def _layers_second(path: Path, array: NDArray[Any], shape: ModelShape, *, otherwise: int) -> NDArray[Any]:
    """The array with its layers as the second axis: the one that has as many as the model, `otherwise` where the model
    is not known. Raises `InvalidFile` where neither has.
    """
    known = {n for n in (shape.n_moe_layers, shape.n_layers) if n is not None}
    axes = [axis for axis in (otherwise, 1 - otherwise) if not known or array.shape[axis] in known]
    if not axes:
        counts = " or ".join(map(str, sorted(known)))
        raise refused(
            path, f"the array is {array.shape}: neither of its first two axes has the model's {counts} layers"
        )
    return array if axes[0] == 1 else array.swapaxes(0, 1)


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file by name."""
    regular_file(path, MAX_UNPACKED_BYTES)
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"\x93NUMPY"):
        return {"": npy_array(path)}
    if head.startswith(b"PK\x03\x04"):
        headers = None if path.suffix in (".pt", ".pth", ".bin") else npz_headers(path)
        if headers:
            return dict(npz_arrays(path, tuple(headers)))
        document = read_torch_archive(path)
        return document if isinstance(document, dict) else {"": document}
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise refused(path, f"not a sound safetensors file ({str(error)[:80]})") from error
    document = json_document(path)
    return document if isinstance(document, dict) else {"": document}
