"""Decode at machine speed: prepares what `decode_kernel` reads, part by part, and hands its ops on.

For policies that are plain values: the shipped prefetches, misses fetched, no cache or one that evicts by age or by
lookups. `offload.decode` is the definition, for every policy; the two write the same schedule, digest
for digest (tests/agree). Memory is bounded by a part: some hundred thousand ops, or one forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, are_kept, are_loaded, loaded
from offload.caches.eviction import HotLru, Lfu, Lifo, Lru, Static
from offload.caches.eviction_released import ReleasedLfu, ReleasedLifo
from offload.caches.residency import count_slots
from offload.decoding.decode_job import DecodeJob
from offload.decoding.mixing import Contexts, contexts_of, mixing_works
from offload.decoding.passes import passes_of
from offload.decoding.work_rows import Rows, Works
from offload.fast import decode_words
from offload.fast import kernel_layout as layout
from offload.fast.compilable import answer_of
from offload.ops import OpKind, Work
from offload.policies.prefetch_all import whole_next_block
from offload.policy import no_prefetch
from offload.recorder import Part
from offload.schedule import COLUMNS
from offload.slots.memory import CapacityExceeded
from traces.model.architecture import LayerStack
from traces.phase import Phase
from traces.routing import Step

__all__ = ["CompiledLoop", "is_kept"]

_KERNEL = "offload.fast.decode_kernel"

UNIONS = Kernel(_KERNEL, "unions", ("int16[3]", "int64[1]", "int64", "int64", *["int64[1]"] * 4))
RUN_STEPS = Kernel(
    _KERNEL,
    "run_steps",
    ("int64[2]", "int32[1]", "int64[2]", "int64[1]", "int64[1]", "float64[1]", "int64", "int64", "int64"),
    returns=True,
    sources=(
        "offload.fast.answers_kernel",
        "offload.fast.slots_kernel",
        "offload.fast.copies_kernel",
        "offload.fast.eviction_kernel",
        "offload.fast.kernel_layout",
        "offload.ops",
    ),
)  # fmt: skip

_EXECUTION_FLAGS = ("stage", "fetch_first", "readback_per_fetch", "host_waits", "sync_after_ffn")

_PART_OPS = 1 << 18
"""Ops a part holds at least room for."""

_PART_CELLS = 1 << 17
"""Routing cells (tokens x layers x top_k) prepared at a time at most, but always one forward pass."""


def is_kept() -> bool:
    """Whether the kernels need not be compiled first."""
    return are_loaded(UNIONS, RUN_STEPS) or are_kept(UNIONS, RUN_STEPS)


class CompiledLoop:
    """The state of one pass over the steps, as `offload.decode` keeps it, in arrays.

    `lookups`: by phase, experts looked up and found resident. A `cache` is read once, at the start.
    """

    def __init__(self, job: DecodeJob) -> None:
        self._job, self._model = job, job.model
        self._experts, self._words = decode_words.memory(job.model, job.n_buffers, job.cache)
        self._works = Works(job.model, count_slots(job.n_buffers, job.cache) * job.model.expert_bytes)
        self._costs = np.array(
            [0.0] * layout.N_HOST_COSTS if job.policy.costs is None else astuple(job.policy.costs), np.float64
        )
        self._memory_tokens: Counter[int] = Counter()
        self._projected: set[int] = set()

    @property
    def lookups(self) -> dict[Phase, list[int]]:
        """Experts looked up and found resident so far, by phase."""
        w, at = self._words, layout.LOOKUPS
        return {Phase.DECODE: w[at : at + 2].tolist(), Phase.PREFILL: w[at + 2 : at + 4].tolist()}

    def parts(self, steps: Iterable[Step]) -> Iterator[Part]:
        """The schedule of `steps`. Raises `CapacityExceeded` when the experts of one block do not fit."""
        for batch in self._batches(steps):
            yield from self._write(batch)

    def _batches(self, steps: Iterable[Step]) -> Iterator[list[tuple[Step, int]]]:
        """Consecutive passes through the same stack, with the sequences that each makes tokens for; a bounded number
        of routing cells at a time.
        """
        batch: list[tuple[Step, int]] = []
        cells = 0
        for whole in steps:
            for step, n_heads in passes_of(whole, self._model, self._job.execution):
                ends = cells + step.experts.size > _PART_CELLS
                if batch and (ends or self._encodes(step) != self._encodes(batch[0][0])):
                    yield batch
                    batch, cells = [], 0
                batch.append((step, n_heads))
                cells += step.experts.size
        if batch:
            yield batch

    def _encodes(self, step: Step) -> bool:
        return self._model.encoder is not None and step.phase == Phase.PREFILL

    def _write(self, passes: list[tuple[Step, int]]) -> Iterator[Part]:
        """The ops of `passes`, in as many parts as it takes."""
        w, n_experts = self._words, self._model.n_experts
        batch, n_heads = [step for step, _ in passes], [n for _, n in passes]
        encoding = self._encodes(batch[0])
        stack = self._model.encoder if encoding and self._model.encoder is not None else self._model.decoder
        rows = Rows()
        r = self._prepare(rows, batch, n_heads, stack, encoding)
        n_blocks = len(stack.moe_layers)
        max_ops = 3 * stack.n_layers + n_blocks * (13 + 4 * n_experts) + 2
        max_deps = n_blocks * (14 + 10 * n_experts) + 2
        done = 0
        while done < len(batch):
            o = np.empty((max(_PART_OPS, max_ops), layout.N_COLUMNS), np.int64)
            d = np.empty(max(2 * _PART_OPS, max_deps), np.int32)
            r[r[layout.ROW_OF] :] = -1
            w[layout.LOCAL] = w[layout.DEPS] = w[layout.ROWS] = 0
            ran = loaded(RUN_STEPS)(o, d, self._experts, w, r, self._costs, done, max_ops, max_deps)
            if ran < 0:
                self._refuse(batch[-1 - ran].i_step)
            done += ran
            used = r[r[layout.USED] :][: w[layout.ROWS]]
            yield self._part(o, d, tuple(rows.works[i] for i in used.tolist()))

    def _refuse(self, i_step: int) -> None:
        w = self._words
        raise CapacityExceeded(
            f"step {i_step}, MoE layer {w[layout.FAILED_LAYER]}: {w[layout.FAILED_N]} experts needed at "
            f"once do not fit {self._job.n_buffers} expert slots: free HBM or use a smaller batch"
        )

    def _part(self, o: NDArray[np.int64], d: NDArray[np.int32], works: tuple[Work, ...]) -> Part:
        """The ops just written, as columns."""
        w = self._words
        n_ops = int(w[layout.LOCAL])
        columns: dict[str, NDArray[Any]] = {}
        for name, dtype in COLUMNS.items():
            at = getattr(layout, name.upper(), None)
            if at is not None:
                columns[name] = o[:n_ops, at].astype(dtype)
        kinds = np.array([what.kind for what in works], np.int8)
        sizes = np.array([what.copy_bytes for what in works], np.int64)
        columns |= {"kind": kinds[columns["cost"]], "bytes": sizes[columns["cost"]]}
        columns |= {"dep_ptr": np.append(0, o[:n_ops, layout.DEP_END]), "dep": d[: w[layout.DEPS]].copy()}
        live = np.concatenate([w[w[layout.READER] : w[layout.FREE]], w[[layout.LAST_FETCH, layout.EARLIER_FETCH]]])
        base = int(w[layout.BASE])
        w[layout.BASE] += n_ops
        return Part(base, columns, works, np.unique(live[live >= 0]))

    def _plan(self, stack: LayerStack, encoding: bool) -> dict[str, int]:
        """What policy and stack decide, by the name of the kernel's word for it."""
        policy, execution, cache = self._job.policy, self._job.execution, self._job.cache
        plain = encoding and policy.encoder == "on_demand" and not policy.resident
        prefetch = 0 if plain or policy.prefetch is no_prefetch else 1
        if prefetch and policy.prefetch is whole_next_block:
            prefetch = 2
        kind = None if cache is None else cache.eviction_kind
        flags = {name.upper(): int(getattr(execution, name)) for name in _EXECUTION_FLAGS}
        return flags | {
            "N_EXPERTS": self._model.n_experts,
            "FIRST": 0 if encoding else self._model.n_encoder_moe_layers,
            "N_LAYERS": stack.n_layers,
            "EXPERT_BYTES": self._model.expert_bytes,
            "N_BUFFERS": self._job.n_buffers,
            "LOOKAHEAD": 0 if plain else policy.lookahead,
            "PREFETCH": prefetch,
            "RESIDENT": int(policy.resident),
            "NEEDS_IDS": int(plain or policy.needs_ids),
            "DISK": self._job.execution.n_host_buffers if self._job.disk else 0,
            "CACHED": int(cache is not None),
            "N_POOLS": 1 if cache is None else cache.n_pools,
            "BY_RECENCY": int(kind in (Lru, HotLru)),
            "NEWEST_FIRST": int(kind in (Lifo, ReleasedLifo)),
            "COUNTING": int(kind in (Lfu, ReleasedLfu)),
            "RELEASED": int(kind in (ReleasedLfu, ReleasedLifo)),
            "NOBODY_GOES": int(kind is Static),
            "ANSWER": answer_of(policy),
            "HOST_COMPUTES": int(execution.host_computes),
            "N_ENCODER_KEYS": self._model.n_encoder_moe_layers * self._model.n_experts,
            "FUSED": int((execution.resident if policy.resident else execution.arriving) != "each"),
            "IN_RUNS": int(execution.arriving != "each" and not self._job.disk and prefetch == 2),
        }

    def _prepare(
        self, rows: Rows, batch: list[Step], n_heads: list[int], stack: LayerStack, encoding: bool
    ) -> NDArray[np.int64]:
        """What the kernel reads of the steps: the plan, costs by candidate row and the unions of experts."""
        plan, works = self._plan(stack, encoding), self._works
        n_tokens = np.array([len(step.experts) for step in batch])
        ptr, experts, tokens = self._unions(batch, n_tokens, plan["FIRST"], len(stack.moe_layers))
        n_shared = n_tokens if self._model.n_shared_experts else np.zeros_like(n_tokens)
        alone = not plan["FUSED"]
        none = np.full(len(batch), -1, np.int64)
        block_of = np.full(stack.n_layers, -1, np.int64)
        block_of[list(stack.moe_layers)] = np.arange(len(stack.moe_layers))
        block_of[list(stack.bare_layers)] = layout.BARE
        mixers = {mixer: i for i, mixer in enumerate(one for one in dict.fromkeys(stack.all_mixers) if one is not None)}
        mixer_of = [-1 if mixer is None else mixers[mixer] for mixer in stack.all_mixers]
        tables = self._mixing(rows, batch, stack, encoding, n_tokens) | {
            "I_STEP": np.array([step.i_step for step in batch], np.int64),
            "PHASE": np.array([step.phase == Phase.PREFILL for step in batch], np.int64),
            "COST_GATE": rows.of_counts(works.gate, n_tokens),
            "COST_READBACK": rows.of_counts(works.readback, n_tokens),
            "COST_DENSE": rows.of_counts(lambda n: works.dense(stack, n), n_tokens),
            "COST_SHARED": rows.of_counts(works.shared, n_shared) if alone else none,
            "UNION_PTR": ptr,
            "UNION_EXPERT": experts,
            "COST_SINGLE": rows.of_counts(works.single, tokens) if alone else none[:0],
            "COST_GROUPED": self._grouped(rows, ptr, tokens, np.repeat(n_shared, len(stack.moe_layers)), alone),
            **self._runs(rows, bool(plan["IN_RUNS"])),
            **self._on_host(rows, n_tokens, tokens if plan["ANSWER"] else tokens[:0]),
            "COST_HEAD": rows.of_counts(lambda n: self._works.head(n) if n else None, np.array(n_heads)),
            "BLOCK_OF": block_of,
            "MIXER_OF": np.array(mixer_of, np.int64),
            "PLACE": np.array([layer for part in self._model.stacks for layer in part.moe_layers], np.int64),
        }
        plan |= {
            "N_STEPS": len(batch),
            "N_MIXERS": len(mixers),
            "COST_FETCH": rows.of(works.copy(OpKind.FETCH)),
            "COST_STAGE": rows.of(works.copy(OpKind.STAGE)),
            "COST_DISK": rows.of(works.copy(OpKind.DISK_READ)),
            "COST_WAIT": rows.of(Work(OpKind.WAIT)),
            "COST_STEP": rows.of(Work(OpKind.STEP)),
            "COST_BUSY": rows.of(Work(OpKind.ISSUE, n_copies=0)),
            "COST_NOTHING": rows.of(works.grouped(0, ())),
        }
        unknown = np.full(len(rows.works), -1, np.int64)
        return decode_words.words(layout.N_PART_WORDS, plan, tables | {"ROW_OF": unknown, "USED": unknown})

    def _runs(self, rows: Rows, in_runs: bool) -> dict[str, NDArray[np.int64]]:
        """Costs of runs of copies, by how many copies; nothing where there are no runs."""
        sizes = range(self._model.n_experts + 1) if in_runs else range(0)
        n_hops = 2 if self._job.execution.stage else 1
        return {
            "COST_FETCH_RUN": rows.each(lambda n: self._works.run(OpKind.FETCH, n), sizes),
            "COST_STAGE_RUN": rows.each(lambda n: self._works.run(OpKind.STAGE, n), sizes),
            "COST_ISSUE": rows.each(lambda n: Work(OpKind.ISSUE, n_copies=(n - 1) * n_hops), sizes),
        }

    def _on_host(
        self, rows: Rows, n_tokens: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Costs of what the host computes, by expert of a union, and of the way there and back; `tokens` none where it
        computes nothing.
        """
        if not tokens.size:
            n_tokens = tokens
        return {
            "UNION_TOKENS": tokens,
            "COST_CPU": rows.of_counts(self._works.cpu_expert, tokens),
            "COST_HANDOVER": rows.of_counts(self._works.handover, n_tokens),
            "COST_RETURN": rows.of_counts(self._works.back, n_tokens),
        }

    def _unions(
        self, batch: list[Step], n_tokens: NDArray[np.int64], first: int, n_blocks: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of every (step, block) in CSR form: where it starts, its experts ascending, the tokens each serves."""
        model = self._model
        experts = batch[0].experts if len(batch) == 1 else np.concatenate([step.experts for step in batch])
        n_entries = int(np.minimum(n_tokens * model.top_k, model.n_experts).sum()) * n_blocks
        ptr = np.zeros(len(batch) * n_blocks + 1, np.int64)
        found, tokens = np.zeros(n_entries, np.int64), np.zeros(n_entries, np.int64)
        bounds = np.append(0, np.cumsum(n_tokens))
        counts = np.zeros(model.n_experts, np.int64)
        loaded(UNIONS)(np.ascontiguousarray(experts), bounds, first, n_blocks, counts, ptr, found, tokens)
        return ptr, found[: ptr[-1]], tokens[: ptr[-1]]

    def _grouped(
        self, rows: Rows, ptr: NDArray[np.int64], tokens: NDArray[np.int64], n_shared: NDArray[np.int64], alone: bool
    ) -> NDArray[np.int64]:
        """Cost of the FFN of all experts of each union; one an expert (`alone`) needs it for empty unions only."""
        sizes = np.diff(ptr)
        if alone:
            found = np.zeros(len(sizes), np.int64)
            empty = np.flatnonzero(sizes == 0)
            found[empty] = [rows.of(self._works.grouped(shared, ())) for shared in n_shared[empty].tolist()]
            return found
        uneven = np.zeros(len(sizes), dtype=np.bool_)
        uneven[np.repeat(np.arange(len(sizes)), sizes)[tokens > 1]] = True
        n_sizes = self._model.n_experts + 1
        alike, place = np.unique((n_shared * n_sizes + sizes)[~uneven], return_inverse=True)
        pairs = [divmod(code, n_sizes) for code in alike.tolist()]
        made = [rows.of(self._works.grouped(shared, (1,) * size)) for shared, size in pairs]
        found = np.zeros(len(sizes), np.int64)
        found[~uneven] = np.array(made, np.int64)[place]
        for u in np.flatnonzero(uneven).tolist():
            served = tuple(sorted(tokens[ptr[u] : ptr[u + 1]].tolist()))
            found[u] = rows.of(self._works.grouped(int(n_shared[u]), served))
        return found

    def _mixing(
        self, rows: Rows, batch: list[Step], stack: LayerStack, encoding: bool, n_tokens: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Costs of what mixes tokens, by pass and mixer: they depend on the context, not on routing."""
        seen, cross = contexts_of(batch), np.full(len(batch), -1, np.int64)
        if encoding:
            for member, count in zip(seen.sequence.tolist(), seen.counts.tolist(), strict=True):
                self._memory_tokens[member] += count
        unpacks = [self._job.execution.decompresses and step.phase == Phase.PREFILL for step in batch]
        if not stack.is_uniform:
            found = mixing_works(self._model, stack, seen, unpacks)
            own = [rows.of(what) for works in zip(*found.values(), strict=True) for what in works]
            return {"COST_SELF_ATTENTION": np.array(own, np.int64), "COST_CROSS_ATTENTION": cross}
        if encoding:  # every token sees every token of its sequence
            kv_tokens, pairs = n_tokens, seen.by_pair(seen.counts**2)
        else:  # causal: a token sees itself and what came before it
            kv_tokens, pairs = seen.by_pair(seen.longest), seen.by_token(seen.context)
        columns = (n_tokens, kv_tokens, pairs, seen.n_sequences)
        keys = list(zip(*(column.tolist() for column in columns), unpacks, strict=True))
        if stack.cross_attention and not encoding:
            memory, fresh = self._cross_memory(seen)
            crossing = list(zip(n_tokens.tolist(), memory, fresh, seen.n_sequences.tolist(), strict=True))
            cross = rows.each(lambda key: self._works.cross_attention(stack, *key), crossing)
        return {
            "COST_SELF_ATTENTION": rows.each(lambda key: self._works.self_attention(stack, *key), keys),
            "COST_CROSS_ATTENTION": cross,
        }

    def _cross_memory(self, seen: Contexts) -> tuple[list[int], list[int]]:
        """Encoder outputs that each pass reads, and of them those projected for the first time."""
        sequences, first, place = np.unique(seen.sequence, return_index=True, return_inverse=True)
        tokens = np.array([self._memory_tokens[sequence] for sequence in sequences.tolist()])
        new = np.array([sequence not in self._projected for sequence in sequences.tolist()])
        self._projected.update(sequences.tolist())
        fresh = np.bincount(seen.of_pair[first[new]], tokens[new], seen.n_passes).astype(np.int64)
        return seen.by_pair(tokens[place]).tolist(), fresh.tolist()
