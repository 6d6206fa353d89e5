"""What a run does away from the accelerator as machine code, for `decode_kernel`: `offload.placing.host_side`.

Arrays: `offload.fast.kernels.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.copies_kernel import after, after_sorted, compute, issue
from offload.fast.kernels.kernel_layout import (
    AHEAD,
    ARRIVALS,
    ARRIVED,
    BEFORE,
    BUFFERS,
    CACHE,
    COPIED,
    COST_BUSY,
    COST_GATHER,
    COST_HANDOVER,
    COST_HOST_CACHE,
    COST_HOST_WEIGHTS,
    COST_JOIN,
    COST_RETURN,
    COST_SCORES,
    COST_SELF_ATTENTION,
    COST_WAIT,
    COST_WEIGHTS,
    DEPS,
    HOST_COMPUTES,
    HOST_COST,
    HOST_EXPERT,
    HOST_LAST,
    HOST_LAYER,
    I_STEP,
    IN_USE,
    IS_HERE,
    KV,
    KV_HOST,
    KV_STREAM,
    LAST_OP,
    N_EACH_WAITS,
    N_HOST_LAYERS,
    N_LAYERS,
    N_MIXERS,
    N_ON_HOST,
    N_PART_WAITS,
    N_STREAMED,
    N_WAITS,
    NONE,
    PART_WAITS,
    PARTS,
    SLOT_READERS,
    STREAMED_AT,
    STREAMED_LAYER,
    STREAMED_NEXT,
    STREAMS_LAYERS,
    WAITS,
    WEIGHTS,
)
from offload.ops import Lane

_HOST = int(Lane.HOST)
_CPU = int(Lane.CPU)
_D2H = int(Lane.D2H)
_H2D = int(Lane.H2D)


def wait_for(w: Any, op: int) -> None:
    """The next op of the compute stream waits for `op`."""
    w[w[WAITS] + w[N_WAITS]] = op
    w[N_WAITS] += 1


def take_waits(w: Any) -> int:
    """Put what the next op of the compute stream waits for, one op at most, into `ARRIVALS`; how many."""
    n = w[N_WAITS]
    for i in range(n):
        w[w[ARRIVALS] + i] = w[w[WAITS] + i]
    w[N_WAITS] = 0
    return n


def hand_over(o: Any, d: Any, w: Any, r: Any, t: int, op: int, layer: int) -> int:
    """Activations to the host, once `op` has run; returns what its processor waits for."""
    step = r[r[I_STEP] + t]
    after(d, w, op)
    down = issue(o, w, r, _D2H, r[r[COST_HANDOVER] + r[r[PARTS] + t]], step, layer, NONE, NONE)
    if r[HOST_COMPUTES]:
        after(d, w, down)
        return issue(o, w, r, _HOST, r[COST_WAIT], step, layer, NONE, NONE)
    return down


def give_back(o: Any, d: Any, w: Any, r: Any, t: int, layer: int) -> int:
    """Activations from the host, once its processor is done; returns what the accelerator waits for."""
    step = r[r[I_STEP] + t]
    if r[HOST_COMPUTES]:
        after(d, w, w[HOST_LAST])
        issue(o, w, r, _HOST, r[COST_BUSY], step, layer, NONE, NONE)
    after(d, w, w[HOST_LAST])
    return issue(o, w, r, _H2D, r[r[COST_RETURN] + r[r[PARTS] + t]], step, layer, NONE, NONE)


def compute_on_host(o: Any, d: Any, w: Any, r: Any, cost: int, step: int, layer: int) -> int:
    """An op of a layer by the host's processor."""
    if w[ARRIVED] >= 0:
        after(d, w, w[ARRIVED])
    w[ARRIVED] = NONE
    w[HOST_LAST] = issue(o, w, r, _CPU, cost, step, layer, NONE, NONE)
    return w[HOST_LAST]


def experts_on_host(o: Any, d: Any, w: Any, r: Any, t: int, layer: int, arrived: int) -> int:
    """The experts in `HOST_EXPERT`; returns the way back of their results, -1 where activations stay, `arrived` being
    -1.
    """
    if arrived >= 0:
        after(d, w, arrived)
    for i in range(w[N_ON_HOST]):
        cost, expert = w[w[HOST_COST] + i], w[w[HOST_EXPERT] + i]
        w[HOST_LAST] = issue(o, w, r, _CPU, cost, r[r[I_STEP] + t], layer, expert, NONE)
    if arrived < 0:
        return NONE
    return give_back(o, d, w, r, t, layer)


