"""THE loop: a routing trace and a policy become one schedule. Decisions in, ops out; no clock anywhere.

Order inside a MoE block (the released Pre-gated MoE, `fetch_first`): gate, wait for the block's own experts,
issue the fetches of later blocks, expert FFN. The transfer of block N + 1 can hide under the expert FFN of N,
the dense layer between, and the attention and gate of N + 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from compiled.when_it_pays import machine_code_pays
from offload.caches.residency import ResidentSet
from offload.cards.many_cards import parts_on_cards
from offload.decoding.decode_job import DecodeJob
from offload.decoding.decode_loop import DecodeLoop
from offload.execution import Execution
from offload.fast.compilable import is_compilable
from offload.fast.decode_compiled import KERNELS, CompiledLoop
from offload.placing.placed import Placed, place
from offload.placing.streamed_layers import check_over_link
from offload.policy import Policy, fetch_misses
from offload.recorder import Part, assemble
from offload.schedule import Schedule
from offload.slots.host_tier import ReadThrough
from offload.slots.low_bit_copies import LowSlots
from traces.foundation.gc_pause import gc_paused
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

SMALL_OPS = 40_000
"""Schedules of about so many ops are written in Python where code would be compiled: in half the time that it takes."""

_LOADED_OPS = 500
"""Schedules of about so many ops are written in Python even where the compiled code is loaded."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A schedule and what the cache met on the way.

    `n_lookups`, `n_hits`: experts looked up for a (step, layer) union, and found resident, in decode steps;
    `n_prefill_lookups`, `n_prefill_hits` the same in prefill. `n_changed`: choices of tokens for which another expert
    was executed, or the same at fewer bits than it is stored at. `n_host_lookups`, `n_host_hits`: experts looked up in
    the host memory above storage, and found there, in prefill and decode steps.
    """

    schedule: Schedule
    n_lookups: int
    n_hits: int
    n_prefill_lookups: int
    n_prefill_hits: int
    n_changed: int = 0
    n_host_lookups: int = 0
    n_host_hits: int = 0


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
    through: ReadThrough | None = None,
    low: LowSlots | None = None,
) -> Decoded:
    """Write the schedule of `steps` under `policy`, as `execution` runs it: `decode_stream`, all parts in one.

    `n_buffers`: transient expert slots; `cache`: slots beside them; `disk`: experts live on storage, `through` says how
    they are read (None: each whole, none kept); `static_bytes`: HBM in use throughout, what a warm cache holds not
    counted; `compiled` as of `DecodeStream`; `placed`: the policy's placement of this model (None: as `place` has it
    without a popularity); `low`: slots for copies of fewer bits. Raises
    `CapacityExceeded` when the experts of one block do not fit `n_buffers`, `InvalidInput` when the policy fetches for
    a block that has run or an expert or block that does not exist.
    """
    stream = DecodeStream(
        model, steps, policy, execution, n_buffers=n_buffers, cache=cache, disk=disk, compiled=compiled, placed=placed,
        through=through, low=low,
    )  # fmt: skip
    with gc_paused():
        schedule = assemble(stream, static_bytes + stream.warm_bytes)
    (n_lookups, n_hits), (n_first, n_first_hits) = (stream.lookups[phase] for phase in (Phase.DECODE, Phase.PREFILL))
    return Decoded(schedule, n_lookups, n_hits, n_first, n_first_hits, stream.n_changed, *stream.host_lookups)


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
        through: ReadThrough | None = None,
        low: LowSlots | None = None,
    ) -> None:
        placed = place(model, policy.placement) if placed is None else placed
        check_over_link(policy, execution, placed)
        self._job = DecodeJob(model, policy, execution, n_buffers, cache, disk, placed, through, low)
        self._steps = steps
        known = is_compilable(policy, execution, cache, placed)
        known = known and not (disk and (policy.on_miss is not fetch_misses or placed.n_decided < model.n_moe_layers))
        known = known and (through is None or through.is_plain) and low is None
        self._loop: CompiledLoop | DecodeLoop | None = None  # until the size of the schedule is known
        if compiled is not None or not known:
            self._loop = (CompiledLoop if compiled and known else DecodeLoop)(self._job)
        self.warm_bytes = 0 if cache is None else cache.n_resident * model.expert_bytes

    @property
    def lookups(self) -> dict[Phase, list[int]]:
        """Experts looked up and found resident, by phase."""
        return {phase: [0, 0] for phase in Phase} if self._loop is None else self._loop.lookups

    @property
    def n_changed(self) -> int:
        """Choices of tokens so far that were not executed as the gates had it."""
        return self._loop.n_changed if isinstance(self._loop, DecodeLoop) else 0

    @property
    def host_lookups(self) -> tuple[int, int]:
        """Experts looked up in the host memory above storage so far, and found there."""
        host = self._loop.host_tier if isinstance(self._loop, DecodeLoop) else None
        return (0, 0) if host is None else (host.lookups, host.hits)

    def __iter__(self) -> Iterator[Part]:
        return parts_on_cards(self._job, self._steps, self._on_one_card)

    def _on_one_card(self, steps: Iterable[Step]) -> Iterator[Part]:
        """The parts of `steps`, by the loop that writes so many ops sooner where both may."""
        if self._loop is not None:
            return self._loop.parts(steps)
        rest = iter(steps)
        first, compiled = _first_steps(rest, self._job.model)
        self._loop = (CompiledLoop if compiled else DecodeLoop)(self._job)
        return self._loop.parts(chain(first, rest))


def is_large(n_ops: int) -> bool:
    """Whether schedules of about `n_ops` in all are written sooner by compiled code."""
    return machine_code_pays(n_ops, *KERNELS, compile_above=SMALL_OPS, call_above=_LOADED_OPS)


def about_ops(model: ModelArchitecture, steps: Iterable[Step]) -> int:
    """About how many ops a schedule of `steps` has, whatever the policy."""
    return sum(_about_ops(step, model) for step in steps)


def _about_ops(step: Step, model: ModelArchitecture) -> int:
    n_tokens, n_blocks, top_k = step.experts.shape
    return int(n_blocks * (8 + 3 * min(n_tokens * top_k, model.n_experts)))


def _first_steps(steps: Iterator[Step], model: ModelArchitecture) -> tuple[list[Step], bool]:
    """Steps by which it is told whether compiled code pays, all of them if they are few; and whether it pays."""
    first: list[Step] = []
    n_ops = 0
    for step in steps:
        first.append(step)
        n_ops += _about_ops(step, model)
        if n_ops > SMALL_OPS:
            break
    return first, is_large(n_ops)
