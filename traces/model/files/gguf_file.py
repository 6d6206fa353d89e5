"""What a GGUF file says of itself: its metadata and its tensors, read from the header; weights are never touched.

The format: github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3. Every count and length in a file is held against
the file's size and the limits below before it is believed.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile
from traces.foundation.documents import open_regular
from traces.model.files.ggml_blocks import block_type

MAX_HEADER_BYTES = 64 << 20
"""Largest header read (64 MiB): those of vocabularies of 262,144 tokens have under 20."""
MAX_TENSORS = 200_000
MAX_PARTS = 1_000
"""Most files that a model is split into."""
_MAX_KEPT = 4096
"""Longest list that is kept: a number a layer, not a vocabulary."""
_MAX_TEXT = 1 << 16
_MAX_TEXTS = 1 << 22
"""Longest list of texts that is gone past: four million, of merges of a vocabulary."""
_MAX_DEPTH = 3
_MAX_DIMS = 8

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _LIST = 8, 9
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<i>\d{5})-of-(?P<n>\d{5})\.gguf", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file of weights. `shape`: as GGUF has it, what is summed over first; `dtype`: its format's name.

    `start`: the byte of a GGUF file at which it begins.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    n_bytes: int
    start: int = 0

    @property
    def n_params(self) -> int:
        """Its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What the header of a model says, of all its parts together. Lists as long as a vocabulary are left out."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]


def read_gguf(path: Path) -> WeightsFile:
    """The header of the GGUF file at `path`, and of the other parts of its model where it is one of several.

    Raises `InvalidFile` for a file that is none, is cut off, or lacks a part.
    """
    metadata, tensors = _read_part(path)
    n_parts = metadata.get("split.count", 0)
    if type(n_parts) is int and n_parts > 1:
        for other in _other_parts(path, n_parts):
            more, found = _read_part(other)
            tensors += found
            metadata = {**more, **metadata} if "general.architecture" in metadata else {**metadata, **more}
        stated = metadata.get("split.tensors.count")
        if type(stated) is int and stated != len(tensors):
            raise InvalidFile(
                f"{path}: its {n_parts} parts hold {len(tensors)} tensors of {stated}: are all of one model?"
            )
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        raise InvalidFile(f"{path}: {len(tensors) - len(names)} tensors are there twice")
    return WeightsFile(path, metadata, tuple(tensors))


def read_numbers(path: Path, tensor: Tensor) -> NDArray[Any]:
    """The float32 numbers of a small tensor, flat. Raises `InvalidFile` for another format or a large one."""
    if tensor.dtype != "fp32" or tensor.n_bytes > MAX_HEADER_BYTES:
        raise InvalidFile(f"{path}: tensor {tensor.name[:60]!r} is of {tensor.dtype}, expected a small one of fp32")
    with _opened(path) as data:
        return np.frombuffer(data[tensor.start : tensor.start + tensor.n_bytes], "<f4").copy()


def _other_parts(path: Path, n_parts: int) -> list[Path]:
    """The files of the other parts, by number. Raises `InvalidFile` naming the first that is missing."""
    match = _SPLIT.fullmatch(path.name)
    if match is None or int(match["n"]) != n_parts or n_parts > MAX_PARTS:
        raise InvalidFile(
            f"{path}: one of {n_parts} parts of a model, but its name is not NAME-00001-of-{n_parts:05d}.gguf"
        )
    ending = path.name[-5:]
    parts = [path.with_name(f"{match['stem']}-{i:05d}-of-{n_parts:05d}{ending}") for i in range(1, n_parts + 1)]
    for part in parts:
        if not part.is_file():
            raise InvalidFile(f"{part}: missing, one of {n_parts} parts of the model: put it beside the others")
    return [part for part in parts if part.name != path.name]


