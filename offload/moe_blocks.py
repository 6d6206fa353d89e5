"""One MoE block after the other: what the decode loop does between a gate and the FFN of its experts.

Order inside a block (the released Pre-gated MoE, `fetch_first`): gate, wait for the block's own experts, issue the
fetches of later blocks, expert FFN. The transfer of block N + 1 can hide under the expert FFN of N, the dense layer
between, and the attention and gate of N + 1. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from offload.execution import Execution, Fusing
from offload.gate_output import gate_output
from offload.host_side import HostSide
from offload.memory import CapacityExceeded, ExpertMemory
from offload.micro_batches import MicroBatches
from offload.ops import Lane, OpKind, Work
from offload.policy import BlockView, Decisions, Fetch, MissAction, Policy, fetch_misses, no_prefetch
from offload.policy_answers import checked_answers, checked_fetches
from offload.policy_calls import ask, ask_at
from offload.recorder import Recorder
from offload.residency import ResidentSet
from offload.work_rows import Works
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

__all__ = ["Blocks", "PassWorks", "Union"]

_WAIT = Work(OpKind.WAIT)


class Union(NamedTuple):
    """The experts of one (step, layer): distinct, ascending, with the tokens that each serves."""

    experts: tuple[int, ...]
    tokens: tuple[int, ...]


class ExpertOp(NamedTuple):
    """Experts of one op, and the copies that it waits for."""

    union: Union
    fused: bool
    after: tuple[int, ...]


class PassWorks(NamedTuple):
    """The works that every layer of a forward pass shares."""

    gate: Work
    readback: Work
    dense: Work
    shared: Work | None


class DecodingPass(Protocol):
    """What blocks need of the loop that they are part of: one forward pass of it."""

    model: ModelArchitecture
    execution: Execution
    recorder: Recorder
    memory: ExpertMemory
    host_side: HostSide
    works: Works
    pass_works: PassWorks
    lookups: dict[Phase, list[int]]
    next_step: list[Fetch]
    micro: MicroBatches | None
    i_step: int
    phase: Phase
    n_tokens: int
    n_changed: int
    new_request: bool
    last_op: int

    def compute(
        self, what: Work, layer: int, after: Sequence[int] = (), hbm_released: int = 0, expert: int = -1
    ) -> int:
        """An op of the compute stream."""

    def host(self, what: Work, after: Sequence[int], layer: int) -> int:
        """An op of the issuing thread."""


class Blocks:
    """The MoE blocks of one forward pass through one stack."""

    def __init__(
        self,
        loop: DecodingPass,
        policy: Policy,
        decisions: Decisions,
        first: int,
        unions: list[Union],
        step: Step,
        encoding: bool,
    ) -> None:
        self.loop, self.policy, self.decisions, self.first, self.unions = loop, policy, decisions, first, unions
        self.step, self.encoding = step, encoding
        self.n_revealed = 0  # blocks whose experts a gate has selected so far
        self.how: dict[int, MissAction] = {}  # how the misses of the block are answered
        self.block = 0  # the one that runs
        self.executed = Union((), ())  # what it executes, once misses are answered

    def run(self, block: int, layer: int) -> None:
        """Gate, copies, waits and expert FFN of MoE block `block`, which sits in `layer`."""
        loop, union, self.block = self.loop, self.unions[block], block
        self.executed = union
        side, kept = loop.host_side, None if self.encoding else loop.host_side.placed.kept[self.first + block]
        if not self.encoding and layer in side.placed.host_layers:
            self._on_host(union, layer)
            self.n_revealed = max(self.n_revealed, block + self.policy.lookahead + 1)
            return
        at_once = loop.micro is None or not self._is_there(block)
        gate = loop.compute(loop.pass_works.gate, layer) if loop.micro is None else loop.micro.gates(layer, at_once)
        if self.policy.predictor is not None and not self.encoding and block + 1 < len(self.unions):
            gate = loop.compute(loop.pass_works.gate, layer)  # of a later layer, on the same hidden states
        if self.policy.resident and kept is not None:
            self._at_home(union, kept, layer, gate)
            return
        if self.policy.resident:
            self._count(len(union.experts), len(union.experts))
            self._experts(union, layer, [])
            return
        if kept is None and loop.memory.cache is not None and loop.memory.cache.watches_gates:
            self._tell(loop.memory.cache, block)
        selected_before = block < self.n_revealed and block > 0
        self.n_revealed = max(self.n_revealed, block + self.policy.lookahead + 1)
        fetches: list[Fetch] = []
        if self.decisions.prefetch is not no_prefetch:
            view = self._view(block)
            asked = ask_at(self.policy.name, "prefetch", self.decisions.prefetch, view)
            fetches = checked_fetches(self.policy.name, asked, view, crosses=not self.encoding)
            fetches = [fetch for fetch in fetches if side.placed.kept[self.first + fetch.block] is None]
        own = [fetch for fetch in fetches if fetch.block == block and not fetch.steps_ahead]
        later = [fetch for fetch in fetches if fetch.experts and (fetch.block != block or fetch.steps_ahead)]
        if kept is not None:
            self._at_home(union, kept, layer, gate)
            if later and self._reads_for(later, read_back=False):
                self._read_back(gate, layer)
            self._bring(later, block)
            return
        read_back = not selected_before and at_once
        loop.memory.gated_layer = self.first + block
        known = self._read_back(gate, layer) if read_back else -1
        self._decide(block, {expert for fetch in own for expert in fetch.experts})
        if read_back:
            loop.memory.cancel(self.first + block, self.executed.experts, known)
        on_cpu = self._fetch_own(block, own)
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
                self._read_back(gate if at_once or loop.micro is None else loop.micro.gate, layer)
            self._bring(later, block)

    def _is_there(self, block: int) -> bool:
        """Whether the experts of a block will be there whatever its gates say, so that nothing waits for these."""
        execution, moe_layer = self.loop.execution, self.first + block
        if self.policy.resident:
            return True
        brought = all(self.loop.memory.claimed_or_waiting(moe_layer, one) for one in self.unions[block].experts)
        exact = self.policy.predictor is None and self.policy.start is None
        return brought and exact and not (execution.fetch_first or execution.host_waits)

    def _tell(self, cache: ResidentSet, block: int) -> None:
        """What the gate of a block says, to a cache that looks at more than lookups."""
        layer, weights = self.first + block, self.step.gate_weights
        chosen, of_layer = self.step.experts[:, layer], None if weights is None else weights[:, layer]
        cache.gated(gate_output(self.loop.i_step, layer, chosen, of_layer, self.loop.new_request))

    def _view(self, block: int) -> BlockView:
        """What a policy may see at a block: only what gates have revealed so far."""
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
            predicted=lambda other: self._predicted(block, other),
            sequences=self.step.sequence,
            brought=self.loop.memory.brought(self.first + block),
        )

    def _predicted(self, block: int, other: int) -> NDArray[Any] | None:
        """What the policy's predictor says at a block of a later one."""
        predictor, layer = self.policy.predictor, self.first + other
        if predictor is None or self.encoding or not block < other < len(self.unions):
            return None
        chosen, n_experts = self.step.experts[:, layer], self.loop.model.n_experts
        return ask(self.policy.name, "predictor", predictor, self.loop.i_step, layer, chosen, n_experts)

    def _reads_for(self, later: list[Fetch], read_back: bool) -> bool:
        """Whether the host must read the ids of later blocks back before it can fetch them."""
        if self.loop.execution.readback_per_fetch:
            return True
        return self.policy.needs_ids and not read_back

    def _read_back(self, gate: int, layer: int) -> int:
        """The host waits for the ids that the gate has selected; returns the wait."""
        loop = self.loop
        ids = loop.recorder.issue(Lane.D2H, loop.pass_works.readback, (gate,), step=loop.i_step, layer=layer)
        return loop.host(_WAIT, (ids,), layer)

    def _decide(self, block: int, own: AbstractSet[int]) -> None:
        """Ask what becomes of what is needed, not there and not in `own`: how it comes, or what is executed instead."""
        self.how = {}
        if self.decisions.on_miss is fetch_misses:
            return
        memory, layer, union = self.loop.memory, self.first + block, self.unions[block]
        missing = [one for one in union.experts if not (one in own or memory.has_or_awaits(layer, one))]
        if not missing:
            return
        self.how = self._answers(self._view(block), missing)
        tokens, changed = dict(zip(union.experts, union.tokens, strict=True)), False
        for expert, action in self.how.items():
            if action.instead is not None:
                n_tokens, changed = tokens.pop(expert), True
                tokens[action.instead] = tokens.get(action.instead, 0) + n_tokens
            if action.instead is not None or action.bits is not None or action.place == "nowhere":
                self.loop.n_changed += dict(zip(union.experts, union.tokens, strict=True))[expert]
        if changed:
            self.executed = Union(tuple(sorted(tokens)), tuple(tokens[expert] for expert in sorted(tokens)))

    def _fetch_own(self, block: int, own: list[Fetch]) -> list[int]:
        """Bring what this block executes and has not; returns the experts that the host computes instead."""
        memory, layer, active = self.loop.memory, self.first + block, self.executed.experts
        for fetch in own:
            memory.bring(layer, fetch.experts, self.loop.i_step, active)
        memory.drop_waiting(layer, active)
        absent = [expert for expert in active if not memory.claimed_or_waiting(layer, expert)]
        guessed = memory.aside(layer)
        if any(expert not in active for expert in guessed):
            memory.give_up(layer, active)
        kept_there = memory.cache is not None and memory.copies.stage is None
        adopts = [expert for expert in guessed if expert in active] if kept_there else []
        if self.decisions.on_miss is fetch_misses:
            if absent or adopts:
                memory.bring(layer, absent, self.loop.i_step, adopts=adopts)
            return []
        in_parts = [expert for expert, action in self.how.items() if action.share < 1]
        passing = [
            expert for expert, action in self.how.items() if action.bits is not None and memory.cache is not None
        ]
        absent = [expert for expert in absent if expert not in self.how or self.how[expert].place != "nowhere"]
        on_cpu = [expert for expert, action in self.how.items() if action.place == "host"]
        beside = sorted({*in_parts, *passing})
        whole = [expert for expert in absent if expert not in on_cpu and expert not in beside]
        memory.bring(layer, whole, self.loop.i_step, how=self.how, adopts=adopts)
        if beside:
            memory.bring(layer, beside, self.loop.i_step, how=self.how, aside=True)
        return sorted([*on_cpu, *in_parts])

    def _answers(self, view: BlockView, missing: list[int]) -> dict[int, MissAction]:
        """What the policy does with each missing expert. Raises `InvalidInput` for what cannot be done."""
        asked = ask_at(self.policy.name, "on_miss", self.decisions.on_miss, view, tuple(missing))
        answers = checked_answers(self.policy.name, asked, view, missing)
        for expert, action in answers.items():
            if action.bits is not None or action.share < 1:
                answers[expert] = self._in_part(expert, action)
            if action.instead is not None:
                self._check_instead(expert, action.instead, missing)
        return answers

    def _check_instead(self, expert: int, instead: int, missing: list[int]) -> None:
        """Raise `InvalidInput` unless expert `instead` is here, or on its way, and can be executed for `expert`."""
        where = f"policy {self.policy.name} executes expert {instead} instead of {expert}"
        if instead in missing or not self.loop.memory.has_or_awaits(self.first + self.block, instead):
            raise InvalidInput(f"{where}, which is not on the device either: name one that view.resident knows")
        if self.loop.micro is not None:
            raise InvalidInput(f"{where}: micro-batches share what the gates chose, leave micro= out")

    def _in_part(self, expert: int, action: MissAction) -> MissAction:
        """An answer that fetches less than all of an expert, its share in whole hidden units; raises `InvalidInput`."""
        loop, n_units = self.loop, self.loop.model.d_ff_expert
        what = f"at {action.bits:g} bits" if action.bits is not None else f"by {action.share:.3g} of it"
        where = f"policy {self.policy.name} fetches expert {expert} {what}"
        copies, stored = loop.memory.copies, loop.model.expert_dtype.bits
        if loop.execution.arriving != "each" or copies.stage or copies.disk:
            raise InvalidInput(
                f"{where}: take a stack that runs experts one by one from their slots (streams) and DRAM"
            )
        if action.bits is not None and action.bits > stored:
            raise InvalidInput(f"{where}: {loop.model.name} stores {stored:g}, give at most that")
        if action.share < 1:
            n_fetched = int(action.share * n_units + 0.5)
            return MissAction.CPU if not n_fetched else replace(action, share=n_fetched / n_units)
        return action

    def _bring(self, later: Iterable[Fetch], done: int) -> None:
        """Start `later` fetches; those of the next step once their block has run, `done` being the last that has."""
        loop = self.loop
        for fetch in later:
            if fetch.steps_ahead:
                loop.next_step.append(fetch)
            else:
                named = self.unions[fetch.block].experts
                loop.memory.bring(self.first + fetch.block, fetch.experts, loop.i_step, named, aside=fetch.aside)
        if loop.next_step:
            due = [fetch for fetch in loop.next_step if fetch.block <= done]
            loop.next_step = [fetch for fetch in loop.next_step if fetch.block > done]
            for fetch in due:
                loop.memory.bring(self.first + fetch.block, fetch.experts, loop.i_step, aside=fetch.aside)

    def _wait(self, block: int, layer: int) -> None:
        """The host blocks until the block's copies are done, where the stack does that."""
        if self.loop.execution.host_waits:
            ready = self.loop.memory.arrivals(self.first + block)
            if ready:
                self.loop.host(_WAIT, ready, layer)

    def _experts_and_release(self, block: int, layer: int, on_cpu: list[int], gate: int) -> None:
        """The experts of a block, on the host and on the device, then the slots are given back.

        Where slots are handed on inside a block, experts that found none come as others are done.
        """
        loop, union, moe_layer = self.loop, self.executed, self.first + block
        asked = frozenset(self.unions[block].experts)
        held, memory = loop.memory.claimed(moe_layer), loop.memory
        skipped = [expert for expert, action in self.how.items() if action.place == "nowhere"]
        device, back = _without(union, skipped) if skipped else union, []
        if on_cpu:
            tokens = dict(zip(union.experts, union.tokens, strict=True))
            arrived = loop.host_side.hand_over(gate, layer)
            shares = [self._host_share(expert) for expert in on_cpu]
            loop.host_side.experts(on_cpu, [tokens[expert] for expert in on_cpu], layer, arrived, shares)
            back = loop.host_side.take_waits()
            device = _without(device, [expert for expert in on_cpu if self.how[expert].place == "host"])
        hands_on = loop.execution.hands_slots_on and self.policy.needs_ids
        n_hits = sum(expert in held and held[expert].hit for expert in device.experts if expert in asked)
        begun = False
        while not hands_on and not all(expert in held for expert in device.experts):
            if not memory.give_up_ahead(moe_layer):
                break
        if not all(expert in held for expert in device.experts):
            if not hands_on:
                raise self._does_not_fit(moe_layer, device)
            n_hits, device, begun = self._until_all_fit(device, layer, moe_layer)
        self._count(len(asked), n_hits)
        used = device.experts if hands_on else None
        freed = loop.model.expert_bytes * memory.n_transient(moe_layer, used)
        waits = [*memory.arrivals(moe_layer, used), *back]
        ready = {expert: held[expert].ready for expert in device.experts}
        hits = frozenset(expert for expert in device.experts if held[expert].hit)
        last = self._experts(device, layer, waits, ready, hits, freed, begun)
        memory.release(moe_layer, last, used)

    def _until_all_fit(self, union: Union, layer: int, moe_layer: int) -> tuple[int, Union, bool]:
        """Run experts as they arrive and hand their slots on, until those that are left all have one.

        Returns how many were hits, what is left, and that shared experts have run.
        """
        loop, memory = self.loop, self.loop.memory
        held, tokens = memory.claimed(moe_layer), dict(zip(union.experts, union.tokens, strict=True))
        n_hits = 0
        if loop.pass_works.shared is not None:
            self._shared(loop.pass_works.shared, layer)
        left = list(union.experts)
        while any(expert not in held for expert in left):
            here = [expert for expert in left if expert in held]
            if not here:
                if not (memory.give_up(moe_layer, left) or memory.give_up_ahead(moe_layer)):
                    raise self._does_not_fit(moe_layer, union)
                continue
            expert = min(here, key=lambda one: held[one].ready)
            n_hits += held[expert].hit and expert in self.unions[self.block].experts
            freed = loop.model.expert_bytes if held[expert].transient else 0
            own = (held[expert].ready,) if held[expert].ready >= 0 else ()
            memory.hand_on(moe_layer, expert, self._expert(expert, tokens[expert], layer, own, freed))
            left.remove(expert)
        n_hits += sum(held[expert].hit for expert in left if expert in self.unions[self.block].experts)
        return n_hits, _without(union, [expert for expert in union.experts if expert not in left]), True

    def _does_not_fit(self, moe_layer: int, union: Union) -> CapacityExceeded:
        return CapacityExceeded(
            f"step {self.loop.i_step}, MoE layer {moe_layer}: {len(union.experts)} experts needed at once do "
            f"not fit {self.loop.memory.n_buffers} expert slots: free HBM or use a smaller batch"
        )

    def _on_host(self, union: Union, layer: int) -> None:
        """A block of a layer that the host computes whole."""
        loop, side = self.loop, self.loop.host_side
        self._count(len(union.experts), 0)
        side.compute(loop.pass_works.gate, layer)
        if loop.pass_works.shared is not None:
            side.compute(loop.pass_works.shared, layer)
        side.experts(union.experts, union.tokens, layer)

    def _at_home(self, union: Union, kept: frozenset[int], layer: int, gate: int) -> None:
        """A block whose experts stay where they are: `kept` in HBM, others on the host, which a prompt may stream."""
        loop, side = self.loop, self.loop.host_side
        here = _without(union, [expert for expert in union.experts if expert not in kept])
        away = _without(union, here.experts)
        self._count(len(union.experts), len(here.experts))
        if away.experts and side.streams_experts(loop.n_tokens):
            side.stream_experts(len(away.experts), layer, gate)
            self._experts(union, layer, side.take_waits())
            return
        if not away.experts:
            self._experts(here, layer, side.take_waits())
            return
        arrived = side.hand_over(gate, layer)
        beside = loop.execution.resident != "each" and not loop.execution.host_computes
        if beside:  # the device's share runs beside the host's
            if here.experts or loop.pass_works.shared is not None:
                self._experts(here, layer, [])
            side.experts(away.experts, away.tokens, layer, arrived)
            return
        side.experts(away.experts, away.tokens, layer, arrived)
        self._experts(here, layer, side.take_waits())

    def _experts(
        self,
        union: Union,
        layer: int,
        waits: list[int],
        ready: dict[int, int] | None = None,
        hits: frozenset[int] = frozenset(),
        freed: int = 0,
        begun: bool = False,
    ) -> int:
        """The FFN ops, in the order in which what they read is there; the last one `waits`. Shared experts are first,
        or in a fused op that is first, unless the block has `begun` already.

        `ready`: of experts that are cached (`hits`) or fetched, the last op of the copy, -1 none; None: all live here.
        """
        loop, shared = self.loop, 0
        ops = _expert_ops(loop.execution, union, ready, hits)
        if loop.pass_works.shared is not None and not begun:
            shared = loop.n_tokens
        first_is_fused = ops[0].fused if ops else self._how(ready) != "each" or not waits
        if loop.pass_works.shared is not None and shared and not first_is_fused:
            self._shared(loop.pass_works.shared, layer)
            shared = 0
        if not ops:
            last = self._fused((), (), shared > 0, layer, waits, freed)
        for n_left, one in zip(range(len(ops) - 1, -1, -1), ops, strict=True):
            after = sorted({*one.after} if n_left else {*one.after, *waits})
            released = 0 if n_left else freed
            if one.fused:
                last = self._fused(*one.union, shared > 0, layer, after, released)
                shared = 0
            else:
                last = self._expert(one.union.experts[0], one.union.tokens[0], layer, after, released)
        if loop.execution.sync_after_ffn:
            loop.host(_WAIT, (last,), layer)
        return last

    def _shared(self, what: Work, layer: int) -> None:
        """Shared experts alone: `what` of all tokens, or one after the other of each micro-batch."""
        if self.loop.micro is None:
            self.loop.compute(what, layer)
        else:
            self.loop.micro.shared(self.block, layer)

    def _fused(
        self,
        experts: Sequence[int],
        tokens: tuple[int, ...],
        shared: bool,
        layer: int,
        after: Sequence[int],
        freed: int,
    ) -> int:
        """Experts in one op, or in one of each micro-batch; `shared` experts in it too, where it says so."""
        loop = self.loop
        if loop.micro is not None:
            return loop.micro.fused(self.block, experts, shared, layer, after, freed)
        n_shared = loop.n_tokens if shared else 0
        if loop.execution.sorts_on_host and tokens and loop.n_tokens > 1:
            self._sort(layer)
        return loop.compute(loop.works.grouped(n_shared, tokens), layer, after, freed)

    def _sort(self, layer: int) -> None:
        """The host waits for the ids and sorts the rows by expert, anew for each matrix of the experts."""
        loop = self.loop
        for _ in range(loop.model.n_expert_matrices):
            self._read_back(loop.last_op, layer)
            loop.host(loop.works.sort(loop.n_tokens), (), layer)

    def _how(self, ready: dict[int, int] | None) -> str:
        """How the experts of a block would run of which the device has none."""
        execution = self.loop.execution
        return execution.resident if ready is None else execution.arriving

    def _expert(self, expert: int, n_tokens: int, layer: int, after: Sequence[int], freed: int) -> int:
        """The FFN of one expert."""
        if self.loop.micro is not None:
            works = lambda n: self._expert_work(expert, n)  # noqa: E731
            return self.loop.micro.single(self.block, expert, works, layer, after, freed)
        return self.loop.compute(self._expert_work(expert, n_tokens), layer, after, freed, expert)

    def _expert_work(self, expert: int, n_tokens: int) -> Work:
        """One expert over `n_tokens`, as its miss was answered."""
        what, how = self.loop.works.single(n_tokens), self.how.get(expert, MissAction.FETCH)
        if how.bits is not None:
            what = what._replace(weight_bits=how.bits)
        return self.loop.works.part(what, how.share) if how.share < 1 else what

    def _host_share(self, expert: int) -> float:
        """Of the hidden units of an expert, the share that the host computes."""
        how = self.how[expert]
        return 1.0 if how.place == "host" else 1.0 - how.share

    def _count(self, n_lookups: int, n_hits: int) -> None:
        counts = self.loop.lookups[self.loop.phase]
        counts[0] += n_lookups
        counts[1] += n_hits


