"""What the runtime needs beyond the core, and which of its back ends this machine has."""

from __future__ import annotations

from importlib.util import find_spec

from traces.errors import InvalidInput, unknown_name

__all__ = ["BACKENDS", "backend_named", "require_torch"]

BACKENDS = ("auto", "cpu", "cuda")
"""By name; `auto` is CUDA where there is a device."""


def require_torch() -> None:
    """Raise `InvalidInput`, saying how to get it, unless PyTorch is installed."""
    if find_spec("torch") is None:
        raise InvalidInput("PyTorch is not installed, and the runtime needs it: pip install 'pregate[runtime]'")


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
