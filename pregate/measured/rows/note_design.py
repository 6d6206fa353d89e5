"""What the note of a row says of its design, where no column does: flags that stand alone are read, words are told of.

`-ngl 99 --n-cpu-moe 24` in the note of a row without a policy is its policy; of `ran with --cpu-moe` nobody knows
whether it is all that was said, so that the row has a reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from pregate.engines.command_lines import flags_of_command
from pregate.engines.pasted_commands import unpasted
from pregate.measured.rows.placement_words import placement_in_words

_PARTED = re.compile(r"\s*(?:;|\||\n)\s*")
_FLAG = re.compile(r"--?[A-Za-z][\w-]*(?:[=.]\S*)?$|[A-Z][A-Z0-9_]+=\S+$")
_NO = r"(?<!no )(?<!not )(?<!non-)(?<!without )(?<!w/o )(?<!full )(?<!fully )"
_HOST = r"(?:cpu|host|d?ram|system memory|ssd|nvme|disk)\b"
_PLACED = re.compile(
    rf"(?<![\w-])(?:--?(?:n-?cpu-?moe|ncmoe|cmoe|cpu-moe|moecpu|ot|override-tensors?|ngl|n-gpu-layers|gpu-?layers|"
    rf"cpu-offload-gb|kt-[\w-]+|nkvo|no-kv-offload|enforce-eager|nopo|no-op-offload|tp|tensor-parallel-size)\b"
    rf"(?:[ =][^\s,;]+)?|{_NO}(?:ngl|n[-_]cpu[-_]moe|num_gpu|n_gpu_layers)\s?[=:]?\s?\d+"
    rf"|{_NO}(?:experts?|layers?|moe|kv(?: cache)?|weights?|tensors?)\b[^.;,]{{0,24}}\b(?:on|to|in|onto|into)\s"
    rf"(?:the )?{_HOST}"
    rf"|{_NO}(?:cpu|ram|ssd|disk|nvme|partial(?:ly)?)[- ]offload\w*"
    rf"|{_NO}offload\w*\s(?:\S+\s){{0,3}}?(?:to|onto|into)\s(?:the )?{_HOST})",
    re.IGNORECASE,
)
_CARDS = re.compile(
    rf"{_NO}\b(?:(?:[2-9]|1[0-6]|two|four|eight)\s?x?\s?gpus?\b|tensor[- ]parallel\w*|TP\s?=?\s?[2-9]\b)", re.IGNORECASE
)
_DRAFTED = re.compile(
    rf"{_NO}\b(?:speculative decod\w+|(?:n-?gram |suffix )?speculation|prompt[- ]lookup decod\w+|lookahead decod\w+|"
    r"draft(?:ed)? (?:model|tokens?)|(?:with|using) (?:MTP|EAGLE)\S*|MTP=[1-9])(?!\s(?:is )?(?:off|disabled))",
    re.IGNORECASE,
)
_POWER = re.compile(
    rf"{_NO}\b(?:power[- ]?(?:limit|cap)\w*|undervolt\w*)\b[^.;,]{{0,12}}?\b\d{{2,4}}\s?W\b|"
    rf"\b\d{{2,4}}\s?W\s(?:power )?(?:limit|cap)\b",
    re.IGNORECASE,
)
_DEPTH = re.compile(
    rf"{_NO}\b(?:after \d[\d.,]*\s?k?\s(?:tokens? )?(?:of )?context|depth (?:of )?[1-9][\d.,]*\s?k?\b"
    r"|\d[\d.,]*\s?k? (?:tokens )?deep\b|context filled (?:to|with) \d[\d.,]*\s?k?\b)",
    re.IGNORECASE | re.ASCII,
)
_PASS = re.compile(r"(?<![\w-])(?:n_)?u-?b(?:atch)?\s?[=:]?\s?(?P<n>\d{2,5})\b", re.ASCII)
"""Tokens of a pass, as logs of llama.cpp and its fork are told of: `ub 4096`."""
_OWN_PASS = "512"
"""What those engines pass where nobody says otherwise (`-ub`): a row of it is as one that says nothing."""
_CHUNK = re.compile(r"\bchunk (?:of )?(?P<n>\d{1,6}) after (?:in_len|input_tokens) tokens\b", re.ASCII | re.IGNORECASE)
"""A part of a prompt that was timed alone: the column of its length has what lies before it."""
_ONE_CHANNEL = re.compile(rf"{_NO}\bsingle[- ]channel\b", re.IGNORECASE)


def with_design_of_note(cells: Mapping[str, str]) -> dict[str, str]:
    """A row that states no design, with the flags or the placement that its note has in a part of their own; with a
    reason where the note says of its design, cards, power, drafted tokens, depth or memory what no column does.
    """
    row, note = dict(cells), cells.get("note", "")
    if not note or row.get("reason") or row.get("role"):
        return row
    stated = " ".join(row.get(column, "") for column in ("policy", "placement", "set", "hardware"))
    host = " ".join(row.get(column, "") for column in ("host", "memory", "hardware", "set"))
    row |= _in_passes(row, note)
    chunk = _CHUNK.search(note)
    if chunk is not None and row.get("metric") == "prefill_tokens_per_s" and not row.get("context_tokens"):
        row |= {"input_tokens": chunk["n"], "context_tokens": row.get("input_tokens", "")}
    is_blank = not row.get("policy") and not row.get("placement")
    if not is_blank and not flags_of_command(unpasted(row.get("policy", ""))):
        return row
    if is_blank and not row.get("set"):
        parts = _PARTED.split(note)
        flags = [part for part in parts if _is_flags(part)]
        placed = [part for part in parts if placement_in_words(part) not in (part, "")]
        if flags:
            row["policy"] = " ".join(flags)
        elif len(placed) == 1:
            row["placement"] = placement_in_words(placed[0])
        elif (said := _PLACED.search(note)) is not None:
            row["reason"] = _reason(said[0], "put how it ran into the column policy")
    several = re.search(r"\d\s?[x\u00d7]\b|\b[x\u00d7]\s?\d|dual|n_cards|hbm_bytes|\s\+\s", stated, re.IGNORECASE)
    for form, is_said, instead in (
        (_CARDS, several or "-tp" in stated or "parallel" in stated, "say how many in hardware, 2x RTX 3090"),
        (_DRAFTED, False, "drafted tokens cannot be said in a row"),
        (_POWER, re.search(r"\d\s?W\b|-pl\b|power", stated), "put it beside the card, RTX 3090 (250 W)"),
        (
            _DEPTH,
            re.search(r"@|\bd\d", row.get("metric", "")) or row.get("context_tokens"),
            "put it into context_tokens",
        ),
        (
            _ONE_CHANNEL,
            re.search(r"\b\d+\s?x\s?\d|single|dram", host, re.I),
            "put it beside the host, 1x32GB DDR5-5600",
        ),
    ):
        said = form.search(note)
        if said is not None and not is_said and not row.get("reason"):
            row["reason"] = _reason(said[0], instead)
    return row


def _in_passes(row: Mapping[str, str], note: str) -> dict[str, str]:
    """The policy or the placement with the tokens of a pass that the note alone says."""
    said, policy, placement = _PASS.search(note), row.get("policy", ""), row.get("placement", "")
    if said is None or said["n"] == _OWN_PASS or re.search(r"ubatch|(?<![\w-])-ub\b", f"{policy} {placement}"):
        return {}
    if flags_of_command(unpasted(policy)):
        both = said["n"] if re.search(r"(?<![\w-])(?:-b|--batch-size)\b", policy) else f"{said['n']} -b {said['n']}"
        return {"policy": f"{policy} -ub {both}"}
    return {"placement": "@".join(filter(None, (placement, f"ubatch={said['n']}")))}


def _reason(said: str, instead: str) -> str:
    return f"the note says {said.strip()[:40]!r}: {instead}"


def _is_flags(text: str) -> bool:
    """Whether a part of a note is flags or a command, and no prose: no word that neither is a flag nor follows one."""
    plain = flags_of_command(unpasted(text))
    words = plain.split()
    if not words or _FLAG.match(words[0]) is None:
        return False
    return all(_FLAG.match(word) or _FLAG.match(before) for before, word in pairwise(words))
