"""The decode loop in Python, for every policy: the definition of what a schedule holds. No clock anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload import work
from offload.caches.residency import count_slots
from offload.decoding.decode_job import DecodeJob
from offload.decoding.decoding_pass import FIRST_STEP, SCHEDULE, STEP, PassWorks
from offload.decoding.drafting import Draft
from offload.decoding.micro_batches import MicroBatches, micro_batches_of, tokens_of
from offload.decoding.mixer_works import contexts_of
from offload.decoding.moe_blocks import Blocks
from offload.decoding.prompt_chunks import passes_of
from offload.decoding.token_mixing import TokenMixing
from offload.decoding.unions import Unions, unions_of
from offload.decoding.work_rows import Works, works_of
from offload.ops import Lane, OpKind, Work
from offload.placing.host_side import HostSide, split_attention
from offload.policy import Decisions, Fetch, Policy, RunFacts, no_prefetch
from offload.policy_parts.granularity import check_execution, layer_copy, matrix_copies
from offload.recorder import Part, Recorder
from offload.slots.copies import Copies
from offload.slots.host_tier import HostTier, ReadThrough
from offload.slots.memory import ExpertMemory
from traces.errors import InvalidInput
from traces.model.architecture import LayerStack, ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

_PART_OPS = 1 << 18
"""Ops before a part is handed over."""


def _copies(job: DecodeJob) -> Copies:
    """What one copy brings under a policy. Raises `InvalidInput` where the stack does not bring that."""
    model, policy, execution, disk = job.model, job.policy, job.execution, job.disk
    writes_back = policy.cache is not None and policy.cache.write_back
    check_execution(policy.name, policy.granularity, writes_back, execution, disk)
    copy = layer_copy if policy.granularity == "layer" else work.expert_copy_work
    return Copies(
        copy(model, OpKind.FETCH),
        copy(model, OpKind.STAGE) if execution.stage else None,
        matrix_copies(model, OpKind.FETCH) if policy.granularity == "matrix" else (),
        copy(model, OpKind.WRITE_BACK) if writes_back else None,
        model.n_experts if policy.granularity == "layer" else 0,
    )


class _Layers(NamedTuple):
    """The layers of one forward pass. `mixing`: the works that mix its tokens, by layer, where there are no
    micro-batches; `away`: whether part of them is not on the accelerator.
    """

    stack: LayerStack
    blocks: Blocks
    block_of: dict[int, int]
    mixing: list[list[Work]]
    away: bool


class DecodeLoop:
    """The state of one run over its steps. `recorder`: who takes its ops (None: `Recorder`)."""

    def __init__(self, job: DecodeJob, recorder: Recorder | None = None) -> None:
        model, policy, execution = job.model, job.policy, job.execution
        n_buffers, cache = job.n_buffers, job.cache
        self.model, self.policy, self.execution = model, policy, execution
        self.recorder = Recorder() if recorder is None else recorder
        self._whole = self.works = works_of(model, count_slots(n_buffers, cache) * model.expert_bytes)
        self._mixing = [TokenMixing(one.model, one, execution.indexed) for one in self._whole.each]
        self._of_pass: dict[tuple[bool, int, Works], PassWorks] = {}
        copies = _copies(job)
        if len(self._whole.each) > 1:
            copies = copies._replace(sized=self._whole.sized)
        places = [layer for stack in model.stacks for layer in stack.moe_layers]
        self.host_tier: HostTier | None = None
        if job.disk:
            how = ReadThrough() if job.through is None else job.through
            self.host_tier = how.tier(model, self.recorder, places, execution.n_host_buffers)
        self.memory = ExpertMemory(
            self.recorder, n_buffers, model.expert_bytes, copies, cache, places, execution.arriving != "each",
            self.host_tier,
        )  # fmt: skip
        if job.low is not None:
            self.memory.keeps_low(job.low.residents(model), job.low.bits, places)
        self.lookups = {phase: [0, 0] for phase in Phase}
        self.decisions = policy.decisions(_facts(model))
        self.host_side = HostSide(self, job.placed)
        self.last_op = -1  # of the compute stream
        self.n_changed = 0
        self._loads = False  # a prompt of this run has kernels to load, and no head has run since
        self._has_loaded = not execution.loads_prompt_kernels
        self._is_first = execution.schedules_ahead
        self.new_request = True  # none of the sequences of this pass was in the one before
        self._running: set[int] = set()
        self.next_step: list[Fetch] = []  # of the next step, for blocks that have not run in this one
        self._split_of: dict[int, tuple[Work, Work]] = {}  # identity of an attention of this pass -> its two sides
        self.micro: MicroBatches | None = None  # of a pass that computes its layers in several
        drafts = policy.speculation
        self.draft = None if drafts is None else Draft(drafts, lambda what: self.compute(what, -1))

    def parts(self, steps: Iterable[Step]) -> Iterator[Part]:
        """The schedule of `steps`, some hundred thousand ops at a time."""
        for step in steps:
            for one, n_heads in passes_of(step, self.model, self.execution):
                self.run(one, n_heads)
            full = len(self.recorder) >= _PART_OPS
            if full and not self.memory.holds_ahead:
                yield self.recorder.take(self._live_ops())
        yield self.recorder.take(self._live_ops())

    def _live_ops(self) -> set[int]:
        return {*self.memory.live_ops(), *self.host_side.live_ops()}

    def run(self, step: Step, n_heads: int) -> None:
        """One forward pass, which ends with the head over `n_heads` sequences."""
        layers = self._begin(step)
        if self._is_first:
            self.host(SCHEDULE, (), -1)
            self._is_first = False
        if self.execution.fills_mask and layers.stack is self.model.decoder:
            entries = int(contexts_of([step]).mask_entries[0])
            if entries:
                self.host(self.works.mask(entries), (), -1)
        if self.draft is not None:
            self.draft.propose(step)
        layers.blocks.begin()
        for layer in range(layers.stack.n_layers):
            if layers.away:
                self.host_side.enter(layer, self.last_op)
            self._layer(layer, layers)
            if layers.away:
                self.host_side.leave(layer, self.last_op)
        stays = layers.away and self.host_side.end_pass(self.last_op)
        self.works = self._whole
        if n_heads:
            what = self.works.head(n_heads)
            head = self.host_side.compute(what, -1) if stays else self.compute(what, -1)
            if self.execution.schedules_ahead:
                self.host(SCHEDULE, (), -1)
            self.host(FIRST_STEP if self._loads else STEP, (head,), -1)
            self._loads = False
        if self.draft is not None:
            self.draft.read(step)

    def _begin(self, step: Step) -> _Layers:
        """What a pass has to do, in layers; nothing is written yet."""
        self.i_step, self.phase, self.n_tokens = step.i_step, Phase(step.phase), len(step.experts)
        if not self._has_loaded and self.phase is Phase.PREFILL and self.n_tokens > 1:
            self._loads = self._has_loaded = True
        model, sequences = self.model, set(step.sequence.tolist())
        self.new_request, self._running = self._running.isdisjoint(sequences), sequences
        encoding = model.encoder is not None and step.phase == Phase.PREFILL
        stack = model.encoder if encoding and model.encoder is not None else model.decoder
        policy, decisions = self._deciding(encoding)
        first, n_blocks = 0 if encoding else model.n_encoder_moe_layers, len(stack.moe_layers)
        parts = [step] if encoding else micro_batches_of(step, self.execution.micro_sequences)
        counts = None if len(parts) == 1 else tokens_of(step, parts, first, n_blocks, model.n_experts)
        unions = self.unions(step, first, n_blocks)
        self.pass_works = self._pass_works(stack, encoding)
        blocks = Blocks(self, policy, decisions, first, unions, step, encoding)
        mixing = self._mixing_of(parts, stack, encoding, step)
        self.micro = None if counts is None else self._in_micro_batches(parts, mixing, counts)
        self.last_op = -1
        self._split_of.clear()
        away = not encoding and not self.host_side.placed.is_plain
        return _Layers(stack, blocks, {layer: i for i, layer in enumerate(stack.moe_layers)}, mixing[0], away)

    def _mixing_of(
        self, parts: Sequence[Step], stack: LayerStack, encoding: bool, step: Step
    ) -> list[list[list[Work]]]:
        """The works that mix the tokens of each micro-batch, by layer."""
        found = [one.of_parts(parts, stack, encoding, self._made_moves(step)) for one in self._mixing]
        if len(found) == 1:
            return found[0]
        return [[of[form][layer] for layer, form in enumerate(self._whole.form_of)] for of in zip(*found, strict=True)]

    def _layer(self, layer: int, layers: _Layers) -> None:
        """One layer: what mixes its tokens, then its experts or its dense part, where it has one."""
        placed, micro = self.host_side.placed, self.micro
        if len(self._whole.each) > 1:
            self.works = self._whole.at(layer)
            self.pass_works = self._pass_works(layers.stack, encoding=False)
        on_host, before = layers.away and self.host_side.computes(layer), self.last_op
        if micro is not None:
            micro.mix(layer, placed.kv)
        else:
            for what in layers.mixing[layer]:
                self.mix(what, layer, on_host, layers.away)
        if layers.away:
            self.host_side.read_mixing(layer, before)
        block = layers.block_of.get(layer)
        if block is not None:
            layers.blocks.run(block, layer)
        elif layer in layers.stack.bare_layers:
            return
        elif micro is not None:
            micro.dense(layers.stack, layer)
        elif on_host:
            self.host_side.compute(self.pass_works.dense, layer)
        else:
            before = self.last_op
            self.compute(self.pass_works.dense, layer)
            if layers.away:
                self.host_side.read_ffn(layer, before)

    def _deciding(self, encoding: bool) -> tuple[Policy, Decisions]:
        """Who decides in a pass: an encoder may be served on demand whatever the policy does in decoding."""
        policy, decisions = self.policy, self.decisions
        if encoding and policy.encoder == "on_demand" and not policy.resident:
            return replace(policy, lookahead=0, needs_ids=True), Decisions(no_prefetch, decisions.on_miss)
        return policy, decisions

    def _in_micro_batches(
        self, parts: Sequence[Step], mixing: Sequence[Sequence[Sequence[Work]]], tokens: NDArray[np.int64]
    ) -> MicroBatches:
        """A pass in micro-batches. Raises `InvalidInput` where the host computes what none of them would share."""
        placed = self.host_side.placed
        if placed.host_layers or any(one is not None for one in placed.kept):
            raise InvalidInput(
                f"{self.policy.name}: micro-batches share what is fetched for a layer, and what the host computes is "
                f"not fetched: leave out experts=cpu and layers=cpu"
            )
        return MicroBatches(self, parts, mixing, tokens)

    def mix(self, what: Work, layer: int, on_host: bool, away: bool) -> None:
        """What mixes the tokens of a layer, where its weights and its keys and values are."""
        placed = self.host_side.placed
        kv = placed.kv if away else "device"
        if on_host:
            self.host_side.compute(what, layer)
        elif kv == "host":
            own, there = self.split(what)
            self.host_side.attend(there, layer, self.compute(own, layer))
        else:
            if kv == "stream":
                self.host_side.stream_cache(int(what.hbm_bytes * placed.kv_share), layer)
            elif away and layer in placed.host_layers and what.kind is OpKind.SELF_ATTENTION:
                self.host_side.stream_own_cache(what.hbm_bytes, layer, self.last_op)
            self.compute(what, layer)

    def split(self, what: Work) -> tuple[Work, Work]:
        """An attention as what the device and what the host computes of it, made once of the layers of a pass."""
        found = self._split_of.get(id(what))
        if found is None:
            own, there = split_attention(what, self.host_side.placed.kv_share)
            found = self._split_of[id(what)] = own, self.host_side.scores(there)
        return found

    def unions(self, step: Step, first: int, n_blocks: int) -> Unions:
        """What the gates of `n_blocks` MoE blocks from `first` on choose in a pass."""
        return unions_of(step.experts[:, first : first + n_blocks], self.model.n_experts)

    def _pass_works(self, stack: LayerStack, encoding: bool) -> PassWorks:
        works, n = self.works, self.n_tokens
        found = self._of_pass.get((encoding, n, works))
        if found is None:
            shared = works.shared(n) if self.model.n_shared_experts else None
            found = PassWorks(works.gate(n), works.readback(n), works.dense(stack, n), shared)
            self._of_pass[encoding, n, works] = found
        return found

    def _made_moves(self, step: Step) -> float:
        """Of keys and values that latent attention makes of its context in this pass; 0: none on the device."""
        makes = self.execution.decompresses(step) and self.host_side.placed.kv == "device"
        return self.execution.made_moves if makes else 0.0

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

    def host(self, what: Work, after: Sequence[int], layer: int) -> int:
        """An op of the issuing thread, which blocks until `after` is done."""
        return self.recorder.issue(Lane.HOST, what, after, step=self.i_step, layer=layer)

    def count(self, n_lookups: int, n_hits: int) -> None:
        """Experts looked up, and found resident."""
        counts = self.lookups[self.phase]
        counts[0] += n_lookups
        counts[1] += n_hits


def _facts(model: ModelArchitecture) -> RunFacts:
    """What a policy is told when a run starts."""
    n_encoder = model.n_encoder_moe_layers
    return RunFacts(model.n_moe_layers - n_encoder, n_encoder, model.n_experts, model.top_k, model.expert_dtype.bits)
