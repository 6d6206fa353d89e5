"""The presets: one file each, one line here each. `policy_named` reads what a user types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast, get_args

from offload.answers.by_bandwidth import ByBandwidth, ByBandwidthWithin
from offload.answers.cheaper import CheaperEach, ShorterLane
from offload.answers.list_schedule import ListScheduled
from offload.answers.wrong_guess import executes_guessed, executes_resident
from offload.caches.eviction import EVICTIONS, Belady, Eviction, Key, Static
from offload.caches.eviction_released import ReleasedLfu, ReleasedLifo
from offload.granularity import Granularity
from offload.miss_costs import MissCosts
from offload.own_policies import is_own_name, own_name, own_policy
from offload.placing.placement import placement_named
from offload.policies.activation_aware import activation_aware
from offload.policies.adap_moe import adap_moe
from offload.policies.bandwidth_split import bandwidth_split, bandwidth_split_within
from offload.policies.chunked_learned import chunked_learned
from offload.policies.finemoe import finemoe
from offload.policies.gpu_only import gpu_only
from offload.policies.guess import guess_next_gate, guesses
from offload.policies.hybrid_schedule import hybrid_schedule
from offload.policies.lru import lfru, lfu, lru
from offload.policies.lru_next_gate import lru_next_gate
from offload.policies.min_latency import min_latency_paper, min_latency_released
from offload.policies.mixed_precision import mixed_precision
from offload.policies.on_demand import on_demand
from offload.policies.oracle import oracle
from offload.policies.prefetch_all import prefetch_all
from offload.policies.pregate import pregate
from offload.policies.static_cpu import static_cpu
from offload.policy import Cache, OnMiss, Policy, fetch_misses, misses_on_host
from offload.skipping import skipping_named
from offload.speculation import SHAPES, speculation_named
from traces.documents import NUMBER
from traces.errors import InvalidInput, unknown_name

__all__ = ["PRESETS", "cache_named", "eviction_named", "eviction_names", "policy_named"]

_GUESSED = (
    "markov", "maps", "matrices", "learned", "previous_token", "sequence", "popular", "uniform", "shuffled_markov",
    "shuffled_maps", "shuffled_learned",
)  # fmt: skip
"""Predictors that learn as they serve, and controls; of `offload.predictors.catalogue`."""

PRESETS: dict[str, Callable[..., Policy]] = {
    "gpu_only": gpu_only,
    "on_demand": on_demand,
    "prefetch_all": prefetch_all,
    "pregate": pregate,
    "lru": lru,
    "lfu": lfu,
    "lfru": lfru,
    "static_cpu": static_cpu,
    "lru_next_gate": lru_next_gate,
    "min_latency/paper": min_latency_paper,
    "min_latency/released": min_latency_released,
    "bandwidth_split": bandwidth_split,
    "bandwidth_split/within": bandwidth_split_within,
    "hybrid_schedule": hybrid_schedule,
    "mixed_precision": mixed_precision,
    "adap_moe": adap_moe,
    "activation_aware": activation_aware,
    "finemoe": finemoe,
    "chunked_learned": chunked_learned,
    "oracle": oracle,
    "guess/next_gate": guess_next_gate,
    **{f"guess/{name}": guesses(name) for name in _GUESSED},
}

MISSES: dict[str, OnMiss] = {
    "cpu": misses_on_host,
    "cheaper": ShorterLane(),
    "cheaper_sum": CheaperEach(),
    "split": ByBandwidth(),
    "split_within": ByBandwidthWithin(),
    "scheduled": ListScheduled(),
    "guessed": executes_guessed,
    "resident": executes_resident,
}
"""What a design does with a miss, by the word that follows its name; without one it fetches."""

_GUESSES = tuple(f"guess/{name}" for name in ("next_gate", *_GUESSED))

_TAKES: dict[str, tuple[str, ...]] = {
    "lookahead": ("pregate", "oracle", "finemoe", "chunked_learned", *_GUESSES),
    "recall": ("lru_next_gate", "guess/next_gate"),
    "curve": ("guess/next_gate",),
    "more": ("finemoe", "chunked_learned", *_GUESSES),
    "high": ("mixed_precision",),
    "low": ("mixed_precision",),
    "bits": ("mixed_precision",),
    "from": tuple(f"guess/{name}" for name in _GUESSED),
    "copies": ("mixed_precision",),
    "dram": ("pregate", "oracle", "prefetch_all", "activation_aware", "finemoe", "chunked_learned", *_GUESSES[1:]),
}
"""What may follow a name, and which presets take it."""

RELEASED: dict[str, Callable[[int], Eviction]] = {"lfu_released": ReleasedLfu, "lifo_released": ReleasedLifo}
"""Evictions as Pre-gated MoE's public code has them; made for a number of encoder keys."""

