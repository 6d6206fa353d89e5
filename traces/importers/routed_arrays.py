"""Arrays of chosen experts or of router scores, in npy, npz, safetensors, a file of `torch.save` or nested JSON lists.

`routed_array` ids [tokens, layers, k], or layers first where the model says which axis they are; or an array
               [tokens, k] a layer, under names with the layer's number; masks in their place (`choice_arrays`)
`router_array` scores [layers, tokens, n_experts], stacked or an array a layer, of which the k largest are chosen
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.choice_arrays import are_choices, as_choices
from traces.importers.files.arrays import (
    MAX_UNPACKED_BYTES,
    npy_array,
    npz_arrays,
    npz_headers,
    safetensors_arrays,
    whole_array,
)
from traces.importers.files.text_lines import json_document, regular_file
from traces.importers.files.torch_archive import read_torch_archive
from traces.importers.recording import MAX_CELLS, ModelShape, refused
from traces.importers.routed_experts import trace_of_tokens
from traces.importers.router_scores import trace_of_scores
from traces.importers.tables import plain_keys
from traces.routing import RoutingTrace

ROUTED = (
    "routed_experts", "experts", "topk_ids", "topk_indices", "selected_experts", "expert_ids", "expert_indices",
    "router_indices", "topk_experts", "expert_idx", "indices", "topk_idx", "topk", "routing", "choices",
    "selected", "assignments", "expert_mask", "routing_map", "dispatch_mask", "arr_0", "",
)  # fmt: skip
"""Names of an array of chosen experts; the empty one of a file that holds one array alone."""
_BESIDE = ("topk_weights", "weights", "gate_weights", "scores", "selected_probs", "routing_weights")
"""Names of what stands beside choices."""
_SCORES = ("router_logits", "logits", "router_scores", "router_probs", "gate_logits", "arr_0", "")
_OF_A_LAYER = re.compile(r"[\w.]*?(\d{1,4})[a-z_.]*", re.ASCII)
_MATRIX, _STACK, _SLOTS = 2, 3, 4
_BROKEN = 0.5  # of the rows of one array of choices, which may repeat an expert by mistake


def kind_of_npz(path: Path) -> str | None:
    """The format of an npz file by the names, axes and types of its arrays; None: neither choices nor scores."""
    headers = {name: form for name, (form, kind) in npz_headers(path).items() if kind in "iufb"}
    named = [name for name, form in headers.items() if name in (*ROUTED, *_SCORES) and len(form) in (_STACK, _SLOTS)]
    if not named and (len(set(headers.values())) != 1 or not all(map(_OF_A_LAYER.fullmatch, headers))):
        return None
    return kind_of_arrays(named_arrays(npz_arrays(path, tuple(named or headers))))


def kind_of_arrays(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """The format of arrays by name; counts are neither choices nor scores, which are below 0 or add up to 1."""
    stacks = [array for name, array in arrays.items() if name in ROUTED and array.ndim in (_STACK, _SLOTS)]
    if any(are_choices(array, _BROKEN) for array in stacks):
        return "routed_array"
    if _choices_by_layer(arrays):
        return "routed_array"
    if not arrays or not all(array.dtype.kind == "f" and array.size for array in arrays.values()):
        return None
    named = any(name in _SCORES and array.ndim == _STACK for name, array in arrays.items())
    if not named and not all(array.ndim == _MATRIX and _OF_A_LAYER.fullmatch(name) for name, array in arrays.items()):
        return None
    below = any(bool((array < 0).any()) for array in arrays.values())
    one = all(np.allclose(array.sum(axis=-1), 1.0, atol=1e-2) for array in arrays.values())
    return "router_array" if below or one else None


def kind_of_tensors(path: Path, head: bytes) -> str | None:
    """The format of a safetensors file by its header, which `head` begins with; None: weights of a model, say."""
    try:
        header = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
        sizes = [np.prod(entry["shape"], dtype=np.float64) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    names = [name for name in header if name != "__metadata__"]
    if any(name.endswith((".weight", ".bias")) for name in names) or sum(sizes) > MAX_CELLS:
        return None
    if not all(name in (*ROUTED, *_SCORES, *_BESIDE) or _OF_A_LAYER.fullmatch(name) for name in names):
        return None
    return kind_of_arrays(_arrays(path))


def _choices_by_layer(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether there is a matrix of choices a layer, of one shape."""
    shapes = {array.shape for array in arrays.values()}
    if len(arrays) < 2 or len(shapes) != 1 or not all(_OF_A_LAYER.fullmatch(name) for name in arrays):
        return False
    (form,) = shapes
    found = [as_choices(array, _MATRIX) for array in arrays.values() if are_choices(array)]
    return len(found) == len(arrays) and form[-1] > 1 and all(array.ndim == _MATRIX for array in found)


