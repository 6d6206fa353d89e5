"""Where things are in the arrays that the compiled decode loop works on; all are int64 but `d` and `c`.

- `o` (n_blocks, N_COLUMNS, BLOCK_ROOM): the ops being written, `1 << BLOCK_BITS` a block, column by column; `d`: the
  dependencies of all;
- `x` (n_moe_layers * n_experts + n_pools, N_EXPERT_COLUMNS): one row an expert, key = layer * n_experts + expert;
- `w`: counters, then tables (slots, queue, scratch), each at the place that its name holds: `w[w[READER] + slot]`;
- `r`: what this part reads: the plan, then tables of its forward passes and of the micro-batches of these, of which
  most passes have one: `r[r[COST_GATE] + r[r[PARTS] + t]]`, some by layer or MoE layer too; `c` (6,) float64:
  what answers to misses know of the machine.

One table of words instead of forty arrays: these would be handed over at every call.
Op indices count from the first op of the schedule, places in `o` from the first of the part.
"""

from __future__ import annotations

NONE = -1

# Rows of `o`, named as those of a schedule; DEP_END is the end of the op's dependencies in `d`.
LANE, COST, STEP, LAYER, EXPERT, SLOT, HBM_ACQUIRED, HBM_RELEASED, PRIORITY, CANCELLED_BY, DEP_END = range(11)
N_COLUMNS = 11
BLOCK_BITS = 12
IN_BLOCK = (1 << BLOCK_BITS) - 1
BLOCK_ROOM = (1 << BLOCK_BITS) + 8  # columns a power of 2 apart would fall on the same lines of a cache

# Columns of `x`. Held for the next FFN of its layer: slot (-2 not held), last op of the copy, first op of a copy that
# no cache keeps (-1), found resident, slot to be given back; WAITING for a slot. HELD, PINS: the i-th row of a layer
# names its i-th held, or pinned, expert. In the cache: slot (-1), neighbours by age (row n_keys + pool closes the
# ring; whoever is in no ring is its own neighbour), in use and not to be evicted, last event that asked for it, lookups
# counted (of the row that closes a ring: LAST_IN, the key that entered last). ALONE: waits for a copy of its own.
HELD_SLOT, HELD_READY, HELD_FIRST, HELD_HIT, HELD_TRANSIENT, WAITING, HELD, PINS = range(8)
SLOT_OF, NEWER, OLDER, PINNED, MARK, ALONE, COUNT = range(8, 15)
LAST_IN = COUNT
N_EXPERT_COLUMNS = 15

# Words of `w`: counters (LOOKUPS, HITS of decode, then of prefill), sizes, and where tables begin.
BASE, LOCAL, DEPS, ROWS, LAST_FETCH, FREE_HEAD, FREE_N, WAIT_HEAD, WAIT_N, STAMP, LOOKUPS, HITS = range(12)
FAILED_LAYER, FAILED_N, N_KEYS, FREE_SIZE, QUEUE_SIZE = range(14, 19)
READER, FILLED, FREE, QUEUE_LAYER, QUEUE_EXPERT, QUEUE_SLOT, QUEUE_HIT, QUEUE_STEP = range(19, 27)
N_HELD, N_PINS, SPARE, SPARE_TOP, SPARE_FROM, WANTED, ARRIVALS, ORDER, NEEDED, NAMED = range(27, 37)
EARLIER_FETCH = 37  # the one before the last
N_ON_HOST, MISSES, ON_HOST, HOST_EXPERT, HOST_COST = range(38, 43)  # of a block: what the host computes
# What the next op of the compute stream waits for, its last op in this pass; of a placement as `HostSide` keeps it:
# where activations are, what brought them, the last op of the host, the last of the device before this layer, the copy
# of the weights of the next layer, by what is streamed the last readers of two buffers, and whether this layer has one.
N_WAITS, WAITS, LAST_OP, IS_HERE, ARRIVED, HOST_LAST, BEFORE, STREAMED_NEXT, BUFFERS, IN_USE = range(43, 53)
# Of micro-batches: whether gates are due, the last gate, how many results of the host each waits for.
TO_GATE, GATE, N_PART_WAITS = range(53, 56)
# Of layers that are streamed ahead: the last reader of each buffer, the copy of each layer.
SLOT_READERS, COPIED = range(56, 58)
N_WORDS = 58

WEIGHTS, CACHE, EXPERTS = range(3)
"""What is streamed, in `BUFFERS` and `IN_USE`."""

