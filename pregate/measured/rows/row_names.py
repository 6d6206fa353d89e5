"""Names in a row as others write them, and what these say beside a name: memory, cards, formats.

What is no name of ours in other letters stays as it is, and is told of where the row is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hwmodels.specs.machine_files import cards_of, load_machine
from hwmodels.specs.processors import is_processor
from pregate.measured.rows.host_alone import beside_a_card
from pregate.measured.rows.several_cards import on_one_card
from pregate.spellings.cloud_instances import cards_of_instance
from pregate.spellings.host_memory import bytes_of, host_and_memory, host_and_numbers, host_with_memory
from pregate.spellings.machine_names import MachineParts, machine_and_numbers, machine_parts, several
from pregate.spellings.models import formats_of_file, model_and_format, of_ollama
from pregate.spellings.names import KNOWN, our_name
from pregate.spellings.ollama_library import dense_tag, of_library
from pregate.spellings.stated_links import without_link, without_outside
from traces.errors import InvalidInput


def with_our_names(cells: Mapping[str, str]) -> dict[str, str]:
    """A row's cells, names of models, machines and stacks as we write them, a bare format as that of all matrices."""
    cells = {**cells, **_of_file(cells)}
    cells |= _bridged(cells)
    cells |= _of_instance(cells)
    cells |= _link_beside(cells)
    cells |= _host_beside(cells)
    cells |= beside_a_card(cells)
    cells |= _memory_of_all(cells)
    cells |= _cores_used(cells)
    named = {column: our_name(column, cells[column]) for column in KNOWN if cells.get(column)}
    cells |= _with_its_memory(cells, named)
    memory = cells.pop("memory", "")
    if memory and is_processor(named.get("host", "")) and ":" not in named["host"]:
        named["host"] = host_with_memory(named["host"], memory)
    named["formats"] = formats_of_file(named.get("model", ""), cells.get("formats", ""), named.get("stack", ""))
    return on_one_card({**cells, **named}, our_name("hardware", several(named.get("hardware", ""))[1]))


_NVLINK = re.compile(
    r"\s*[,(+]?\s*(?:(?:with|w/|via|over)\s+)?\bNV-?Link(?:ed)?(?:\s+bridges?)?\b\s*\)?", re.IGNORECASE
)


def _bridged(cells: Mapping[str, str]) -> dict[str, str]:
    """A row whose cards are said to have NVLink, without the word; a reason where they share layers and theirs is an
    option that no number of ours is of.
    """
    stated = cells.get("hardware", "")
    bare = _NVLINK.sub("", stated).strip()
    if bare == stated:
        return {}
    n, name = several(bare)
    card = our_name("hardware", name)
    takes_turns = our_name("stack", cells.get("stack", "")) in ("llama-cpp", "ik-llama") and not re.search(
        r"(?:-sm|--split-mode)[ =]+(?:row|graph|tensor)", f"{cells.get('policy', '')} {cells.get('set', '')}"
    )
    if n == 1 or takes_turns or card not in KNOWN["hardware"]() or "peer_bytes_per_s" in cells.get("set", ""):
        return {"hardware": bare}
    if load_machine(card).accelerator.peer_bytes_per_s is not None:
        return {"hardware": bare}
    why = f"NVLink of {card} is an option that is not described: set accelerator.peer_bytes_per_s, one way"
    return {"hardware": bare, "reason": cells.get("reason") or why}


_NEEDS_HOST = re.compile(
    r"cpu|moe|-ot\b|override-tensor|offload|stream|demand|prefetch|lru|pregate|--kt|nkvo|-fit\b|num_gpu|layers"
    r"|-ngl[ =]+(?!99\b)\d{1,2}\b|latency|split",
    re.IGNORECASE,
)


def _of_instance(cells: Mapping[str, str]) -> dict[str, str]:
    """The cards of a cloud's instance; a reason where the host computes or holds something and is not stated."""
    instance, cards = cards_of_instance(cells.get("hardware", ""))
    if not instance:
        return {}
    design = " ".join(cells.get(column, "") for column in ("policy", "placement", "set", "stack"))
    if not cells.get("host") and (_NEEDS_HOST.search(design) or "ktransformers" in design.lower()):
        why = f"{instance} has a share of a processor, which decides where weights are on the host: state host"
        return {"hardware": cards, "reason": cells.get("reason") or why}
    return {"hardware": cards}


