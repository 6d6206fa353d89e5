"""What `torch.save` wrote, read without torch and without unpickling: nothing in the file is ever called.

The archive is a zip of `data.pkl` and one file a tensor storage. The pickle's opcodes are walked as data
(`pickletools.genops`), and of callables only those that tensors are stored with are understood, by name: a tensor,
its storage, a parameter, a dictionary that is ordered or has a default. Anything else is refused by its name. Layout:
torch/serialization.py (BSD-3).
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile
from traces.importers.files.arrays import MAX_UNPACKED_BYTES
from traces.importers.files.text_lines import regular_file

MAX_PICKLE_BYTES = 256 << 20

_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "u2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_TYPED = {"torch uint16": "u2", "torch uint32": "u4", "torch uint64": "u8"}
"""Types of tensors without a storage of their own (`_rebuild_tensor_v3`)."""
_BYTES = "UntypedStorage"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_TYPED_TENSOR = "torch._utils _rebuild_tensor_v3"
_PARAMETER = "torch._utils _rebuild_parameter"
_DICTIONARIES = ("collections OrderedDict", "collections defaultdict")
_WAY_OUT = "save tensors alone, or arrays with numpy.savez or safetensors"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "INT",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Name:
    """A callable or type that the pickle names."""

    text: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    kind: str


_MARK = object()


def read_torch_archive(path: Path) -> Any:
    """Lists, dictionaries, numbers, text and tensors (as arrays) of a file of `torch.save`. Raises `InvalidFile`."""
    regular_file(path, MAX_UNPACKED_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if sum(member.file_size for member in members.values()) > MAX_UNPACKED_BYTES:
                raise InvalidFile(f"{path}: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            pickled = next((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), None)
            if pickled is None:
                raise InvalidFile(f"{path}: not a file of torch.save (no data.pkl in it)")
            if members[pickled].file_size > MAX_PICKLE_BYTES:
                raise InvalidFile(
                    f"{path}: its data.pkl is {members[pickled].file_size} bytes, at most {MAX_PICKLE_BYTES}"
                )
            return _Reader(path, archive, pickled.removesuffix("data.pkl")).read(archive.read(pickled))
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, MemoryError) as error:
        raise InvalidFile(f"{path}: not a sound file of torch.save ({str(error)[:80]})") from error
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError, StopIteration) as error:
        raise InvalidFile(f"{path}: its data.pkl is broken ({type(error).__name__})") from error


class _Reader:
    """A machine of the pickle's stack and memo, for the opcodes that data needs."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, folder: str) -> None:
        self.path, self._archive, self._folder = path, archive, folder
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        order = f"{folder}byteorder"
        big = order in archive.namelist() and archive.read(order).strip() == b"big"
        self._byte_order: Literal[">", "<"] = ">" if big else "<"

    def read(self, pickled: bytes) -> Any:
        stack = self._stack
        argument: Any
        for opcode, argument, _ in pickletools.genops(pickled):
            name = opcode.name
            if name in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[int(argument)] = stack[-1]
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(self._memo[int(argument)])
            elif name == "MARK":
                stack.append(_MARK)
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                self._build(name, argument)
        raise ValueError("no STOP")

    def _build(self, name: str, argument: Any) -> None:
        """Do what one opcode of the pickle says on the stack. Raises `InvalidFile` for one that is more than data."""
        stack = self._stack
        match name:
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "TUPLE":
                stack.append(tuple(self._to_mark()))
            case "APPEND":
                item = stack.pop()
                self._as(list, stack[-1]).append(item)
            case "APPENDS":
                items = self._to_mark()
                self._as(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._as(dict, stack[-1])[key] = value
            case "SETITEMS":
                items = self._to_mark()
                self._as(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_Name(str(argument)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_Name(f"{module} {attribute}"))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._call(called, arguments))
            case _:
                raise InvalidFile(f"{self.path}: holds more than data (pickle opcode {name}): not read: {_WAY_OUT}")

    def _to_mark(self) -> list[Any]:
        at = next(i for i in range(len(self._stack) - 1, -1, -1) if self._stack[i] is _MARK)
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _as(self, kind: type, value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(kind.__name__)
        return value

    def _storage(self, given: Any) -> _Storage:
        word, kind, key, _, n_elements = given
        text = kind.text.removeprefix("torch ").removeprefix("torch.storage ") if isinstance(kind, _Name) else ""
        if word != "storage" or text not in (*_STORAGES, _BYTES) or type(n_elements) is not int:
            raise InvalidFile(f"{self.path}: a tensor of {str(text)[:40]!r}, known: {', '.join(_STORAGES)}")
        return _Storage(str(key), text)

    def _call(self, called: Any, arguments: Any) -> Any:
        text = called.text if isinstance(called, _Name) else type(called).__name__
        if text in _DICTIONARIES and (arguments == () or isinstance(arguments[0], _Name)):
            return {}
        if text == _PARAMETER:
            return arguments[0]
        if text not in (_TENSOR, _TYPED_TENSOR):
            raise InvalidFile(f"{self.path}: holds {text[:60]!r}, which is not data: not read: {_WAY_OUT}")
        storage, offset, size, stride = arguments[:4]
        kind = self._as(_Storage, storage).kind
        stored = _STORAGES.get(kind) if text == _TENSOR else _TYPED.get(getattr(arguments[6], "text", ""))
        if stored is None:
            name = getattr(arguments[6], "text", "no type") if text == _TYPED_TENSOR else kind
            raise InvalidFile(f"{self.path}: a tensor of {name[:40]!r}, known: {', '.join((*_STORAGES, *_TYPED))}")
        array = self._tensor(storage.key, stored, offset, self._as(tuple, size), self._as(tuple, stride))
        return (array.astype(np.uint32) << 16).view(np.float32).reshape(size) if kind == "BFloat16Storage" else array

    def _tensor(
        self, key: str, stored: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> NDArray[Any]:
        """The array that a tensor views in its storage, copied. Raises `InvalidFile` where it reaches beyond that."""
        if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
            raise ValueError("shape")
        dtype = np.dtype(stored).newbyteorder(self._byte_order)
        flat = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype=dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (math.prod(size) and last >= flat.size) or math.prod(size) > max(flat.size, 1):
            raise InvalidFile(f"{self.path}: a tensor {size} of {flat.size} stored numbers: cut short?")
        steps = [step * dtype.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
        array: NDArray[Any] = np.ascontiguousarray(view.astype(dtype.newbyteorder("=")))
        return array.reshape(size)
