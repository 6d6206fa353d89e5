"""Kernels as machine code that is loaded without the compiler that made it.

numba takes half a second to import and to learn its types; llvmlite, which it comes with, a tenth of that. What numba
makes of a kernel is therefore kept as one object file, named by all that it was made from and the processor it was
made for, and llvmlite alone loads it. A kernel takes arrays and whole numbers, allocates nothing and raises nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from traces.errors import InvalidFile
from traces.whole_file import whole_file

__all__ = ["KEPT_OPS", "Kernel", "are_kept", "are_loaded", "loaded"]

KEPT_OPS = 10_000
"""Schedules of up to so many ops are done in Python before kept machine code would be loaded."""

ROOT = Path(__file__).parents[1]
FOLDER = Path("~/.cache/pregate/kernels")

_SYMBOL = "pregate_kernel"

_MOST_FILES = 64
"""Object files that are kept, of all versions of the code."""

_STUBS = (
    "NRT_Free", "NRT_MemInfo_call_dtor", "numba_do_raise", "numba_gil_ensure", "numba_gil_release",
    "numba_runtime_build_excinfo_struct", "numba_unpickle",
)  # fmt: skip
"""What numba's code calls where something is raised or freed, which no kernel does."""

_NUMBERS: dict[str, Any] = {"i": ctypes.c_int64, "f": ctypes.c_double}
"""How a number is handed over, by the kind of its dtype."""

_LIBC = ("memcpy", "memmove", "memset")


@dataclass(frozen=True, slots=True)
class Kernel:
    """Function `name` of the module `home`, compiled for `arguments`: numbers `int64` and `float64`, arrays `int64[2]`.

    Arrays are C-ordered, of any dtype. `returns`: a whole number, or nothing. `sources`: the other modules that it is
    compiled from.
    """

    home: str
    name: str
    arguments: tuple[str, ...]
    returns: bool = False
    sources: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[tuple[str, int], ...]:
        """Of each argument its dtype and number of dimensions, 0 for a number."""
        parts = (text.rstrip("]").partition("[") for text in self.arguments)
        return tuple((dtype, int(ndim or 0)) for dtype, _, ndim in parts)


def are_kept(*kernels: Kernel) -> bool:
    """Whether the machine code of all `kernels` is there for this processor, so that nothing would be compiled."""
    folder = _folder()
    if any(not list(folder.glob(f"{_stem(kernel)}.*.o")) for kernel in kernels):
        return False
    return all(_path(kernel).is_file() for kernel in kernels)


def loaded(kernel: Kernel) -> Callable[..., int]:
    """`kernel` as a function of its arguments, which lets other threads run; compiled where it is not kept.

    It raises `TypeError` for an array that is not what the kernel is compiled for. Threads of a sweep wait for one
    another here: LLVM links one piece of code at a time.
    """
    with _ONE_LINKS:
        found = _LOADED.get(kernel)
        if found is None:
            address = _kept_address(kernel)
            address = _compiled_address(kernel) if address is None else address
            found = _LOADED[kernel] = _function(kernel, address)
        return found


def are_loaded(*kernels: Kernel) -> bool:
    """Whether this process has called all `kernels` before, so that nothing would be loaded."""
    return all(kernel in _LOADED for kernel in kernels)


_ONE_LINKS = RLock()
_LOADED: dict[Kernel, Callable[..., int]] = {}


def _function(kernel: Kernel, address: int) -> Callable[..., int]:
    """What calls the machine code at `address`."""
    kinds = tuple((np.dtype(dtype), ndim) for dtype, ndim in kernel.kinds)
    taken: list[Any] = []
    for dtype, ndim in kinds:
        taken += [ctypes.c_void_p, *[ctypes.c_int64] * ndim] if ndim else [_NUMBERS[dtype.kind]]
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *taken)(address)

    def run(*given: Any) -> int:
        flat: list[Any] = []
        for value, (dtype, ndim) in zip(given, kinds, strict=True):
            if not ndim:
                flat.append(float(value) if dtype.kind == "f" else int(value))
            elif value.dtype == dtype and value.ndim == ndim and value.flags.c_contiguous:
                flat += (value.ctypes.data, *value.shape)
            else:
                raise TypeError(f"{kernel.name} takes {dtype} of {ndim} dimensions, not {value.dtype} {value.shape}")
        found: int = call(*flat)
        return found

    return run