_MISS = re.compile(
    rf":(?P<miss>{'|'.join(sorted(MISSES, key=len, reverse=True))})(=(?P<host>[^:+=]*))?(?=[:+]|$)", re.ASCII
)
_GRANULARITY = re.compile(r":granularity=(?P<of>[^:+@]*)", re.ASCII)
_FORM = re.compile(
    r"(?P<name>[a-z_]+(/[a-z_]+)?)(\((?P<lookahead>\d{1,4})\))?(=(?P<host>[^:+=]*))?(?P<encoder>:encoder)?"
    r"(?P<options>(:(recall|curve|more|high|low|bits|from|copies|dram)=[^:+=]*)*)(\+(?P<cache>.+))?",
    re.ASCII,
)


def policy_named(text: str) -> Policy:
    """The policy a user types: `pregate`, `pregate(2)`, `on_demand+lru:0.1`, `pregate+lfu:64:per_layer`, and where the
    parts of the model are, `gpu_only@experts=cpu`, how tokens are drafted, `pregate@gamma=4:acceptance=0.8`, and which
    experts they do without, `adap_moe@skip=0.1`.

    `:encoder` has an encoder run under the policy too, instead of on demand: `pregate:encoder`, `pregate(2):encoder`.
    `:cpu` has the host compute what is missing: `on_demand:cpu+static:28:per_layer`. Other words of `MISSES` weigh it
    against the copy: `on_demand:cheaper+lru:0.4` or `on_demand+lru:0.4:cheaper`, by what the machine says, or with a
    stated time on the host over that of the copy, `on_demand:cheaper=0.35`, `min_latency/paper=0.35`. `:recall=0.9`
    says how often the guesses of `lru_next_gate` are right, `guess/markov(2):more=1` how far ahead and how many more,
    `guess/markov:from=FILE` what it has learnt from before, `mixed_precision:high=0.5:low=0.8:bits=4` up to which score
    an expert comes as stored, and in fewer bits, `:copies=0.25` of the cache's bytes being kept for such copies.
    `:dram=3` has storage read into host memory three blocks ahead (`--tier ssd+lru:8GiB`).
    `:granularity=matrix` says what one copy brings: `layer`, `expert`, `matrix`, or chunks of a size, `1MiB`. A
    file that was loaded takes the place of a preset: `./mine.py:MyPolicy:depth=2`.

    Raises `UnknownName` for a preset that does not exist, `InvalidInput` for anything else that is wrong.
    """
    granular = list(_GRANULARITY.finditer(text))
    if granular:
        policy = policy_named(_GRANULARITY.sub("", text))
        if len(granular) > 1:
            raise InvalidInput(f"policy {text!r} says granularity twice: once is enough")
        return _granular(policy, granular[0]["of"])
    if is_own_name(text):
        return _own_named(text.strip())
    text, at, rest = text.strip().partition("@")
    if at:
        return _placed(policy_named(text), rest)
    misses = list(_MISS.finditer(text))
    match = _FORM.fullmatch(_MISS.sub("", text))
    if match is None or len(misses) > 1:
        raise InvalidInput(
            f"policy {text!r} is not of the form NAME, NAME(lookahead), NAME:encoder, NAME:MISS or NAME+CACHE, "
            f"MISS being one of {', '.join(MISSES)}"
        )
    if match["name"] not in PRESETS:
        raise unknown_name("policy", match["name"], PRESETS)
    policy = PRESETS[match["name"]](**_options(match, text))
    if match["host"] is not None:
        policy = _told(policy, f"{policy.name}={match['host']}", match["host"])
    if match["encoder"] and policy.start is not None:
        raise InvalidInput(f"policy {text!r}: {policy.name} guesses in a decoder only, leave :encoder out")
    return _with_rest(policy, match["encoder"], misses, match["cache"])