def _read_part(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    with _opened(path) as data:
        header = _Header(data, path)
        metadata = header.metadata()
        return metadata, header.tensors(metadata)


@contextmanager
def _opened(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file, mapped and not read. Raises `InvalidFile` where that cannot be."""
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if "empty file" in reason:
            reason = "the file is empty: download it again"
        raise InvalidFile(f"{path}: cannot be read ({reason})") from None


class _Header:
    """A place in a header that moves on with what is read; the parts of a header follow one another."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0
        self.limit = min(len(data), MAX_HEADER_BYTES)
        if data[:4] != b"GGUF":
            raise InvalidFile(f"{path}: not a GGUF file, it begins with {data[:4]!r}")
        self.at = 4
        version = self.scalar("<I")
        if version not in (2, 3):
            swapped = version & 0xFFFF == 0
            raise InvalidFile(
                f"{path}: " + ("a big-endian GGUF file" if swapped else f"GGUF version {version}") + " is not read: "
                "convert it (gguf-new-metadata), or take the model's config.json"
            )
        self.n_tensors, self.n_keys = self.scalar("<Q"), self.scalar("<Q")
        if self.n_tensors > MAX_TENSORS or self.n_keys > MAX_TENSORS:
            raise InvalidFile(
                f"{path}: {self.n_tensors} tensors and {self.n_keys} keys, at most {MAX_TENSORS} of either"
            )

    def metadata(self) -> dict[str, Any]:
        """All keys with their values; None for a long list."""
        found: dict[str, Any] = {}
        for _ in range(self.n_keys):
            key = self.text()
            if key in found:
                raise InvalidFile(f"{self.path}: key {key[:60]!r} is stated twice")
            found[key] = self.value(self.scalar("<I"))
        return found

    def tensors(self, metadata: Mapping[str, Any]) -> list[Tensor]:
        """The tensors, each within the file."""
        rows = []
        for _ in range(self.n_tensors):
            name, n_dims = self.text(), self.scalar("<I")
            shape = tuple(self.scalar("<Q") for _ in range(min(n_dims, _MAX_DIMS))) or (1,)
            if n_dims > _MAX_DIMS or not all(1 <= n <= 1 << 40 for n in shape):
                raise InvalidFile(f"{self.path}: tensor {name[:60]!r} has a shape of {n_dims} dimensions, {shape}")
            rows.append((name, shape, self.scalar("<I"), self.scalar("<Q")))
        offsets = sorted({row[3] for row in rows})
        following = dict(pairwise(offsets))
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
            raise InvalidFile(f"{self.path}: general.alignment = {alignment!r} is not one")
        start = -(-self.at // alignment) * alignment
        room = len(self.data) - start
        tensors = []
        for name, shape, number, offset in rows:
            end = following.get(offset, room)
            tensor = Tensor(name, shape, *self.stored(name, shape, number, end - offset), start + offset)
            if offset + tensor.n_bytes > room:
                raise InvalidFile(
                    f"{self.path}: cut off: tensor {name[:60]!r} ends at {start + offset + tensor.n_bytes} bytes, the "
                    f"file has {len(self.data)}: download it again"
                )
            tensors.append(tensor)
        return tensors

    def stored(self, name: str, shape: tuple[int, ...], number: int, room: int) -> tuple[str, int]:
        """The format and the bytes of a tensor; of a type that is not known, all there are before the next."""
        known = block_type(number)
        if known is None:
            return f"type-{number}", max(room, 0)
        dtype, block = known
        if shape[0] % block.n_weights:
            raise InvalidFile(
                f"{self.path}: tensor {name[:60]!r} has rows of {shape[0]}, {dtype} has blocks of {block.n_weights}"
            )
        row_bytes = block.row_bytes + shape[0] // block.n_weights * block.n_bytes
        return dtype, math.prod(shape[1:]) * row_bytes

    def value(self, kind: int, depth: int = 0) -> Any:
        """One value; None for a list too long to keep."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _TEXT:
            return self.text(long=True)
        if kind != _LIST or depth == _MAX_DEPTH:
            raise InvalidFile(f"{self.path}: a value of kind {kind} at byte {self.at} is not one of GGUF")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        size = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8
        self.need(size * count)
        if count <= _MAX_KEPT:
            return [self.value(inner, depth + 1) for _ in range(count)]
        if inner in _SCALARS:
            self.at += size * count
        elif inner == _TEXT and count <= _MAX_TEXTS:
            self.skip_texts(count)
        else:
            raise InvalidFile(
                f"{self.path}: a list of {count} values of kind {inner} at byte {self.at}: is this a model?"
            )
        return None

    def skip_texts(self, count: int) -> None:
        """Go past a vocabulary."""
        at, length = self.at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > self.limit:
                break
            at += 8 + length(self.data, at)[0]
        self.need(at - self.at)
        self.at = at

    def scalar(self, form: str) -> Any:
        """One number."""
        size = struct.calcsize(form)
        self.need(size)
        self.at += size
        return struct.unpack_from(form, self.data, self.at - size)[0]

    def text(self, *, long: bool = False) -> str:
        """One text, cut where it may be `long` (templates of chats are)."""
        size = self.scalar("<Q")
        self.need(size)
        if size > _MAX_TEXT and not long:
            raise InvalidFile(f"{self.path}: a name of {size} bytes, at most {_MAX_TEXT}")
        raw = self.data[self.at : self.at + min(size, _MAX_TEXT)]
        self.at += size
        return raw.decode("utf-8", errors="replace")

    def need(self, n_bytes: int) -> None:
        """Raise `InvalidFile` unless the header goes on for that many bytes."""
        if n_bytes > self.limit - self.at:
            short = self.limit < MAX_HEADER_BYTES
            raise InvalidFile(
                f"{self.path}: "
                + (
                    f"cut off within its header, at {self.limit} bytes: download it again"
                    if short
                    else f"a header of more than {MAX_HEADER_BYTES >> 20} MiB: is this a model?"
                )
            )
