"""THE loop: a routing trace and a policy become one schedule. Decisions in, ops out; no clock anywhere.

Order inside a MoE block (the released Pre-gated MoE, `fetch_first`): gate, wait for the block's own experts,
issue the fetches of later blocks, expert FFN. The transfer of block N + 1 can hide under the expert FFN of N,
the dense layer between, and the attention and gate of N + 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from offload import work
from offload.copies import Copies
from offload.decoding_pass import PassWorks
from offload.drafting import Draft
from offload.execution import Execution
from offload.fast.decode_compiled import CompiledLoop, is_compilable, is_kept
from offload.host_side import HostSide
from offload.memory import ExpertMemory
from offload.micro_batches import MicroBatches, micro_batches_of
from offload.mixing import mixing_works
from offload.moe_blocks import Blocks
from offload.ops import Lane, OpKind, Work
from offload.passes import passes_of
from offload.placement import Placed, place
from offload.policy import Decisions, Fetch, Policy, RunFacts, no_prefetch
from offload.recorder import Part, Recorder, assemble
from offload.residency import ResidentSet, count_slots
from offload.schedule import Schedule
from offload.unions import Union
from offload.work_rows import Works
from traces.errors import InvalidInput
from traces.machine_code import KEPT_OPS
from traces.model.architecture import LayerStack, ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

__all__ = ["DecodeStream", "Decoded", "about_ops", "decode", "small_ops"]

SMALL_OPS = 120_000
"""Schedules of about so many ops are written in Python, or of `KEPT_OPS` where the compiled code is kept: that is done
before it would be there."""

_PART_OPS = 1 << 18
"""Ops written before a part is handed over."""

_SMALL_PASS = 512
"""Routing cells of a forward pass up to which lists are quicker than arrays."""

_STEP = Work(OpKind.STEP)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A schedule and what the cache met on the way.

    `n_lookups`, `n_hits`: experts looked up for a (step, layer) union, and found resident, in decode steps;
    `n_prefill_lookups`, `n_prefill_hits` the same in prefill. `n_changed`: choices of tokens for which another expert
    was executed, or the same at fewer bits than it is stored at.
    """

    schedule: Schedule
    n_lookups: int
    n_hits: int
    n_prefill_lookups: int
    n_prefill_hits: int
    n_changed: int = 0


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
    compiled: bool | None = None,
    placed: Placed | None = None,
) -> Decoded:
    """Write the schedule of `steps` under `policy`, as `execution` runs it: `decode_stream`, all parts in one.

    `n_buffers`: transient expert slots; `cache`: slots beside them; `disk`: experts live on storage;
    `static_bytes`: HBM in use throughout, what a warm cache holds not counted; `compiled` as of `DecodeStream`;
    `placed`: the policy's placement of this model (None: as `place` has it without a popularity). Raises
    `CapacityExceeded` when the experts of one block do not fit `n_buffers`, `InvalidInput` when the policy fetches for
    a block that has run or an expert or block that does not exist.
    """
    stream = DecodeStream(
        model, steps, policy, execution, n_buffers=n_buffers, cache=cache, disk=disk, compiled=compiled, placed=placed
    )
    schedule = assemble(stream, static_bytes + stream.warm_bytes)
    (n_lookups, n_hits), (n_first, n_first_hits) = (stream.lookups[phase] for phase in (Phase.DECODE, Phase.PREFILL))
    return Decoded(schedule, n_lookups, n_hits, n_first, n_first_hits, stream.n_changed)