def _granular(policy: Policy, typed: str) -> Policy:
    """The policy with what one copy brings, as typed: a word, or the size of a chunk."""
    name = f"{policy.name}:granularity={typed}"
    if typed in get_args(Granularity):
        return replace(policy, name=name, granularity=cast(Granularity, typed))
    found = _SIZE.fullmatch(typed)
    if found is None:
        words = ", ".join(get_args(Granularity))
        raise InvalidInput(f"policy {name!r}: granularity is {words}, or the size of a chunk such as 1MiB")
    n_bytes = float(found["n"]) * _SIZES[found["unit"] or "B"]
    if not 1 <= n_bytes <= 1 << 50:
        raise InvalidInput(f"policy {name!r}: a chunk has 1 byte to 1 PiB, such as 1MiB")
    return replace(policy, name=name, chunk_bytes=int(n_bytes))


_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(rf"(?P<n>\d{{1,15}}(\.\d{{1,6}})?)(?P<unit>{'|'.join(_SIZES)})?", re.ASCII)


_REST = re.compile(r"(?P<encoder>:encoder)?(\+(?P<cache>.+))?", re.ASCII)


def _own_named(text: str) -> Policy:
    """A policy from a user's own file, with what follows its arguments as after a preset."""
    name = own_name(text, frozenset(MISSES))
    rest, at, placement = name.rest.partition("@")
    policy, misses = own_policy(name), list(_MISS.finditer(rest))
    match = _REST.fullmatch(_MISS.sub("", rest))
    if match is None or len(misses) > 1:
        raise InvalidInput(
            f"policy {text!r} is not of the form FILE.py:NAME or FILE.py:NAME:ARGUMENT=VALUE, then :encoder, :MISS, "
            f"+CACHE or @PLACEMENT, MISS being one of {', '.join(MISSES)}"
        )
    policy = _with_rest(policy, match["encoder"], misses, match["cache"])
    return _placed(policy, placement) if at else policy


def _placed(policy: Policy, rest: str) -> Policy:
    """The policy with what stands behind `@`: where the model is, which experts tokens do without (`skip=...`), and how
    tokens are drafted (`gamma=...`).
    """
    clauses = rest.split("@")
    drafted = [clause for clause in clauses if clause.strip().partition("=")[0] in SHAPES]
    thinned = [clause for clause in clauses if clause.strip().startswith("skip=")]
    where = [clause for clause in clauses if clause not in (*drafted, *thinned)]
    if len(drafted) > 1:
        raise InvalidInput(f"policy {policy.name}@{rest} drafts tokens in two ways: give one")
    if where:
        policy = policy.with_placement(placement_named("@".join(where)))
    for clause in thinned:
        policy = policy.with_skipping(skipping_named(clause))
    return policy.with_speculation(speculation_named(drafted[0])) if drafted else policy


def _with_rest(policy: Policy, encoder: str | None, misses: list[re.Match[str]], cache: str | None) -> Policy:
    """The policy with what follows its name: how an encoder runs, what answers a miss, a cache."""
    if encoder:
        policy = replace(policy, name=f"{policy.name}:encoder", encoder="same")
    if misses:
        policy = _with_miss(policy, misses[0]["miss"], misses[0]["host"])
    return policy if cache is None else replace(policy, name=f"{policy.name}+{cache}", cache=cache_named(cache))


