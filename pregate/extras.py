"""What the runtime needs beyond the core, and which of its back ends this machine has."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from traces.errors import InvalidInput, unknown_name

BACKENDS = ("auto", "cpu", "cuda")
"""By name; `auto` is CUDA where there is a device."""


_MAPPED = ("libtorch_cpu.so", "libtorch_cuda.so", "libtorch_python.so")
"""Libraries that PyTorch maps whole when it is imported."""

_BESIDE_BYTES = 128 << 20
"""Address space of PyTorch beside its libraries: 35 MB on import, 143 MB after a first product (2.13 on x86-64)."""


def require_torch() -> None:
    """Raise `InvalidInput`, saying how to get it, unless PyTorch is installed and may be loaded."""
    found = find_spec("torch")
    if found is None:
        raise InvalidInput("PyTorch is not installed, and the runtime needs it: pip install 'pregate[runtime]'")
    if "torch" not in sys.modules and sys.platform == "linux":
        _require_address_space(Path(found.origin or "").parent / "lib")


def _require_address_space(libraries: Path) -> None:
    """Raise `InvalidInput` where the shell allows less than PyTorch maps: beyond that the C library may abort, with no
    exception (its data of a thread, glibc).
    """
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    mapped = sum(path.stat().st_size for path in map(libraries.joinpath, _MAPPED) if path.is_file())
    needed = now + mapped + _BESIDE_BYTES
    if needed > limit:
        raise InvalidInput(
            f"PyTorch takes {needed / 1e9:.2f} GB of address space before anything runs, and the shell allows "
            f"{limit / 1e9:.2f} GB: raise the limit (ulimit -v)"
        )


def backend_named(name: str) -> str:
    """ "cpu" or "cuda". Raises `UnknownName`, and `InvalidInput` for a CUDA device that is not there."""
    if name not in BACKENDS:
        raise unknown_name("back end", name, BACKENDS)
    require_torch()
    from runtime.machine.device import has_cuda

    there = has_cuda()
    if name == "cuda" and not there:
        raise InvalidInput("no CUDA device, or a PyTorch without CUDA: try --backend cpu")
    return ("cuda" if there else "cpu") if name == "auto" else name