def stream(o: Any, d: Any, w: Any, r: Any, what: int, ahead: int, cost: int, step: int, layer: int, op: int) -> int:
    """Bytes of a layer into the next buffer for `what`, or the one after it, once that was read and `op` has run."""
    begin = w[DEPS]
    if op >= 0:
        after_sorted(d, w, begin, op)
    read = w[w[BUFFERS] + 2 * what + ahead]
    if read >= 0:
        after_sorted(d, w, begin, read)
    return issue(o, w, r, _H2D, cost, step, layer, NONE, NONE)


def was_read(w: Any, what: int, reader: int) -> None:
    """The buffer for `what` that was filled first was read by op `reader`."""
    at = w[BUFFERS] + 2 * what
    w[at] = w[at + 1]
    w[at + 1] = reader


def computes(r: Any, t: int, layer: int) -> int:
    """Whether the host computes a layer in this pass: one that it has, and that the pass does not stream."""
    return int(r[r[HOST_LAYER] + layer] and r[r[STREAMS_LAYERS] + t] == 0)


def enter(o: Any, d: Any, w: Any, r: Any, t: int, layer: int) -> None:
    """A layer begins: its activations cross over if they are on the other side, and its weights are streamed."""
    w[BEFORE] = w[LAST_OP]
    on_host = computes(r, t, layer)
    if on_host != w[IS_HERE]:
        if w[IS_HERE]:
            wait_for(w, give_back(o, d, w, r, t, layer))
        else:
            w[ARRIVED] = NONE
            if w[LAST_OP] >= 0:
                w[ARRIVED] = hand_over(o, d, w, r, t, w[LAST_OP], layer)
        w[IS_HERE] = on_host
    if r[AHEAD] >= 0 and layer == 0:
        for i in range(r[AHEAD]):
            copy_ahead(o, d, w, r, t, i, NONE)
    if r[r[HOST_LAYER] + layer] and not on_host:
        cost = r[r[COST_HOST_WEIGHTS] + layer]
        wait_for(w, stream(o, d, w, r, WEIGHTS, 0, cost, r[r[I_STEP] + t], layer, w[LAST_OP]))
        w[w[IN_USE] + WEIGHTS] = 1
    if r[r[COST_WEIGHTS] + layer] < 0:
        return
    if r[AHEAD] >= 0:
        if r[AHEAD] == 0:
            copy_ahead(o, d, w, r, t, r[r[STREAMED_AT] + layer], w[LAST_OP])
        wait_for(w, w[w[COPIED] + layer])
        return
    step, mine = r[r[I_STEP] + t], w[STREAMED_NEXT]
    if mine < 0:
        mine = stream(o, d, w, r, WEIGHTS, 0, r[r[COST_WEIGHTS] + layer], step, layer, NONE)
    w[w[IN_USE] + WEIGHTS] = 1
    w[STREAMED_NEXT] = NONE
    if layer + 1 < r[N_LAYERS] and r[r[COST_WEIGHTS] + layer + 1] >= 0:
        w[STREAMED_NEXT] = stream(o, d, w, r, WEIGHTS, 1, r[r[COST_WEIGHTS] + layer + 1], step, layer + 1, NONE)
    wait_for(w, mine)


def copy_ahead(o: Any, d: Any, w: Any, r: Any, t: int, i: int, op: int) -> None:
    """The `i`-th layer of those that are streamed, once what its buffer held, or `op`, has been read."""
    layer = r[r[STREAMED_LAYER] + i]
    if r[AHEAD] > 0:
        op = w[w[SLOT_READERS] + i % r[AHEAD]]
    if op >= 0:
        after(d, w, op)
    w[w[COPIED] + layer] = issue(o, w, r, _H2D, r[r[COST_WEIGHTS] + layer], r[r[I_STEP] + t], layer, NONE, NONE)


