"""The largest batch that memory allows: HBM for keys, values, activations and slots, DRAM for what waits on the host.

What memory holds grows with the batch. Its parts but one are known without a trace of that batch, so they are solved
for; the union of experts in one layer depends on what is chosen, and is looked at in traces only where it decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hwmodels.platform import Platform
from offload.placing.workload import Workload, measure_workload
from offload.policies import policy_named
from offload.policy import Cache, Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.machine_memory import MachineMemory, memory_of
from pregate.ask.capturing.request import check_trace, request
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.transforms.rebatching import rebatch

MOST_CELLS = 1 << 30
"""Chosen experts of a trace (tokens x layers x top_k) up to which it is made: 2 GiB."""


def largest_batch(
    model: ModelArchitecture,
    hw: Platform | MachineMemory,
    policy: str | Policy,
    trace: RoutingTrace | Callable[[int], RoutingTrace],
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
    least: int = 1,
    most_cells: int = MOST_CELLS,
) -> int:
    """The most sequences side by side that `policy` has memory for on `hw`.

    `trace`: a recording, whose sequences run side by side, or what makes a trace of so many sequences, all of one
    length (`lambda n: pregate.synthesize(model, 512, 64, n)`); `least`: the fewest that it can make. Raises
    `CapacityExceeded` where not even that many fit, `InvalidInput` for a trace of more than `most_cells`.
    """
    design = policy_named(policy) if isinstance(policy, str) else policy
    memory = hw if isinstance(hw, MachineMemory) else memory_of(hw)
    drafts = design.speculation

    def made(n: int) -> RoutingTrace:
        one = rebatch(trace, n) if isinstance(trace, RoutingTrace) else trace(n)
        one = one if design.skipping is None else design.skipping.of(one)
        return one if drafts is None else drafts.of(one)

    smallest = made(least)
    check_trace(model, smallest)
    asked = measure_workload(model, smallest.steps())

    def plan(workload: Workload) -> None:
        request(model, memory, smallest, design, cache=cache, expert_tier=expert_tier, workload=workload)

    def has_room(workload: Workload) -> bool:
        try:
            plan(workload)
        except CapacityExceeded:
            return False
        return True

    def is_room_for(n: int) -> bool:
        return has_room(measure_workload(model, made(n).steps()))

    try:
        plan(asked)
    except CapacityExceeded as error:
        raise CapacityExceeded(
            f"batch max: not even {_sequences(least)}: {error}", error.needed_bytes, error.memory
        ) from None
    if isinstance(trace, RoutingTrace):
        return _largest(is_room_for, least, trace.n_sequences + 1)
    top = most_cells // max(smallest.experts[0].size * smallest.n_tokens // least, 1)
    if drafts is not None:  # sequences are not of one length in passes, so that nothing grows as their number
        return _largest(is_room_for, least, top + 1)

    def fits_with(n: int, unions: Workload) -> bool:
        return n <= top and has_room(_of(n, asked, least, unions))

    fewest = _largest(lambda n: fits_with(n, _with_unions(asked, model.n_experts)), least, top + 2)
    most = _largest(lambda n: fits_with(n, asked), least, top + 2)
    if fewest >= top:
        raise InvalidInput(
            f"batch max: memory holds more than {_sequences(top)}, whose routing alone takes "
            f"{2 * most_cells / 1e9:.2g} GB: give a batch, or longer sequences"
        )
    return fewest if fewest == most else _largest(is_room_for, fewest, most + 1)


def fewest_sequences(model: ModelArchitecture, n_active: int | None) -> int:
    """The fewest sequences of which one step can activate `n_active` experts a layer (None: as many as it does)."""
    return 1 if n_active is None else max(1, -(-n_active // model.top_k))


def _largest(fits: Callable[[int], bool], low: int, beyond: int) -> int:
    """The largest count from `low`, which fits, that `fits` where all below do; `beyond` does not."""
    step = 1
    while low + step < beyond and fits(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, beyond)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _of(n: int, one: Workload, n_one: int, unions: Workload) -> Workload:
    """What `n` sequences ask of memory where `n_one` like them ask `one`; layers activate as in `unions`."""
    sums = ("n_cached_tokens", "n_memory_tokens", "n_tokens", "n_output_tokens", "n_sequences", "n_running")
    return replace(unions, **{name: getattr(one, name) * n // n_one for name in sums})


def _with_unions(workload: Workload, n_active: int) -> Workload:
    """`workload` with layers that activate `n_active` experts."""
    n_encoder = n_active if workload.n_encoder_active else 0
    return replace(workload, n_active=n_active, n_decode_active=n_active, n_encoder_active=n_encoder)


def _sequences(n: int) -> str:
    return "one sequence fits" if n == 1 else f"{n} sequences"
