"""Names in a row as others write them, and what these say beside a name: memory, cards, formats.

What is no name of ours in other letters stays as it is, and is told of where the row is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hwmodels.specs.processors import is_processor
from pregate.measured.rows.host_alone import beside_a_card
from pregate.measured.rows.several_cards import on_one_card
from pregate.spellings.host_memory import host_and_memory, host_with_memory
from pregate.spellings.machine_names import card_and_memory, cards_and_beside, machine_and_numbers, several
from pregate.spellings.models import formats_of_file, model_and_format, of_ollama
from pregate.spellings.names import KNOWN, our_name
from pregate.spellings.ollama_library import dense_tag, of_library
from traces.errors import InvalidInput


def with_our_names(cells: Mapping[str, str]) -> dict[str, str]:
    """A row's cells, names of models, machines and stacks as we write them, a bare format as that of all matrices."""
    cells = {**cells, **_of_file(cells)}
    cells |= _host_beside(cells)
    cells |= beside_a_card(cells)
    named = {column: our_name(column, cells[column]) for column in KNOWN if cells.get(column)}
    cells |= _with_more_memory(cells, named)
    memory = cells.pop("memory", "")
    if memory and is_processor(named.get("host", "")) and ":" not in named["host"]:
        named["host"] = host_with_memory(named["host"], memory)
    named["formats"] = formats_of_file(named.get("model", ""), cells.get("formats", ""), named.get("stack", ""))
    return on_one_card({**cells, **named}, our_name("hardware", several(cells.get("hardware", ""))[1]))


def _host_beside(cells: Mapping[str, str]) -> dict[str, str]:
    """A host and its memory in cells of their own where they stand beside the card: `RTX 3090 + EPYC 7763`."""
    for cards, beside in () if cells.get("host") else cards_and_beside(cells.get("hardware", "")):
        host, memory = host_and_memory(beside)
        if is_processor(our_name("host", host)):
            return {"hardware": cards, "host": host, "memory": cells.get("memory", "") or memory}
    return {}


def _with_more_memory(cells: Mapping[str, str], named: dict[str, str]) -> dict[str, str]:
    """The numbers of a row whose card has another memory than ours (`RTX 4090 48GB`), which `named` has as that card;
    none of another row.
    """
    card, numbers = card_and_memory(cells.get("hardware", ""))
    if not card and named.get("hardware") and "host" not in named:
        card, numbers = _with_memory_beside(named)
    if not card or "hbm_bytes" in cells.get("set", ""):
        return {}
    named["hardware"] = card
    stated = ";".join(f"{key}={value}" for key, value in numbers.items())
    return {"set": ";".join(filter(None, (cells.get("set", ""), stated)))}


def _with_memory_beside(named: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A card beside which memory alone stands, `RTX 4090, 64GB DDR5-6000`, and its numbers, its host among the names;
    ("", {}) of another. How much a host has is left out, as of every row.
    """
    try:
        name, stated = machine_and_numbers(named["hardware"])
    except InvalidInput:  # which who predicts the row says
        return "", {}
    if name == named["hardware"] or name not in KNOWN["hardware"]():
        return "", {}
    numbers = {key: str(value) for key, value in stated.items()}
    if host := numbers.pop("host", ""):
        named["host"] = host
        numbers.pop("host.dram_bytes", "")
    return name, numbers


def _of_file(cells: Mapping[str, str]) -> dict[str, str]:
    """Model and formats of a row whose model is called as its file or its repository is, where neither is at hand; of
    Ollama those that its library has where none are stated.
    """
    written = cells.get("model", "").strip()
    is_ollama = re.match(r"\s*ollama\b", cells.get("stack", ""), re.IGNORECASE) is not None
    if is_ollama and (dense_tag(written) or of_library(f"{written}:latest")):
        written = f"{written}:latest"
    model, quant = model_and_format(written)
    if not quant and is_ollama:
        quant = of_ollama(model or our_name("model", written))
    stated = cells.get("formats", "").strip()
    if quant == "fp8-b128" and stated.lower() == "fp8":
        stated = quant
    return {"model": model or written, "formats": stated or quant}
