"""What machines are called by their drivers, and by the descriptions that ship with the project.

A device is a described one by its whole name and its memory: an A100 is no A10, an L40 no L4, a laptop's RTX 4090 no
RTX 4090, and a slice of a device not the device.
"""

from __future__ import annotations

import math
import re

from hwmodels.specs.machine_files import hardware_names, load_component
from hwmodels.specs.spec import Accelerator

_NOISE = (
    "nvidia", "geforce", "tesla", "gpu", "graphics", "generation", "amd", "radeon", "intel", "core", "tm",
)  # fmt: skip
_ALIASES = {"laptop": "mobile"}
BESIDE_NAMES = re.compile(r"\d+gb|hbm\w*|sxm\d?|pcie|nvl|blackwell|workstation|server|edition|dual|slot")
"""Words of memory, form and series, which some names have and others leave out."""

CARDS = frozenset(("pcie", "nvl"))
"""Words of cards with a slot; a name without them is of the module."""

_MODULES = frozenset(("b200", "b300", "gb200", "gb300", "gh200", "mi300x", "mi325x", "mi350x", "mi355x"))
_OF_MODULES = frozenset(("sxm", "sxm2", "sxm4", "sxm5"))
"""Accelerators that come as modules alone, and words of those that come as cards with a slot too."""

_SIZE = re.compile(r"\d+gb")
_AS_DESCRIBED = 0.1
"""Share by which memory may be off that of the known device of the same name."""

_MOST_NAME = 80


def words_of(text: str) -> set[str]:
    """The words of a name that tell devices apart."""
    words = (_ALIASES.get(word, word) for word in re.split(r"[^a-z0-9]+", text.lower()))
    return {word for word in words if word and word not in _NOISE}


def is_module(name: str) -> bool:
    """Whether an accelerator is no card with a slot."""
    return bool((_MODULES | _OF_MODULES) & words_of(name))


def names_alike(device: str) -> tuple[str, ...]:
    """The described accelerators that a driver's name is of; their memory tells them apart."""
    words = words_of(device)
    alike = {known: by_words(words, known) for known in hardware_names() if not _differing(words, words_of(known))}
    least = min(alike.values(), default=None)
    return tuple(known for known, unlike in alike.items() if unlike == least)


def by_words(words: set[str], known: str) -> tuple[int, int, bool]:
    """How unlike a described accelerator's name is to the words of another; of its memory that says how much it is."""
    own = words_of(known)
    unsaid = own - words
    n_unsaid = sum(_SIZE.fullmatch(word) is None for word in unsaid)
    return -len(own & words), n_unsaid, bool(unsaid & CARDS)


def described_as(device: str, hbm_bytes: float) -> str | None:
    """The accelerator that a device is, by its driver's name and memory; None where nobody describes it."""
    return next((known for known in names_alike(device) if is_about(_hbm_bytes(known), hbm_bytes)), None)


def is_about(one: float, other: float) -> bool:
    """Whether two sizes of memory are one: drivers keep some."""
    return bool(one and other) and abs(math.log(one / other)) <= _AS_DESCRIBED


def file_name(device: str) -> str:
    """Lower case, words joined by hyphens: a name that a fit's file can have."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def processor_name(model: str) -> str:
    """A processor's name without trademarks and what no name has."""
    return " ".join(re.sub(r"\((R|TM)\)|[^A-Za-z0-9 .,()+@-]", " ", model).split())[:_MOST_NAME]


def processor_file_name(processor: str, n_cores: int) -> str:
    """What a processor that plays the accelerator is called, of its `processor_name`."""
    words = re.sub(r"\bCPU\b|\bProcessor\b|@.*", " ", processor)
    return file_name(f"cpu {words} {n_cores}c")


def _differing(found: set[str], known: set[str]) -> set[str]:
    """Words that one name has and the other has not; a driver does not always say that a device is a mobile one."""
    return {word for word in (found ^ known) - ({"mobile"} - found) if not BESIDE_NAMES.fullmatch(word)}


def _hbm_bytes(known: str) -> float:
    spec = load_component("accelerator", known)
    assert isinstance(spec, Accelerator)
    return float(spec.hbm_bytes)
