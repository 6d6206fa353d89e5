"""Placements in words, as a column of a stranger's table has them: `experts on CPU`, `20 layers of experts on CPU`."""

from __future__ import annotations

import re

ON_HOST = (
    r"(?:(?:offloaded|placed|kept) )?(?:on|in|to|at|onto) (?:the )?(?:host(?:'s)? )?"
    r"(?:cpu|host|ram|dram|memory|processor)s?(?: memory| ram)?"
)
_CARD = r"(?:on|in|to) (?:the )?(?:gpu|card|accelerator|vram|hbm)s?"
_OTHERS = (
    r"(?:attention|dense|non-experts?|shared experts?|everything else|the rest|rest|kv cache|all layers|layers?|and|&|"
    r"\+|,| )+"
)
_BESIDE = rf"(?:{_OTHERS} {_CARD}[ ,;+&]*(?:and )?)?"
_EXPERTS = r"(?:force )?(?:all )?(?:of )?(?:the )?(?:routed |model )?(?:(?:moe )?experts?|moe)(?: weights| layers)?"
_ALL_EXPERTS = re.compile(rf"{_BESIDE}{_EXPERTS} {ON_HOST}(?:[ ,;+&]+(?:and )?{_OTHERS} {_CARD})?")
_OF_ALL = r"(?:(?: (?:of|out of) (?:the )?| ?/ ?)\d{1,3})?"
_SOME_EXPERTS = re.compile(
    rf"(?:(?:routed )?experts of )?(?:the first )?(\d{{1,3}}){_OF_ALL} (?:moe )?layers?'?(?: of)?"
    rf"(?: (?:routed )?experts?)? {ON_HOST}"
)
_LAYERS = re.compile(rf"(\d{{1,3}}){_OF_ALL} (?:whole |full )?layers? {ON_HOST}")
_NO_CARD = re.compile(r"(?:on )?(?:the )?cpu[ -](?:only|alone)|no gpu|without (?:a |the )?gpu")
_RESIDENT = re.compile(
    r"(?:gpu|vram)(?: only)?|(?:all )?(?:routed )?experts (?:are )?resident|gpu offload:? (?:max|full|100 ?%)|"
    r"(?:all|everything|full|fully|whole model)(?: layers| weights| model| offload(?:ed)?)* "
    rf"{_CARD}"
)


def placement_in_words(text: str) -> str:
    """A placement as the project spells it, "" of what is all on the card; the text as it is where no rule knows it."""
    plain = re.sub(r"\s+", " ", text.strip().lower())
    if _RESIDENT.fullmatch(plain):
        return ""
    if _NO_CARD.fullmatch(plain):
        return "layers=cpu@stream=never"
    layers = _LAYERS.fullmatch(plain)
    if layers is not None:
        return f"layers=cpu:{layers[1]}"
    some = _SOME_EXPERTS.fullmatch(plain)
    if some is not None and "expert" in plain:
        return f"experts=cpu:{some[1]}"
    return "experts=cpu" if _ALL_EXPERTS.fullmatch(plain) else text
