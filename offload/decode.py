"""THE loop: a routing trace and a policy become one schedule. Decisions in, ops out; no clock anywhere.

Order inside a MoE block (the released Pre-gated MoE, `fetch_first`): gate, wait for the block's own experts,
issue the fetches of later blocks, expert FFN. The transfer of block N + 1 can hide under the expert FFN of N,
the dense layer between, and the attention and gate of N + 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload import work
from offload.execution import Execution
from offload.fast.decode_compiled import CompiledLoop, is_compilable
from offload.memory import CapacityExceeded, Copies, ExpertMemory
from offload.mixing import mixing_works
from offload.ops import Lane, OpKind, Work
from offload.policy import BlockView, Decisions, Fetch, MissAction, Policy, RunFacts, no_prefetch
from offload.policy_answers import checked_answers, checked_fetches
from offload.recorder import Part, Recorder, assemble
from offload.residency import ResidentSet, count_slots
from offload.schedule import Schedule
from traces.errors import InvalidInput
from traces.model.architecture import LayerStack, ModelArchitecture
from traces.routing import Phase, Step

__all__ = ["DecodeStream", "Decoded", "decode"]

_PART_OPS = 1 << 18
"""Ops written before a part is handed over."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A schedule and what the cache met on the way.

    `n_lookups`, `n_hits`: experts looked up for a (step, layer) union, and found resident, in decode steps;
    `n_prefill_lookups`, `n_prefill_hits` the same in prefill.
    """

    schedule: Schedule
    n_lookups: int
    n_hits: int
    n_prefill_lookups: int
    n_prefill_hits: int


def decode(
    model: ModelArchitecture,
    steps: Iterable[Step],
    policy: Policy,
    execution: Execution,
    *,
    n_buffers: int,
    cache: ResidentSet | None = None,
    disk: bool = False,
    static_bytes: int = 0,
) -> Decoded:
    """Write the schedule of `steps` under `policy`, as `execution` runs it: `decode_stream`, all parts in one.

    `n_buffers`: transient expert slots; `cache`: slots beside them; `disk`: experts live on storage;
    `static_bytes`: HBM in use throughout, what a warm cache holds not counted. Raises `CapacityExceeded` when the
    experts of one block do not fit `n_buffers`, `InvalidInput` when the policy fetches for a block that has run or
    an expert or block that does not exist.
    """
    stream = DecodeStream(model, steps, policy, execution, n_buffers=n_buffers, cache=cache, disk=disk)
    schedule = assemble(stream, static_bytes + stream.warm_bytes)
    return Decoded(schedule, *stream.lookups[Phase.DECODE], *stream.lookups[Phase.PREFILL])


class DecodeStream:
    """The schedule of `steps` part by part: iterate once; memory is bounded by a part and a step, not by the trace.

    Arguments as of `decode`, whose errors come while iterating. `lookups`: by phase, experts looked up and found
    resident so far; `warm_bytes`: HBM that a warm cache holds from the start. `compiled`: None takes the compiled loop
    wherever it knows the policy, False the definition.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        steps: Iterable[Step],
        policy: Policy,
        execution: Execution,
        *,
        n_buffers: int,
        cache: ResidentSet | None = None,
        disk: bool = False,
        compiled: bool | None = None,
    ) -> None:
        kind = CompiledLoop if compiled is not False and model.is_uniform and is_compilable(policy, cache) else _Loop
        self._loop: CompiledLoop | _Loop = kind(model, policy, execution, n_buffers, cache, disk)
        self._steps = steps
        self.warm_bytes = self._loop.warm_bytes

    @property
    def lookups(self) -> dict[Phase, list[int]]:
        """Experts looked up and found resident, by phase."""
        return self._loop.lookups

    def __iter__(self) -> Iterator[Part]:
        return self._loop.parts(self._steps)


class _Union(NamedTuple):
    """The experts of one (step, layer): distinct, ascending, with the tokens that each serves."""

    experts: tuple[int, ...]
    tokens: tuple[int, ...]


