"""Where experts wait, as a user types it: `dram`, `ssd`, `ssd:read=128KiB:depth=8+lru:16GiB`."""

from __future__ import annotations

import re
from dataclasses import replace

from hwmodels.quantity import parse_override
from offload.placing.tiers import DRAM, PAGE_BYTES, READAHEAD_BYTES, SSD, Reads, Tier
from offload.policies import cache_named
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture

TIER_FORM = (
    "dram, ssd, or ssd[:read=SIZE|matrix][:align=SIZE][:depth=N][:mapped][:filed][+EVICTION[:SIZE|SHARE|SLOTS][:...]]"
)

_SIZED = re.compile(r"\d[\d_.]*(e\d+)?\s*[A-Za-z]+", re.ASCII)
_WORDS = ("read=", "align=", "depth=", "mapped", "filed")


def tier_named(text: str) -> Tier:
    """The tier a user types.

    `ssd`: an expert is one read of its own bytes. `read=`: bytes of one read, or `matrix` where the matrices of an
    expert lie apart; `align=`: whole multiples are read; `depth=`: reads at once; `mapped`: through the page cache, a
    page fault at a time (128 KiB and 4 KiB unless sizes are given); `filed`: the processor copies what was read once
    within host memory. `+EVICTION:SIZE`: host memory keeps what it has
    read, 16GiB of it, a share of the experts (0.25) or so many (64), all host memory that is left without a size; then
    what follows a cache of HBM: `per_layer`, `warm`, `admit=`, `budget=`. Raises `InvalidInput` or `UnknownName`.
    """
    where, plus, cache = text.strip().partition("+")
    home, *words = where.split(":")
    if home == DRAM.name and not words and not plus:
        return DRAM
    if home != SSD.name:
        raise InvalidInput(f"expert tier = {text!r}: experts wait in dram or ssd ({TIER_FORM})")
    tier = replace(SSD, name=text.strip(), reads=_reads(words, text))
    if not plus:
        return tier
    eviction, colon, rest = cache.partition(":")
    first, more, others = rest.partition(":")
    if colon and _SIZED.fullmatch(first):
        size = _size(first, "cache", text)
        return replace(tier, cache=cache_named(eviction + more + others), cache_bytes=size)
    return replace(tier, cache=cache_named(cache))


def check_resizable(text: str) -> None:
    """Raise `InvalidInput` for a tier whose cache an axis cannot size: one that has none, or says its size."""
    tier = tier_named(text)
    if tier.cache is None:
        raise InvalidInput(
            f"axis tier_bytes sizes what host memory keeps above storage, and expert tier {text!r} keeps nothing: name "
            f"an eviction, such as ssd+lru"
        )
    if tier.cache_bytes is not None or tier.cache.ratio is not None or tier.cache.n_slots is not None:
        raise InvalidInput(
            f"axis tier_bytes gives the size of the cache, and expert tier {text!r} does so too: name its eviction only"
        )


def resized(text: str, n_bytes: int, model: ModelArchitecture) -> str:
    """The tier `text`, whose cache has no size yet, with one of as many experts of `model` as `n_bytes` hold."""
    tier, (home, _, cache) = tier_named(text), text.strip().partition("+")
    n_slots = min(n_bytes // tier.reads.expert_bytes(model), model.n_moe_layers * model.n_experts)
    eviction, colon, rest = cache.partition(":")
    return f"{home}+{eviction}:{n_slots}{colon}{rest}" if n_slots else home


def _reads(words: list[str], text: str) -> Reads:
    """What follows `ssd`. Raises `InvalidInput` for a word that is none, or there twice."""
    said: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name + equals not in _WORDS:
            raise unknown_name("word", name + equals, _WORDS, f"expert tier {text!r}")
        if name in said:
            raise InvalidInput(f"expert tier {text!r} says {name} twice: once is enough")
        said[name] = value
    mapped = "mapped" in said
    by_matrix = said.get("read") == "matrix"
    align = _size(said["align"], "align", text) if "align" in said else (PAGE_BYTES if mapped else 1)
    n_bytes = _size(said["read"], "read", text) if "read" in said and not by_matrix else None
    if mapped and "read" not in said:
        n_bytes = max(READAHEAD_BYTES, align)
    depth = said.get("depth", "1")
    if not (depth.isascii() and depth.isdigit() and len(depth) < 6):
        raise InvalidInput(f"expert tier {text!r}: depth = {depth!r} is not a number of reads, such as 8")
    try:
        return Reads(n_bytes, by_matrix, align, int(depth), mapped, "filed" in said)
    except InvalidInput as error:
        raise InvalidInput(f"expert tier {text!r}: {error}") from None


def _size(typed: str, what: str, text: str) -> int:
    """A size in whole bytes."""
    try:
        size = parse_override(typed, "size")
    except InvalidInput as error:
        raise InvalidInput(f"expert tier {text!r}: {what} = {error}") from None
    if not 1 <= size < 2**60:
        raise InvalidInput(f"expert tier {text!r}: {what} = {typed} is not a size of at least 1 byte, such as 128KiB")
    return int(size)
