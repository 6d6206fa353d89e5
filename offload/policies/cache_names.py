"""Expert caches by name, as a user types them, and the evictions that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from offload.caches.eviction import EVICTIONS, Belady, Eviction, Key, Static
from offload.caches.eviction_released import ReleasedLfu, ReleasedLifo
from offload.own_policies.own_policy_names import is_own_name
from offload.policy import Cache
from traces.errors import InvalidInput, unknown_name
from traces.foundation.documents import NUMBER

_RELEASED: dict[str, Callable[[int], Eviction]] = {"lfu_released": ReleasedLfu, "lifo_released": ReleasedLifo}
"""Evictions as Pre-gated MoE's public code has them; made for a number of encoder keys."""


def plain_number(typed: str, text: str, what: str = "policy") -> float:
    """A plain number in a policy's name. Raises `InvalidInput` for anything else."""
    if NUMBER.fullmatch(typed) is None:
        raise InvalidInput(f"{what} {text!r}: {typed!r} is not a number, such as 0.4")
    return float(typed)


def cache_named(text: str) -> Cache:
    """The cache a user types: `EVICTION:RATIO` (0.1), `EVICTION:SLOTS` (64) or `EVICTION` (all the HBM that is left),
    then any of `:per_layer` or `:pooled`, `:warm`, `:write_back`, `:admit=RULE`, `:budget=EXPERTS`, and of hot_lru
    `:hot=SHARE`. Raises `UnknownName` for an eviction or an option, `InvalidInput` for a size or a word said twice.
    """
    if is_own_name(text):
        raise InvalidInput(
            f"cache {text!r} is a policy of your own, which may have a cache: name an eviction, as lru:0.1"
        )
    eviction, *rest = text.strip().split(":")
    sized = bool(rest) and rest[0].partition("=")[0] not in _CACHE_WORDS
    size, flags = (rest[0], rest[1:]) if sized else (None, rest)
    if eviction not in eviction_names():
        raise unknown_name("eviction", eviction, eviction_names(), f"cache {text!r}")
    said: dict[str, str] = {}
    for flag in flags:
        word, equals, value = flag.partition("=")
        if word not in _CACHE_WORDS or bool(equals) != _CACHE_WORDS[word]:
            names = [name + "=" * takes for name, takes in _CACHE_WORDS.items()]
            raise unknown_name("cache option", word + equals, names, f"cache {text!r}")
        if word in said:
            raise InvalidInput(f"cache {text!r} says {word} twice: once is enough")
        said[word] = value
    if {"per_layer", "pooled"} <= said.keys():
        raise InvalidInput(f"cache {text!r} is per_layer or pooled, not both")
    if size is not None and NUMBER.fullmatch(size) is None:
        raise InvalidInput(f"cache {text!r}: size {size!r} is neither a ratio (0.1) nor slots (64)")
    ratio, n_slots = (None, None) if size is None else (None, int(size)) if size.isdigit() else (float(size), None)
    budget = said.get("budget")
    if budget is not None and not (budget.isascii() and budget.isdigit()):
        raise InvalidInput(f"cache {text!r}: budget {budget!r} is not a number of experts, such as 2")
    return Cache(
        eviction,
        ratio,
        n_slots,
        per_layer="per_layer" in said,
        warm="warm" in said,
        admit=said.get("admit", "always"),
        budget=None if budget is None else int(budget),
        hot=plain_number(said["hot"], text, "cache") if "hot" in said else None,
        write_back="write_back" in said,
    )


_CACHE_WORDS = {
    "per_layer": False, "pooled": False, "warm": False, "write_back": False, "admit": True, "budget": True, "hot": True,
}  # fmt: skip
"""What may follow the size of a cache, and whether it takes a value."""


_RANKED = (
    "lfu_decay", "lfru", "lfru_released", "mrs", "activation", "activation_released", "least_stale",
)  # fmt: skip
"""Those of `offload.caches.eviction_ranked`, which imports NumPy."""


def eviction_names() -> tuple[str, ...]:
    """The evictions a cache can name."""
    return (*EVICTIONS, *_RANKED, "random", "belady", "static", *_RELEASED)


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
    make = _RELEASED.get(name)
    return name if make is None else lambda: make(n_encoder_keys)
