"""Residency replay of a million events, four million lookups: `python -m benchmarks.replay_speed`.

By slots (`offload.caches.slot_replay`, as `pregate residency` does), by bytes (`offload.caches.budget_replay`), and by
libCacheSim on the same keys, which replays one lookup at a time. CPU seconds; compiled code is loaded before the clock
starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from offload.caches.budget_replay import POLICIES, replay_residency
from offload.caches.slot_replay import replay_cache
from offload.caches.trace_events import trace_events
from offload.policies import cache_named
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace

N_TOKENS, N_LAYERS, N_EXPERTS, TOP_K = 20_834, 48, 128, 4
BUDGET = N_LAYERS * N_EXPERTS // 4


def trace(n_tokens: int) -> RoutingTrace:
    """Tokens that often go to the experts of the token before, and by popularity else."""
    rng = np.random.default_rng(0)
    rank = np.argsort(rng.gumbel(size=(n_tokens, N_LAYERS, N_EXPERTS)) - np.log(np.arange(1, N_EXPERTS + 1)), axis=2)
    experts = rank[:, :, :TOP_K].astype(np.int16)
    for token in range(1, n_tokens):
        keep = rng.random(N_LAYERS) < 0.4
        experts[token, keep] = experts[token - 1, keep]
    step = np.arange(n_tokens, dtype=np.int32)
    return RoutingTrace(
        experts=experts, sequence=np.zeros(n_tokens, np.int32), position=step, step=step, n_experts=N_EXPERTS,
        phase=np.full(n_tokens, Phase.DECODE, np.int8), provenance=Provenance("random", "benchmark", "none", "numpy"),
    )  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of `work`, the least of three."""
    found = []
    for _ in range(3):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def main() -> None:
    """Print a line a policy."""
    routed = trace(N_TOKENS)
    small = RoutingTrace(
        experts=routed.experts[:600], sequence=routed.sequence[:600], position=routed.position[:600],
        phase=routed.phase[:600], step=routed.step[:600], n_experts=N_EXPERTS, provenance=routed.provenance,
    )  # fmt: skip
    for name in ("lru", "lfu", "lfru", "mrs", "activation", "random", "belady"):
        for flag in (":per_layer", ""):
            cache = cache_named(name + flag)
            replay_cache(trace_events(small), cache, BUDGET, compiled=True)
            events = trace_events(routed)
            taken_s = seconds(lambda cache=cache, events=events: replay_cache(events, cache, BUDGET))
            rate = replay_cache(events, cache, BUDGET).hit_rate
            print(f"{name + flag:22} {taken_s:6.3f} s  {len(events.layer)} events, {100 * rate:.1f} % hit")
    print(f"{'events of the trace':22} {seconds(lambda: trace_events(routed)):6.3f} s")
    for policy in POLICIES:
        replay_residency(small, policy, 10, [1] * N_LAYERS)
        taken_s = seconds(lambda policy=policy: replay_residency(routed, policy, BUDGET, [1] * N_LAYERS))
        result = replay_residency(routed, policy, BUDGET, [1] * N_LAYERS)
        print(f"{policy + ' by bytes':22} {taken_s:6.3f} s  {result.n_lookups} lookups, {result.hit_pct_cum:.1f} % hit")
    try:
        import libcachesim
    except ImportError:
        print("libcachesim is not installed")
        return
    keys = routed.experts.astype(np.int64) + np.arange(N_LAYERS)[None, :, None] * N_EXPERTS
    requests = [libcachesim.Request(obj_id=int(key), obj_size=1) for key in keys.ravel()]
    for name in ("LRU", "LFU", "Random"):

        def replay(name: str = name) -> int:
            cache = getattr(libcachesim, name)(cache_size=BUDGET)
            return sum(map(cache.get, requests))

        print(f"{'libcachesim ' + name:22} {seconds(replay):6.3f} s, called from Python")


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