# Words of `r`: the plan (flags are 0 or 1; PREFETCH 0 none, 1 selected ahead, 2 all), costs of single ops, and where
# tables begin: by forward pass (PHASE: 1 for prefill), by union, by expert of a union, by layer, by candidate cost.
N_EXPERTS, FIRST, N_LAYERS, EXPERT_BYTES, N_BUFFERS, LOOKAHEAD, PREFETCH, RESIDENT, NEEDS_IDS, STAGE = range(10)
FUSED, FETCH_FIRST, READBACK_PER_FETCH, HOST_WAITS, SYNC_AFTER_FFN, DISK, CACHED, N_POOLS = range(10, 18)
BY_RECENCY, NEWEST_FIRST, PHASE, N_STEPS = range(18, 22)
COST_FETCH, COST_STAGE, COST_DISK, COST_WAIT, COST_STEP = range(23, 28)
I_STEP, COST_SELF_ATTENTION, COST_CROSS_ATTENTION, COST_GATE, COST_DENSE, COST_READBACK = range(28, 34)
COST_HEAD, COST_SHARED, UNION_PTR, COST_GROUPED, UNION_EXPERT, COST_SINGLE, BLOCK_OF, PLACE = range(34, 42)
ROW_OF, USED = range(42, 44)
IN_RUNS, COST_FETCH_RUN, COST_STAGE_RUN, COST_ISSUE = range(44, 48)  # costs of runs by number of copies
COUNTING, RELEASED, NOBODY_GOES, N_ENCODER_KEYS = range(48, 52)  # how residents go: see `eviction_kernel`
N_MIXERS, MIXER_OF = range(52, 54)  # by layer what mixes its tokens, -1 nothing; costs by forward pass and mixer
ANSWER, HOST_COMPUTES, UNION_TOKENS, COST_CPU, COST_HANDOVER, COST_RETURN, COST_BUSY, COST_NOTHING = range(54, 62)
# Of a placement: whether there is one, by MoE layer whether its experts have a home, by expert whether that is HBM, by
# layer whether it is of the host and what its weights cost that are streamed (-1: they are in HBM).
AWAY, HOME, KEPT, HOST_LAYER, COST_WEIGHTS, FUSED_AT_HOME, KV, STREAMS, STREAMS_FROM, COST_STREAM = range(62, 72)
COST_SCORES, CPU_SELF_ATTENTION, CPU_CROSS_ATTENTION, CPU_GATE, CPU_DENSE, CPU_SHARED, CPU_HEAD = range(72, 79)
N_HOST_LAYERS, N_MATRICES, COST_SORT, SELECTS = range(79, 83)
PARTS, ENTRY_AT, PART_WAITS, N_EACH_WAITS, N_BLOCKS, NO_COSTS, COST_GATHER = range(
    83, 90
)  # by pass: first micro-batch, first cost
# Whether kernels read weights in host memory; by pass and layer what mixing tokens and what its FFN reads so, -1 none.
ZERO_COPIES, COST_READ_MIXING, COST_READ_FFN = range(90, 93)
# Layers ahead that weights are streamed (-1: the next meanwhile), how many layers are; these, and by layer its place.
AHEAD, N_STREAMED, STREAMED_LAYER, STREAMED_AT = range(93, 97)
COST_MASK = 97  # by pass, -1 none
COST_JOIN = 98
# By pass whether it streams whole layers of the host; what their weights cost then, by layer, and their keys and
# values, by micro-batch and mixer.
STREAMS_LAYERS, COST_HOST_WEIGHTS, COST_HOST_CACHE = range(99, 102)
# By layer where its costs begin in tables that have one of each part for every way in which layers are stored.
OF_LAYER = 102
# What deciding on a pass costs, by pass before its layers (the first of a run) and before its end, -1 none.
COST_FIRST_SCHEDULE, COST_SCHEDULE = range(103, 105)
N_PART_WORDS = 105

KV_DEVICE, KV_HOST, KV_STREAM = range(3)
"""In `KV`: where keys and values are."""

FROM_GATE, FROM_ATTENTION, FROM_LAYER_BEFORE = range(3)
"""In `STREAMS_FROM`: when experts of the host are streamed."""

FETCHED, ALL_ON_HOST, CHEAPER_EACH, SHORTER_LANE, BY_BANDWIDTH, LIST_SCHEDULED = range(6)
"""In `ANSWER`: what becomes of a miss."""

HOST, HOST_TOKEN, DEVICE, DEVICE_TOKEN, HANDOVER, BESIDE = range(6)
"""Where the fields of `MissCosts` are in `c`."""
N_HOST_COSTS = 6

BARE = -2
"""In `BLOCK_OF`: a layer without an FFN; -1 is one with a dense one."""