def _kept_address(kernel: Kernel) -> int | None:
    """Where the kept machine code lies in memory, loaded; None where there is none, or not what was written."""
    if not are_kept(kernel):
        return None
    try:
        text = _path(kernel).read_bytes()
    except OSError:
        return None
    seal, code = text[:32], text[32:]
    if hashlib.sha256(code).digest() != seal:
        return None
    import llvmlite.binding as llvm

    for name in _STUBS:
        if llvm.address_of_symbol(name) is None:
            llvm.add_symbol(name, ctypes.cast(_stub(), ctypes.c_void_p).value)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines().append(engine)
    address: int = engine.get_function_address(_SYMBOL)
    return address


def _compiled_address(kernel: Kernel) -> int:
    """Compile the kernel and keep its machine code, where that can be written; the address of its function."""
    import llvmlite.binding as llvm

    from traces.compiled import njit

    numba: Any = import_module("numba")
    types, function = numba.types, getattr(import_module(kernel.home), kernel.name)
    space = {"carray": numba.carray, "kernel": function if hasattr(function, "py_func") else njit(function)}
    exec(_wrapper(kernel), space)
    taken: list[Any] = []
    for dtype, ndim in kernel.kinds:
        number = getattr(types, dtype)
        taken += [types.CPointer(number), *[types.int64] * ndim] if ndim else [number]
    compiled = numba.cfunc(types.int64(*taken))(space["call"])
    _engines().append(compiled)
    module = llvm.parse_assembly(compiled.inspect_llvm())
    called = {f.name for f in module.functions if f.is_declaration and not f.name.startswith(("llvm.", "Py", "_Py"))}
    if not called - {*_STUBS, *_LIBC}:  # else it needs numba beside it
        module.get_function(compiled.native_name).name = _SYMBOL
        code: bytes = _target_machine().emit_object(module)
        with suppress(OSError, InvalidFile):
            _folder().mkdir(parents=True, exist_ok=True)
            with whole_file(_path(kernel)) as partial:
                partial.write_bytes(hashlib.sha256(code).digest() + code)
            for old in sorted(_folder().glob("*.o"), key=lambda path: -path.stat().st_mtime)[_MOST_FILES:]:
                old.unlink()
    found: int = compiled.address
    return found


def _wrapper(kernel: Kernel) -> str:
    """Python source of `call`, which takes pointers and sizes and calls the kernel with arrays."""
    names, arrays = [], []
    for i, (_, ndim) in enumerate(kernel.kinds):
        sizes = [f"n{i}_{axis}" for axis in range(ndim)]
        names += [f"a{i}", *sizes]
        arrays.append(f"carray(a{i}, ({', '.join(sizes)},))" if ndim else f"a{i}")
    body = f"kernel({', '.join(arrays)})"
    lines = f"    return {body}\n" if kernel.returns else f"    {body}\n    return 0\n"
    return f"def call({', '.join(names)}):\n{lines}"


def _folder() -> Path:
    """Where object files lie: with numba's own where that is named."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    return Path(named) / "kernels" if named else FOLDER.expanduser()


@cache
def _stem(kernel: Kernel) -> str:
    """The name of a kernel and the digest of all that its machine code is made from, but the processor."""
    state = hashlib.sha256(f"{sys.version} {np.__version__} {kernel}".encode())
    for name in (__name__, kernel.home, *kernel.sources):
        state.update((ROOT / f"{name.replace('.', '/')}.py").read_bytes())
    for package in ("numba", "llvmlite"):
        found = find_spec(package)
        for place in () if found is None else found.submodule_search_locations or ():
            state.update((Path(place) / "_version.py").read_bytes())
    return f"{kernel.name}-{state.hexdigest()[:16]}"


def _path(kernel: Kernel) -> Path:
    return _folder() / f"{_stem(kernel)}.{_processor()}.o"


@cache
def _processor() -> str:
    """8 hex digits of the name and the instructions of this processor."""
    import llvmlite.binding as llvm

    told = f"{llvm.get_default_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return hashlib.sha256(told.encode()).hexdigest()[:8]


@cache
def _target_machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="jitdefault",
        jit=True,
    )


@cache
def _engines() -> list[Any]:
    """What owns the machine code that is loaded: it lives as long as the process."""
    return []


@cache
def _stub() -> Any:
    """A function that does nothing."""
    return ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
