"""The array of `routed_experts` as serving engines put it into JSON: lists, or numbers packed as text.

text      base64 of an npy file (vLLM from 0.21), which says its shape; or of bare numbers (SGLang), int32 or what
          `routed_experts_dtype` beside it says, whose layers and experts a token come from the model
mapping   `data` (or `values`) in base64, before in base85, with `shape` and `dtype` (Dynamo, prime-rl)

`start` in the mapping, or `routed_experts_start_len` beside it, is the position of the first token: an engine may leave
out what it has returned before.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.files.arrays import npy_bytes, whole_array
from traces.importers.recording import MAX_CELLS, ModelShape, refused

_TYPES = {"uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4", "int64": "<i8"}


def unpacked(
    path: Path, name: str, value: Any, shape: ModelShape, beside: Mapping[str, Any] | None = None
) -> NDArray[np.int64]:
    """Experts (n_tokens, n_layers, k). `beside`: the mapping that `value` stands in. Raises `InvalidFile`."""
    if isinstance(value, dict):
        return _of_mapping(path, name, value, shape)
    if not isinstance(value, str):
        return whole_array(path, name, value, 3)
    try:
        data = _of_base64(value)
    except ValueError as error:
        raise refused(path, f"{name} is neither a list nor base64") from error
    if data.startswith(b"\x93NUMPY"):
        return whole_array(path, name, npy_bytes(path, name, data), 3)
    kind = _type(path, name, (beside or {}).get(f"{name}_dtype", "int32"))
    if len(data) % kind.itemsize:
        raise refused(path, f"{name} has {len(data)} bytes, not whole numbers of {kind.itemsize}: cut short?")
    flat = np.frombuffer(data, dtype=kind)
    n_layers = shape.n_layers or shape.n_moe_layers  # the engine's buffer has all layers, dense ones too
    if n_layers is None or shape.top_k is None:
        raise refused(path, f"{name} is base64 without a shape: say the model it is of (--model NAME)")
    if not flat.size or flat.size % (n_layers * shape.top_k):
        raise refused(path, f"{name} has {flat.size} numbers, not a multiple of {n_layers} layers x {shape.top_k}")
    return flat.reshape(-1, n_layers, shape.top_k).astype(np.int64)


def first_position(path: Path, value: Any, beside: Mapping[str, Any]) -> int:
    """The position of the first token of an array. Raises `InvalidFile`."""
    start = value.get("start") if isinstance(value, dict) else beside.get("routed_experts_start_len")
    if start is not None and (type(start) is not int or start < 0):
        raise refused(path, f"routed_experts begin at {str(start)[:20]!r}: a whole number from 0 is needed")
    return int(start or 0)


def _of_mapping(path: Path, name: str, value: Mapping[str, Any], shape: ModelShape) -> NDArray[np.int64]:
    data, stated = value.get("data", value.get("values")), value.get("shape")
    if isinstance(data, list):
        return whole_array(path, name, data, 3)
    if not isinstance(data, str):
        raise refused(path, f"{name} is a mapping without data, a list or text")
    if stated is None:
        return unpacked(path, name, data, shape, {f"{name}_dtype": value.get("dtype", "int32")})
    if not isinstance(stated, list) or len(stated) != 3 or not all(type(n) is int and n > 0 for n in stated):
        raise refused(path, f"{name} has the shape {str(stated)[:40]}: three whole numbers are needed")
    if math.prod(stated) > MAX_CELLS:
        raise refused(path, f"{name} has more than {MAX_CELLS} choices: split the recording")
    kind = _type(path, name, value.get("dtype", "int32"))
    for decode in (_of_base64, base64.b85decode):
        try:
            found = decode(data)
        except ValueError:
            continue
        if len(found) == math.prod(stated) * kind.itemsize:
            return whole_array(path, name, np.frombuffer(found, dtype=kind).reshape(stated), 3)
    raise refused(path, f"{name} is not {kind.name} of the shape {stated} in base64 or base85: cut short?")


def _type(path: Path, name: str, stated: Any) -> np.dtype[Any]:
    dtype = str(stated).removeprefix("torch.")
    if dtype not in _TYPES:
        raise refused(path, f"{name} is stated as {dtype[:20]!r}, known: {', '.join(_TYPES)}")
    return np.dtype(_TYPES[dtype])


def _of_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
