"""Tensors of a model in safetensors files, from their headers: names, shapes, bytes. Weights are never touched.

The format: github.com/huggingface/safetensors, "Format": eight bytes of a length, then so many of JSON.
"""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

from traces.errors import InvalidFile
from traces.foundation.documents import open_regular, read_text
from traces.model.files.gguf_file import Tensor

MAX_HEADER_BYTES = 100_000_000
"""Largest header, the limit of the format itself."""
MAX_INDEX_BYTES = 64 << 20
MAX_FILES = 1_000

_PART = re.compile(r"(?P<stem>.*)-(?P<i>\d{5})-of-(?P<n>\d{5})\.safetensors", re.ASCII)


def read_safetensors(path: Path) -> list[Tensor]:
    """The tensors of the model that the file, or the index of files, at `path` is of.

    Raises `InvalidFile` for a file that is none, is cut off, or lacks a part.
    """
    tensors: list[Tensor] = []
    for part in _files(path):
        tensors += _read_header(part)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise InvalidFile(f"{path}: a tensor is there twice: are its files all of one model?")
    return tensors


def _files(path: Path) -> list[Path]:
    """All files of the model, by its index, or by the number in their names."""
    if path.name.endswith(".index.json"):
        return _indexed(path)
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    n = int(match["n"])
    if not 1 <= n <= MAX_FILES:
        raise InvalidFile(f"{path}: one of {n} files, at most {MAX_FILES}")
    parts = [path.with_name(f"{match['stem']}-{i:05d}-of-{match['n']}.safetensors") for i in range(1, n + 1)]
    return [_present(part, n) for part in parts]


def _indexed(path: Path) -> list[Path]:
    """The files that an index names, each beside it."""
    try:
        document = json.loads(read_text(path, MAX_INDEX_BYTES))
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: not valid JSON ({type(error).__name__}): download it again") from None
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidFile(f"{path}: key 'weight_map' is missing: is this an index of safetensors files?")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InvalidFile(f"{path}: {name[:60]!r} is not the name of a safetensors file beside it")
    if len(names) > MAX_FILES:
        raise InvalidFile(f"{path}: {len(names)} files, at most {MAX_FILES}")
    return [_present(path.with_name(name), len(names)) for name in names]


def _present(path: Path, n_files: int) -> Path:
    if not path.is_file():
        raise InvalidFile(f"{path}: missing, one of {n_files} files of the model: put it beside the others")
    return path


def _read_header(path: Path) -> list[Tensor]:
    """The tensors of one file, each within it."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(8)
            length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise InvalidFile(
                    f"{path}: a header of {length} bytes in a file of {size}: is this a safetensors file?"
                )
            text = file.read(length)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror})") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: its header is not JSON ({type(error).__name__}): download it again") from None
    if not isinstance(document, dict):
        raise InvalidFile(f"{path}: its header is no mapping of tensors")
    room = size - 8 - length
    return [_tensor(name, item, room, path) for name, item in document.items() if name != "__metadata__"]


def _tensor(name: str, item: Any, room: int, path: Path) -> Tensor:
    """One entry of a header. Raises `InvalidFile` for anything but numbers that fit the file."""
    fields: dict[str, Any] = item if isinstance(item, dict) else {}
    shape, span, dtype = _sizes(fields.get("shape")), _sizes(fields.get("data_offsets")), fields.get("dtype")
    if shape is None or span is None or len(span) != 2 or span[0] > span[1] or not isinstance(dtype, str):
        raise InvalidFile(f"{path}: tensor {name[:60]!r} has no dtype, shape and data_offsets that make sense")
    if span[1] > room:
        raise InvalidFile(
            f"{path}: cut off: tensor {name[:60]!r} ends at {span[1]} bytes, the file has {room}: download it again"
        )
    return Tensor(name, tuple(shape), dtype, span[1] - span[0])


def _sizes(value: Any) -> list[int] | None:
    """A short list of whole numbers that sizes can be, or None."""
    fit = isinstance(value, list) and len(value) <= 8 and all(type(n) is int and 0 <= n <= 1 << 50 for n in value)
    return value if fit else None