def _options(match: re.Match[str], text: str) -> dict[str, Any]:
    """What a preset is made with, by name. Raises `InvalidInput` for what it does not take, or no number."""
    name, typed = match["name"], [part.split("=") for part in match["options"].split(":")[1:]]
    given = ([["lookahead", match["lookahead"]]] if match["lookahead"] is not None else []) + typed
    found: dict[str, Any] = {}
    for option, value in given:
        if name not in _TAKES[option]:
            others = ", ".join(dict.fromkeys(one.partition("/")[0] for one in _TAKES[option]))
            what = "looks ahead by a number of blocks" if option == "lookahead" else f"takes {option}="
            raise InvalidInput(f"policy {text!r}: only {others} {what}")
        if option in found:
            raise InvalidInput(f"policy {text!r} says {option} twice: once is enough")
        whole = {"more": "experts", "dram": "blocks"}
        if option in whole and not (value.isascii() and value.isdigit() and len(value) < 6):
            raise InvalidInput(f"policy {text!r}: {option} = {value!r} is not a number of {whole[option]}, such as 2")
        if option == "dram" and int(value) < 1:
            raise InvalidInput(f"policy {text!r}: dram = 0 blocks ahead is not ahead: leave it out")
        found[option] = value if option in ("curve", "from") else _number(value, text)
        if option in ("lookahead", *whole):
            found[option] = int(value)
    if "from" in found:
        found["learnt"] = found.pop("from")
    return found


def _with_miss(policy: Policy, word: str, host: str | None) -> Policy:
    """The policy with a miss answered as `word` says. Raises `InvalidInput` where it has no misses, or its own answer.

    `host`: the time of an expert on the host over that of its copy, as typed; None: what the machine says.
    """
    remembers = policy.start is not None and policy.source is not None
    if policy.resident or remembers or policy.on_miss is not fetch_misses:
        why = "keeps every expert in HBM" if policy.resident else "answers misses in its own way"
        raise InvalidInput(f"policy {policy.name} {why}: leave :{word} out")
    answered = replace(policy, name=f"{policy.name}:{word}", on_miss=MISSES[word])
    return answered if host is None else _told(answered, f"{answered.name}={host}", host)


def _told(policy: Policy, name: str, host: str) -> Policy:
    """The policy called `name`, told what it would ask the machine. Raises `InvalidInput` where it asks nothing."""
    if not policy.asks_machine:
        raise InvalidInput(f"policy {name}: {policy.name} weighs nothing by its machine, leave ={host} out")
    return replace(policy.on_machine(MissCosts(_number(host, name))), name=name)


def _number(typed: str, text: str, what: str = "policy") -> float:
    """A plain number in a policy's name. Raises `InvalidInput` for anything else."""
    if NUMBER.fullmatch(typed) is None:
        raise InvalidInput(f"{what} {text!r}: {typed!r} is not a number, such as 0.4")
    return float(typed)


def cache_named(text: str) -> Cache:
    """The cache a user types: `EVICTION:RATIO` (0.1), `EVICTION:SLOTS` (64) or `EVICTION` (all the HBM that is left),
    then any of `:per_layer` or `:pooled`, `:warm`, `:write_back`, `:admit=RULE`, `:budget=EXPERTS`, and of hot_lru
    `:hot=SHARE`.
    """
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
        hot=_number(said["hot"], text, "cache") if "hot" in said else None,
        write_back="write_back" in said,
    )


_CACHE_WORDS = {
    "per_layer": False, "pooled": False, "warm": False, "write_back": False, "admit": True, "budget": True, "hot": True,
}  # fmt: skip
"""What may follow the size of a cache, and whether it takes a value."""


def eviction_names() -> tuple[str, ...]:
    """The evictions a cache can name."""
    from offload.caches.eviction_ranked import RANKED

    return (*EVICTIONS, *RANKED, "random", "belady", "static", *RELEASED)


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