def named_arrays(document: Any) -> dict[str, Any]:
    """The arrays of a document by name: layers by number where it is a list, passes of a layer one after the other,
    and without the first axis where that is a batch of one.
    """
    items = document.items() if isinstance(document, dict) else enumerate(document) if _is_list(document) else ()
    if isinstance(document, np.ndarray):
        return {"": document}
    return {str(name): _joined(item, stacked=str(name) in ROUTED) for name, item in items}


def _joined(item: Any, *, stacked: bool = False) -> Any:
    if _is_list(item) and item and all(isinstance(part, np.ndarray) for part in item):
        if stacked and len({part.shape for part in item}) == 1:
            return np.stack(item)
        parts = [_joined(part) for part in item]
        if all(part.ndim == _MATRIX and part.shape[1] == parts[0].shape[-1] for part in parts):
            return np.concatenate(parts)
    if isinstance(item, np.ndarray) and item.ndim == _STACK and item.shape[0] == 1:
        return item[0]
    return item


def _is_list(item: Any) -> bool:
    return isinstance(item, list | tuple)


def import_routed_array(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of one array of choices, all of it decode. Raises `InvalidFile`."""
    arrays = _arrays(path)
    found = [name for name in ROUTED if name in arrays]
    if not found:
        layers = {name: _matrix(path, name, array) for name, array in arrays.items() if _OF_A_LAYER.fullmatch(name)}
        if _choices_by_layer(layers):
            stack = np.stack([layers[name] for name in _in_order(layers)], axis=1)
            if all(name.isdigit() for name in layers):  # a list, of tokens perhaps
                stack = _layers_second(path, stack, shape, otherwise=1)
            return trace_of_tokens(path, stack, shape)
        raise refused(path, f"no array of {', '.join(ROUTED[:-1])}")
    given = as_choices(_array(path, found[0], arrays[found[0]]), _STACK)
    array = whole_array(path, found[0] or "the array", given, _STACK)
    beside = {name: array for name, array in arrays.items() if name != found[0]}
    return trace_of_tokens(path, _layers_second(path, array, shape, otherwise=1), shape, beside)


def import_router_array(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The `shape.top_k` largest scores, a prompt of one sequence. Raises `InvalidFile`."""
    arrays = {name: np.asarray(array) for name, array in _arrays(path).items()}
    named = [name for name in _SCORES if name in arrays and arrays[name].ndim == _STACK]
    if named or len(arrays) == 1:
        stack = arrays[named[0]] if named else next(iter(arrays.values()))
    else:
        if len({array.shape for array in arrays.values()}) != 1:
            raise refused(path, "its layers' scores are not of one shape")
        stack = np.stack([arrays[name] for name in _in_order(arrays)])
    if stack.ndim != _STACK or stack.dtype.kind != "f" or 0 in stack.shape:
        raise refused(path, f"{stack.dtype} {stack.shape} are no scores [layers, tokens, experts]")
    return trace_of_scores(path, list(_layers_second(path, stack, shape, otherwise=0).swapaxes(0, 1)), shape)


def _in_order(arrays: Mapping[str, Any]) -> list[str]:
    """Names by the number of the layer in them."""
    numbers = {name: _OF_A_LAYER.fullmatch(name) for name in arrays}
    return sorted(arrays, key=lambda name: int(match[1]) if (match := numbers[name]) else -1)


def _matrix(path: Path, name: str, value: Any) -> NDArray[np.int64]:
    return whole_array(path, name, as_choices(_array(path, name, _joined(value)), _MATRIX), _MATRIX)


def _array(path: Path, name: str, value: Any) -> NDArray[Any]:
    """Nested lists, or an array, as one. Raises `InvalidFile` for rows that differ in length."""
    try:
        return np.asarray(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise refused(path, f"{name or 'the array'} is not an array: its rows differ in length") from error


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
            return named_arrays(npz_arrays(path, tuple(headers)))
        return named_arrays(read_torch_archive(path))
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        return named_arrays(safetensors_arrays(path))
    document = json_document(path)
    return plain_keys(document) if isinstance(document, dict) else {"": document}