def _link_beside(cells: Mapping[str, str]) -> dict[str, str]:
    """A link in its own column where it stands beside the card: `RTX 4090 PCIe 3.0 x8`."""
    stated = cells.get("hardware", "")
    bare, link = without_link(stated)
    inside, why = without_outside(bare)
    if link is None:
        said = cells.get("link") or re.search(r"\blink[.=]", cells.get("set", ""))
        return {"hardware": inside} if why and said else {}
    try:
        name, numbers = machine_and_numbers(stated)
    except InvalidInput as error:
        known = cards_of(our_name("hardware", inside))[1] in KNOWN["hardware"]()
        return {"hardware": inside, "reason": cells.get("reason") or str(error)} if known else {}
    if "link" not in numbers:
        return {}
    ours, its = our_name("link", cells.get("link", "")), str(numbers["link"])
    found = {"hardware": inside if "pcie" not in name else _with_slot(inside, cards_of(name)[1]), "link": ours or its}
    if ours and ours != its:
        found["reason"] = cells.get("reason") or f"link is {ours}, and hardware {stated[:60]!r}: leave one out"
    return found


def _with_slot(text: str, card: str) -> str:
    """The name of a machine, its card as the one of a slot."""
    cards = several(machine_parts(text).cards)[1]
    return text if our_name("hardware", cards) == card else text.replace(cards, card, 1)


def _host_beside(cells: Mapping[str, str]) -> dict[str, str]:
    """A host and its memory in cells of their own where they stand beside the card: `RTX 3090 + EPYC 7763`."""
    parts = MachineParts("") if cells.get("host") else machine_parts(cells.get("hardware", ""))
    host, memory = host_and_memory(", ".join(parts.of_host))
    if not is_processor(our_name("host", host)):
        return {}
    n, card = several(parts.cards) if parts.of_cards else (1, parts.cards)
    cards = " ".join((f"{n}x {card}" if n > 1 else card, *parts.of_cards))
    return {"hardware": cards, "host": host, "memory": cells.get("memory", "") or memory}


def _memory_of_all(cells: Mapping[str, str]) -> dict[str, str]:
    """The memory of a row beside its machine where that has one for all: `M4 Max`, `64 GB`."""
    stated, size = cells.get("hardware", ""), bytes_of(cells.get("memory", ""))
    ours = our_name("hardware", stated)
    if not size or bytes_of(stated) or ours not in KNOWN["hardware"]() or not load_machine(ours).has_one_memory:
        return {}
    return {"hardware": f"{stated}, {size}"}


def _cores_used(cells: Mapping[str, str]) -> dict[str, str]:
    """The cores of a host that its name says were used, as the number that they are: `EPYC 9355 (16 threads used)`."""
    try:
        host, numbers = host_and_numbers(cells.get("host", ""))
    except InvalidInput:
        return {}
    used = numbers.get("host.n_cores")
    if used is None or "host.n_cores" in cells.get("set", ""):
        return {}
    return {"host": host, "set": ";".join(filter(None, (cells.get("set", ""), f"host.n_cores={used}")))}


def _with_its_memory(cells: Mapping[str, str], named: dict[str, str]) -> dict[str, str]:
    """The numbers of a row whose card has another memory than ours (`RTX 4090 48GB`), or beside which memory alone
    stands (`RTX 4090, 64GB DDR5-6000`); `named` has it as that card, and its host. None of another row.

    How much a host has is left out, as of every row.
    """
    try:
        name, stated = machine_and_numbers(cells.get("hardware", ""))
    except InvalidInput:  # which who predicts the row says
        named["hardware"] = cells["hardware"]
        return {}
    numbers = {key: str(value) for key, value in stated.items()}
    n, card = cards_of(name)
    host = numbers.pop("host", "")
    if card not in KNOWN["hardware"]() or (host and "host" in named) or (n > 1 and "accelerator.hbm_bytes" in numbers):
        named["hardware"] = cells.get("hardware", "")
        return {}
    named["hardware"] = name
    if host:
        named["host"] = host
        numbers.pop("host.dram_bytes", "")
    if "hbm_bytes" in cells.get("set", ""):
        numbers = {}
    said = ";".join(f"{key}={value}" for key, value in numbers.items())
    return {"set": ";".join(filter(None, (cells.get("set", ""), said)))}


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
