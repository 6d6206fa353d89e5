"""Whether something is a name at all, and the error for what is none."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from hwmodels.specs.machine_files import cards_of, component_names, load_machine
from pregate.spellings.host_memory import host_and_memory, host_and_numbers, is_memory, without_drives
from pregate.spellings.machine_names import (
    are_different,
    machine_and_numbers,
    parts_beside,
    several,
    unparted,
)
from pregate.spellings.names import KNOWN, our_name
from pregate.spellings.ollama_library import dense_tag
from pregate.spellings.plain_names import SIZE, plain_name, spelled
from pregate.spellings.same_cards import may_be
from pregate.spellings.undescribed import why_undescribed
from traces.errors import UnknownName, unknown_name

_POWER = re.compile(r"\b\d{1,4}\s?W\b(?!/)", re.ASCII | re.IGNORECASE)
_OF_APPLE = re.compile(r"\b(?:mac|macbook|imac|apple)\b|^m[1-9]\b")
_MEMORY = re.compile(r"\bgddr\w+", re.IGNORECASE)
_NO_CARD = ("none", "cpu", "cpu-only", "no-gpu")

_READ_FROM = {"model": "its config.json or GGUF file"} | dict.fromkeys(
    ("hardware", "host", "link", "stack"), "a YAML file (docs/extend.md)"
)
"""What describes one of a column that does not ship."""


def is_name_of(column: str, text: str) -> bool:
    """Whether `text` is a name of a column of `KNOWN`, as we write it or as others do."""
    if column == "hardware":
        named = cards_of(machine_and_numbers(text)[0])[1]
    else:
        named = host_and_numbers(text)[0].partition(":")[0] if column == "host" else our_name(column, text)
    return named in KNOWN[column]()


def _host_told(text: str, wanted: str) -> str:
    """What is to be done about a host that names memory, or two sockets of a processor that is sold for one."""
    one = wanted.removesuffix("-2s")
    if one != wanted and our_name("host", one) in KNOWN["host"]():
        return f"{one} is for one socket: name {one} alone"
    if _OF_MEMORY.search(text):
        return (
            "a host is called by its processor, and its memory by channels and speed behind a colon: epyc-7763:8x3200; "
            "how much there is by --set host.dram_bytes"
        )
    return ""


_OF_MEMORY = re.compile(r"\bddr\d|\blpddr|\d\s?gi?b\b|\bchannels?\b", re.IGNORECASE)


def _beside_card(text: str) -> str:
    """What is to be done about what stands beside a card that is known; "" where none is."""
    card, *beside = (part.strip() for part in parts_beside(text))
    if not beside:
        return ""
    if not is_name_of("hardware", card):
        known = [part for part in beside if is_name_of("hardware", part)]
        return f"name the card first: '{known[0]} + {card}'" if known and is_name_of("host", card) else ""
    ours = cards_of(machine_and_numbers(card)[0])[1]
    strange = [part for part in beside if not is_memory(part) and not is_name_of("host", part)]
    if any(is_name_of("hardware", part) for part in beside if not is_memory(part)):
        return ""
    if load_machine(ours).has_one_memory:
        return f"{ours} has its own processor, and one memory with it: name it alone"
    if not strange:
        return f"more than one host stands beside {ours}: name one"
    error = unknown_name("host", strange[0], list(KNOWN["host"]()), spelled=spelled("host", strange[0]))
    return f"beside {ours} stands an {str(error).partition(': known:')[0]}"


_DIFFERENT = "cards that differ cannot be said, as 2x rtx-3090 can: name one"


def _of_hardware(text: str, wanted: str, known: Collection[str]) -> UnknownName | None:
    """The error for a machine of which more is known than its name: a processor, a link, cards that differ, others."""
    if wanted in _NO_CARD:
        return UnknownName(
            f"unknown hardware {text!r}: a machine is called by its accelerator; where all runs on the processor, name "
            f"any that is there, and the design gpu_only@layers=cpu of --stack llama-cpp"
        )
    if len(parts_beside(text)) == 1 and is_name_of("host", text):
        named = host_and_numbers(text)[0]
        return UnknownName(
            f"unknown hardware {text!r}: that is a processor; a machine is called by its accelerator: name that before "
            f"it, 'rtx-4090 + {named}', or the processor with --set host={named}"
        )
    if _POWER.search(text):
        return UnknownName(
            f"unknown hardware {text!r}: of this card no clock by its power is known: name the card and --set "
            f"accelerator.clock_hz and accelerator.peak_flop_per_s.FORMAT of it"
        )
    if told := _beside_card(text):
        return UnknownName(f"unknown hardware {text!r}: {told}")
    if parted := unparted(text):
        if is_name_of("hardware", parts_beside(parted)[1]):
            return UnknownName(f"unknown hardware {text!r}: {_DIFFERENT}")
        told = _beside_card(parted) if not is_name_of("hardware", parted) else f"part the card and its host: {parted!r}"
        return UnknownName(f"unknown hardware {text!r}: {told}")
    beside = parts_beside(text)[1:]
    if beside and all(is_memory(part) or is_name_of("host", part) for part in beside):
        return unknown("hardware", parts_beside(text)[0])
    if our_name("link", text) in KNOWN["link"]():
        return UnknownName(
            f"unknown hardware {text!r}: that is a link: name it with --set link={our_name('link', text)}"
        )
    if are_different(text):
        return UnknownName(f"unknown hardware {text!r}: {_DIFFERENT}")
    plain = re.sub(r"-?pcie\b", "", wanted)
    if plain != wanted and (module := our_name("hardware", plain)) in known:
        return UnknownName(f"unknown hardware {text!r}: {module} is a module and no card with a slot: name {module}")
    size = SIZE.search(wanted)
    card = our_name("hardware", wanted[: size.start()] if size is not None else _MEMORY.sub("", text))
    if card in component_names("accelerator"):
        return UnknownName(
            f"unknown hardware {text!r}: {card} has other memory, and of this one no rate is known: name {card}, and "
            f"--set accelerator.hbm_bytes and accelerator.hbm_bytes_per_s"
        )
    return None


def unknown(column: str, text: str) -> UnknownName:
    """The error for a name of a column of `KNOWN` that nobody knows: it names the nearest, as we write them."""
    if column == "host" and host_and_memory(text)[1]:
        text = host_and_memory(text)[0]
    if column == "hardware" and is_memory(text):
        return UnknownName(f"unknown hardware {text!r}: that is memory: name the card before it, 'rtx-4090 + {text}'")
    text = without_drives(text) if column == "hardware" else text
    if os.path.lexists(text[:4096].replace("\0", "")) and not os.path.isfile(text):
        return UnknownName(
            f"unknown {column} {text!r}: what is there is no file (a folder, a pipe, a device, a link to nothing)"
        )
    known = list(KNOWN[column]())
    if column == "hardware":
        n_cards, one = several(text)
        module = our_name("hardware", re.sub(r"^[dh]gx-", "", plain_name(one)))
        if why := why_undescribed(plain_name(one), n_cards, module if module in known else ""):
            return UnknownName(f"unknown hardware {text!r}: {why}")
        text = text if len(parts_beside(text)) > 1 or is_name_of("host", text) else one
    wanted = spelled(column, text)
    if column == "host" and (told := _host_told(text, wanted)):
        return UnknownName(f"unknown host {text!r}: {told}")
    if column == "model" and dense_tag(text):
        return UnknownName(
            f"unknown model {text!r}: Ollama's is dense: name the tag of a mixture of experts, as qwen3:30b"
        )
    if column == "model" and re.search(r"[:-]cloud$", text):
        return UnknownName(
            f"unknown model {text!r}: it runs on Ollama's machines: leave -cloud out, and name the hardware"
        )
    if column == "hardware" and (error := _of_hardware(text, wanted, known)):
        return error
    if column == "hardware" and _OF_APPLE.search(wanted):
        known = [name for name in known if name.startswith("apple-")]
    elif column == "hardware":
        halo = [name for name in known if name.startswith("strix-halo") and "ryzen-ai-max" in wanted]
        known = halo or [name for name in known if name not in component_names("accelerator") or may_be(name, text)]
    nearest = unknown_name(column, text, known, spelled=wanted.replace("laptop", "mobile"))
    return UnknownName(f"{nearest}; another is read from {_READ_FROM[column]}")