def _unions(experts: NDArray[np.int16], n_experts: int) -> list[_Union]:
    """The union of each layer of a step; `experts` (n_tokens, n_layers, top_k), -1 pads."""
    n_layers = experts.shape[1]
    keys = experts.astype(np.int64) + np.arange(n_layers)[None, :, None] * n_experts
    counts = np.bincount(keys[experts >= 0], minlength=n_layers * n_experts).reshape(n_layers, n_experts)
    unions = []
    for row in counts:
        active = np.flatnonzero(row)
        unions.append(_Union(tuple(active.tolist()), tuple(row[active].tolist())))
    return unions


class _Loop:
    """The state of one pass over the steps."""

    def __init__(
        self,
        model: ModelArchitecture,
        policy: Policy,
        execution: Execution,
        n_buffers: int,
        cache: ResidentSet | None,
        disk: bool,
    ) -> None:
        self.model, self.policy, self.execution = model, policy, execution
        self.recorder = Recorder()
        copies = Copies(
            work.expert_copy_work(model, OpKind.DISK_READ) if disk else None,
            work.expert_copy_work(model, OpKind.FETCH),
            work.expert_copy_work(model, OpKind.STAGE) if execution.stage else None,
        )
        places = [layer for stack in model.stacks for layer in stack.moe_layers]
        self.memory = ExpertMemory(
            self.recorder, n_buffers, model.expert_bytes, copies, cache, places, in_runs=execution.grouped
        )
        self.warm_bytes = self.memory.warm_bytes
        self.slots_bytes = count_slots(n_buffers, cache) * model.expert_bytes
        self.lookups = {phase: [0, 0] for phase in Phase}
        self.memory_tokens: Counter[int] = Counter()  # sequence -> encoder outputs
        self.projected: set[int] = set()  # sequences whose cross-attention keys and values exist
        n_encoder = model.n_encoder_moe_layers
        facts = RunFacts(model.n_moe_layers - n_encoder, n_encoder, model.n_experts, model.top_k)
        self.decisions = policy.decisions(facts)
        self.next_step: list[Fetch] = []  # of the next step, for blocks that have not run in this one

    def parts(self, steps: Iterable[Step]) -> Iterator[Part]:
        """The schedule of `steps`, some hundred thousand ops at a time."""
        for step in steps:
            self.run(step)
            if len(self.recorder) >= _PART_OPS and not self.memory.holds_ahead:
                yield self.recorder.take(self.memory.live_ops())
        yield self.recorder.take(self.memory.live_ops())

    def run(self, step: Step) -> None:
        """One forward pass."""
        self.i_step, self.phase, self.n_tokens = step.i_step, Phase(step.phase), len(step.experts)
        model = self.model
        encoding = model.encoder is not None and step.phase == Phase.PREFILL
        stack = model.encoder if encoding and model.encoder is not None else model.decoder
        policy, decisions = self.policy, self.decisions
        if encoding and policy.encoder == "on_demand" and not policy.resident:
            policy = replace(policy, lookahead=0, prefetch=no_prefetch, start=None, needs_ids=True)
            decisions = Decisions(no_prefetch, decisions.on_miss)
        first = 0 if encoding else model.n_encoder_moe_layers
        n_blocks = len(stack.moe_layers)
        unions = _unions(step.experts[:, first : first + n_blocks], model.n_experts)
        blocks = _Blocks(self, policy, decisions, first, unions, step, encoding)
        attention: Sequence[Work | None] = self._attention(step, stack, encoding)
        mixing = () if stack.is_uniform else mixing_works(model, stack, step)
        for layer in range(stack.n_layers):
            for what in mixing[layer : layer + 1] if mixing else attention:
                if what is not None:
                    self.compute(what, layer)
            if layer in stack.moe_layers:
                blocks.run(stack.moe_layers.index(layer), layer)
            elif layer not in stack.bare_layers:
                self.compute(work.dense_ffn_work(model, stack, self.n_tokens), layer)
        if not encoding:
            head = self.compute(work.head_work(model, len(np.unique(step.sequence))), -1)
            self.host(Work(OpKind.STEP), (head,), -1)

    def _attention(self, step: Step, stack: LayerStack, encoding: bool) -> list[Work]:
        """The attention ops of each layer of this pass, the same for every layer."""
        sequences, index = np.unique(step.sequence, return_inverse=True)
        counts = np.bincount(index)
        if encoding:  # every token sees every token of its sequence
            self.memory_tokens.update(dict(zip(sequences.tolist(), counts.tolist(), strict=True)))
            kv_tokens, pairs = self.n_tokens, int((counts.astype(np.int64) ** 2).sum())
        else:  # causal: a token sees itself and what came before it
            context = step.position.astype(np.int64) + 1
            longest = np.zeros(len(sequences), dtype=np.int64)
            np.maximum.at(longest, index, context)
            kv_tokens, pairs = int(longest.sum()), int(context.sum())
        works = [work.self_attention_work(self.model, stack, self.n_tokens, kv_tokens, pairs)]
        if stack.cross_attention and not encoding:
            running = sequences.tolist()
            new = [sequence for sequence in running if sequence not in self.projected]
            self.projected.update(new)
            memory = sum(self.memory_tokens[sequence] for sequence in running)
            new_memory = sum(self.memory_tokens[sequence] for sequence in new)
            works.append(work.cross_attention_work(self.model, stack, self.n_tokens, memory, new_memory))
        return works

    def compute(self, what: Work, layer: int, after: Sequence[int] = (), hbm_released: int = 0) -> int:
        """An op of the compute stream."""
        return self.recorder.issue(Lane.COMPUTE, what, after, step=self.i_step, layer=layer, hbm_released=hbm_released)

    def host(self, what: Work, after: Sequence[int], layer: int) -> int:
        """An op of the issuing thread, which blocks until `after` is done."""
        return self.recorder.issue(Lane.HOST, what, after, step=self.i_step, layer=layer)


