"""The seam of a policy: what it may see when a gate has run, and what it may decide.

A policy is a composition of independent choices, each a plain function or value. It knows no device and no
clock. DECISIONS.md shows how every published axis of offloading is expressed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

from offload.admission import ADMISSIONS
from offload.granularity import Granularity
from offload.miss_costs import AsksMachine, MissCosts
from offload.own_policies import Own, changed_fields, rebuilt
from offload.placement import AS_DECIDED, Placement
from offload.policy_calls import ask
from offload.skipping import Skipping
from offload.speculation import Speculation
from traces.documents import check_name
from traces.errors import InvalidInput, unknown_name
from traces.typed import check_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from offload.execution import Execution
    from traces.popularity import PopularityProfile

    Chosen = NDArray[np.int16]
    """The experts of each token of a step at one layer: (n_tokens, top_k), -1 pads."""

__all__ = [
    "BlockView",
    "Buffers",
    "Cache",
    "Decisions",
    "Fetch",
    "MissAction",
    "Policy",
    "Predictor",
    "RunFacts",
    "fetch_misses",
    "misses_on_host",
    "no_prefetch",
]


@dataclass(frozen=True, slots=True)
class MissAction:
    """How an expert that is needed now and is not on the device is answered: where it is computed, at which precision.

    `place`: "device" fetches it into a slot, "host" computes it on the CPU, "nowhere" leaves it out. `bits`: a
    parameter as it is fetched and read, below the model's own; None: as the model stores it. `share`: of its hidden
    units that are fetched, to the nearest; the host computes the others. No cache keeps what is not whole. `instead`:
    the expert on the device that is executed for it. Raises `InvalidInput` for another place, for bits that are not
    above 0, a share outside 0 to 1, or either of what is not fetched.
    """

    place: str = "device"
    bits: float | None = None
    share: float = 1.0
    instead: int | None = None
    FETCH: ClassVar[MissAction]
    CPU: ClassVar[MissAction]
    SKIP: ClassVar[MissAction]

    def __post_init__(self) -> None:
        if self.place not in ("device", "host", "nowhere"):
            raise InvalidInput(f"place = {self.place!r}: a missing expert runs on the device, on the host or nowhere")
        if self.bits is not None and not (self.place == "device" and 0 < self.bits <= 64):
            raise InvalidInput(f"bits = {self.bits!r} on the {self.place}: above 0, at most 64, of what is fetched")
        if not (0 <= self.share <= 1) or (self.share < 1 and self.place != "device"):
            raise InvalidInput(f"share = {self.share!r} on the {self.place}: 0 to 1, of what is fetched")
        if self.instead is not None and (self.place != "device" or self.bits is not None or self.share < 1):
            raise InvalidInput(f"instead = {self.instead!r}: nothing is fetched or computed on the host then")


MissAction.FETCH = MissAction()
MissAction.CPU = MissAction("host")
MissAction.SKIP = MissAction("nowhere")


class Fetch(NamedTuple):
    """Start moving `experts` of MoE block `block` (of the same stack) to the device.

    `steps_ahead`: 0 for this forward pass, 1 for the next one, which may be of any block. `aside`: into a buffer beside
    the cache, which the expert enters only when its gate has named it.
    """

    block: int
    experts: tuple[int, ...]
    steps_ahead: int = 0
    aside: bool = False


def _unknown(block: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class BlockView:
    """What is known when the gate of MoE block `block` has run.

    `active`: the experts this block executes, ascending, with `tokens` for each. `revealed(j)`: the experts
    of block j of this step if a gate has selected them already, else None. `resident(j, e)`: whether expert
    e of block j is on the device or on its way. `i_step`: forward pass. Of block j, None where no gate has selected yet
    or the trace does not say: `chosen(j)` what each token chose, (n_tokens, top_k), and `gate_weights(j)` the weights
    of that, float32. `predicted(j)`: what the policy's predictor expects of a later block, as `chosen`. `sequences`
    (n_tokens,): the request of each token. `brought`: experts of this block that were brought before its gate ran and
    are here or on their way, cached ones not counted.
    """

    i_step: int
    block: int
    n_blocks: int
    n_experts: int
    active: tuple[int, ...]
    tokens: tuple[int, ...]
    revealed: Callable[[int], tuple[int, ...] | None]
    resident: Callable[[int, int], bool]
    chosen: Callable[[int], Chosen | None] = _unknown
    gate_weights: Callable[[int], NDArray[np.float32] | None] = _unknown
    predicted: Callable[[int], Chosen | None] = _unknown
    sequences: NDArray[np.int32] | None = None
    brought: tuple[int, ...] = ()


class Buffers(NamedTuple):
    """Expert slots a policy needs at least, and how many let it overlap fully."""

    minimum: int
    full: int


_SMALLEST_RATIO = 1e-12
"""A millionth of one expert of any model: what is smaller is a mistake."""


@dataclass(frozen=True, slots=True)
class Cache:
    """An expert cache in HBM beside the transient buffers.

    Capacity: `n_slots` experts, or `ratio` of the decoder's experts (`round(layers x experts x ratio)`, at
    least 1), or with neither all the HBM that is left. `eviction`: a name of `offload.eviction`; `per_layer`: split
    evenly over the layers. `warm`: the cache has served one such request before. `popularity`: the counts by which a
    static cache, or the `hot` share of a `hot_lru` (None: half), holds what was chosen most (None: those of the trace
    itself). `admit`: a name of `offload.admission`; `budget`: most experts that one (step, layer) brings in.
    `write_back`: what is let go is copied back to host memory, as by an engine that keeps one copy of each expert.
    Raises `InvalidInput` on a ratio outside (0, 1], fewer slots than one, or both, and for what another eviction does
    not look at.
    """

    eviction: str = "lru"
    ratio: float | None = None
    n_slots: int | None = None
    per_layer: bool = False
    warm: bool = False
    popularity: PopularityProfile | None = None
    admit: str = "always"
    budget: int | None = None
    hot: float | None = None
    write_back: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        from offload.policies import eviction_names  # the policies are made of this module

        if self.eviction not in eviction_names():
            raise unknown_name("eviction", self.eviction, eviction_names())
        if self.popularity is not None and not self.holds_popular:
            raise InvalidInput(f"cache {self.eviction} chooses as it runs: popularity says what a static cache holds")
        if self.admit not in ADMISSIONS:
            raise unknown_name("admission rule", self.admit, ADMISSIONS, f"cache {self.eviction}")
        if self.budget is not None and self.budget < 0:
            raise InvalidInput(f"cache {self.eviction}: budget = {self.budget} experts is below 0")
        if self.eviction == "static" and (self.admit != "always" or self.budget is not None):
            raise InvalidInput("cache static keeps what it holds: leave admit= and budget= out")
        if self.eviction == "static" and self.write_back:
            raise InvalidInput("cache static keeps what it holds, nothing is written back: leave write_back out")
        if self.hot is not None and self.eviction != "hot_lru":
            raise InvalidInput(f"cache {self.eviction} holds nothing for good: hot= is of hot_lru")
        if self.hot is not None and not 0 <= self.hot <= 1:
            raise InvalidInput(f"cache hot_lru: hot = {self.hot:g} is a share of its slots, from 0 to 1")
        if self.ratio is not None and self.n_slots is not None:
            raise InvalidInput("a cache has a ratio (0..1] or a number of slots, not both: lru:0.1")
        if self.ratio is not None and not _SMALLEST_RATIO <= self.ratio <= 1:
            raise InvalidInput(f"cache ratio = {self.ratio:g} is outside (0, 1], from 1e-12")
        if self.n_slots is not None and self.n_slots < 1:
            raise InvalidInput(f"cache slots = {self.n_slots} is below 1: leave the cache out instead")

    @property
    def holds_popular(self) -> bool:
        """Whether it holds what is popular, all of it or a part."""
        return self.eviction in ("static", "hot_lru")

    @property
    def hot_share(self) -> float:
        """Of the slots of a `hot_lru`, those whose experts stay."""
        return 0.5 if self.hot is None else self.hot

    def placed(self, popularity: PopularityProfile) -> Cache:
        """A cache that holds what was chosen most in `popularity`; one that chooses as it runs stays as it is."""
        return replace(self, popularity=popularity) if self.holds_popular else self

    def capacity(self, n_layers: int, n_experts: int) -> int | None:
        """Slots for `n_layers` MoE layers of `n_experts`; None: what is left."""
        if self.n_slots is not None or self.ratio is None:
            return self.n_slots
        return max(1, round(n_layers * n_experts * self.ratio))


def no_prefetch(view: BlockView) -> Sequence[Fetch]:
    """Bring nothing in ahead of its gate."""
    return ()


def fetch_misses(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Fetch whatever is missing."""
    return dict.fromkeys(missing, MissAction.FETCH)


