"""Placements as people type them: `experts=cpu:26@ubatch=2048`, a clause for each part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from offload.placing.layers import EVERYWHERE, layers_named, range_named
from offload.placing.placement import Placement
from traces.errors import InvalidInput
from traces.foundation.documents import NUMBER

_FORM = (
    "experts=cpu[:LAYERS][:keep=N or :share=S[:uniform]], experts=cpu:fit, layers=cpu[:LAYERS], "
    "experts or weights=stream[:LAYERS][:share=S], ahead=LAYERS, experts or weights=zerocopy[:LAYERS][:share=S], "
    "kv=cpu[:share=S], kv=stream[:share=S], ubatch=TOKENS, stream=TOKENS, micro=SEQUENCES, host=beside, "
    "experts=whole[:GROUPS], redundant=EXPERTS, turns=STAGES, copies=COPIES"
)
_COUNTS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "ubatch": ("micro_batch", r"\d{1,7}", "number of tokens"),
        "stream": ("stream_from", r"\d{1,7}", "number of tokens"),
        "micro": ("micro_sequences", r"\d{1,7}", "number of sequences"),
        "ahead": ("ahead", r"\d{1,7}", "number of layers"),
        "redundant": ("redundant", r"\d{1,4}", "number of experts"),
        "turns": ("turns", r"[1-9]\d?", "number of groups of cards, up to 99"),
        "copies": ("copies", r"[1-9]\d?", "number of groups of cards, up to 99"),
    }
)
"""Clauses that are a number: the field of a placement, what may stand there, and what it is."""

_LAYERS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("experts", "cpu"): "host_experts",
        ("experts", "stream"): "streamed_experts",
        ("experts", "zerocopy"): "zero_copy_experts",
        ("weights", "stream"): "streamed",
        ("weights", "zerocopy"): "zero_copy_weights",
        ("layers", "cpu"): "host_layers",
    }
)
"""Fields of a placement that name layers, by the part of these and where it is."""

_KV: Mapping[str, str] = MappingProxyType({"cpu": "host", "stream": "stream"})
"""Where a KV cache is, by the word of its clause."""

_SHARES: Mapping[str, str] = MappingProxyType(
    {"experts": "expert_share", "weights": "streamed_share", "kv": "kv_share"}
)
"""Fields of a placement that say which share of a part's bytes is elsewhere."""


def placement_named(text: str) -> Placement:
    """The placement a user types: clauses `PART=WHERE`, joined by `@` or commas.

    `experts=cpu` (all layers), `experts=cpu:26` (the first 26 layers), `experts=cpu:12-47`, `experts=cpu:12-`,
    `experts=cpu:keep=28`, `experts=cpu:keep=28:uniform`; `experts=cpu:fit` (as few layers on the host as HBM allows);
    `layers=cpu:20`; `weights=stream`; `kv=cpu`, `kv=stream`; a share of the bytes, `experts=cpu:share=0.4`,
    `weights=stream:share=0.4`, `kv=cpu:share=0.5`; `experts=zerocopy:18`, `weights=zerocopy:18` (kernels read them in
    host memory); `experts=stream` (all of a layer with its other weights), `weights=stream:2/8` (the last two of every
    eight layers), `ahead=1`; `ubatch=2048`, `stream=32`, `stream=never`; `micro=8` (sequences in a micro-batch);
    `host=beside` (experts of the host while the device computes its own); `experts=whole` (each card has whole ones),
    `experts=whole:4` (each of four groups of cards), `redundant=16` (spread by how much each serves, with 16 replicas);
    `turns=2` (each half of the cards has half of the layers),
    `turns=1` (all share every layer); `copies=4` (four of attention, for sequences of their own). Raises `InvalidInput`
    for anything else.
    """
    found = Placement()
    seen: set[str] = set()
    clauses = [clause.strip() for clause in re.split(r"[@,]", text.strip())]
    later = ("host=", "ahead=", "redundant=")  # they are of what others place
    for clause in sorted(clauses, key=lambda one: one.startswith(later)):
        part, _, where = clause.partition("=")
        if part in seen:
            raise InvalidInput(f"placement {text!r} says {part} twice: once is enough")
        seen.add(part)
        found = _with_clause(found, part, where, text)
    return found


def _with_clause(found: Placement, part: str, where: str, text: str) -> Placement:
    """`found` with one clause, `part=where`, of the `text` of a placement. Raises `InvalidInput`."""
    if part in _COUNTS:
        field, digits, what = _COUNTS[part]
        count = "0" if part == "stream" and where == "never" else where
        if not re.fullmatch(digits, count, re.ASCII):
            raise InvalidInput(f"placement {text!r}: {part}={where} is no {what}")
        counted: dict[str, Any] = {field: int(count)}
        return replace(found, **counted)
    if part == "host":
        if where != "beside":
            raise InvalidInput(f"placement {text!r}: host={where} is not host=beside")
        return replace(found, beside=True)
    home, *rest = where.split(":")
    if part == "experts" and home == "whole":
        if len(rest) > 1 or not all(re.fullmatch(r"[1-9]\d?", word, re.ASCII) for word in rest):
            raise InvalidInput(f"placement {text!r}: {part}={where} is not experts=whole:GROUPS, up to 99")
        return replace(found, expert_groups=int(rest[0]) if rest else 0)
    if (part, home, rest) == ("experts", "cpu", ["fit"]):
        return replace(found, host_experts=EVERYWHERE, fits=True)
    return replace(found, **_layers_of_part(part, where, text))


def _layers_of_part(part: str, where: str, text: str) -> dict[str, Any]:
    """Fields of a clause that says which layers of a part, and which share of it, are where. Raises `InvalidInput`."""
    home, *rest = where.split(":")
    uniform = part == "experts" and len(rest) > 1 and rest[-1] == "uniform"
    if uniform:
        rest.pop()
    share = {_SHARES[part]: _share(rest, text)} if part in _SHARES else {}
    if part == "kv" and home in _KV and not rest:
        return {"kv": _KV[home], **share}
    on_host = (part, home) == ("experts", "cpu")
    if (part, home) not in _LAYERS or (uniform and not on_host):
        raise InvalidInput(f"placement {text!r}: {part}={where} is not of the form {_FORM}")
    kept = {"n_kept": _kept(rest, text), "uniform": uniform} if on_host else {}
    layers = layers_named(rest, text) if home == "stream" else range_named(rest, text)
    return {_LAYERS[part, home]: layers, **kept, **share}


def _kept(words: list[str], text: str) -> int:
    """What `keep=28` at the end of `words` says, which it is taken from; 0 without. Raises `InvalidInput`."""
    if not (words and words[-1].startswith("keep=")):
        return 0
    digits = words.pop().removeprefix("keep=")
    if not re.fullmatch(r"\d{1,4}", digits, re.ASCII):
        raise InvalidInput(f"placement {text!r}: keep={digits} is not a number of experts a layer")
    return int(digits)


def _share(words: list[str], text: str) -> float:
    """What `share=0.4` at the end of `words` says, which it is taken from; 1 without. Raises `InvalidInput`."""
    if not (words and words[-1].startswith("share=")):
        return 1.0
    word = words.pop()
    digits = word.removeprefix("share=")
    if NUMBER.fullmatch(digits) is None or not 0 < float(digits) <= 1:
        raise InvalidInput(f"placement {text!r}: {word} is not a share of the bytes above 0, at most 1, such as 0.4")
    return float(digits)