class _Blocks:
    """The MoE blocks of one forward pass through one stack."""

    def __init__(
        self,
        loop: _Loop,
        policy: Policy,
        decisions: Decisions,
        first: int,
        unions: list[_Union],
        step: Step,
        encoding: bool,
    ) -> None:
        self.loop, self.policy, self.decisions, self.first, self.unions = loop, policy, decisions, first, unions
        self.step, self.encoding = step, encoding
        self.n_revealed = 0  # blocks whose experts a gate has selected so far
        self.bits: dict[int, float] = {}  # experts of the block that are fetched below their stored precision

    def run(self, block: int, layer: int) -> None:
        """Gate, copies, waits and expert FFN of MoE block `block`, which sits in `layer`."""
        loop, union = self.loop, self.unions[block]
        gate = loop.compute(work.gate_work(loop.model, loop.n_tokens), layer)
        if self.policy.resident:
            self._count(len(union.experts), len(union.experts))
            self._experts(union, layer, dict.fromkeys(union.experts, -1))
            return
        selected_before = block < self.n_revealed and block > 0
        self.n_revealed = max(self.n_revealed, block + self.policy.lookahead + 1)
        view = self._view(block)
        fetches = checked_fetches(self.policy.name, self.decisions.prefetch(view), view, crosses=not self.encoding)
        own = [fetch for fetch in fetches if fetch.block == block and not fetch.steps_ahead]
        later = [fetch for fetch in fetches if fetch.experts and (fetch.block != block or fetch.steps_ahead)]
        read_back = not selected_before
        loop.memory.gated_layer = self.first + block
        if read_back:
            loop.memory.cancel(self.first + block, union.experts, self._read_back(gate, layer))
        on_cpu = self._fetch_own(view, own)
        reads_again = bool(later) and self._reads_for(later, read_back)
        if loop.execution.fetch_first:
            self._wait(block, layer)
            if reads_again:
                self._read_back(gate, layer)
            self._bring(later, block - 1)
            self._experts_and_release(block, layer, on_cpu, gate)
            self._bring((), block)
        else:
            self._experts_and_release(block, layer, on_cpu, gate)
            if reads_again:
                self._read_back(gate, layer)
            self._bring(later, block)

    def _view(self, block: int) -> BlockView:
        union = self.unions[block]

        def revealed(other: int) -> tuple[int, ...] | None:
            known = 0 <= other < min(self.n_revealed, len(self.unions))
            return self.unions[other].experts if known else None

        def of_tokens(values: NDArray[Any] | None, other: int) -> NDArray[Any] | None:
            return None if values is None or revealed(other) is None else values[:, self.first + other]

        return BlockView(
            i_step=self.loop.i_step,
            block=block,
            n_blocks=len(self.unions),
            n_experts=self.loop.model.n_experts,
            active=union.experts,
            tokens=union.tokens,
            revealed=revealed,
            resident=lambda other, expert: self.loop.memory.has(self.first + other, expert),
            chosen=lambda other: of_tokens(self.step.experts, other),
            gate_weights=lambda other: of_tokens(self.step.gate_weights, other),
        )

    def _reads_for(self, later: list[Fetch], read_back: bool) -> bool:
        """Whether the host must read the ids of later blocks back before it can fetch them."""
        if self.loop.execution.readback_per_fetch:
            return True
        return self.policy.needs_ids and not read_back

    def _read_back(self, gate: int, layer: int) -> int:
        """The host waits for the ids that the gate has selected; returns the wait."""
        loop = self.loop
        n_ids = loop.n_tokens * loop.model.top_k
        ids = loop.recorder.issue(Lane.D2H, work.readback_work(n_ids), (gate,), step=loop.i_step, layer=layer)
        return loop.host(Work(OpKind.WAIT), (ids,), layer)

    def _fetch_own(self, view: BlockView, own: list[Fetch]) -> list[int]:
        """Bring what this block needs and has not; returns the experts that the host computes instead."""
        memory, layer = self.loop.memory, self.first + view.block
        for fetch in own:
            memory.bring(layer, fetch.experts, self.loop.i_step, view.active)
        memory.drop_waiting(layer, view.active)
        absent = [expert for expert in view.active if not memory.claimed_or_waiting(layer, expert)]
        missing = [expert for expert in absent if not memory.has(layer, expert)]
        actions = self._answers(view, missing) if missing else {}
        self.bits = {expert: action.bits for expert, action in actions.items() if action.bits is not None}
        on_cpu = [expert for expert in missing if actions[expert].place == "host"]
        memory.bring(layer, [e for e in absent if e not in on_cpu], self.loop.i_step, bits=self.bits)
        return on_cpu

    def _answers(self, view: BlockView, missing: list[int]) -> dict[int, MissAction]:
        """What the policy does with each missing expert. Raises `InvalidInput` for what cannot be done."""
        answers = checked_answers(self.policy.name, self.decisions.on_miss(view, missing), view, missing)
        loop = self.loop
        for expert, action in answers.items():
            if action.bits is None:
                continue
            where = f"policy {self.policy.name} fetches expert {expert} at {action.bits:g} bits"
            copies, execution, stored = loop.memory.copies, loop.execution, loop.model.expert_dtype.bits
            if execution.grouped or copies.stage or copies.disk or loop.memory.cache is not None:
                raise InvalidInput(
                    f"{where}: take a stack that runs experts one by one from their slots (streams), no cache, and DRAM"
                )
            if action.bits > stored:
                raise InvalidInput(f"{where}: {loop.model.name} stores {stored:g}, give at most that")
        return answers

    def _bring(self, later: Iterable[Fetch], done: int) -> None:
        """Start `later` fetches; those of the next step once their block has run, `done` being the last that has."""
        loop = self.loop
        for fetch in later:
            if fetch.steps_ahead:
                loop.next_step.append(fetch)
            else:
                named = self.unions[fetch.block].experts
                loop.memory.bring(self.first + fetch.block, fetch.experts, loop.i_step, named)
        if loop.next_step:
            due = [fetch for fetch in loop.next_step if fetch.block <= done]
            loop.next_step = [fetch for fetch in loop.next_step if fetch.block > done]
            for fetch in due:
                loop.memory.bring(self.first + fetch.block, fetch.experts, loop.i_step)

    def _wait(self, block: int, layer: int) -> None:
        """The host blocks until the block's copies are done, where the stack does that."""
        held = self.loop.memory.claimed(self.first + block)
        ready = sorted({h.ready for h in held.values() if h.ready >= 0})
        if ready and self.loop.execution.host_waits:
            self.loop.host(Work(OpKind.WAIT), ready, layer)

    def _experts_and_release(self, block: int, layer: int, on_cpu: list[int], gate: int) -> None:
        loop, union, moe_layer = self.loop, self.unions[block], self.first + block
        held = loop.memory.claimed(moe_layer)
        on_device = [expert for expert in union.experts if expert not in on_cpu]
        for expert in on_device:
            if expert not in held:
                raise CapacityExceeded(
                    f"step {loop.i_step}, MoE layer {moe_layer}: {len(on_device)} experts needed at once do "
                    f"not fit {loop.memory.n_buffers} expert slots: free HBM or use a smaller batch"
                )
        self._count(len(union.experts), sum(held[expert].hit for expert in on_device))
        tokens = dict(zip(union.experts, union.tokens, strict=True))
        host_ops = [
            loop.recorder.issue(
                Lane.CPU,
                work.experts_work(loop.model, [tokens[expert]])._replace(kind=OpKind.CPU_EXPERT),
                (gate,), step=loop.i_step, layer=layer, expert=expert,
            )
            for expert in on_cpu
        ]  # fmt: skip
        device = _Union(tuple(on_device), tuple(tokens[expert] for expert in on_device))
        layerwise = loop.execution.grouped or loop.execution.host_waits or not self.policy.needs_ids
        used = held if layerwise else {expert: held[expert] for expert in on_device}
        ready = {expert: h.ready for expert, h in used.items()}
        freed = loop.model.expert_bytes * sum(h.transient for h in used.values())
        last = self._experts(device, layer, ready, host_ops, freed)
        loop.memory.release(moe_layer, last, used)

    def _experts(
        self,
        union: _Union,
        layer: int,
        ready: dict[int, int],
        host_ops: Sequence[int] = (),
        freed: int = 0,
    ) -> int:
        """The FFN ops: one grouped, or one an expert as they arrive and shared experts first."""
        loop, model = self.loop, self.loop.model
        shared = loop.n_tokens if model.n_shared_experts else 0
        arrivals = sorted({op for op in ready.values() if op >= 0})
        if loop.execution.grouped or not union.experts:
            what = work.experts_work(model, union.tokens, shared, loop.slots_bytes)
            last = loop.compute(what, layer, (*arrivals, *host_ops), freed)
        else:
            if shared:
                loop.compute(work.experts_work(model, (), shared), layer)
            order = sorted(range(len(union.experts)), key=lambda i: ready[union.experts[i]])
            for n_left, i in zip(range(len(order) - 1, -1, -1), order, strict=True):
                after = () if n_left else (*arrivals, *host_ops)
                own = ready[union.experts[i]]
                waits = sorted({*after, *((own,) if own >= 0 else ())})
                what = work.experts_work(model, (union.tokens[i],), 0, loop.slots_bytes)
                if union.experts[i] in self.bits:
                    what = what._replace(weight_bits=self.bits[union.experts[i]])
                last = loop.recorder.issue(
                    Lane.COMPUTE, what, waits, step=loop.i_step, layer=layer,
                    expert=union.experts[i], hbm_released=0 if n_left else freed,
                )  # fmt: skip
        if loop.execution.sync_after_ffn:
            loop.host(Work(OpKind.WAIT), (last,), layer)
        return last

    def _count(self, n_lookups: int, n_hits: int) -> None:
        counts = self.loop.lookups[self.loop.phase]
        counts[0] += n_lookups
        counts[1] += n_hits
