"""Kernels as machine code: compiled once, kept, and loaded without a compiler.

A kernel is Python that `compiled.translate` reads and llvmlite compiles, in a second or less. It is kept as
one object file, named by all that it was made from and the processor it was made for. A kernel takes arrays and
numbers, allocates nothing and raises nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
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

SYMBOL = "pregate_kernel"
"""What the function of an object file is called."""

ROOT = Path(__file__).parents[1]
FOLDER = Path("~/.cache/pregate/kernels")

_MOST_FILES = 64
"""Object files that are kept, of all versions of the code."""

_MOST_PARTIAL = 8
"""Files that are left while they are written; a process that was killed leaves its own."""

_MOST_BYTES = 1 << 24
"""What is read of a file; the largest kernel takes 100 kB."""

_FEW_PASSES = (
    "always_inliner", "sroa", "ipsccp", "simplify_cfg", "instruction_combine", "new_gvn", "simplify_cfg",
    "aggressive_dce", "loop_rotate", "simplify_cfg",
)  # fmt: skip
"""What LLVM runs on loops that branch at every step; all of its passes would make the decoder 3 % quicker."""

_NUMBERS: dict[str, Any] = {"i": ctypes.c_int64, "f": ctypes.c_double}
"""How a number is handed over, by the kind of its dtype."""


Kinds = tuple[tuple[np.dtype[Any], int], ...]
"""Of each argument its dtype and number of dimensions, 0 for a number."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Function `name` of the module `home`, compiled for `arguments`: numbers `int64` and `float64`, arrays `int64[2]`.

    Arrays are C-ordered, of any dtype (`module:NAME[1]` where a module describes a record). `returns`: a whole number,
    or nothing. `sources`: the other modules that it is compiled from. `unrolls`: whether LLVM's whole pipeline runs,
    which unrolls loops and vectorises them; else `_FEW_PASSES`, a third of the time to compile.
    """

    home: str
    name: str
    arguments: tuple[str, ...]
    returns: bool = False
    sources: tuple[str, ...] = ()
    unrolls: bool = True

    @property
    def kinds(self) -> Kinds:
        """Of each argument its dtype and number of dimensions, 0 for a number."""
        parts = (text.rstrip("]").partition("[") for text in self.arguments)
        return tuple((_dtype(told), int(ndim or 0)) for told, _, ndim in parts)


def _dtype(told: str) -> np.dtype[Any]:
    """A dtype by its name, or as a module has it: `module:NAME`."""
    home, _, name = told.rpartition(":")
    return np.dtype(getattr(import_module(home), name) if home else told)


def are_kept(*kernels: Kernel) -> bool:
    """Whether the machine code of all `kernels` is there for this processor, so that nothing would be compiled.

    A folder of another user, or one that everybody can write to, is neither read nor written.
    """
    folder = _folder()
    if not _is_ones_own(folder) or any(not list(folder.glob(f"{_stem(kernel)}.*.o")) for kernel in kernels):
        return False
    return all(_path(kernel).is_file() for kernel in kernels)


def loaded(kernel: Kernel) -> Callable[..., int]:
    """`kernel` as a function of its arguments, which lets other threads run; compiled where it is not kept.

    It raises `TypeError` for an array that is not what the kernel is compiled for. Threads of a sweep wait for one
    another here: LLVM links one piece of code at a time.
    """
    found = _LOADED.get(kernel)
    if found is None:
        with _ONE_LINKS:
            found = _LOADED.get(kernel)
            if found is None:
                found = _LOADED[kernel] = _function(kernel, _address(_kept(kernel) or _compiled(kernel)))
    return found


def are_loaded(*kernels: Kernel) -> bool:
    """Whether this process has called all `kernels` before, so that nothing would be loaded."""
    return all(kernel in _LOADED for kernel in kernels)


def has_loaded() -> bool:
    """Whether this process has called any kernel before, so that what loads them is there."""
    return bool(_LOADED)


_ONE_LINKS = RLock()
if hasattr(os, "register_at_fork"):  # else a process born while another thread links would wait for ever
    os.register_at_fork(
        before=_ONE_LINKS.acquire, after_in_parent=_ONE_LINKS.release, after_in_child=_ONE_LINKS.release
    )
_LOADED: dict[Kernel, Callable[..., int]] = {}


def _function(kernel: Kernel, address: int) -> Callable[..., int]:
    """What calls the machine code at `address`."""
    kinds = kernel.kinds
    taken: list[Any] = []
    for dtype, ndim in kinds:
        taken += [ctypes.c_void_p, *[ctypes.c_int64] * ndim] if ndim else [_NUMBERS[dtype.kind]]
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *taken)(address)

    def run(*given: Any) -> int:
        flat: list[Any] = []
        for value, (dtype, ndim) in zip(given, kinds, strict=True):
            if ndim == 0:
                flat.append(value)
            elif value.dtype == dtype and value.ndim == ndim and value.flags.c_contiguous:
                flat += (_START(value) if value.flags.writeable else value.ctypes.data, *value.shape)
            else:
                raise TypeError(f"{kernel.name} takes {dtype} of {ndim} dimensions, not {value.dtype} {value.shape}")
        found: int = call(*flat)
        return found

    return run


_START = (ctypes.c_char * 0).from_buffer
"""Where an array begins, four times as quick as `ctypes.data`; only of one that can be written to."""


def _kept(kernel: Kernel) -> bytes | None:
    """The machine code that is kept of a kernel; None where there is none, or not what was written."""
    if not are_kept(kernel):
        return None
    try:
        with _path(kernel).open("rb") as file:
            text = file.read(_MOST_BYTES)
    except OSError:
        return None
    seal, code = text[:32], text[32:]
    return code if _seal(kernel, code) == seal else None


def _seal(kernel: Kernel, code: bytes) -> bytes:
    """What begins a file: the code of another kernel, version or processor under its name is found out too."""
    return hashlib.sha256(_path(kernel).name.encode() + code).digest()


def _is_ones_own(folder: Path) -> bool:
    """Whether `folder` is there and not for everybody to write to: what lies in it will be run.

    Where folders have no owner, as on Windows, nothing is asked of them.
    """
    try:
        state = folder.stat()
    except OSError:
        return False
    return not hasattr(os, "geteuid") or (state.st_uid in (0, os.geteuid()) and not state.st_mode & stat.S_IWOTH)


def _compiled(kernel: Kernel) -> bytes:
    """The machine code of a kernel, compiled now and kept where that can be written."""
    code = compiled_code(getattr(import_module(kernel.home), kernel.name), kernel.kinds, unrolls=kernel.unrolls)
    with suppress(OSError):
        _folder().mkdir(parents=True, exist_ok=True)
        if not _is_ones_own(_folder()):
            return code
        partial = _path(kernel).with_suffix(f".{os.getpid()}.part")
        try:
            partial.write_bytes(_seal(kernel, code) + code)
            partial.replace(_path(kernel))
        finally:
            partial.unlink(missing_ok=True)
        for ending, most in (("o", _MOST_FILES), ("part", _MOST_PARTIAL)):
            for old in sorted(_folder().glob(f"*.{ending}"), key=lambda path: -path.stat().st_mtime)[most:]:
                old.unlink()
    return code


def compiled_code(function: Callable[..., Any], kinds: Kinds, *, unrolls: bool = True) -> bytes:
    """An object file with `function` for arguments of `kinds`, `unrolls` as of `Kernel`. Raises `TypeError` for what no
    kernel may say.
    """
    import llvmlite.binding as llvm

    from compiled.translate import module_of

    module = llvm.parse_assembly(module_of(function, kinds, width()))
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.loop_unrolling = True
    builder = llvm.create_pass_builder(_target_machine(), options)
    passes = builder.getModulePassManager() if unrolls else llvm.create_new_module_pass_manager()
    for name in () if unrolls else _FEW_PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)
    code: bytes = _target_machine().emit_object(module)
    return code


def _address(code: bytes) -> int:
    """Where the function of some machine code lies in memory, loaded."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines().append(engine)
    address: int = engine.get_function_address(SYMBOL)
    return address


def _folder() -> Path:
    """Where object files lie: `PREGATE_KERNELS`, where that is set, or `FOLDER`."""
    named = os.environ.get("PREGATE_KERNELS")
    return Path(named) if named else FOLDER.expanduser()


@cache
def _stem(kernel: Kernel) -> str:
    """The name of a kernel and the digest of all that its machine code is made from, but the processor."""
    state = hashlib.sha256(f"{np.__version__} {kernel}".encode())
    for name in (kernel.home, *kernel.sources):
        state.update((ROOT / f"{name.replace('.', '/')}.py").read_bytes())
    for path in sorted((ROOT / "compiled").glob("*.py")):
        state.update(path.read_bytes())
    found = find_spec("llvmlite")
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
def width() -> int:
    """Numbers side by side in a vector of this processor: fewer wait for the op before, more are spilled."""
    import llvmlite.binding as llvm

    return width_of(llvm.get_host_cpu_features().flatten())


def width_of(features: str) -> int:
    """How many numbers a processor with these features computes side by side: four of its registers."""
    has = features.split(",")
    return 32 if "+avx512f" in has else 16 if "+avx2" in has else 8


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