def _expert_ops(
    execution: Execution, union: Union, ready: dict[int, int] | None, hits: frozenset[int]
) -> list[ExpertOp]:
    """The ops that the experts of a block become, in the order in which their copies end."""
    if ready is None:
        ready = dict.fromkeys(union.experts, -1)
        ways: dict[str, Fusing] = {"resident": execution.resident}
        place = dict.fromkeys(union.experts, "resident")
    else:
        ways = {"cached": execution.cached, "arriving": execution.arriving}
        place = {expert: "cached" if expert in hits else "arriving" for expert in union.experts}
    fused: dict[str, list[tuple[int, int]]] = {}
    ops = []
    for expert, n_tokens in zip(union.experts, union.tokens, strict=True):
        way = ways[place[expert]]
        if way == "each":
            ops.append(_op([(expert, n_tokens)], ready, fused=False))
        else:
            fused.setdefault(place[expert] if way == "section" else "layer", []).append((expert, n_tokens))
    ops = [*(_op(members, ready, fused=True) for _, members in sorted(fused.items())), *ops]
    return sorted(ops, key=lambda one: max(one.after, default=-1))


def _op(members: list[tuple[int, int]], ready: dict[int, int], *, fused: bool) -> ExpertOp:
    after = sorted({ready[expert] for expert, _ in members if ready[expert] >= 0})
    return ExpertOp(Union(tuple(e for e, _ in members), tuple(n for _, n in members)), fused, tuple(after))


def _without(union: Union, experts: Sequence[int]) -> Union:
    """`union`, `experts` left out."""
    kept = [(e, n) for e, n in zip(union.experts, union.tokens, strict=True) if e not in experts]
    return Union(tuple(e for e, _ in kept), tuple(n for _, n in kept))