class DecodeStream:
    """The schedule of `steps` part by part: iterate once; memory is bounded by a part and a step, not by the trace.

    Arguments as of `decode`, whose errors come while iterating. `lookups`: by phase, experts looked up and found
    resident so far; `warm_bytes`: HBM that a warm cache holds from the start. `compiled`: None takes the compiled loop
    for large schedules wherever it knows the policy, False the definition.
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
        placed: Placed | None = None,
    ) -> None:
        self._arguments = model, policy, execution, n_buffers, cache, disk
        self._steps = steps
        placed = place(model, policy.placement) if placed is None else placed
        known = model.is_uniform and is_compilable(policy, execution, cache) and placed.is_plain
        known = known and not execution.micro_sequences
        self._loop: CompiledLoop | _Loop | None = None  # until the size of the schedule is known
        if compiled is not None or not known:
            made = CompiledLoop if compiled and known else partial(_Loop, placed=placed)
            self._loop = made(*self._arguments)
        self.warm_bytes = 0 if cache is None else cache.n_resident * model.expert_bytes

    @property
    def lookups(self) -> dict[Phase, list[int]]:
        """Experts looked up and found resident, by phase."""
        return {phase: [0, 0] for phase in Phase} if self._loop is None else self._loop.lookups

    @property
    def n_changed(self) -> int:
        """Choices of tokens so far that were not executed as the gates had it."""
        return self._loop.n_changed if isinstance(self._loop, _Loop) else 0

    def __iter__(self) -> Iterator[Part]:
        if self._loop is not None:
            return self._loop.parts(self._steps)
        rest = iter(self._steps)
        first, compiled = _first_steps(rest, self._arguments[0])
        self._loop = (CompiledLoop if compiled else _Loop)(*self._arguments)
        return self._loop.parts(chain(first, rest))


def small_ops() -> int:
    """About how many ops are written in Python before compiled code would be there."""
    return KEPT_OPS if SMALL_OPS > KEPT_OPS and is_kept() else SMALL_OPS


def about_ops(model: ModelArchitecture, steps: Iterable[Step]) -> int:
    """About how many ops a schedule of `steps` has, whatever the policy."""
    return sum(_about_ops(step, model) for step in steps)


def _about_ops(step: Step, model: ModelArchitecture) -> int:
    n_tokens, n_blocks, top_k = step.experts.shape
    return int(n_blocks * (8 + 3 * min(n_tokens * top_k, model.n_experts)))


def _first_steps(steps: Iterator[Step], model: ModelArchitecture) -> tuple[list[Step], bool]:
    """Steps of so many ops that compiled code pays, or all of them if they are fewer; and whether it pays."""
    first: list[Step] = []
    n_ops, most = 0, min(KEPT_OPS, SMALL_OPS)
    for step in steps:
        first.append(step)
        n_ops += _about_ops(step, model)
        if n_ops > most and most < SMALL_OPS:
            most = small_ops()
        if n_ops > most:
            return first, True
    return first, False


def _unions(experts: NDArray[np.int16], n_experts: int) -> list[Union]:
    """The union of each layer of a step; `experts` (n_tokens, n_layers, top_k), -1 pads."""
    n_layers = experts.shape[1]
    if experts.size <= _SMALL_PASS:
        return [_union(row) for row in experts.swapaxes(0, 1).reshape(n_layers, -1).tolist()]
    keys = experts.astype(np.int64) + np.arange(n_layers)[None, :, None] * n_experts
    counts = np.bincount(keys[experts >= 0], minlength=n_layers * n_experts).reshape(n_layers, n_experts)
    unions = []
    for row in counts:
        active = np.flatnonzero(row)
        unions.append(Union(tuple(active.tolist()), tuple(row[active].tolist())))
    return unions


def _union(chosen: list[int]) -> Union:
    """The union of what the tokens of one layer have chosen, -1 pads."""
    if len(chosen) == 1 and chosen[0] >= 0:
        return Union((chosen[0],), (1,))
    counts = Counter(chosen)
    counts.pop(-1, None)
    active = tuple(sorted(counts))
    return Union(active, tuple(counts[expert] for expert in active))


def _contexts(step: Step) -> tuple[dict[int, int], int]:
    """The longest context of each sequence of a step, and the query-key pairs of all its tokens."""
    if len(step.position) <= _SMALL_PASS:
        longest: dict[int, int] = {}
        positions = step.position.tolist()
        for sequence, position in zip(step.sequence.tolist(), positions, strict=True):
            longest[sequence] = max(longest.get(sequence, 0), position + 1)
        return longest, sum(positions) + len(positions)
    sequences, index = np.unique(step.sequence, return_inverse=True)
    context = step.position.astype(np.int64) + 1
    most = np.zeros(len(sequences), dtype=np.int64)
    np.maximum.at(most, index, context)
    return dict(zip(sequences.tolist(), most.tolist(), strict=True)), int(context.sum())


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
        placed: Placed | None = None,
    ) -> None:
        self.model, self.policy, self.execution = model, policy, execution
        self.recorder = Recorder()
        copies = Copies(
            work.expert_copy_work(model, OpKind.DISK_READ) if disk else None,
            work.expert_copy_work(model, OpKind.FETCH),
            work.expert_copy_work(model, OpKind.STAGE) if execution.stage else None,
        )
        places = [layer for stack in model.stacks for layer in stack.moe_layers]
        self.works = Works(model, count_slots(n_buffers, cache) * model.expert_bytes)
        self._of_pass: dict[tuple[bool, int], PassWorks] = {}
        self.memory = ExpertMemory(
            self.recorder, n_buffers, model.expert_bytes, copies, cache, places, execution.arriving != "each",
            execution.n_host_buffers,
        )  # fmt: skip
        self.lookups = {phase: [0, 0] for phase in Phase}
        self.memory_tokens: Counter[int] = Counter()  # sequence -> encoder outputs
        self.projected: set[int] = set()  # sequences whose cross-attention keys and values exist
        n_encoder = model.n_encoder_moe_layers
        facts = RunFacts(
            model.n_moe_layers - n_encoder, n_encoder, model.n_experts, model.top_k, model.expert_dtype.bits
        )
        self.decisions = policy.decisions(facts)
        self.host_side = HostSide(self, place(model, policy.placement) if placed is None else placed)
        self.last_op = -1  # of the compute stream
        self.n_changed = 0
        self.new_request = True  # none of the sequences of this pass was in the one before
        self._running: set[int] = set()
        self.next_step: list[Fetch] = []  # of the next step, for blocks that have not run in this one
        self.split: dict[int, tuple[Work, Work]] = {}  # identity of an attention of this pass -> its two sides
        self.micro: MicroBatches | None = None  # of a pass that computes its layers in several
        drafts = policy.speculation
        self.draft = None if drafts is None else Draft(drafts, lambda what: self.compute(what, -1))

    def parts(self, steps: Iterable[Step]) -> Iterator[Part]:
        """The schedule of `steps`, some hundred thousand ops at a time."""
        for step in steps:
            for one, n_heads in passes_of(step, self.model, self.execution):
                self.run(one, n_heads)
            if len(self.recorder) >= _PART_OPS and not self.memory.holds_ahead:
                yield self.recorder.take(self._live_ops())
        yield self.recorder.take(self._live_ops())

    def _live_ops(self) -> set[int]:
        return {*self.memory.live_ops(), *self.host_side.live_ops()}

    def run(self, step: Step, n_heads: int) -> None:
        """One forward pass, which ends with the head over `n_heads` sequences."""
        self.i_step, self.phase, self.n_tokens = step.i_step, Phase(step.phase), len(step.experts)
        model, sequences = self.model, set(step.sequence.tolist())
        self.new_request, self._running = self._running.isdisjoint(sequences), sequences
        encoding = model.encoder is not None and step.phase == Phase.PREFILL
        stack = model.encoder if encoding and model.encoder is not None else model.decoder
        policy, decisions = self.policy, self.decisions
        if encoding and policy.encoder == "on_demand" and not policy.resident:
            policy = replace(policy, lookahead=0, needs_ids=True)
            decisions = Decisions(no_prefetch, decisions.on_miss)
        first = 0 if encoding else model.n_encoder_moe_layers
        n_blocks = len(stack.moe_layers)
        unions = _unions(step.experts[:, first : first + n_blocks], model.n_experts)
        self.pass_works = self._pass_works(stack, encoding)
        blocks = Blocks(self, policy, decisions, first, unions, step, encoding)
        parts = [step] if encoding else micro_batches_of(step, self.execution.micro_sequences)
        mixing = [self._mixing(part, stack, encoding) for part in parts]  # by micro-batch, by layer
        self.micro = None if len(parts) == 1 else self._in_micro_batches(parts, mixing, first, n_blocks)
        block_of = {layer: block for block, layer in enumerate(stack.moe_layers)}
        away = not encoding and not self.host_side.placed.is_plain
        self.last_op = -1
        self.split.clear()
        if self.draft is not None:
            self.draft.propose(step)
        for layer in range(stack.n_layers):
            if away:
                self.host_side.enter(layer, self.last_op)
            on_host = away and layer in self.host_side.placed.host_layers
            if self.micro is not None:
                self.micro.mix(layer, self.host_side.placed.kv)
            else:
                for what in mixing[0][layer]:
                    self.mix(what, layer, on_host, away)
            block = block_of.get(layer)
            if block is not None:
                blocks.run(block, layer)
            elif self.micro is not None and layer not in stack.bare_layers:
                self.micro.dense(stack, layer)
            elif layer not in stack.bare_layers:
                dense = self.pass_works.dense
                self.host_side.compute(dense, layer) if on_host else self.compute(dense, layer)
            if away:
                self.host_side.leave(layer, self.last_op)
        stays = away and self.host_side.end_pass()
        if n_heads:
            what = self.works.head(n_heads)
            head = self.host_side.compute(what, -1) if stays else self.compute(what, -1)
            self.host(_STEP, (head,), -1)
        if self.draft is not None:
            self.draft.read(step)

    def _mixing(self, step: Step, stack: LayerStack, encoding: bool) -> list[list[Work]]:
        """The works that mix the tokens of a pass or a micro-batch, by layer."""
        n_all, self.n_tokens = self.n_tokens, len(step.experts)
        attention = self._attention(step, stack, encoding)
        self.n_tokens = n_all
        if stack.is_uniform:
            return [attention] * stack.n_layers
        works = mixing_works(self.model, stack, step, self._decompresses(step))
        return [[] if what is None else [what] for what in works]

    def _in_micro_batches(
        self, parts: Sequence[Step], mixing: Sequence[Sequence[Sequence[Work]]], first: int, n_blocks: int
    ) -> MicroBatches:
        """A pass in micro-batches. Raises `InvalidInput` where the host computes what none of them would share."""
        placed = self.host_side.placed
        if placed.host_layers or any(one is not None for one in placed.kept):
            raise InvalidInput(
                f"{self.policy.name}: micro-batches share what is fetched for a layer, and what the host computes is "
                f"not fetched: leave out experts=cpu and layers=cpu"
            )
        experts = [part.experts[:, first : first + n_blocks] for part in parts]
        return MicroBatches(self, parts, mixing, experts, self.model.n_experts)

    def mix(self, what: Work, layer: int, on_host: bool, away: bool) -> None:
        """What mixes the tokens of a layer, where its weights and its keys and values are."""
        placed = self.host_side.placed
        kv = placed.kv if away else "device"
        if on_host:
            self.host_side.compute(what, layer)
        elif kv == "host":
            own, there = self._split(what)
            self.host_side.attend(there, layer, self.compute(own, layer))
        else:
            if kv == "stream":
                self.host_side.stream_cache(int(what.hbm_bytes * placed.kv_share), layer)
            self.compute(what, layer)

    def _split(self, what: Work) -> tuple[Work, Work]:
        """An attention as what the device and what the host computes of it, made once of the layers of a pass."""
        found = self.split.get(id(what))
        if found is None:
            share = self.host_side.placed.kv_share
            there = what._replace(flop=int(what.flop * share), hbm_bytes=int(what.hbm_bytes * share))
            own = what._replace(flop=what.flop - there.flop, hbm_bytes=what.hbm_bytes - there.hbm_bytes)
            found = self.split[id(what)] = own, self.host_side.scores(there)
        return found

    def _pass_works(self, stack: LayerStack, encoding: bool) -> PassWorks:
        works, n = self.works, self.n_tokens
        found = self._of_pass.get((encoding, n))
        if found is None:
            shared = works.shared(n) if self.model.n_shared_experts else None
            found = PassWorks(works.gate(n), works.readback(n), works.dense(stack, n), shared)
            self._of_pass[encoding, n] = found
        return found

    def _attention(self, step: Step, stack: LayerStack, encoding: bool) -> list[Work]:
        """The attention ops of each layer of this pass, the same for every layer."""
        if encoding:  # every token sees every token of its sequence
            sequences, counts = np.unique(step.sequence, return_counts=True)
            self.memory_tokens.update(dict(zip(sequences.tolist(), counts.tolist(), strict=True)))
            kv_tokens, pairs, running = self.n_tokens, int((counts.astype(np.int64) ** 2).sum()), sequences.tolist()
        else:  # causal: a token sees itself and what came before it
            longest, pairs = _contexts(step)
            kv_tokens, running = sum(longest.values()), list(longest)
        n, unpacks = len(running), self._decompresses(step)
        works = [self.works.self_attention(stack, self.n_tokens, kv_tokens, pairs, n, unpacks)]
        if stack.cross_attention and not encoding:
            new = [sequence for sequence in running if sequence not in self.projected]
            self.projected.update(new)
            memory = sum(self.memory_tokens[sequence] for sequence in running)
            new_memory = sum(self.memory_tokens[sequence] for sequence in new)
            works.append(self.works.cross_attention(stack, self.n_tokens, memory, new_memory, n))
        return works

    def _decompresses(self, step: Step) -> bool:
        """Whether latent attention makes keys and values of its context in this pass, on the device."""
        prompt = step.phase == Phase.PREFILL and self.execution.decompresses
        return prompt and self.host_side.placed.kv == "device"

    def compute(
        self, what: Work, layer: int, after: Sequence[int] = (), hbm_released: int = 0, expert: int = -1
    ) -> int:
        """An op of the compute stream."""
        if self.host_side.waits:
            after = sorted({*after, *self.host_side.waits})
            self.host_side.waits.clear()
        self.last_op = self.recorder.issue(
            Lane.COMPUTE, what, after, step=self.i_step, layer=layer, expert=expert, hbm_released=hbm_released
        )
        return self.last_op

    def compute_each(self, works: Sequence[Work], layer: int, after: Sequence[int], expert: int) -> int:
        """An op of each of `works` on the compute stream, which waits for nothing of the host; returns the last."""
        self.last_op = self.recorder.issue_each(
            Lane.COMPUTE, works, after, step=self.i_step, layer=layer, expert=expert
        )
        return self.last_op

    def host(self, what: Work, after: Sequence[int], layer: int) -> int:
        """An op of the issuing thread, which blocks until `after` is done."""
        return self.recorder.issue(Lane.HOST, what, after, step=self.i_step, layer=layer)

    def count(self, n_lookups: int, n_hits: int) -> None:
        """Experts looked up, and found resident."""
        counts = self.lookups[self.phase]
        counts[0] += n_lookups
        counts[1] += n_hits
