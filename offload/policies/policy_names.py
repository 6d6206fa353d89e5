"""Policies by name, as a user types them: a preset or a user's own, and all that may follow it."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import Any, cast, get_args

from offload.own_policies.own_policy_names import is_own_name, own_name, own_policy
from offload.placing.placement_clauses import placement_named
from offload.policies.cache_names import cache_named, plain_number
from offload.policies.policy_descriptions import published_as
from offload.policies.presets import MISSES, PRESETS, TAKES
from offload.policy import Policy, fetch_misses
from offload.policy_parts.granularity import Granularity
from offload.policy_parts.miss_costs import MissCosts
from offload.policy_parts.skipping import skipping_named
from offload.policy_parts.speculation import SHAPES, speculation_named
from traces.errors import InvalidInput, UnknownName, unknown_name

_MISS = re.compile(
    rf":(?P<miss>{'|'.join(sorted(MISSES, key=len, reverse=True))})(=(?P<host>[^:+=]*))?(?=[:+]|$)", re.ASCII
)
_GRANULARITY = re.compile(r":granularity=(?P<of>[^:+@]*)", re.ASCII)
_FORM = re.compile(
    r"(?P<name>[a-z_]+(/[a-z_]+)?)(\((?P<lookahead>\d{1,4})\))?(=(?P<host>[^:+=]*))?(?P<encoder>:encoder)?"
    rf"(?P<options>(:({'|'.join(option for option in TAKES if option != 'lookahead')})=[^:+=]*)*)(\+(?P<cache>.+))?",
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
    if text.lstrip().startswith("-"):
        raise InvalidInput(
            f"policy {text!r} is flags of an engine, which rows of a table may have (`pregate reproduce`): designs are "
            f"gpu_only@experts=cpu:20 (--n-cpu-moe 20), gpu_only@experts=whole (--enable-expert-parallel) and others "
            f"(docs/field.md)"
        )
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
    if match is None and published_as(text):
        raise _unknown(text)
    if match is None or len(misses) > 1:
        raise InvalidInput(
            f"policy {text!r} is not of the form NAME, NAME(lookahead), NAME:encoder, NAME:MISS or NAME+CACHE, "
            f"MISS being one of {', '.join(MISSES)}"
        )
    if match["name"] not in PRESETS:
        raise _unknown(match["name"])
    policy = PRESETS[match["name"]](**_options(match, text))
    if match["host"] is not None:
        policy = _told(policy, f"{policy.name}={match['host']}", match["host"])
    if match["encoder"] and policy.start is not None:
        raise InvalidInput(f"policy {text!r}: {policy.name} guesses in a decoder only, leave :encoder out")
    return _with_rest(policy, match["encoder"], misses, match["cache"])


_MISTYPED = 0.8
"""How alike a name is to a design's, from 0 to 1, where it is that name mistyped and no system's."""


def _unknown(name: str) -> UnknownName:
    """The error for a name of no design: that of a published system is told what it is here."""
    ours = published_as(name)
    if ours and not difflib.get_close_matches(name, PRESETS, n=1, cutoff=_MISTYPED):
        return UnknownName(f"unknown policy {name!r}: here it is {' or '.join(ours)} (`pregate policies` lists them)")
    return unknown_name("policy", name, PRESETS)


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
        if name not in TAKES[option]:
            others = ", ".join(dict.fromkeys(one.partition("/")[0] for one in TAKES[option]))
            what = "looks ahead by a number of blocks" if option == "lookahead" else f"takes {option}="
            raise InvalidInput(f"policy {text!r}: only {others} {what}")
        if option in found:
            raise InvalidInput(f"policy {text!r} says {option} twice: once is enough")
        whole = {"more": "experts", "dram": "blocks"}
        if option in whole and not (value.isascii() and value.isdigit() and len(value) < 6):
            raise InvalidInput(f"policy {text!r}: {option} = {value!r} is not a number of {whole[option]}, such as 2")
        if option == "dram" and int(value) < 1:
            raise InvalidInput(f"policy {text!r}: dram = 0 blocks ahead is not ahead: leave it out")
        found[option] = value if option in ("curve", "from") else plain_number(value, text)
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
    return replace(policy.on_machine(MissCosts(plain_number(host, name))), name=name)
