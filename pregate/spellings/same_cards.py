"""The card that a name in other letters is of: by its number, by its memory, or as a driver says it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hwmodels.specs.device_names import BESIDE_NAMES, is_module, words_of
from hwmodels.specs.machine_files import load_component
from hwmodels.specs.spec import Accelerator
from pregate.spellings.plain_names import AND, SIZE

_FAMILIES = re.compile(r"\b(?:radeon-pro|arc-pro|rtx|gtx|rx|arc|geforce|nvidia|amd|intel|radeon)-?|[^a-z0-9]")


def same_cards(text: str, wanted: str, names: Iterable[str]) -> list[str]:
    """The cards of `names` that `text` may be of, `wanted` as `spelled` has it: none, one, or several."""
    found = _of_one_size(wanted, names) or _as_drivers_say(text, names) or _by_number(wanted, names)
    size = SIZE.search(wanted)
    if not found and size is not None:  # of a name that is short, with the memory that it has: `A6000 48GB`
        found = [name for name in _by_number(wanted[: size.start()], names) if has_bytes(name, int(size["gb"]))]
    return found


def _by_number(wanted: str, names: Iterable[str]) -> list[str]:
    """The card whose number is said without its family or without parting the two: `4090`, `RTX4090`, `3080Ti`."""
    key = re.sub(r"(?<=\d)s$|(?<=ti)s$", "super", _number(wanted.replace("laptop", "mobile")))
    found = [name for name in names if _number(name) == key]
    return found or [name for name in names if _number(SIZE.sub("", name)) == key]


def _number(name: str) -> str:
    return _FAMILIES.sub("", name)


def _of_one_size(wanted: str, names: Iterable[str]) -> list[str]:
    """A card of which one size is known, with or without that said: `rtx-3060` is `rtx-3060-12gb`, and so back."""
    size = SIZE.search(wanted)
    if size is None:
        return [name for name in names if SIZE.sub("", name) == wanted and SIZE.search(name)]
    base = wanted[: size.start()]
    return [name for name in names if name == base and has_bytes(name, int(size["gb"]))]


def _as_drivers_say(text: str, names: Iterable[str]) -> list[str]:
    """The card that a driver names so, `NVIDIA H100 80GB HBM3`: by the words that tell cards apart, and its memory."""
    words = words_of(re.sub(r"\b(\d{2,3})G\b", r"\1GB", text, flags=re.IGNORECASE))
    sizes = [int(word.removesuffix("gb")) for word in words if re.fullmatch(r"\d{1,5}gb", word)]
    if AND.search(text) or len(sizes) > 1:  # of several cards, or of none
        return []
    telling = {word for word in words if not BESIDE_NAMES.fullmatch(word)}
    found = [name for name in names if {w for w in words_of(name) if not BESIDE_NAMES.fullmatch(w)} == telling]
    if sizes:
        found = [name for name in found if has_bytes(name, sizes[0])]
    if sizes or "pcie" in words:  # a driver that says no PCIe means the module
        alike = [name for name in found if ("pcie" in words_of(name)) == ("pcie" in words)]
        found = alike or [name for name in found if not ("pcie" in words and is_module(name))]
    if not sizes:  # of several memories the one that a card is called by alone
        found = [name for name in found if SIZE.search(name) is None] or found
    return found if len(found) == 1 and telling else []


_VENDORS = {
    "NVIDIA": re.compile(r"\b(?:nvidia|geforce|[gr]tx|quadro|tesla|titan|grid|jetson)\b"),
    "AMD": re.compile(r"\b(?:amd|radeon|instinct|rx|ryzen)\b"),
    "Intel": re.compile(r"\b(?:intel|arc|xe)\b"),
    "Apple": re.compile(r"\b(?:apple|mac\w*)\b"),
}
"""Words that name whose an accelerator is."""
_MEMORIES = re.compile(r"gddr\d+x?")
_OF_ANOTHER_MEMORY = {"gtx-1650": "gddr6", "rtx-3060-ti": "gddr6x", "rtx-4070": "gddr6"}
"""Cards of which a later version has another kind of memory, at another rate."""


def may_be(name: str, text: str) -> bool:
    """Whether `text` may mean a card: of no other maker, series or memory (a GTX 480 is no RX 480)."""
    words = text.lower()
    told = {vendor for vendor, pattern in _VENDORS.items() if pattern.search(words)}
    card = load_component("accelerator", name) if told else None
    if isinstance(card, Accelerator) and len(told) == 1 and card.vendor not in told:
        return False
    if name == "h100-nvl" and re.search(r"\bsxm|\b96\s?g", words):
        return False
    if re.search(r"\b(?:quadro|titan)\b", words) and "rtx" in name and "rtx" not in words:
        return False
    memory = _MEMORIES.search(words)
    return memory is None or memory[0] != _OF_ANOTHER_MEMORY.get(name)


def has_bytes(name: str, n_gb: int) -> bool:
    """Whether an accelerator has about so many GB; drivers keep some."""
    card = load_component("accelerator", name)
    return isinstance(card, Accelerator) and 0.9 * n_gb <= card.hbm_bytes / 2**30 <= 1.01 * n_gb
