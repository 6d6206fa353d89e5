"""Decode at machine speed: prepares what `decode_kernel` reads, part by part, and hands its ops on.

For policies that are plain values: the shipped prefetches, misses fetched, no cache or one that evicts by age
(`lru`, `fifo`, `lifo`). `offload.decode` is the definition, for every policy; the two write the same schedule, digest
for digest (tests/agree). Memory is bounded by a part: some hundred thousand ops, or one forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload import work
from offload.eviction import Fifo, Lifo, Lru
from offload.execution import Execution
from offload.memory import CapacityExceeded
from offload.ops import OpKind, Work
from offload.policies.prefetch_all import whole_next_block
from offload.policies.pregate import SelectedAhead
from offload.policy import Policy, fetch_misses, no_prefetch
from offload.residency import ResidentSet
from offload.schedule import COLUMNS, Part
from traces.architecture import LayerStack, ModelArchitecture
from traces.routing import Phase, Step

__all__ = ["CompiledLoop", "is_compilable"]

_PART_OPS = 1 << 18
"""Ops a part holds at least room for."""

_PART_CELLS = 1 << 21
"""Routing cells (tokens x layers x top_k) prepared at a time at most, but always one forward pass."""


def is_compilable(policy: Policy, cache: ResidentSet | None) -> bool:
    """Whether policy and cache are values that the kernel knows."""
    known = policy.prefetch in (no_prefetch, whole_next_block) or isinstance(policy.prefetch, SelectedAhead)
    if isinstance(policy.prefetch, SelectedAhead) and policy.prefetch.lookahead != policy.lookahead:
        return False
    by_age = cache is None or cache.eviction_kind in (Lru, Fifo, Lifo)
    return known and policy.on_miss is fetch_misses and by_age


class CompiledLoop:
    """The state of one pass over the steps, as `offload.decode` keeps it, in arrays.

    `lookups`: by phase, experts looked up and found resident. A `cache` is read once, at the start.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        policy: Policy,
        execution: Execution,
        n_buffers: int,
        cache: ResidentSet | None,
        disk: bool,
    ) -> None:
        from offload import decode_kernel

        self._kernel = decode_kernel
        self._model, self._policy, self._execution = model, policy, execution
        self._n_buffers, self._cache, self._disk = n_buffers, cache, disk
        self._memory = _memory(decode_kernel, model, n_buffers, cache)
        size = model.n_experts + 1
        self._cells = decode_kernel.Cells(
            np.zeros(decode_kernel.N_COUNTERS, np.int64), *(np.zeros(size, np.int64) for _ in range(4))
        )
        n = self._cells.n
        n[decode_kernel.LAST_FETCH], n[decode_kernel.FREE_N] = -1, n_buffers
        self._works = _Works(model)
        self._memory_tokens: Counter[int] = Counter()
        self._projected: set[int] = set()
        self.warm_bytes = 0 if cache is None else cache.n_resident * model.expert_bytes

    @property
    def lookups(self) -> dict[Phase, list[int]]:
        """Experts looked up and found resident so far, by phase."""
        n, at = self._cells.n, self._kernel.LOOKUPS
        return {Phase.DECODE: n[at : at + 2].tolist(), Phase.PREFILL: n[at + 2 : at + 4].tolist()}

    def parts(self, steps: Iterable[Step]) -> Iterator[Part]:
        """The schedule of `steps`. Raises `CapacityExceeded` when the experts of one block do not fit."""
        for batch in self._batches(steps):
            yield from self._write(batch)

    def _batches(self, steps: Iterable[Step]) -> Iterator[list[Step]]:
        """Consecutive steps through the same stack, a bounded number of routing cells at a time."""
        batch: list[Step] = []
        cells = 0
        for step in steps:
            if batch and (cells + step.experts.size > _PART_CELLS or self._encodes(step) != self._encodes(batch[0])):
                yield batch
                batch, cells = [], 0
            batch.append(step)
            cells += step.experts.size
        if batch:
            yield batch

    def _encodes(self, step: Step) -> bool:
        return self._model.encoder is not None and step.phase == Phase.PREFILL

    def _write(self, batch: list[Step]) -> Iterator[Part]:
        kernel, model, n = self._kernel, self._model, self._cells.n
        encoding = self._encodes(batch[0])
        stack = model.encoder if encoding and model.encoder is not None else model.decoder
        plan = self._plan(stack, encoding, batch[0].phase)
        rows = _Rows(self._works)
        steps = self._prepare(rows, batch, stack, plan.first, encoding)
        n_blocks, n_experts = len(stack.moe_layers), model.n_experts
        max_ops = 3 * stack.n_layers + n_blocks * (8 + 4 * n_experts) + 2
        max_deps = n_blocks * (8 + 10 * n_experts) + 2
        done = 0
        while done < len(batch):
            out = _out(kernel, max(_PART_OPS, max_ops), max(2 * _PART_OPS, max_deps), len(rows.works))
            n[kernel.LOCAL] = n[kernel.DEPS] = n[kernel.ROWS] = 0
            ran = kernel.run_steps(out, self._memory, self._cells, plan, steps, done, max_ops, max_deps)
            if ran < 0:
                self._refuse(int(steps.i_step[-1 - ran]))
            done += ran
            yield self._part(out, rows.works)

    def _refuse(self, i_step: int) -> None:
        n = self._cells.n
        raise CapacityExceeded(
            f"step {i_step}, MoE layer {n[self._kernel.FAILED_LAYER]}: {n[self._kernel.FAILED_N]} experts needed at "
            f"once do not fit {self._n_buffers} expert slots: free HBM or use a smaller batch"
        )

    def _plan(self, stack: LayerStack, encoding: bool, phase: Phase) -> Any:
        policy, execution, cache = self._policy, self._execution, self._cache
        plain = encoding and policy.encoder == "on_demand" and not policy.resident
        prefetch = 0 if plain or policy.prefetch is no_prefetch else 1
        if prefetch and policy.prefetch is whole_next_block:
            prefetch = 2
        kind = None if cache is None else cache.eviction_kind
        return self._kernel.Plan(
            n_experts=self._model.n_experts,
            first=0 if encoding else self._model.n_encoder_moe_layers,
            n_layers=stack.n_layers,
            expert_bytes=self._model.expert_bytes,
            n_buffers=self._n_buffers,
            lookahead=0 if plain else policy.lookahead,
            prefetch=prefetch,
            resident=int(policy.resident),
            needs_ids=int(plain or policy.needs_ids),
            stage=int(execution.stage),
            grouped=int(execution.grouped),
            fetch_first=int(execution.fetch_first),
            readback_per_fetch=int(execution.readback_per_fetch),
            host_waits=int(execution.host_waits),
            sync_after_ffn=int(execution.sync_after_ffn),
            disk=int(self._disk),
            cached=int(cache is not None),
            n_pools=1 if cache is None else cache.n_pools,
            by_recency=int(kind is Lru),
            newest_first=int(kind is Lifo),
            phase=int(phase == Phase.PREFILL),
            head=int(not encoding),
        )

    def _prepare(self, rows: _Rows, batch: list[Step], stack: LayerStack, first: int, encoding: bool) -> Any:
        """What the kernel reads of the steps: costs by candidate row and the unions of experts."""
        kernel, model = self._kernel, self._model
        n_blocks = len(stack.moe_layers)
        n_tokens = np.array([len(step.experts) for step in batch])
        bounds = np.concatenate([[0], np.cumsum(n_tokens)])
        experts = batch[0].experts if len(batch) == 1 else np.concatenate([step.experts for step in batch])
        n_entries = int(np.minimum(n_tokens * model.top_k, model.n_experts).sum()) * n_blocks
        ptr = np.zeros(len(batch) * n_blocks + 1, np.int64)
        found, tokens = np.zeros(n_entries, np.int64), np.zeros(n_entries, np.int64)
        kernel.unions(experts, bounds, first, n_blocks, model.n_experts, ptr, found, tokens)
        found, tokens = found[: ptr[-1]], tokens[: ptr[-1]]
        n_shared = n_tokens if model.n_shared_experts else np.zeros_like(n_tokens)
        attention = self._attention(rows, batch, stack, encoding, n_tokens)
        each = {name: rows.each(getattr(self._works, name), n_tokens.tolist()) for name in ("gate", "readback")}
        dense = rows.each(lambda n: self._works.dense(stack, n), n_tokens.tolist())
        alone = self._execution.grouped is False
        block_of = np.full(stack.n_layers, -1, np.int64)
        block_of[list(stack.moe_layers)] = np.arange(n_blocks)
        return kernel.Steps(
            i_step=np.array([step.i_step for step in batch], np.int64),
            **attention,
            **each,
            dense=dense,
            shared=rows.each(self._works.shared, n_shared.tolist()) if alone else np.full(len(batch), -1, np.int64),
            union_ptr=ptr,
            expert=found,
            single=rows.each(self._works.single, tokens.tolist()) if alone else np.zeros(0, np.int64),
            grouped=self._grouped(rows, ptr, tokens, np.repeat(n_shared, n_blocks), alone),
            block_of=block_of,
            place=np.array([layer for part in model.stacks for layer in part.moe_layers], np.int64),
            fetch=rows.of(self._works.copy(OpKind.FETCH)),
            stage=rows.of(self._works.copy(OpKind.STAGE)),
            disk=rows.of(self._works.copy(OpKind.DISK_READ)),
            wait=rows.of(Work(OpKind.WAIT)),
            host_step=rows.of(Work(OpKind.STEP)),
        )

    def _grouped(
        self, rows: _Rows, ptr: NDArray[np.int64], tokens: NDArray[np.int64], n_shared: NDArray[np.int64], alone: bool
    ) -> NDArray[np.int64]:
        """Cost of the FFN of all experts of each union; one an expert (`alone`) needs it for empty unions only."""
        sizes = np.diff(ptr)
        if alone:
            wanted = [(shared, ()) if not size else None for size, shared in zip(sizes, n_shared.tolist(), strict=True)]
            return np.array([0 if key is None else rows.of(self._works.grouped(*key)) for key in wanted], np.int64)
        many = np.zeros(len(sizes), dtype=np.bool_)
        many[np.repeat(np.arange(len(sizes)), sizes)[tokens > 1]] = True
        keys = [
            (shared, tuple(sorted(tokens[ptr[u] : ptr[u + 1]].tolist())) if uneven else (1,) * size)
            for u, (shared, uneven, size) in enumerate(
                zip(n_shared.tolist(), many.tolist(), sizes.tolist(), strict=True)
            )
        ]
        return rows.each(lambda key: self._works.grouped(*key), keys)

    def _attention(
        self, rows: _Rows, batch: list[Step], stack: LayerStack, encoding: bool, n_tokens: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Costs of attention and head: they depend on the context, not on routing."""
        step = np.repeat(np.arange(len(batch)), n_tokens)
        sequence = np.concatenate([s.sequence for s in batch])
        context = np.concatenate([s.position for s in batch]).astype(np.int64) + 1
        order = np.lexsort((sequence, step))
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (np.diff(step[order]) != 0) | (np.diff(sequence[order]) != 0)
        edge = np.flatnonzero(new)  # one pair a (step, sequence)
        pair_step, pair_sequence = step[order][edge], sequence[order][edge]
        counts = np.diff(np.append(edge, len(order)))
        n_sequences = np.bincount(pair_step, minlength=len(batch))
        if encoding:  # every token sees every token of its sequence
            kv_tokens = n_tokens
            pairs = np.bincount(pair_step, counts.astype(np.float64) ** 2, len(batch)).astype(np.int64)
            for member, count in zip(pair_sequence.tolist(), counts.tolist(), strict=True):
                self._memory_tokens[member] += count
        else:  # causal: a token sees itself and what came before it
            longest = np.maximum.reduceat(context[order], edge)
            kv_tokens = np.bincount(pair_step, longest, len(batch)).astype(np.int64)
            pairs = np.bincount(step, context, len(batch)).astype(np.int64)
        keys = list(zip(n_tokens.tolist(), kv_tokens.tolist(), pairs.tolist(), strict=True))
        cross = np.full(len(batch), -1, np.int64)
        if stack.cross_attention and not encoding:
            memory, fresh = self._cross_memory(pair_step, pair_sequence, len(batch))
            crossing = list(zip(n_tokens.tolist(), memory, fresh, strict=True))
            cross = rows.each(lambda key: self._works.cross_attention(stack, *key), crossing)
        return {
            "self_attention": rows.each(lambda key: self._works.self_attention(stack, *key), keys),
            "cross_attention": cross,
            "head": rows.each(self._works.head, n_sequences.tolist()),
        }

    def _cross_memory(
        self, pair_step: NDArray[np.intp], pair_sequence: NDArray[np.int32], n_steps: int
    ) -> tuple[list[int], list[int]]:
        """Encoder outputs that each step reads, and of them those projected for the first time."""
        memory, fresh = [0] * n_steps, [0] * n_steps
        for step, sequence in zip(pair_step.tolist(), pair_sequence.tolist(), strict=True):
            n = self._memory_tokens[sequence]
            memory[step] += n
            if sequence not in self._projected:
                self._projected.add(sequence)
                fresh[step] += n
        return memory, fresh

    def _part(self, out: Any, works: Sequence[Work]) -> Part:
        """The ops just written, as columns."""
        kernel, n, m = self._kernel, self._cells.n, self._memory
        n_ops, n_deps = int(n[kernel.LOCAL]), int(n[kernel.DEPS])
        used = tuple(works[i] for i in out.used[: n[kernel.ROWS]].tolist())
        kinds = np.array([w.kind for w in used], np.int8)
        sizes = np.array([w.copy_bytes for w in used], np.int64)
        columns = {name: getattr(out, name)[:n_ops] for name in COLUMNS if hasattr(out, name)}
        columns |= {"dep_ptr": out.dep_ptr[: n_ops + 1], "dep": out.dep[:n_deps]}
        columns |= {"kind": kinds[columns["cost"]], "bytes": sizes[columns["cost"]]}
        live = np.concatenate([m.reader, m.filled, n[kernel.LAST_FETCH : kernel.LAST_FETCH + 1]])
        base = int(n[kernel.BASE])
        n[kernel.BASE] += n_ops
        return Part(base, columns, used, np.unique(live[live >= 0]))


class _Works:
    """The works of a model by what they depend on, each made once."""

    def __init__(self, model: ModelArchitecture) -> None:
        self._model = model
        self._made: dict[Hashable, Work] = {}

    def _once(self, key: Hashable, make: Callable[[], Work]) -> Work:
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    def self_attention(self, stack: LayerStack, n_tokens: int, kv_tokens: int, pairs: int) -> Work:
        """Not kept: in a long sequence every step has one of its own."""
        return work.self_attention_work(self._model, stack, n_tokens, kv_tokens, pairs)

    def cross_attention(self, stack: LayerStack, n_tokens: int, memory: int, fresh: int) -> Work:
        return work.cross_attention_work(self._model, stack, n_tokens, memory, fresh)

    def gate(self, n_tokens: int) -> Work:
        return self._once(("gate", n_tokens), lambda: work.gate_work(self._model, n_tokens))

    def readback(self, n_tokens: int) -> Work:
        return self._once(("ids", n_tokens), lambda: work.readback_work(n_tokens * self._model.top_k))

    def dense(self, stack: LayerStack, n_tokens: int) -> Work:
        return self._once(("dense", stack, n_tokens), lambda: work.dense_ffn_work(self._model, stack, n_tokens))

    def head(self, n_tokens: int) -> Work:
        return self._once(("head", n_tokens), lambda: work.head_work(self._model, n_tokens))

    def shared(self, n_tokens: int) -> Work | None:
        if not n_tokens:
            return None
        return self._once(("shared", n_tokens), lambda: work.experts_work(self._model, (), n_tokens))

    def single(self, n_tokens: int) -> Work:
        return self._once(("single", n_tokens), lambda: work.experts_work(self._model, (n_tokens,)))

    def grouped(self, n_shared: int, tokens: tuple[int, ...]) -> Work:
        return self._once(("grouped", n_shared, tokens), lambda: work.experts_work(self._model, tokens, n_shared))

    def copy(self, kind: OpKind) -> Work:
        return self._once(("copy", kind), lambda: work.expert_copy_work(self._model, kind))


class _Rows:
    """Candidate rows of one part: a number for every work that its ops may have."""

    def __init__(self, made: _Works) -> None:
        self.works: list[Work] = []
        self._made = made
        self._row: dict[Work, int] = {}

    def of(self, what: Work | None) -> int:
        """The row of a work, -1 for none."""
        if what is None:
            return -1
        row = self._row.setdefault(what, len(self.works))
        if row == len(self.works):
            self.works.append(what)
        return row

    def each(self, make: Callable[[Any], Work | None], keys: Sequence[Any]) -> NDArray[np.int64]:
        """The rows of `make(key)`, each distinct key made once."""
        row = {key: self.of(make(key)) for key in dict.fromkeys(keys)}
        return np.array([row[key] for key in keys], np.int64)


def _out(kernel: Any, n_ops: int, n_deps: int, n_rows: int) -> Any:
    columns = {name: np.empty(n_ops, COLUMNS[name]) for name in kernel.Out._fields if name in COLUMNS}
    columns |= {"dep_ptr": np.zeros(n_ops + 1, np.int64), "dep": np.empty(n_deps, np.int32)}
    return kernel.Out(**columns, row_of=np.full(n_rows, -1, np.int64), used=np.zeros(n_rows, np.int64))


def _memory(kernel: Any, model: ModelArchitecture, n_buffers: int, cache: ResidentSet | None) -> Any:
    """Empty slots, or those of a cache that has residents."""
    n_layers, n_experts = model.n_moe_layers, model.n_experts
    n_slots = n_buffers + (0 if cache is None else cache.capacity)
    n_keys, n_pools = n_layers * n_experts, 1 if cache is None else cache.n_pools
    by_expert = (n_layers, n_experts)
    pools = [] if cache is None else cache.pools()
    newer, older = np.arange(n_keys + n_pools), np.arange(n_keys + n_pools)
    slot_of, filled = np.full(n_keys, -1, np.int64), np.full(n_slots, -2, np.int64)
    spare, spare_top, spare_from = [], np.zeros(n_pools, np.int64), np.zeros(n_pools, np.int64)
    for pool, (free, residents) in enumerate(pools):
        spare_from[pool], spare_top[pool] = len(spare), len(free)
        spare += [*free, *([0] * len(residents))]
        chain = [n_keys + pool, *(key for key, _ in residents), n_keys + pool]  # from the oldest to the newest
        newer[chain[:-1]], older[chain[1:]] = chain[1:], chain[:-1]
        for key, slot in residents:
            slot_of[key], filled[n_buffers + slot] = slot, -1
    queue = n_keys + 1
    return kernel.Memory(
        reader=np.full(n_slots, -1, np.int64),
        filled=filled,
        held_slot=np.full(by_expert, -2, np.int64),
        held_ready=np.full(by_expert, -1, np.int64),
        held_first=np.full(by_expert, -1, np.int64),
        held_hit=np.zeros(by_expert, np.bool_),
        held_transient=np.zeros(by_expert, np.bool_),
        waiting=np.zeros(by_expert, np.bool_),
        held=np.zeros(by_expert, np.int64),
        n_held=np.zeros(n_layers, np.int64),
        free=np.arange(max(n_buffers, 1)),
        queue_layer=np.zeros(queue, np.int64),
        queue_expert=np.zeros(queue, np.int64),
        queue_slot=np.zeros(queue, np.int64),
        queue_hit=np.zeros(queue, np.bool_),
        queue_step=np.zeros(queue, np.int64),
        slot_of=slot_of,
        newer=newer,
        older=older,
        pinned=np.zeros(n_keys, np.bool_),
        mark=np.zeros(n_keys, np.int64),
        pins=np.zeros(by_expert, np.int64),
        n_pins=np.zeros(n_layers, np.int64),
        spare=np.array(spare or [0], np.int64),
        spare_top=spare_top,
        spare_from=spare_from,
    )
