"""Arrays of files from outside: npz, npy, and lists in JSON. Sizes are checked before anything is unpacked."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from traces.errors import InvalidFile
from traces.importers.files.text_lines import regular_file

MAX_UNPACKED_BYTES = 4 << 30
_LARGE = 1 << 62
_TENSORS = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
"""Types of safetensors that are read, as NumPy's: of bfloat16 its bits."""
_UNSOUND = (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError)
"""What unpacking raises for an archive that is cut short, encrypted, or packed in a way that is not known."""


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an npz file. Raises `InvalidFile` for another file."""
    regular_file(path, MAX_UNPACKED_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, *_UNSOUND) as error:
        raise InvalidFile(f"{path}: not a sound npz file ({_line(error)})") from error


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and kind of type (NumPy's letter) of each array of an npz file, unread. Raises `InvalidFile`; for arrays of
    Python objects, too.
    """
    names = [name for name in npz_names(path) if not name.endswith("/")]
    try:
        with zipfile.ZipFile(path) as archive:
            found: dict[str, tuple[tuple[int, ...], str]] = {}
            for name in names:
                if f"{name}.npy" in archive.namelist():
                    with archive.open(f"{name}.npy") as file:
                        shape, dtype = _header(file)
                    found[name] = shape, dtype.kind
            return found
    except (OSError, *_UNSOUND) as error:
        raise InvalidFile(f"{path}: not a sound npz file ({_line(error)})") from error


def npz_arrays(path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file by name. Raises `InvalidFile` when one is missing, too big, or unlike its stated size."""
    regular_file(path, MAX_UNPACKED_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            for name in needed:
                if f"{name}.npy" not in names:
                    raise InvalidFile(f"{path}: array {name!r} is missing")
            wanted = [name for name in (*needed, *optional) if f"{name}.npy" in names]
            total = sum(member.file_size for member in archive.infolist())
            if total > MAX_UNPACKED_BYTES:
                raise InvalidFile(f"{path}: unpacks to {total} bytes, at most {MAX_UNPACKED_BYTES} are read")
            for name in wanted:
                with archive.open(f"{name}.npy") as file:
                    stated = _stated_bytes(file)
                if stated != archive.getinfo(f"{name}.npy").file_size:
                    raise InvalidFile(f"{path}: {name}.npy states {stated} bytes, the archive another number")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in wanted}
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror or _line(error)}): check the path") from error
    except _UNSOUND as error:
        raise InvalidFile(f"{path}: not a sound npz file ({_line(error)})") from error


def npy_array(path: Path) -> NDArray[Any]:
    """The array of an npy file, of its shape. Raises `InvalidFile` when it is cut short, or holds Python objects."""
    size = regular_file(path, MAX_UNPACKED_BYTES)
    try:
        with path.open("rb") as file:
            stated = _stated_bytes(file)
        if stated != size:
            raise InvalidFile(f"{path}: its header states {stated} bytes, it has {size}: cut short?")
        array: NDArray[Any] = np.load(path, allow_pickle=False)
        return array
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise InvalidFile(f"{path}: not a sound npy file ({_line(error)})") from error


def npy_bytes(path: Path, name: str, data: bytes) -> NDArray[Any]:
    """The array of an npy file that `name` in `path` holds. Raises `InvalidFile` as `npy_array`."""
    try:
        if _stated_bytes(io.BytesIO(data)) != len(data):
            raise InvalidFile(f"{path}: {name} is an npy file that states another size than its own: cut short?")
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return array
    except (ValueError, EOFError, MemoryError) as error:
        raise InvalidFile(f"{path}: {name} is no sound npy file ({_line(error)})") from error


def safetensors_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file by name, bfloat16 as float32. Raises `InvalidFile`."""
    regular_file(path, MAX_UNPACKED_BYTES)
    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError, MemoryError) as error:
        raise InvalidFile(f"{path}: not a sound safetensors file ({_line(error)[:80]})") from error
    found = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _TENSORS:
            raise InvalidFile(f"{path}: {name[:40]} is {tensor['dtype']}, known: {', '.join(_TENSORS)}")
        array = np.frombuffer(tensor["data"], dtype=_TENSORS[tensor["dtype"]]).reshape(tensor["shape"])
        found[name] = (array.astype("<u4") << 16).view("<f4") if tensor["dtype"] == "BF16" else array
    return found


def whole_array(path: Path, name: str, value: Any, n_dims: int) -> NDArray[np.int64]:
    """`value`, an array or nested lists, as integers of `n_dims` axes. Raises `InvalidFile` for anything else."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InvalidFile(f"{path}: {name} is not an array: its rows differ in length") from error
    if array.dtype.kind == "f" and array.size and bool((np.isfinite(array) & (array == np.rint(array))).all()):
        array = np.clip(array.astype(np.float64), -_LARGE, _LARGE).astype(
            np.int64
        )  # ids that a mean or a table made floats of
    if array.dtype.kind not in "iu" or array.ndim != n_dims or 0 in array.shape:
        raise InvalidFile(f"{path}: {name} is {array.dtype} {array.shape}: whole numbers of {n_dims} axes are needed")
    if array.max() >= _LARGE:
        raise InvalidFile(f"{path}: {name} holds {array.max()}: too large")
    return array.astype(np.int64)


def _stated_bytes(file: IO[bytes]) -> int:
    """Size of an npy file by its own header."""
    shape, dtype = _header(file)
    return file.tell() + math.prod(shape) * dtype.itemsize


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an npy file. Raises `ValueError`."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except (TokenError, SyntaxError, RecursionError) as error:  # the header is parsed as Python, never run
        raise ValueError("its header is broken") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, dtype


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:120]
