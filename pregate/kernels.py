"""`python -m pregate.kernels`: compile what the next commands would, some twenty seconds, so that they only load it."""

from __future__ import annotations

from offload.decoding.choice_counts import COUNT
from offload.fast.decode_compiled import RUN_STEPS, UNIONS
from simulator.batched.batch import RUN
from simulator.batched.batch_waits import WAITS
from simulator.explain.bounds import CHAINS
from simulator.explain.critical_path import REVERSE
from simulator.recurrence import WALK
from traces.machine_code import Kernel, loaded
from traces.synthesis_kernel import FILL

__all__ = ["KERNELS"]

KERNELS: tuple[Kernel, ...] = (COUNT, UNIONS, RUN_STEPS, WALK, REVERSE, CHAINS, FILL, *WAITS, RUN)
"""What is kept as machine code that needs no compiler beside it."""


if __name__ == "__main__":
    for kernel in KERNELS:
        loaded(kernel)
