"""The presets: one file each, one line here each. `policy_named` reads what a user types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from offload.eviction import EVICTIONS, Belady, Eviction, Key, Static
from offload.eviction_released import ReleasedLfu, ReleasedLifo
from offload.placement import placement_named
from offload.policies.gpu_only import gpu_only
from offload.policies.lru import lfu, lru
from offload.policies.on_demand import on_demand
from offload.policies.prefetch_all import prefetch_all
from offload.policies.pregate import pregate
from offload.policy import Cache, Policy, misses_on_host
from traces.documents import NUMBER
from traces.errors import InvalidInput, unknown_name

__all__ = ["PRESETS", "cache_named", "eviction_named", "eviction_names", "policy_named"]

PRESETS: dict[str, Callable[..., Policy]] = {
    "gpu_only": gpu_only,
    "on_demand": on_demand,
    "prefetch_all": prefetch_all,
    "pregate": pregate,
    "lru": lru,
    "lfu": lfu,
}

RELEASED: dict[str, Callable[[int], Eviction]] = {"lfu_released": ReleasedLfu, "lifo_released": ReleasedLifo}
"""Evictions as Pre-gated MoE's public code has them; made for a number of encoder keys."""

_FORM = re.compile(
    r"(?P<name>[a-z_]+)(\((?P<lookahead>\d{1,4})\))?(?P<encoder>:encoder)?(?P<miss>:cpu)?(\+(?P<cache>.+))?", re.ASCII
)


def policy_named(text: str) -> Policy:
    """The policy a user types: `pregate`, `pregate(2)`, `on_demand+lru:0.1`, `pregate+lfu:64:per_layer`, and where the
    parts of the model are, `gpu_only@experts=cpu`.

    `:encoder` has an encoder run under the policy too, instead of on demand: `pregate:encoder`, `pregate(2):encoder`.
    `:cpu` has the host compute what is missing: `on_demand:cpu+static:28:per_layer`.

    Raises `UnknownName` for a preset that does not exist, `InvalidInput` for anything else that is wrong.
    """
    text, at, placement = text.strip().partition("@")
    if at:
        return policy_named(text).with_placement(placement_named(placement))
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"policy {text!r} is not of the form NAME, NAME(lookahead), NAME:encoder, NAME:cpu or NAME+CACHE"
        )
    if match["name"] not in PRESETS:
        raise unknown_name("policy", match["name"], PRESETS)
    if match["lookahead"] is not None and match["name"] != "pregate":
        raise InvalidInput(f"policy {text!r}: only pregate looks ahead by a number of blocks")
    policy = PRESETS[match["name"]](*([int(match["lookahead"])] if match["lookahead"] else []))
    if match["encoder"]:
        policy = replace(policy, name=f"{policy.name}:encoder", encoder="same")
    if match["miss"]:
        policy = replace(policy, name=f"{policy.name}:cpu", on_miss=misses_on_host)
    if match["cache"] is None:
        return policy
    return replace(policy, name=f"{policy.name}+{match['cache']}", cache=cache_named(match["cache"]))


def cache_named(text: str) -> Cache:
    """The cache a user types: `EVICTION:RATIO` (0.1), `EVICTION:SLOTS` (64) or `EVICTION` (all the HBM that is left),
    then `:per_layer`, `:warm`.
    """
    eviction, *rest = text.strip().split(":")
    sized = bool(rest) and rest[0] not in ("per_layer", "warm")
    size, flags = (rest[0], rest[1:]) if sized else (None, rest)
    if eviction not in eviction_names():
        raise unknown_name("eviction", eviction, eviction_names(), f"cache {text!r}")
    for i, flag in enumerate(flags):
        if flag in flags[:i]:
            raise InvalidInput(f"cache {text!r} says {flag} twice: once is enough")
        if flag not in ("per_layer", "warm"):
            raise unknown_name("cache option", flag, ["per_layer", "warm"], f"cache {text!r}")
    if size is not None and NUMBER.fullmatch(size) is None:
        raise InvalidInput(f"cache {text!r}: size {size!r} is neither a ratio (0.1) nor slots (64)")
    ratio, n_slots = (None, None) if size is None else (None, int(size)) if size.isdigit() else (float(size), None)
    return Cache(eviction, ratio, n_slots, per_layer="per_layer" in flags, warm="warm" in flags)


def eviction_names() -> tuple[str, ...]:
    """The evictions a cache can name."""
    return (*EVICTIONS, "random", "belady", "static", *RELEASED)


def eviction_named(
    name: str, n_encoder_keys: int, future: Callable[[], Iterable[Iterable[Key]]] | None = None
) -> str | Callable[[], Eviction]:
    """What a `ResidentSet` takes for eviction `name`, in a model with `n_encoder_keys` experts in its encoder.

    `future`: all events to come, in order, which `belady` alone may see. Raises `InvalidInput` when it has none.
    """
    if name == "belady":
        if future is None:
            raise InvalidInput("eviction belady knows the future: it needs a whole trace, not a stream of steps")
        return lambda: Belady(future())
    if name == "static":
        return Static
    make = RELEASED.get(name)
    return name if make is None else lambda: make(n_encoder_keys)
