"""`python -m pregate.kernels`: compile what the next commands would, in a few seconds, so that they only load it."""

from __future__ import annotations

from compiled.machine_code import Kernel, loaded
from offload.caches import slot_replay
from offload.decoding.choice_counts import COUNT
from offload.fast import replay_compiled
from offload.fast.block_unions import GROUPS, UNIONS
from offload.fast.decode_compiled import RUN_STEPS
from runtime.backends.pacing_kernel import COPY, SPIN
from simulator.batched.batch import RUN
from simulator.batched.batch_waits import WAITS
from simulator.events.event_engine import FIFO_LOOP, INDEX, TIMED_LOOP
from simulator.explain.attribution import TRACE_BACK
from simulator.explain.bounds import CHAINS
from simulator.explain.critical_path import REVERSE
from simulator.recurrence import WALK
from simulator.serving.server_kernel import SERVE
from simulator.serving.stages_kernel import STAGES
from simulator.streamed.stream_kernel import COVER, LEVEL, PULL, WALK_PART
from traces.statistics.stack_distance import DISTANCES, EVENTS
from traces.synthesis.filling import FILL_MANY
from traces.synthesis.layers_kernel import FILL_LAYERS

KERNELS: tuple[Kernel, ...] = (
    COUNT, UNIONS, GROUPS, RUN_STEPS, WALK_PART, COVER, LEVEL, PULL, WALK, REVERSE, CHAINS, TRACE_BACK, FILL_MANY,
    FILL_LAYERS, *WAITS, RUN, INDEX, FIFO_LOOP, TIMED_LOOP, EVENTS, DISTANCES, slot_replay.NEXT_USES,
    slot_replay.REPLAY_SLOTS, replay_compiled.BATCHES, replay_compiled.NEXT_USES, replay_compiled.REPLAY, SERVE,
    STAGES, COPY, SPIN,
)  # fmt: skip
"""What is kept as machine code."""


if __name__ == "__main__":
    for kernel in KERNELS:
        loaded(kernel)
