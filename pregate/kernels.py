"""`python -m pregate.kernels`: compile what the next commands would, under a minute, so that they only load it."""

from __future__ import annotations

from offload.decoding.choice_counts import COUNT
from offload.fast.decode_compiled import RUN_STEPS, UNIONS
from simulator.batched.batch import RUN
from simulator.batched.batch_waits import WAITS
from simulator.explain.bounds import CHAINS
from simulator.explain.critical_path import REVERSE
from simulator.recurrence import WALK
from traces.machine_code import Kernel, loaded
from traces.synthesis.layers_kernel import FILL_LAYERS
from traces.synthesis.synthesis_kernel import FILL

__all__ = ["KERNELS", "compile_by_use"]

KERNELS: tuple[Kernel, ...] = (COUNT, UNIONS, RUN_STEPS, WALK, REVERSE, CHAINS, FILL, FILL_LAYERS, *WAITS, RUN)
"""What is kept as machine code that needs no compiler beside it."""


def compile_by_use() -> None:
    """Have numba compile and keep what it loads itself: the event engine, replays by slots and by bytes."""
    from offload.caches.cache_replay import replay_cache
    from offload.caches.trace_events import trace_events
    from offload.fast.replay_compiled import FlatTrace
    from offload.policies import cache_named
    from pregate.api import synthesize
    from pregate.ask.simulation import simulate
    from pregate.named import load_hardware, load_model
    from simulator.modes import Modes

    model = load_model("switch-mini-16")
    trace = synthesize(model, 2, 2)
    simulate(model, load_hardware("t4"), trace, "on_demand", engine="event", modes=Modes(link="shared"))
    replay_cache(trace_events(trace), cache_named("belady"), 4, compiled=True)
    FlatTrace(trace).replay("belady", 1, [1] * trace.n_moe_layers, 0)


if __name__ == "__main__":
    for kernel in KERNELS:
        loaded(kernel)
    compile_by_use()
