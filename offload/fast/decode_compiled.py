"""Decode at machine speed: prepares what `decode_kernel` reads, part by part, and hands its ops on.

For policies that are plain values: the shipped prefetches, misses fetched, no cache or one that evicts by age or by
lookups, any placement, in micro-batches or at once. `offload.decode` is the definition, for every policy; the two write
the same schedule, digest for digest (tests/agree). Memory is bounded by a part: some hundred thousand ops, or one
forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from offload.caches.residency import count_slots
from offload.decoding.decode_job import DecodeJob
from offload.decoding.decoding_pass import FIRST_STEP, SCHEDULE, STEP
from offload.decoding.micro_batches import micro_batches_of
from offload.decoding.mixer_works import Contexts, contexts_of, mixing_works
from offload.decoding.prompt_chunks import passes_of
from offload.decoding.work_rows import Rows, Works, works_of
from offload.fast import decode_words
from offload.fast.block_unions import GROUPS, UNIONS, block_unions_of
from offload.fast.expert_tables import expert_tables, run_tables
from offload.fast.kernels import kernel_layout as layout
from offload.fast.layer_mixers import LayerMixer, mixers_of
from offload.fast.placed_tables import PlacedTables
from offload.fast.plan_words import plan_words
from offload.ops import OpKind, Work
from offload.placing.host_side import JOIN
from offload.recorder import Part
from offload.schedule import COLUMNS
from offload.slots.memory import CapacityExceeded
from traces.model.architecture import LayerStack
from traces.phase import Phase
from traces.routing import Step

_KERNEL = "offload.fast.kernels.decode_kernel"

RUN_STEPS = Kernel(
    _KERNEL,
    "run_steps",
    ("int64[3]", "int32[1]", "int64[2]", "int64[1]", "int64[1]", "float64[1]", "int64", "int64", "int64"),
    returns=True,
    sources=(
        "offload.fast.kernels.answers_kernel",
        "offload.fast.kernels.ffns_kernel",
        "offload.fast.kernels.host_kernel",
        "offload.fast.kernels.placed_kernel",
        "offload.fast.kernels.slots_kernel",
        "offload.fast.kernels.copies_kernel",
        "offload.fast.kernels.eviction_kernel",
        "offload.fast.kernels.kernel_layout",
        "offload.ops",
    ),
    unrolls=False,
)  # fmt: skip

KERNELS = UNIONS, GROUPS, RUN_STEPS

_PART_OPS = 1 << 18
"""Ops a part holds at least room for."""

_PART_CELLS = 1 << 17
"""Experts of unions, or of micro-batches routing cells (tokens x layers x top_k), that are prepared at a time at most,
but always one forward pass.
"""


class CompiledLoop:
    """The state of one pass over the steps, as `offload.decode` keeps it, in arrays.

    `lookups`: by phase, experts looked up and found resident. A `cache` is read once, at the start.
    """

    def __init__(self, job: DecodeJob) -> None:
        self._job, self._model = job, job.model
        self._experts, self._words = decode_words.memory(job.model, job.n_buffers, job.cache)
        self._works = works_of(job.model, count_slots(job.n_buffers, job.cache) * job.model.expert_bytes)
        self._costs = np.array(
            [0.0] * layout.N_HOST_COSTS if job.policy.costs is None else astuple(job.policy.costs), np.float64
        )
        self._memory_tokens: Counter[int] = Counter()
        self._projected: set[int] = set()
        self._loads, self._has_loaded = False, not job.execution.loads_prompt_kernels
        self._is_first = job.execution.schedules_ahead

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
        """Consecutive passes through the same stack, with the sequences that each makes tokens for; of bounded size."""
        model, execution, decode = self._model, self._job.execution, Phase.DECODE
        most_each = 1 << 62 if execution.micro_sequences else model.n_experts
        batch: list[tuple[Step, int]] = []
        n_cells, encodes = 0, False
        for whole in steps:
            one = whole.phase == decode  # of which a long trace has many
            for step, n_heads in [(whole, len(whole.experts))] if one else passes_of(whole, model, execution):
                n_tokens, n_layers, top_k = step.experts.shape
                more, other = min(n_tokens * top_k, most_each) * n_layers, encodes
                encodes = not one and self._encodes(step)
                if batch and (n_cells + more > _PART_CELLS or encodes != other):
                    yield batch
                    batch, n_cells = [], 0
                batch.append((step, n_heads))
                n_cells += more
        if batch:
            yield batch

    def _encodes(self, step: Step) -> bool:
        return self._model.encoder is not None and step.phase == Phase.PREFILL

    def _write(self, passes: list[tuple[Step, int]]) -> Iterator[Part]:
        """The ops of `passes`, in as many parts as it takes."""
        w = self._words
        batch, n_heads = [step for step, _ in passes], [n for _, n in passes]
        encoding = self._encodes(batch[0])
        stack = self._model.encoder if encoding and self._model.encoder is not None else self._model.decoder
        rows = Rows()
        r = self._prepare(rows, batch, n_heads, stack, encoding)
        max_ops, max_deps = self._most(stack, int(np.diff(r[r[layout.PARTS] :][: len(batch) + 1]).max()))
        done = 0
        while done < len(batch):
            n_blocks = -(-max(_PART_OPS, max_ops) >> layout.BLOCK_BITS)
            o = np.empty((n_blocks, layout.N_COLUMNS, layout.BLOCK_ROOM), np.int64)
            d = np.empty(max(2 * _PART_OPS, max_deps), np.int32)
            r[r[layout.ROW_OF] :] = -1
            w[layout.LOCAL] = w[layout.DEPS] = w[layout.ROWS] = 0
            ran = loaded(RUN_STEPS)(o, d, self._experts, w, r, self._costs, done, max_ops, max_deps)
            if ran < 0:
                self._refuse(batch[-1 - ran].i_step)
            done += ran
            used = r[r[layout.USED] :][: w[layout.ROWS]]
            yield self._part(o, d, tuple(rows.works[i] for i in used.tolist()), rows.made_once[used])

    def _most(self, stack: LayerStack, n_parts: int) -> tuple[int, int]:
        """Ops of a pass of so many micro-batches at most, and what these wait for."""
        n_blocks, n_layers, n_experts = len(stack.moe_layers), stack.n_layers, self._model.n_experts
        n_asks = 3 * self._model.n_expert_matrices * n_experts  # of the host, before products
        n_ops = n_layers * (8 * n_parts + 8) + n_blocks * (20 + 5 * n_experts + n_asks + n_parts * (2 + n_experts)) + 10
        n_deps = n_layers * (10 * n_parts + 12) + n_blocks * (20 + 12 * n_experts + 3 * n_asks) + 8
        return n_ops, n_deps + n_blocks * n_parts * (2 * n_experts + n_layers + 4)

    def _refuse(self, i_step: int) -> None:
        w = self._words
        raise CapacityExceeded(
            f"step {i_step}, MoE layer {w[layout.FAILED_LAYER]}: {w[layout.FAILED_N]} experts needed at "
            f"once do not fit {self._job.n_buffers} expert slots: free HBM or use a smaller batch"
        )

    def _part(
        self, o: NDArray[np.int64], d: NDArray[np.int32], works: tuple[Work, ...], made_once: NDArray[np.bool_]
    ) -> Part:
        """The ops just written, as columns."""
        w = self._words
        n_ops = int(w[layout.LOCAL])
        places = {name: getattr(layout, name.upper()) for name in COLUMNS if hasattr(layout, name.upper())}
        columns: dict[str, NDArray[Any]] = {name: _column(o, at, n_ops, COLUMNS[name]) for name, at in places.items()}
        kinds = np.array([what.kind for what in works], np.int8)
        sizes = np.array([what.copy_bytes for what in works], np.int64)
        columns |= {"kind": kinds[columns["cost"]], "bytes": sizes[columns["cost"]]}
        columns |= {
            "dep_ptr": _column(o, layout.DEP_END, n_ops, np.int64, n_before=1),
            "dep": d[: w[layout.DEPS]].copy(),
        }
        last = w[[layout.LAST_FETCH, layout.EARLIER_FETCH, layout.HOST_LAST]]
        waits = w[w[layout.WAITS] :][: w[layout.N_WAITS]]
        slots, buffers = w[w[layout.READER] : w[layout.FREE]], w[w[layout.BUFFERS] : w[layout.IN_USE]]
        live = np.concatenate([slots, buffers, last, waits])
        base = int(w[layout.BASE])
        w[layout.BASE] += n_ops
        return Part(base, columns, works, np.unique(live[live >= 0]), made_once)

    def _prepare(
        self, rows: Rows, batch: list[Step], n_heads: list[int], stack: LayerStack, encoding: bool
    ) -> NDArray[np.int64]:
        """What the kernel reads of the steps: the plan, costs by candidate row and the unions of experts."""
        n_tokens = np.array([len(step.experts) for step in batch])
        placed = PlacedTables(self._job, self._works, rows, stack, encoding, n_tokens)
        plan, works = plan_words(self._job, stack, encoding) | placed.plan(), self._works
        size = 0 if encoding else self._job.execution.micro_sequences
        parts_of = [micro_batches_of(step, size) for step in batch]
        parts = [part for of in parts_of for part in of]
        made_moves = [self._made_moves(step) for step, of in zip(batch, parts_of, strict=True) for _ in of]
        of_parts = np.array([len(part.experts) for part in parts])
        shape = plan["FIRST"], len(stack.moe_layers), self._model.n_experts, self._model.n_shared_experts > 0
        unions = block_unions_of(batch, parts_of, *shape)
        block_of = np.full(stack.n_layers, -1, np.int64)
        block_of[list(stack.moe_layers)] = np.arange(len(stack.moe_layers))
        block_of[list(stack.bare_layers)] = layout.BARE
        form = np.zeros(stack.n_layers, np.int64) if encoding else np.array(works.form_of)
        mixers, mixer_of = mixers_of(stack, works, form.tolist())
        most, n_each = int(unions.n_parts.max()), 1 + len(stack.bare_layers)
        hosts = None if plan["ANSWER"] != layout.FETCHED or plan["AWAY"] else 0
        tables = self._mixing(placed, parts, made_moves, stack, encoding, of_parts, mixers) | {
            "I_STEP": np.array([step.i_step for step in batch], np.int64),
            "PHASE": (np.array([step.phase for step in batch], np.int64) == Phase.PREFILL).astype(np.int64),
            "PARTS": np.append(0, np.cumsum(unions.n_parts)),
            "PART_WAITS": np.zeros(most * n_each, np.int64),
            "NO_COSTS": np.full(most, -1, np.int64),
            "COST_GATE": rows.of_counts(works.gate, of_parts),
            "COST_READBACK": rows.of_counts(works.readback, n_tokens),
            "OF_LAYER": form * len(of_parts),
            "COST_DENSE": rows.of_forms(lambda one, n: one.dense(stack, n), works, of_parts),
            "COST_SHARED": rows.of_forms(Works.shared, works, unions.n_shared),
            "COST_NOTHING": rows.of_forms(lambda one, n: one.grouped(0, ()), works, of_parts),
            "COST_FETCH": rows.of_moe_layers(Works.copy, works, (OpKind.FETCH,)),
            "COST_STAGE": rows.of_moe_layers(Works.copy, works, (OpKind.STAGE,)),
            **expert_tables(works, rows, unions, placed, plan),
            **run_tables(self._job, works, rows, bool(plan["IN_RUNS"])),
            "UNION_TOKENS": unions.tokens[:hosts],
            "COST_HANDOVER": rows.of_counts(works.handover, of_parts[:hosts]),
            "COST_RETURN": rows.of_counts(works.back, of_parts[:hosts]),
            "COST_HEAD": rows.of_counts(lambda n: self._works.head(n) if n else None, np.array(n_heads)),
            "COST_STEP": self._steps(rows, batch, n_heads),
            "COST_MASK": self._masks(rows, batch, encoding),
            **self._schedules(rows, len(batch)),
            "BLOCK_OF": block_of,
            "MIXER_OF": mixer_of,
            "PLACE": np.array([layer for part in self._model.stacks for layer in part.moe_layers], np.int64),
            **placed.of_layers(),
            **placed.of_zero_copies(unions),
            **placed.of_passes(np.array(n_heads)),
            **placed.of_parts(of_parts),
        }
        plan |= {
            "N_STEPS": len(batch),
            "N_BLOCKS": unions.n_blocks,
            "N_EACH_WAITS": n_each,
            "N_MIXERS": len(mixers),
            "COST_DISK": rows.of(works.copy(OpKind.DISK_READ)),
            "COST_WAIT": rows.of(Work(OpKind.WAIT)),
            "COST_BUSY": rows.of(Work(OpKind.ISSUE, n_copies=0)),
            "COST_JOIN": rows.of(JOIN),
        }
        unknown = np.full(len(rows.works), -1, np.int64)
        return decode_words.words(layout.N_PART_WORDS, plan, tables | {"ROW_OF": unknown, "USED": unknown})

    def _steps(self, rows: Rows, batch: list[Step], n_heads: list[int]) -> NDArray[np.int64]:
        """Costs of what ends passes; the first prompt of a run may have kernels to load."""
        loads = []
        for step, n in zip(batch, n_heads, strict=True):
            if not self._has_loaded and step.phase == Phase.PREFILL and len(step.experts) > 1:
                self._loads = self._has_loaded = True
            loads.append(self._loads)
            self._loads = self._loads and not n
        return rows.each(lambda first: FIRST_STEP if first else STEP, loads)

    def _schedules(self, rows: Rows, n_passes: int) -> dict[str, NDArray[np.int64]]:
        """Costs of deciding on passes, where the host does so while the one before computes."""
        first, each = (np.full(n_passes, -1, np.int64) for _ in range(2))
        if self._job.execution.schedules_ahead:
            each[:] = rows.of(SCHEDULE)
        if self._is_first:
            first[0], self._is_first = each[0], False
        return {"COST_FIRST_SCHEDULE": first, "COST_SCHEDULE": each}

    def _masks(self, rows: Rows, batch: list[Step], encoding: bool) -> NDArray[np.int64]:
        """Costs of what begins passes, of a decoder whose host fills a mask for several tokens."""
        if encoding or not self._job.execution.fills_mask:
            return np.full(len(batch), -1, np.int64)
        return rows.each(lambda n: self._works.mask(n) if n else None, contexts_of(batch).mask_entries.tolist())

    def _mixing(
        self,
        placed: PlacedTables,
        parts: list[Step],
        made_moves: list[float],
        stack: LayerStack,
        encoding: bool,
        n_tokens: NDArray[np.int64],
        mixers: Sequence[LayerMixer],
    ) -> dict[str, NDArray[np.int64]]:
        """Costs of what mixes tokens, by micro-batch and mixer: they depend on the context, not on routing."""
        seen, cross = contexts_of(parts), list[Work | None]([None] * len(parts))
        if encoding:
            for member, count in zip(seen.sequence.tolist(), seen.counts.tolist(), strict=True):
                self._memory_tokens[member] += count
        if not stack.is_uniform:
            indexed = self._job.execution.indexed
            found = {one: mixing_works(one.model, stack, seen, made_moves, indexed) for one in self._works.each}
            whats = [found[one.works][one.mixer] for one in mixers]
            return placed.of_mixing(list(chain(*zip(*whats, strict=True))), cross, [one.works for one in mixers])
        if encoding:  # every token sees every token of its sequence
            kv_tokens, pairs = n_tokens, seen.by_pair(seen.counts**2)
        else:  # causal: a token sees itself and what came before it
            kv_tokens, pairs = seen.by_pair(seen.longest), seen.by_token(seen.context)
        columns = (n_tokens, kv_tokens, pairs, seen.n_sequences)
        keys = list(zip(*(column.tolist() for column in columns), made_moves, strict=True))
        if stack.cross_attention and not encoding:
            memory, fresh = self._cross_memory(seen)
            crossing = list(zip(n_tokens.tolist(), memory, fresh, seen.n_sequences.tolist(), strict=True))
            crosses = {key: self._works.cross_attention(stack, *key) for key in dict.fromkeys(crossing)}
            cross = [crosses[key] for key in crossing]
        each = [one.works for one in mixers]
        distinct = list(dict.fromkeys(keys))
        made = [dict(zip(distinct, works.self_attentions(stack, distinct), strict=True)) for works in each]
        return placed.of_mixing([of[key] for key in keys for of in made], cross, each)

    def _made_moves(self, step: Step) -> float:
        """Of keys and values that latent attention makes of its context; 0 where none are on the device."""
        assert self._job.placed is not None
        execution = self._job.execution
        return execution.made_moves if execution.decompresses(step) and self._job.placed.kv == "device" else 0.0

    def _cross_memory(self, seen: Contexts) -> tuple[list[int], list[int]]:
        """Encoder outputs that each pass reads, and of them those projected for the first time."""
        sequences, first, place = np.unique(seen.sequence, return_index=True, return_inverse=True)
        tokens = np.array([self._memory_tokens[sequence] for sequence in sequences.tolist()])
        new = np.array([sequence not in self._projected for sequence in sequences.tolist()])
        self._projected.update(sequences.tolist())
        fresh = np.bincount(seen.of_pair[first[new]], tokens[new], seen.n_passes).astype(np.int64)
        return seen.by_pair(tokens[place]).tolist(), fresh.tolist()


def _column(o: NDArray[np.int64], column: int, n_ops: int, dtype: Any, n_before: int = 0) -> NDArray[Any]:
    """A column of the ops written, (n_before + n_ops,), put together of its blocks, after zeros."""
    whole = np.empty(n_before + n_ops, dtype)
    whole[:n_before], found = 0, whole[n_before:]
    n_block = layout.IN_BLOCK + 1
    n_whole, rest = divmod(n_ops, n_block)
    found[: n_ops - rest].reshape(n_whole, n_block)[:] = o[:n_whole, column, :n_block]
    if rest:
        found[n_ops - rest :] = o[n_whole, column, :rest]
    return whole
