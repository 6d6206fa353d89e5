"""The seam of a policy, and the words that one is written with.

A policy is a composition of independent choices, each a plain function or value. It knows no device and no
clock. DECISIONS.md shows how every published axis of offloading is expressed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from offload.own_policies.own_policy_names import Own, changed_fields, rebuilt
from offload.own_policies.policy_calls import ask
from offload.placing.placement import AS_DECIDED, Placement
from offload.policy_parts.cache import Cache
from offload.policy_parts.decisions import (
    BlockView,
    Buffers,
    Decisions,
    Fetch,
    MissAction,
    OnMiss,
    Predictor,
    Prefetch,
    RunFacts,
    fetch_misses,
    misses_on_host,
    no_prefetch,
)
from offload.policy_parts.granularity import Granularity
from offload.policy_parts.miss_costs import AsksMachine, MissCosts
from offload.policy_parts.skipping import Skipping
from offload.policy_parts.speculation import Speculation
from traces.errors import InvalidInput, check_least, unknown_name
from traces.foundation.documents import check_name
from traces.foundation.type_checks import check_fields

if TYPE_CHECKING:
    from offload.execution import Execution
    from traces.statistics.popularity import PopularityProfile

__all__ = [
    "BlockView",
    "Buffers",
    "Cache",
    "Decisions",
    "Fetch",
    "MissAction",
    "OnMiss",
    "Policy",
    "Predictor",
    "RunFacts",
    "fetch_misses",
    "misses_on_host",
    "no_prefetch",
]


def _active_only(n_active: int, n_experts: int) -> Buffers:
    return Buffers(n_active, n_active)


@dataclass(frozen=True, slots=True)
class Policy:
    """An offloading policy as a composition of choices.

    `resident`: every expert stays in HBM. `lookahead`: how many blocks ahead a gate selects exactly (the
    activation level of Pre-gated MoE; 0 is the conventional gate). `next_token`: whether gates of a token select the
    experts of the next one, exactly, from the layer on that the model says. `prefetch`: what to start moving when a
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
    next_token: bool = False
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
        check_least("lookahead", self.lookahead, 0)
        if self.next_token and self.speculation is not None:
            raise InvalidInput(
                f"{self.name}: a pass that verifies drafts has several tokens, and gates say what the first needs "
                f"alone: leave gamma= out"
            )
        if self.resident and self.cache is not None:
            raise InvalidInput(f"{self.name} keeps every expert in HBM: it takes no cache")
        if self.start is not None and self.prefetch is not no_prefetch:
            raise InvalidInput(f"{self.name} has start, which makes its prefetches: leave those out")

    def _check_granularity(self) -> None:
        """Raise `InvalidInput` for what no copy can bring, or not beside what else the policy says."""
        if self.granularity not in get_args(Granularity):
            raise unknown_name("granularity", str(self.granularity), get_args(Granularity), f"policy {self.name}")
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise InvalidInput(f"policy {self.name}: a chunk of {self.chunk_bytes} bytes is below 1: give 1 or more")
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
        return replace(self, cache=cache, popularity=popularity if self.placement.goes_by_popularity else None)

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