def misses_on_host(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Have the host compute whatever is missing."""
    return dict.fromkeys(missing, MissAction.CPU)


Prefetch = Callable[[BlockView], Sequence[Fetch]]
"""What to start moving when a gate has run."""

OnMiss = Callable[[BlockView, Sequence[int]], Mapping[int, MissAction]]
"""What to do with needed experts that are not on the device: an answer for each of them."""


Predictor = Callable[[int, int, "Chosen", int], "Chosen"]
"""What is expected of a MoE layer before its gate runs: of a forward pass, a MoE layer (0 is the decoder's first), what
its gate will choose and the number of experts, as `chosen`. It stands for what a real predictor would have said: only
its errors are made up."""


class Decisions(NamedTuple):
    """The decisions of one run, which may remember what they have seen in it."""

    prefetch: Prefetch = no_prefetch
    on_miss: OnMiss = fetch_misses


class RunFacts(NamedTuple):
    """What is known when a run starts: the MoE blocks of each stack, the experts of a block, their bits a weight."""

    n_blocks: int
    n_encoder_blocks: int
    n_experts: int
    top_k: int
    expert_bits: float = 16.0


def _active_only(n_active: int, n_experts: int) -> Buffers:
    return Buffers(n_active, n_active)


@dataclass(frozen=True, slots=True)
class Policy:
    """An offloading policy as a composition of choices.

    `resident`: every expert stays in HBM. `lookahead`: how many blocks ahead a gate selects exactly (the
    activation level of Pre-gated MoE; 0 is the conventional gate). `prefetch`: what to start moving when a
    gate has run: for blocks of this step that have not run, or any of the next. `on_miss`: what to do with needed
    experts that are not there. `start(facts)`: makes both anew for every run; a policy that remembers states it instead
    of `prefetch`, and of `on_miss` where that remembers too. `predictor`: what `BlockView.predicted` says, for which a
    second gate runs in every block. `buffers(n_active, n_experts)`: slots needed,
    `n_active` being the largest union of one event. `needs_ids`:
    whether a prefetch waits until the host has read the selected ids. `encoder`: whether an encoder runs on demand, as
    in the released code, or under this policy. `placement`: where the parts of the model live that are not simply in
    HBM; the policy decides about the experts that it leaves. `popularity`: the counts by which a placement keeps the
    most popular experts (None: those of the trace itself). `source`: the file that a user's own policy is made of.
    `is_exact`: whether every expert is computed as stored, so that outputs are the model's. `is_ceiling`: whether it
    knows what no gate has said, so that nobody can build it. `speculation`: how tokens are drafted for passes that
    verify several; None: a pass makes one token of a sequence. `skipping`: which experts a token does without; None:
    none. `granularity`: what one copy brings, an expert, one matrix of it or all experts of its layer; `chunk_bytes`:
    copies are cut in chunks of so many bytes at most, between which what is needed now overtakes what was brought ahead
    (None: as modes have it).
    `low_share`: of the bytes of its cache, those that copies in `low_bits` a parameter take (None: a quarter of the
    bits), for misses that are answered in so many.
    """

    name: str
    resident: bool = False
    lookahead: int = 0
    prefetch: Prefetch = no_prefetch
    on_miss: OnMiss = fetch_misses
    buffers: Callable[[int, int], Buffers] = _active_only
    needs_ids: bool = True
    encoder: Literal["on_demand", "same"] = "on_demand"
    cache: Cache | None = None
    start: Callable[[RunFacts], Decisions] | None = None
    predictor: Predictor | None = None
    placement: Placement = AS_DECIDED
    popularity: PopularityProfile | None = None
    source: Own | None = None
    is_exact: bool = True
    is_ceiling: bool = False
    speculation: Speculation | None = None
    skipping: Skipping | None = None
    granularity: Granularity = "expert"
    chunk_bytes: int | None = None
    low_share: float = 0.0
    low_bits: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_name(self.name, "policy name")
        self._check_granularity()
        if self.lookahead < 0:
            raise InvalidInput(f"lookahead = {self.lookahead} is below 0")
        if self.resident and self.cache is not None:
            raise InvalidInput(f"{self.name} keeps every expert in HBM: it takes no cache")
        if self.start is not None and self.prefetch is not no_prefetch:
            raise InvalidInput(f"{self.name} has start, which makes its prefetches: leave those out")

    def _check_granularity(self) -> None:
        """Raise `InvalidInput` for what no copy can bring, or not beside what else the policy says."""
        if self.granularity not in get_args(Granularity):
            raise unknown_name("granularity", str(self.granularity), get_args(Granularity), f"policy {self.name}")
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise InvalidInput(f"policy {self.name}: a chunk of {self.chunk_bytes} bytes is below 1")
        if self.resident and (self.granularity != "expert" or self.chunk_bytes is not None):
            raise InvalidInput(f"policy {self.name} keeps every expert in HBM and copies none: leave granularity= out")
        if self.granularity != "layer":
            return
        for is_said, what in (
            (self.cache is not None, "a cache keeps single experts"),
            (self.on_miss is not fetch_misses, "a miss is answered for single experts"),
            (self.predictor is not None or self.start is not None, "guesses are of single experts"),
        ):
            if is_said:
                raise InvalidInput(
                    f"policy {self.name}: {what}, whole layers pass through: leave granularity=layer out"
                )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A policy from a file of code is sent as that code, and made anew where it arrives."""
        if self.source is None:
            return object.__reduce_ex__(self, protocol)
        return rebuilt, (self.source, changed_fields(self))

    def hands_slots_on(self, execution: Execution) -> bool:
        """Whether an expert's slot is free once its own FFN has run, under a stack's `execution`."""
        return execution.hands_slots_on and self.needs_ids and self.granularity != "layer"

    def decisions(self, facts: RunFacts) -> Decisions:
        """The decisions of one run, made anew. Raises `InvalidInput` when `start` makes something else."""
        if self.start is None:
            return Decisions(self.prefetch, self.on_miss)
        made = ask(self.name, "start", self.start, facts)
        if not isinstance(made, Decisions):
            raise InvalidInput(f"policy {self.name}: start returned {made!r}, not Decisions(prefetch, on_miss)")
        if self.on_miss is fetch_misses:
            return made
        if made.on_miss is not fetch_misses:
            raise InvalidInput(f"policy {self.name}: start answers misses itself: leave on_miss out")
        return made._replace(on_miss=self.on_miss)

    @property
    def can_be_built(self) -> bool:
        """Whether neither it nor its cache knows the future."""
        return not self.is_ceiling and (self.cache is None or self.cache.eviction != "belady")

    @property
    def costs(self) -> MissCosts | None:
        """What the policy knows of its machine; None before it was asked, or where it asks nothing."""
        return self.on_miss.costs if isinstance(self.on_miss, AsksMachine) else None

    @property
    def asks_machine(self) -> bool:
        """Whether it decides by what a machine takes, and does not know yet."""
        answer: Any = self.on_miss
        return isinstance(answer, AsksMachine) and answer.costs is None

    def on_machine(self, costs: MissCosts) -> Policy:
        """The policy on a machine of these `costs`; one that asks nothing, or knows, stays as it is."""
        if not self.asks_machine:
            return self
        known: Any = self.on_miss
        return replace(self, on_miss=replace(known, costs=costs))

    def with_placement(self, placement: Placement | None) -> Policy:
        """The policy with the model placed as `placement`, which its name then says.

        Raises `InvalidInput` where the policy has a placement of its own.
        """
        if placement is None or placement in (AS_DECIDED, self.placement):
            return self
        if self.placement != AS_DECIDED:
            raise InvalidInput(f"policy {self.name} names a placement of its own: give no other placement")
        return replace(self, name=f"{self.name}@{placement}", placement=placement)

    def with_speculation(self, speculation: Speculation | None) -> Policy:
        """The policy with tokens drafted as `speculation` says, which its name then does too.

        Raises `InvalidInput` where the policy drafts in a way of its own.
        """
        if speculation is None or speculation == self.speculation:
            return self
        if self.speculation is not None:
            raise InvalidInput(f"policy {self.name} drafts tokens in a way of its own: give no other speculation")
        return replace(self, name=f"{self.name}@{speculation}", speculation=speculation)

    def with_skipping(self, skipping: Skipping) -> Policy:
        """The policy of tokens that do without some experts, which its name then says; its output is no longer exact.

        Raises `InvalidInput` where the policy says which already.
        """
        if self.skipping is not None:
            raise InvalidInput(f"policy {self.name} says already what tokens do without: give no other skip=")
        return replace(self, name=f"{self.name}@{skipping}", skipping=skipping, is_exact=False)

    def placed(self, popularity: PopularityProfile) -> Policy:
        """The policy whose static cache, and whose placement, keep in HBM what was chosen most in `popularity`."""
        cache = None if self.cache is None else self.cache.placed(popularity)
        return replace(self, cache=cache, popularity=popularity if self.placement.keeps else None)

    def with_cache(self, cache: Cache | None) -> Policy:
        """The policy with `cache` beside its slots; one that keeps every expert in HBM stays as it is.

        Raises `InvalidInput` where the policy names a cache of its own.
        """
        if cache is None or self.resident:
            return self
        if self.cache is not None and self.cache != cache:
            raise InvalidInput(
                f"policy {self.name} names a cache of its own: give no other cache, or take on_demand with it"
            )
        return replace(self, cache=cache)
