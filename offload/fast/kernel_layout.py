"""Where things are in the arrays that the compiled decode loop works on; all are int64 but `d` and `c`.

- `o` (n_ops, N_COLUMNS): the ops being written; `d`: the dependencies of all;
- `x` (n_moe_layers * n_experts + n_pools, N_EXPERT_COLUMNS): one row an expert, key = layer * n_experts + expert;
- `w`: counters, then tables (slots, queue, scratch), each at the place that its name holds: `w[w[READER] + slot]`;
- `r`: what this part reads: the plan, then tables of its forward passes: `r[r[COST_GATE] + t]`; `c` (5,) float64:
  what answers to misses know of the machine.

One table of words instead of forty arrays: these would be handed over at every call.
Op indices count from the first op of the schedule, rows of `o` from the first of the part.
"""

from __future__ import annotations

NONE = -1

# Columns of `o`, named as those of a schedule; DEP_END is the end of the op's dependencies in `d`.
LANE, COST, STEP, LAYER, EXPERT, SLOT, HBM_ACQUIRED, HBM_RELEASED, PRIORITY, CANCELLED_BY, DEP_END = range(11)
N_COLUMNS = 11

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
N_WORDS = 43

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
N_PART_WORDS = 62

FETCHED, ALL_ON_HOST, CHEAPER_EACH, SHORTER_LANE, BY_BANDWIDTH, LIST_SCHEDULED = range(6)
"""In `ANSWER`: what becomes of a miss."""

HOST, HOST_TOKEN, DEVICE, DEVICE_TOKEN, HANDOVER, BESIDE = range(6)
"""Where the fields of `MissCosts` are in `c`."""
N_HOST_COSTS = 6

BARE = -2
"""In `BLOCK_OF`: a layer without an FFN; -1 is one with a dense one."""
