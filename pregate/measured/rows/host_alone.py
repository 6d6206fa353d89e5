"""Rows of no card, whose processor computes all: the same beside a card that computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from hwmodels.specs.machine_files import hardware_names
from hwmodels.specs.processors import is_processor
from pregate.engines.flag_table import engine_of
from pregate.spellings.host_memory import host_and_memory
from pregate.spellings.names import our_name

NO_CARD = ("none", "no", "-", "cpu", "cpu only", "cpu-only", "no gpu", "no-gpu")
"""Words for a machine without a card, in small letters."""

_ENGINES = ("llama-cpp", "ik-llama")
"""Engines that compute whole models on the processor."""
_ANY = "rtx-4090"
_ALONE = "-dev none"


def beside_a_card(cells: Mapping[str, str]) -> dict[str, str]:
    """What is said otherwise of a row without a card, a word of `NO_CARD` or the processor's name in its place: nothing
    of a row that has one, that names no processor, or whose engine needs a card.
    """
    stated, engine = cells.get("hardware", "").strip(), engine_of(our_name("stack", cells.get("stack", "")))
    if engine is None or engine.engine not in _ENGINES:
        return {}
    said = {"hardware": _ANY, "set": ";".join(filter(None, (cells.get("set", ""), _ALONE)))}
    if cells.get("host"):
        return said if stated.lower() in NO_CARD else {}
    host, memory = host_and_memory(stated)
    if our_name("hardware", stated) in hardware_names() or not is_processor(our_name("host", host)):
        return {}
    return {**said, "host": host, "memory": cells.get("memory", "") or memory}
