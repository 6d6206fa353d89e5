"""When machine code is done sooner than the Python that it says again, with what is there of it."""

from __future__ import annotations

from compiled.machine_code import Kernel, are_kept, are_loaded, has_loaded

KEPT_OPS = 10_000
"""Ops, lookups or cells above which it pays to load kept machine code (a tenth of a second) where no other is given."""


def machine_code_pays(
    n: int, *kernels: Kernel, compile_above: int, load_above: int = KEPT_OPS, call_above: int | None = None
) -> bool:
    """Whether `kernels` do `n` ops sooner than Python does, from now on.

    Each limit is what Python does in the time in which the code would be there: `compile_above` where it has to be
    compiled, `load_above` where it is kept, `call_above` (None: as `load_above`) where it is loaded, or kept and what
    loads it is there.
    """
    call_above = load_above if call_above is None else call_above
    if n > compile_above:
        return True
    if are_loaded(*kernels):
        return n > call_above
    return n > (call_above if has_loaded() else load_above) and are_kept(*kernels)
