"""The decode loop as machine code, op for op what `offload.decode` writes down for policies that are plain values.

Arrays: `offload.fast.kernels.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.answers_kernel import answer_misses
from offload.fast.kernels.copies_kernel import after, compute, issue
from offload.fast.kernels.ffns_kernel import each_gate, read_back, run_experts, run_ffns, sorted_arrivals
from offload.fast.kernels.host_kernel import (
    attend,
    compute_on_host,
    computes,
    end_pass,
    enter,
    leave_layer,
    read_in_host,
    stream_own_cache,
)
from offload.fast.kernels.kernel_layout import (
    ARRIVALS,
    AWAY,
    BARE,
    BLOCK_BITS,
    BLOCK_OF,
    COST_CROSS_ATTENTION,
    COST_DENSE,
    COST_FIRST_SCHEDULE,
    COST_GATE,
    COST_HEAD,
    COST_MASK,
    COST_READ_FFN,
    COST_READ_MIXING,
    COST_SCHEDULE,
    COST_SELF_ATTENTION,
    COST_STEP,
    COST_WAIT,
    CPU_CROSS_ATTENTION,
    CPU_DENSE,
    CPU_HEAD,
    CPU_SELF_ATTENTION,
    DEPS,
    FETCH_FIRST,
    FIRST,
    GATE,
    HELD_SLOT,
    HITS,
    HOME,
    HOST_LAYER,
    HOST_WAITS,
    I_STEP,
    KV,
    LAST_OP,
    LOCAL,
    LOOKAHEAD,
    LOOKUPS,
    MIXER_OF,
    N_BLOCKS,
    N_EXPERTS,
    N_LAYERS,
    N_MIXERS,
    N_PART_WAITS,
    N_STEPS,
    NEEDED,
    NEEDS_IDS,
    NONE,
    OF_LAYER,
    PARTS,
    PHASE,
    PREFETCH,
    READBACK_PER_FETCH,
    RESIDENT,
    STAMP,
    STREAMED_NEXT,
    TO_GATE,
    UNION_EXPERT,
    UNION_PTR,
    WAITING,
    WANTED,
    ZERO_COPIES,
)
from offload.fast.kernels.placed_kernel import run_at_home, run_block_on_host
from offload.fast.kernels.slots_kernel import bring, cancel, drop_waiting
from offload.ops import Lane

_HOST = int(Lane.HOST)


def _bring_later(o: Any, d: Any, x: Any, w: Any, r: Any, u0: int, low: int, high: int, step: int, needed: int) -> None:
    """Start moving the experts of blocks `low` to `high`, but of those that have a home."""
    for block in range(low, high + 1):
        if r[r[HOME] + r[FIRST] + block]:
            continue
        n = 0
        if r[PREFETCH] == 2:
            for expert in range(r[N_EXPERTS]):
                w[w[WANTED] + expert] = expert
            n = r[N_EXPERTS]
        else:
            for at in range(r[r[UNION_PTR] + u0 + block], r[r[UNION_PTR] + u0 + block + 1]):
                w[w[WANTED] + n] = r[r[UNION_EXPERT] + at]
                n += 1
        if n:
            bring(o, d, x, w, r, r[FIRST] + block, n, step, needed, u0 + block)


def _first_later(r: Any, block: int) -> int:
    """The first of the blocks whose experts are brought at `block`."""
    if r[PREFETCH] == 1:
        return 1 if block == 0 else block + r[LOOKAHEAD]
    return block + 1


def _last_later(r: Any, block: int) -> int:
    """The last of them."""
    if r[PREFETCH] == 0:
        return block
    return min(block + (r[LOOKAHEAD] if r[PREFETCH] == 1 else 1), r[N_BLOCKS] - 1)


def _brings_later(r: Any, u0: int, low: int, high: int) -> int:
    """Whether there is something to bring of blocks `low` to `high`."""
    for block in range(low, high + 1):
        names = r[PREFETCH] == 2 or r[r[UNION_PTR] + u0 + block + 1] > r[r[UNION_PTR] + u0 + block]
        if names and r[r[HOME] + r[FIRST] + block] == 0:
            return 1
    return 0


def _is_there(x: Any, r: Any, u: int, first_key: int) -> int:
    """Whether the experts of a block will be there whatever its gates say, so that nothing waits for these."""
    if r[RESIDENT]:
        return 1
    if r[FETCH_FIRST] or r[HOST_WAITS]:
        return 0
    for at in range(r[r[UNION_PTR] + u], r[r[UNION_PTR] + u + 1]):
        key = first_key + r[r[UNION_EXPERT] + at]
        if x[key, HELD_SLOT] == -2 and x[key, WAITING] == 0:
            return 0
    return 1


def _of_every_part(o: Any, d: Any, w: Any, r: Any, t: int, costs: int, layer: int) -> int:
    """An op of each micro-batch of a pass, after what it waits for; returns the last."""
    first, op = r[r[PARTS] + t], NONE
    for part in range(r[r[PARTS] + t + 1] - first):
        op = each_gate(o, d, w, r, t, costs + first, part, layer)
    w[N_PART_WAITS] = 0
    return op


def _run_at_home(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, block: int, layer: int, on_host: int) -> None:
    """A block whose experts have a home, and the fetches of later blocks that have none."""
    u0, step, moe_layer = t * r[N_BLOCKS], r[r[I_STEP] + t], r[FIRST] + block
    if on_host:
        gate = run_block_on_host(o, d, w, r, t, block, layer)
    else:
        gate = _of_every_part(o, d, w, r, t, r[COST_GATE], layer)
        run_at_home(o, d, x, w, r, t, block, layer, moe_layer, gate)
    if r[RESIDENT]:
        return
    low, high = _first_later(r, block), _last_later(r, block)
    if (r[READBACK_PER_FETCH] or r[NEEDS_IDS]) and _brings_later(r, u0, low, high):
        if on_host:  # the ids are there
            after(d, w, gate)
            issue(o, w, r, _HOST, r[COST_WAIT], step, layer, NONE, NONE)
        else:
            read_back(o, d, w, r, t, gate, layer, 0)
    _bring_later(o, d, x, w, r, u0, low, high, step, moe_layer)


def _run_block(o: Any, d: Any, x: Any, w: Any, r: Any, c: Any, t: int, block: int, layer: int,
               n_revealed: int) -> int:  # fmt: skip
    """Gate, copies, waits and FFN of one MoE block; returns the blocks revealed so far, or -1 for a failure."""
    u0, step, moe_layer = t * r[N_BLOCKS], r[r[I_STEP] + t], r[FIRST] + block
    first_key = moe_layer * r[N_EXPERTS]
    low, high = r[r[UNION_PTR] + u0 + block], r[r[UNION_PTR] + u0 + block + 1]
    selected_before = block > 0 and block < n_revealed
    n_revealed = max(n_revealed, block + r[LOOKAHEAD] + 1)
    if r[r[HOME] + moe_layer]:
        _run_at_home(o, d, x, w, r, t, block, layer, computes(r, t, layer))
        return n_revealed
    at_once = r[r[PARTS] + t + 1] - r[r[PARTS] + t] == 1 or _is_there(x, r, u0 + block, first_key) == 0
    gate = NONE
    w[TO_GATE] = not at_once
    if at_once:
        gate = _of_every_part(o, d, w, r, t, r[COST_GATE], layer)
    if r[RESIDENT]:
        w[LOOKUPS + 2 * r[r[PHASE] + t]] += high - low
        w[HITS + 2 * r[r[PHASE] + t]] += high - low
        run_ffns(o, d, x, w, r, t, block, low, high, layer, moe_layer, 0, 0, False, 1)
        if r[ZERO_COPIES]:
            read_in_host(o, d, w, r, t, r[COST_READ_FFN], layer, gate)
        return n_revealed
    later_low, later_high = _first_later(r, block), _last_later(r, block)
    w[STAMP] += 1
    stamp = w[STAMP]
    for at in range(low, high):
        w[w[NEEDED] + r[r[UNION_EXPERT] + at]] = stamp
    reads = at_once and not selected_before
    if reads:
        known = read_back(o, d, w, r, t, gate, layer, 0)
        cancel(o, x, w, r, moe_layer, stamp, known)
    if r[PREFETCH] == 2 and block == 0:
        for expert in range(r[N_EXPERTS]):
            w[w[WANTED] + expert] = expert
        bring(o, d, x, w, r, moe_layer, r[N_EXPERTS], step, moe_layer, u0 + block)
    high = answer_misses(x, w, r, c, low, high, first_key)
    drop_waiting(o, d, x, w, r, moe_layer, stamp, moe_layer)
    n = 0
    for at in range(low, high):
        key = first_key + r[r[UNION_EXPERT] + at]
        if x[key, HELD_SLOT] == -2 and not x[key, WAITING]:
            w[w[WANTED] + n] = r[r[UNION_EXPERT] + at]
            n += 1
    bring(o, d, x, w, r, moe_layer, n, step, moe_layer, NONE)
    again = r[READBACK_PER_FETCH] != 0 or (r[NEEDS_IDS] != 0 and not reads)
    reads_again = again and _brings_later(r, u0, later_low, later_high)
    if r[FETCH_FIRST]:
        if r[HOST_WAITS]:
            n_ready = sorted_arrivals(x, w, r, moe_layer, True, stamp)
            if n_ready:
                for i in range(n_ready):
                    after(d, w, w[w[ARRIVALS] + i])
                issue(o, w, r, _HOST, r[COST_WAIT], step, layer, NONE, NONE)
    elif not run_experts(o, d, x, w, r, t, block, u0 + block, high, layer, moe_layer, gate, stamp):
        return -1
    if reads_again:
        if not at_once:
            gate = w[GATE]
        read_back(o, d, w, r, t, gate, layer, 0)
    _bring_later(o, d, x, w, r, u0, later_low, later_high, step, moe_layer)
    if r[FETCH_FIRST] and not run_experts(
        o, d, x, w, r, t, block, u0 + block, high, layer, moe_layer, gate, stamp
    ):  # fmt: skip
        return -1
    return n_revealed


def _mix(o: Any, d: Any, w: Any, r: Any, t: int, layer: int, on_host: int) -> None:
    """What mixes the tokens of a layer, of one micro-batch after the other."""
    step, mixer = r[r[I_STEP] + t], r[r[MIXER_OF] + layer]
    if on_host:
        part = r[r[PARTS] + t]
        if mixer >= 0:
            compute_on_host(o, d, w, r, r[r[CPU_SELF_ATTENTION] + part * r[N_MIXERS] + mixer], step, layer)
        if r[r[CPU_CROSS_ATTENTION] + part] >= 0:
            compute_on_host(o, d, w, r, r[r[CPU_CROSS_ATTENTION] + part], step, layer)
        return
    if r[KV] and mixer >= 0:
        attend(o, d, w, r, t, mixer, layer)
        return
    if r[r[HOST_LAYER] + layer] and mixer >= 0:
        stream_own_cache(o, d, w, r, t, mixer, layer)
    for part in range(r[r[PARTS] + t], r[r[PARTS] + t + 1]):
        if mixer >= 0:
            compute(o, d, w, r, r[r[COST_SELF_ATTENTION] + part * r[N_MIXERS] + mixer], step, layer, NONE)
        if r[r[COST_CROSS_ATTENTION] + part] >= 0:
            compute(o, d, w, r, r[r[COST_CROSS_ATTENTION] + part], step, layer, NONE)


def _run_pass(o: Any, d: Any, x: Any, w: Any, r: Any, c: Any, t: int) -> bool:
    """One forward pass; False for a failure."""
    step, n_revealed, away = r[r[I_STEP] + t], 0, r[AWAY]
    w[LAST_OP], w[STREAMED_NEXT], w[N_PART_WAITS] = NONE, NONE, 0
    if r[r[COST_FIRST_SCHEDULE] + t] >= 0:
        issue(o, w, r, _HOST, r[r[COST_FIRST_SCHEDULE] + t], step, NONE, NONE, NONE)
    if r[r[COST_MASK] + t] >= 0:
        issue(o, w, r, _HOST, r[r[COST_MASK] + t], step, NONE, NONE, NONE)
    for layer in range(r[N_LAYERS]):
        on_host = computes(r, t, layer)
        if away:
            enter(o, d, w, r, t, layer)
        before = w[LAST_OP]
        _mix(o, d, w, r, t, layer, on_host)
        if r[ZERO_COPIES]:
            read_in_host(o, d, w, r, t, r[COST_READ_MIXING], layer, before)
        block = r[r[BLOCK_OF] + layer]
        if block >= 0:
            n_revealed = _run_block(o, d, x, w, r, c, t, block, layer, n_revealed)
            if n_revealed < 0:
                return False
        elif block != BARE and on_host:
            compute_on_host(o, d, w, r, r[r[CPU_DENSE] + r[r[OF_LAYER] + layer] + r[r[PARTS] + t]], step, layer)
        elif block != BARE:
            before = w[LAST_OP]
            _of_every_part(o, d, w, r, t, r[COST_DENSE] + r[r[OF_LAYER] + layer], layer)
            if r[ZERO_COPIES]:
                read_in_host(o, d, w, r, t, r[COST_READ_FFN], layer, before)
        if away:
            leave_layer(o, d, w, r, t, layer)
    stays = 0
    if away:
        stays = end_pass(o, d, w, r, t)
    if r[r[COST_HEAD] + t] >= 0:
        if stays:
            head = compute_on_host(o, d, w, r, r[r[CPU_HEAD] + t], step, NONE)
        else:
            head = compute(o, d, w, r, r[r[COST_HEAD] + t], step, NONE, NONE)
        if r[r[COST_SCHEDULE] + t] >= 0:
            issue(o, w, r, _HOST, r[r[COST_SCHEDULE] + t], step, NONE, NONE, NONE)
        after(d, w, head)
        issue(o, w, r, _HOST, r[r[COST_STEP] + t], step, NONE, NONE, NONE)
    return True


def run_steps(
    o: Any, d: Any, x: Any, w: Any, r: Any, c: Any, begin: int, max_ops_a_step: int, max_deps_a_step: int
) -> int:
    """Write steps from `begin` on while a largest step still fits; returns how many, or -1 - the one that failed."""
    for t in range(begin, r[N_STEPS]):
        if w[LOCAL] + max_ops_a_step > len(o) << BLOCK_BITS or w[DEPS] + max_deps_a_step > len(d):
            return t - begin
        if not _run_pass(o, d, x, w, r, c, t):
            return -1 - t
    return r[N_STEPS] - begin