def read_in_host(o: Any, d: Any, w: Any, r: Any, t: int, costs: int, layer: int, op: int) -> None:
    """Kernels just issued behind `op` read weights over the link, and end with both."""
    cost = r[costs + t * r[N_LAYERS] + layer]
    if cost < 0:
        return
    if op >= 0:
        after(d, w, op)
    wait_for(w, issue(o, w, r, _H2D, cost, r[r[I_STEP] + t], layer, NONE, NONE))
    compute(o, d, w, r, r[COST_JOIN], r[r[I_STEP] + t], layer, NONE)


def leave_layer(o: Any, d: Any, w: Any, r: Any, t: int, layer: int) -> None:
    """A layer has been issued: what it streamed has been read by then."""
    i = r[r[STREAMED_AT] + layer]
    if r[AHEAD] > 0 and i >= 0:
        w[w[SLOT_READERS] + i % r[AHEAD]] = w[LAST_OP]
        if i + r[AHEAD] < r[N_STREAMED]:
            copy_ahead(o, d, w, r, t, i + r[AHEAD], NONE)
    for what in range(3):
        if w[w[IN_USE] + what]:
            was_read(w, what, w[LAST_OP])
            w[w[IN_USE] + what] = 0


def end_pass(o: Any, d: Any, w: Any, r: Any, t: int) -> int:
    """The last layer is done: whether the head runs on the host. Activations are where it does."""
    n_layers, stays = r[N_LAYERS], w[IS_HERE]
    if not stays and r[N_HOST_LAYERS] == n_layers:
        w[ARRIVED] = hand_over(o, d, w, r, t, w[LAST_OP], n_layers - 1)
        stays = 1
    if stays and r[N_HOST_LAYERS] < n_layers:
        wait_for(w, give_back(o, d, w, r, t, n_layers - 1))
        stays = 0
    w[IS_HERE] = 0
    return stays


def stream_own_cache(o: Any, d: Any, w: Any, r: Any, t: int, mixer: int, layer: int) -> None:
    """Keys and values of a layer of the host that this pass streams."""
    cost = r[r[COST_HOST_CACHE] + r[r[PARTS] + t] * r[N_MIXERS] + mixer]
    wait_for(w, stream(o, d, w, r, CACHE, 0, cost, r[r[I_STEP] + t], layer, w[LAST_OP]))
    w[w[IN_USE] + CACHE] = 1


def attend(o: Any, d: Any, w: Any, r: Any, t: int, mixer: int, layer: int) -> None:
    """Attention of one micro-batch after the other where keys and values are; the next op of each waits for it."""
    step, first, end = r[r[I_STEP] + t], r[r[PARTS] + t], r[r[PARTS] + t + 1]
    n_waits = w[N_PART_WAITS]
    for part in range(first, end):
        at = part * r[N_MIXERS] + mixer
        if r[KV] == KV_STREAM:
            if end - first == 1 and r[r[COST_GATHER] + at] >= 0:
                issue(o, w, r, _HOST, r[r[COST_GATHER] + at], step, layer, NONE, NONE)
            wait_for(w, stream(o, d, w, r, CACHE, 0, r[r[COST_SCORES] + at], step, layer, NONE))
        op = compute(o, d, w, r, r[r[COST_SELF_ATTENTION] + at], step, layer, NONE)
        if r[KV] == KV_STREAM:
            if end - first > 1:
                was_read(w, CACHE, op)
            else:
                w[w[IN_USE] + CACHE] = 1
        elif r[KV] == KV_HOST:
            after(d, w, op)
            op = issue(o, w, r, _D2H, r[r[COST_HANDOVER] + part], step, layer, NONE, NONE)
            if r[HOST_COMPUTES]:
                after(d, w, op)
                op = issue(o, w, r, _HOST, r[COST_WAIT], step, layer, NONE, NONE)
            after(d, w, op)
            w[HOST_LAST] = issue(o, w, r, _CPU, r[r[COST_SCORES] + at], step, layer, NONE, NONE)
            if r[HOST_COMPUTES]:
                after(d, w, w[HOST_LAST])
                issue(o, w, r, _HOST, r[COST_BUSY], step, layer, NONE, NONE)
            after(d, w, w[HOST_LAST])
            op = issue(o, w, r, _H2D, r[r[COST_RETURN] + part], step, layer, NONE, NONE)
            if end - first > 1:
                r[r[PART_WAITS] + (part - first) * r[N_EACH_WAITS] + n_waits] = op
                w[N_PART_WAITS] = n_waits + 1
            else:
                wait_for(w, op)
