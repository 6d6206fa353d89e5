"""One MoE block after the other: what the decode loop does between a gate and the FFN of its experts.

Order inside a block (the released Pre-gated MoE, `fetch_first`): gate, wait for the block's own experts, issue the
fetches of later blocks, expert FFN. The transfer of block N + 1 can hide under the expert FFN of N, the dense layer
between, and the attention and gate of N + 1. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offload.decoding.decoding_pass import HOST_WAITS, DecodingPass, read_back
from offload.decoding.expert_ffns import ExpertFfns
from offload.decoding.miss_answers import answer_misses
from offload.decoding.placed_blocks import run_at_home, run_on_host
from offload.decoding.policy_answers import checked_fetches
from offload.decoding.revealed import Revealed
from offload.decoding.selected_before import SelectedBefore
from offload.decoding.slot_reads import SlotReads
from offload.decoding.unions import MoeBlock, Unions
from offload.own_policies.policy_calls import ask_at
from offload.policy import Decisions, Fetch, Policy, fetch_misses, no_prefetch
from offload.prefetching.selected_ahead import SelectedAhead
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Step


class Blocks:
    """The MoE blocks of one forward pass through one stack."""

    def __init__(
        self,
        loop: DecodingPass,
        policy: Policy,
        decisions: Decisions,
        first: int,
        unions: Unions,
        step: Step,
        encoding: bool,
    ) -> None:
        self._loop, self._policy, self._decisions, self._encoding = loop, policy, decisions, encoding
        self._first, self._unions = first, unions
        self._revealed = Revealed(loop, policy, first, unions, step, encoding)
        self._ffns = ExpertFfns(loop)
        self._slots = SlotReads(loop, self._ffns, policy.hands_slots_on(loop.execution))
        self._selected_before = None
        if policy.next_token and step.phase == Phase.DECODE:
            self._selected_before = SelectedBefore(loop, first, unions)
            self._revealed.from_before = self._selected_before.first_block

    def begin(self) -> None:
        """Start the fetches that need no gate of this pass."""
        if self._selected_before is not None:
            self._loop.memory.gated_layer = -1
            self._selected_before.bring(0)

    def run(self, i: int, layer: int) -> None:
        """MoE block `i`, which sits in `layer`, and the fetches that follow it."""
        self._run(i, layer)
        if self._selected_before is not None:
            self._selected_before.bring(i + 1)

    def _run(self, i: int, layer: int) -> None:
        """Gate, copies, waits and expert FFN of a block."""
        loop, placed = self._loop, self._loop.host_side.placed
        loop.memory.gated_layer = self._first + i
        if not self._encoding and loop.host_side.computes(layer):
            self._on_host(i, layer)
            return
        kept = None if self._encoding else placed.kept[self._first + i]
        at_once = loop.micro is None or not self._is_there(i)
        gate = self._gate(i, layer, at_once)
        if self._policy.resident and kept is None:
            block = self._named(i, layer)
            loop.count(len(block.named.experts), len(block.named.experts))
            self._ffns.run(block, block.named, [])
            if not self._encoding:
                loop.host_side.read_ffn(layer, gate, block.named.tokens)
        elif self._policy.resident and kept is not None:
            run_at_home(loop, self._ffns, self._named(i, layer), kept, gate)
        elif kept is not None:
            self._revealed.gated(i)
            _, later = self._prefetches(i)
            run_at_home(loop, self._ffns, self._named(i, layer), kept, gate)
            if later and self._reads_for(read_back=False):
                read_back(loop, gate, layer)
            self._bring(later, i)
        else:
            self._from_slots(i, layer, gate, at_once)

    def _on_host(self, i: int, layer: int) -> None:
        """A block of a layer that the host computes whole, whose gate says what later blocks of the device need."""
        loop = self._loop
        gate = loop.host_side.compute(loop.pass_works.gate, layer)
        block = self._named(i, layer)
        self._revealed.gated(i)
        asks = not self._policy.resident and self._policy.predictor is None  # the host runs no second gate
        _, later = self._prefetches(i) if asks else ([], [])
        run_on_host(loop, block, gate)
        if later and self._reads_for(read_back=False):
            loop.host(HOST_WAITS, (gate,), layer)  # the ids are there
        self._bring(later, i)

    def _named(self, i: int, layer: int) -> MoeBlock:
        """A block whose gate has run."""
        union = self._unions[i]
        return MoeBlock(i, layer, self._first + i, union, union, {})

    def _from_slots(self, i: int, layer: int, gate: int, at_once: bool) -> None:
        """A block whose experts are brought into slots, and the fetches of later blocks."""
        loop, cache = self._loop, self._loop.memory.cache
        reads = at_once and not self._revealed.selected_before(i)  # no gate has selected its experts before
        known = read_back(loop, gate, layer) if reads else -1
        self._revealed.gated(i)
        if cache is not None and cache.watches_gates:
            cache.gated(self._revealed.output(i))
        ahead = None if loop.execution.fetch_first else self._selected_ahead(i)
        own, later = self._prefetches(i) if ahead is None else ([], [])
        block = self._answered(self._named(i, layer), {expert for fetch in own for expert in fetch.experts})
        if reads:
            loop.memory.cancel(block.moe_layer, block.executed.experts, known)
        on_cpu = self._fetch_own(block, own)
        reads_again = bool(ahead or later) and self._reads_for(reads)
        if loop.execution.fetch_first:
            self._wait(block)
            if reads_again:
                read_back(loop, gate, layer)
            self._bring(later, i - 1)
            self._slots.run(block, on_cpu, gate)
            self._bring((), i)
        else:
            self._slots.run(block, on_cpu, gate)
            if reads_again:
                read_back(loop, gate if at_once or loop.micro is None else loop.micro.gate, layer)
            self._bring(later if ahead is None else self._prefetches(i)[1], i)

    def _selected_ahead(self, i: int) -> list[int] | None:
        """The later blocks whose experts are brought at block `i`, where that depends on their gates alone: the policy
        is asked once the host knows what these say. None of any other, which is asked before the experts run.
        """
        prefetch, kept = self._decisions.prefetch, self._loop.host_side.placed.kept
        if not isinstance(prefetch, SelectedAhead):
            return None
        blocks = prefetch.blocks(i, min(self._revealed.n, len(self._unions)))
        return [other for other in blocks if kept[self._first + other] is None and self._unions.names_any(other)]

    def _gate(self, i: int, layer: int, at_once: bool) -> int:
        """The gate of a block, of micro-batches `at_once` or as they come; a predictor has another run behind it."""
        loop = self._loop
        what = loop.pass_works.gate
        gate = loop.compute(what, layer) if loop.micro is None else loop.micro.gates(layer, at_once)
        if self._policy.predictor is not None and not self._encoding and i + 1 < len(self._unions):
            gate = loop.compute(what, layer)  # of a later layer, on the same hidden states
        return gate

    def _is_there(self, i: int) -> bool:
        """Whether the experts of a block will be there whatever its gates say, so that nothing waits for these."""
        execution, memory = self._loop.execution, self._loop.memory
        if self._policy.resident:
            return True
        brought = all(memory.claimed_or_waiting(self._first + i, one) for one in self._unions[i].experts)
        exact = self._policy.predictor is None and self._policy.start is None
        return brought and exact and not (execution.fetch_first or execution.host_waits)

    def _prefetches(self, i: int) -> tuple[list[Fetch], list[Fetch]]:
        """What the policy brings at a block for itself, and for later ones, of the blocks that no placement holds."""
        if self._decisions.prefetch is no_prefetch:
            return [], []
        view, name = self._revealed.view(i), self._policy.name
        asked = ask_at(name, "prefetch", self._decisions.prefetch, view)
        fetches = checked_fetches(name, asked, view, crosses=not self._encoding)
        kept = self._loop.host_side.placed.kept
        on_disk = self._loop.host_tier is not None
        fetches = [one for one in fetches if (on_disk if one.to_host else kept[self._first + one.block] is None)]
        own = [one for one in fetches if one.block == i and not (one.steps_ahead or one.to_host)]
        later = [one for one in fetches if one.experts and (one.block != i or one.steps_ahead or one.to_host)]
        return own, later

    def _reads_for(self, read_back: bool) -> bool:
        """Whether the host must read the ids of later blocks back before it can fetch them."""
        if self._loop.execution.readback_per_fetch:
            return True
        return self._policy.needs_ids and not read_back

    def _answered(self, block: MoeBlock, own: set[int]) -> MoeBlock:
        """The block, what is needed, not there and not in `own` being answered for."""
        if self._decisions.on_miss is fetch_misses:
            return block
        memory, layer = self._loop.memory, block.moe_layer
        missing = [one for one in block.named.experts if not (one in own or memory.has_or_awaits(layer, one))]
        if not missing:
            return block
        view, on_miss = self._revealed.view(block.i), self._decisions.on_miss
        return answer_misses(self._loop, self._policy.name, on_miss, view, block, missing)

    def _fetch_own(self, block: MoeBlock, own: Sequence[Fetch]) -> list[int]:
        """Bring what this block executes and has not; returns the experts that the host computes instead."""
        memory, i_step = self._loop.memory, self._loop.i_step
        layer, active = block.moe_layer, block.executed.experts
        for fetch in own:
            memory.bring(layer, fetch.experts, i_step, active)
        memory.drop_waiting(layer, active)
        absent = [expert for expert in active if not memory.claimed_or_waiting(layer, expert)]
        guessed = memory.aside(layer)
        if any(expert not in active for expert in guessed):
            memory.give_up(layer, active)
        kept_there = memory.cache is not None and memory.copies.stage is None
        adopts = [expert for expert in guessed if expert in active] if kept_there else []
        if self._decisions.on_miss is fetch_misses:
            if absent or adopts:
                memory.bring(layer, absent, i_step, adopts=adopts)
            return []
        how = block.how
        in_parts = {expert for expert, action in how.items() if action.share < 1}
        fewer_bits = {expert for expert, action in how.items() if action.bits is not None and memory.cache is not None}
        on_cpu = {expert for expert, action in how.items() if action.place == "host"}
        skipped = {expert for expert, action in how.items() if action.place == "nowhere"}
        if memory.low is not None:
            low = sorted(expert for expert in fewer_bits if how[expert].bits == memory.low.bits and expert in absent)
            kept = memory.bring_low(layer, low, i_step)
            fewer_bits, absent = fewer_bits - kept, [expert for expert in absent if expert not in kept]
        beside = sorted(in_parts | fewer_bits)
        whole = [expert for expert in absent if expert not in {*on_cpu, *skipped, *beside}]
        if self._loop.host_tier is not None:  # what is fetched and what the host computes are one event
            self._loop.host_tier.ask(layer, sorted({*whole, *on_cpu}))
        memory.bring(layer, whole, i_step, how=how, adopts=adopts)
        if beside:
            memory.bring(layer, beside, i_step, how=how, aside=True)
        return sorted(on_cpu | in_parts)

    def _bring(self, later: Iterable[Fetch], done: int) -> None:
        """Start `later` fetches; those of the next step once their block has run, `done` being the last that has."""
        loop = self._loop
        for fetch in later:
            if fetch.to_host:
                self._read_ahead(self._first + fetch.block, fetch.experts)
            elif fetch.steps_ahead:
                loop.next_step.append(fetch)
            else:
                named = None if loop.execution.arriving == "each" else self._unions[fetch.block].experts
                loop.memory.bring(self._first + fetch.block, fetch.experts, loop.i_step, named, aside=fetch.aside)
        if loop.next_step:
            due = [fetch for fetch in loop.next_step if fetch.block <= done]
            loop.next_step = [fetch for fetch in loop.next_step if fetch.block > done]
            for fetch in due:
                loop.memory.bring(self._first + fetch.block, fetch.experts, loop.i_step, aside=fetch.aside)

    def _read_ahead(self, layer: int, experts: Sequence[int]) -> None:
        """Have what the device has not of `experts` in host memory, where experts wait on storage."""
        loop, kept = self._loop, self._loop.host_side.placed.kept[layer] or ()
        assert loop.host_tier is not None
        absent = [one for one in experts if not (one in kept or loop.memory.has_or_awaits(layer, one))]
        try:
            loop.host_tier.read_ahead(layer, absent, loop.i_step)
        except InvalidInput as error:
            raise InvalidInput(f"{self._policy.name} {error}") from error

    def _wait(self, block: MoeBlock) -> None:
        """The host blocks until the block's copies are done, where the stack does that."""
        if self._loop.execution.host_waits:
            ready = self._loop.memory.held.arrivals(block.moe_layer)
            if ready:
                self._loop.host(HOST_WAITS, ready, block.layer)
