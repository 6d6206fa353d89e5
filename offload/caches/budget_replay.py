"""A routing trace replayed through an expert cache with a byte budget: hits, misses and bytes; no time.

The rules are those of a phone engine that streams experts from flash, and of the replay its authors
published with the traces (BigMoeOnEdge, Apache-2.0, docs/bench-data and scripts/route-replay.py):

1. A batch is one (step, layer): all prompt tokens together in prefill, one token (or the tokens of the
   step) in decode. Steps in order, layers in order within a step.
2. A batch looks each of its experts up once; a repeated expert, token after token in rank order, only
   moves up in recency. A miss makes the expert resident and reads `expert_bytes` of its layer.
3. After the batch, and not before, experts are evicted until the residents fit the budget; never one that
   this batch used. A batch larger than the budget therefore overshoots it until the next eviction:
   `ResidencyResult.peak_bytes` shows that.
4. One pool for all layers, except `layer` and `layerlfu`: each MoE layer owns an equal share in bytes,
   `budget_bytes // n_moe_layers`, and keeps its last batch even if that is larger than the share (rule 3).
   That is why these two do not fall to 0 at small budgets.
5. Prefill reads count in `read_bytes` and in the cumulative hit rate, and fill the cache for decode.

Reproduced exactly with these rules (tests/golden/test_residency_curves.py): every `lru`, `belady`, `lfu`,
`layer` and `layerlfu` row of the two published curves, and every residency bit the engine recorded. `random`
is reproduced in distribution only: a published row is a single draw of another generator.

`replay_residency` replays these rules, and is the definition. A curve has the points of `lru` and `layer` from one pass
for all budgets (`traces.statistics.stack_distance`), equal to the replay, and replays the other policies budget by
budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from compiled.when_it_pays import machine_code_pays
from offload.caches.eviction import Belady, Eviction, Key, Lfu, Lru, Random
from offload.fast.replay_compiled import KERNELS, FlatTrace
from traces.errors import InvalidInput, unknown_name
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.hit_curve import HitCurve, lru_curve
from traces.statistics.stack_distance import NEVER, expert_sizes

POLICIES = ("belady", "lru", "lfu", "random", "layer", "layerlfu")
"""What can be replayed, in the published order; `layer` and `layerlfu` are LRU and LFU layer by layer."""

MIB = 1 << 20

SMALL_CELLS = 100_000
"""Traces of up to so many routing cells (tokens x layers x top_k) are replayed in Python where code would be compiled:
about half a second."""


@dataclass(frozen=True, slots=True)
class ResidencyResult:
    """What one replay met. A lookup is one unique expert of one batch; `_decode` counts decode batches only.

    hits: `(n_lookups,)` bool, read-only, in the order of the trace: step, layer, first appearance of the
        expert (token after token, rank order). It is what an engine records as the residency bit.
    read_bytes: bytes of all misses, prefill included. peak_bytes: most bytes resident after a batch.
    """

    hits: NDArray[np.bool_] = field(repr=False, compare=False)
    n_lookups: int
    n_lookups_decode: int
    n_hits: int
    n_hits_decode: int
    read_bytes: int
    peak_bytes: int

    @property
    def n_misses(self) -> int:
        """Experts read, prefill included."""
        return self.n_lookups - self.n_hits

    @property
    def hit_pct_cum(self) -> float:
        """Hits in 100 lookups, prefill included; 0.0 without lookups."""
        return _pct(self.n_hits, self.n_lookups)

    @property
    def hit_pct_decode(self) -> float:
        """Hits in 100 lookups of the decode steps; 0.0 without any."""
        return _pct(self.n_hits_decode, self.n_lookups_decode)


@dataclass(frozen=True, slots=True)
class _Batch:
    """One (step, layer): unique keys by first and by last appearance."""

    layer: int
    decode: bool
    keys: list[Key]
    by_recency: list[Key]


class _Pool:
    """Residents that share a budget."""

    __slots__ = ("budget_bytes", "eviction", "resident_bytes")

    def __init__(self, budget_bytes: int, eviction: Eviction) -> None:
        self.budget_bytes, self.eviction, self.resident_bytes = budget_bytes, eviction, 0


def replay_residency(
    trace: RoutingTrace,
    policy: str,
    budget_bytes: int,
    expert_bytes: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
) -> ResidencyResult:
    """Replay `trace` through `policy`, one of `POLICIES`, with `budget_bytes` of experts.

    expert_bytes: `(n_moe_layers,)` bytes of one expert, by layer; None takes the trace's own. `seed` is used
    by "random" only. Raises `UnknownName` on a policy, `InvalidInput` on a negative budget, on sizes that are
    not positive or not one a layer, or when nobody states them.
    """
    return _Replay(trace, _expert_sizes(trace, expert_bytes)).run(policy, budget_bytes, seed)


@dataclass(frozen=True, slots=True)
class CurveRow:
    """One point of a residency curve; `csv` prints it as the published files do."""

    budget_mib: float
    policy: str
    hit_pct_cum: float
    hit_pct_decode: float
    read_mib: float

    def csv(self) -> str:
        """The row as text: whole MiB, three decimals for percentages and one for MiB read."""
        return (
            f"{self.budget_mib:.0f},{self.policy},{self.hit_pct_cum:.3f},{self.hit_pct_decode:.3f},{self.read_mib:.1f}"
        )


def residency_curve(
    trace: RoutingTrace,
    policies: Sequence[str],
    budgets_mib: Sequence[float],
    *,
    expert_bytes: Sequence[int] | NDArray[np.int64] | None = None,
    seed: int = 0,
) -> list[CurveRow]:
    """One row per budget and policy, budgets outermost; a budget is rounded down to whole bytes.

    Raises what `replay_residency` raises.
    """
    sizes = _expert_sizes(trace, expert_bytes)
    curves = {name: lru_curve(trace, sizes, per_layer=name == "layer") for name in policies if name in ("lru", "layer")}
    replay = _Replay(trace, sizes)
    rows = []
    for budget_mib in budgets_mib:
        budget_bytes = int(budget_mib * MIB)
        if budget_bytes < min(sizes):
            raise InvalidInput(
                f"budget = {budget_mib:g} MiB holds no expert: the smallest takes {min(sizes) / MIB:.4g} MiB"
            )
        for policy in policies:
            if policy in curves:
                rows.append(_row_of_curve(curves[policy], policy, budget_mib, budget_bytes))
                continue
            result = replay.run(policy, budget_bytes, seed)
            read_mib = result.read_bytes / MIB
            rows.append(CurveRow(budget_mib, policy, result.hit_pct_cum, result.hit_pct_decode, read_mib))
    return rows


def curve_csv(rows: Iterable[CurveRow]) -> str:
    """The rows as a CSV file with the header of the published curves."""
    header = "budget_mib,policy,hit_pct_cum,hit_pct_decode,read_mib"
    return "\n".join([header, *(row.csv() for row in rows)]) + "\n"


def _expert_sizes(trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64] | None) -> list[int]:
    given = trace.expert_bytes if expert_bytes is None else expert_bytes
    if given is None:
        raise InvalidInput("the trace does not state expert_bytes: give them, one value a MoE layer")
    return expert_sizes(trace, given)


def _pct(n_hits: int, n_lookups: int) -> float:
    return 100.0 * n_hits / n_lookups if n_lookups else 0.0


def _row_of_curve(curve: HitCurve, policy: str, budget_mib: float, budget_bytes: int) -> CurveRow:
    capacity = min(budget_bytes, NEVER - 1)
    cum = _pct(int(curve.hits(capacity)), curve.n_lookups)
    decode = _pct(int(curve.hits(capacity, decode_only=True)), curve.n_lookups_decode)
    return CurveRow(budget_mib, policy, cum, decode, int(curve.read(capacity)) / MIB)


def _batches(trace: RoutingTrace) -> list[_Batch]:
    """The trace as batches; a layer for which a step records nothing (all -1) is no batch."""
    batches = []
    for step in trace.steps():
        for layer in range(trace.n_moe_layers):
            chosen = step.experts[:, layer, :].ravel()  # [B * k], token after token, rank order
            keys = (chosen[chosen >= 0].astype(np.int64) + layer * trace.n_experts).tolist()
            if keys:
                by_recency = list(dict.fromkeys(reversed(keys)))[::-1]
                batches.append(_Batch(layer, step.phase is Phase.DECODE, list(dict.fromkeys(keys)), by_recency))
    return batches


def _make_pools(batches: list[_Batch], policy: str, budget_bytes: int, n_layers: int, seed: int) -> list[_Pool]:
    match policy:
        case "lru":
            return [_Pool(budget_bytes, Lru())]
        case "lfu":
            return [_Pool(budget_bytes, Lfu())]
        case "random":
            return [_Pool(budget_bytes, Random(np.random.default_rng(seed)))]
        case "belady":
            return [_Pool(budget_bytes, Belady(batch.keys for batch in batches))]
        case "layer":
            return [_Pool(budget_bytes // n_layers, Lru()) for _ in range(n_layers)]
        case "layerlfu":
            return [_Pool(budget_bytes // n_layers, Lfu()) for _ in range(n_layers)]
    raise unknown_name("replay policy", policy, POLICIES)


class _Replay:
    """One trace, prepared when it is first replayed: in Python where it is small, else for compiled code."""

    def __init__(self, trace: RoutingTrace, sizes: list[int], compiled: bool | None = None) -> None:
        self._trace, self._sizes = trace, sizes
        if compiled is None:
            compiled = machine_code_pays(trace.experts.size, *KERNELS, compile_above=SMALL_CELLS)
        self._compiled = compiled
        self._batches: list[_Batch] | None = None
        self._flat: FlatTrace | None = None

    def run(self, policy: str, budget_bytes: int, seed: int) -> ResidencyResult:
        """Replay through `policy`. Raises `UnknownName` for one that does not exist, `InvalidInput` below 0 bytes."""
        if policy not in POLICIES:
            raise unknown_name("replay policy", policy, POLICIES)
        if budget_bytes < 0:
            raise InvalidInput(f"budget_bytes = {budget_bytes} is below 0: give 0 to keep nothing")
        if not self._compiled:
            if self._batches is None:
                self._batches = _batches(self._trace)
            return _replay_in_python(self._batches, policy, budget_bytes, self._sizes, self._trace.n_experts, seed)
        if self._flat is None:
            self._flat = FlatTrace(self._trace)
        hits, read_bytes, peak_bytes = self._flat.replay(policy, budget_bytes, self._sizes, seed)
        decode = self._flat.decode
        return _result(hits, int(decode.sum()), int(hits[decode].sum()), read_bytes, peak_bytes)


def _result(
    hits: NDArray[np.bool_], n_decode: int, n_hits_decode: int, read_bytes: int, peak_bytes: int
) -> ResidencyResult:
    hits.setflags(write=False)
    return ResidencyResult(hits, len(hits), n_decode, int(hits.sum()), n_hits_decode, read_bytes, peak_bytes)


def _replay_in_python(
    batches: list[_Batch], policy: str, budget_bytes: int, sizes: list[int], n_experts: int, seed: int
) -> ResidencyResult:
    pools = _make_pools(batches, policy, budget_bytes, len(sizes), seed)
    resident: set[Key] = set()
    hits: list[bool] = []
    n_lookups = [0, 0]  # prefill, decode
    n_hits = [0, 0]
    read_bytes = resident_bytes = peak_bytes = 0
    for batch in batches:
        size = sizes[batch.layer]
        pool = pools[batch.layer if len(pools) > 1 else 0]
        found = [key in resident for key in batch.keys]
        missing = [key for key, hit in zip(batch.keys, found, strict=True) if not hit]
        hits += found
        n_lookups[batch.decode] += len(found)
        n_hits[batch.decode] += len(found) - len(missing)
        for key in missing:
            pool.eviction.insert(key)
        for key in batch.by_recency:
            pool.eviction.touch(key)
        resident.update(missing)
        pool.resident_bytes += size * len(missing)
        read_bytes += size * len(missing)
        resident_bytes += size * len(missing) - _evict(pool, resident, set(batch.keys), sizes, n_experts)
        peak_bytes = max(peak_bytes, resident_bytes)
    return _result(np.array(hits, dtype=np.bool_), n_lookups[1], n_hits[1], read_bytes, peak_bytes)


def _evict(pool: _Pool, resident: set[Key], protected: set[Key], sizes: list[int], n_experts: int) -> int:
    """Evict until the pool fits its budget or nothing may go; returns the bytes freed."""
    freed_bytes = 0
    while pool.resident_bytes > pool.budget_bytes:
        victim = pool.eviction.victim(protected)
        if victim is None:
            break
        pool.eviction.remove(victim)
        resident.discard(victim)
        pool.resident_bytes -= sizes[victim // n_experts]
        freed_bytes += sizes[victim // n_experts]
    return freed_bytes
