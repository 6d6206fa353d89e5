"""A host as people write it, with the memory that stands beside: `Ryzen 9 9950X, 96 GB DDR5-6000`."""

from __future__ import annotations

import re

from hwmodels.specs.machine_files import load_component
from hwmodels.specs.processors import channels_of, is_processor, official_speed, speed_of_two_dimms
from hwmodels.specs.spec import Host
from pregate.spellings.names import KNOWN, our_name
from traces.errors import InvalidInput

_BESIDE_HOST = re.compile(
    r"(?P<host>[^,;]+?)\s*(?:[,;]|\bw/|\bwith\b|(?<!max)\+|\s(?=\d{1,2}(?:\s?(?:of|out of|/)\s?\d{1,2})?[\s-]?ch|"
    r"\d{1,2}\s?[x\u00d7*]\s?\d{1,3}\s?G|\d{2,4}\s?Gi?B|"
    r"\d[\d.]*\s?Ti?B|L?P?DDR\d|MC?RDIMM|\d{1,2}\s?x\s?L?P?DDR|(?:single|dual|quad|octa)[\s-]?ch))\s*(?P<memory>.*(?:DDR\d|MC?RDIMM|\bMT/?s|\bRAM\b|\d\s?(?:[GT]i?B|G\b)).*)",
    re.IGNORECASE,
)
_MEMORY_IN_BRACKETS = re.compile(
    r"\(([^()]*(?:\d\s?[GT]i?B|DDR\d|MT/?s|DIMMs?\b|\bsticks\b|\bmodules\b|channels?\b)[^()]*)\)", re.IGNORECASE
)
_CORES_IN_BRACKETS = re.compile(r"\(\d{1,3}[\s-]*cores?\)", re.IGNORECASE)
_DRIVE = re.compile(
    r"(?:[,;+/]|\band\b|\bwith\b)?\s*\d[\d.]*\s*[GT]i?B\s+(?:of\s+)?(?:(?:pcie|gen)\s?[\d.]+\s+)?(?:m\.2\s+)?(?:nvme|ssd|hdd|storage|disk)\b"
    r"(?:\s+(?:ssd|drive|storage|disk))?",
    re.IGNORECASE,
)


def without_drives(text: str) -> str:
    """A machine without the size of its drives, which no number of ours is: `9950X, 96GB, 2TB NVMe`."""
    return _DRIVE.sub("", text).strip()


def host_and_memory(text: str) -> tuple[str, str]:
    """A host and the memory that stands beside it, "" where none does: `EPYC 7763 8ch DDR4-3200`."""
    text = without_drives(text)
    opened = _MEMORY_IN_BRACKETS.sub(r", \1 ", _CORES_IN_BRACKETS.sub("", text))
    told = _BESIDE_HOST.fullmatch(opened.strip())
    return (told["host"], told["memory"].strip()) if told else (text, "")


_SPEED = re.compile(
    r"(?:\bL?P?DDR[345]X?[\s-]*|\bMC?RDIMMs?[\s-]*|@\s*)(?P<speed>\d{3,5})|(?P<plain>\d{4,5})\s*(?:MT/?s|MHz)"
    r"|\b\d{1,2}\s*[x\u00d7*]\s*(?P<times>\d{4})\b|(?<![\w.])(?P<bare>(?:1[3-9]|[2-9]\d)\d\d)\b(?!\s*[GT])",
    re.ASCII | re.IGNORECASE,
)
_CHANNELS = re.compile(
    r"(?P<n>\d{1,2})(?:\s*(?:of|out of|/)\s*\d{1,2})?(?:\s*memory)?[\s-]*ch(?:annels?)?\b", re.ASCII | re.IGNORECASE
)
_WORDS_OF_CHANNELS = {"single": 1, "dual": 2, "quad": 4, "octa": 8}
_MODULES = re.compile(
    r"\b(?P<n>\d{1,2})\s*(?:[x\u00d7*]\s*(?:\d{1,3}\s*G|\d{1,4}\b|L?P?DDR\d)|x?\s*DIMMs?\b|sticks\b|modules\b)",
    re.ASCII | re.IGNORECASE,
)


def host_with_memory(host: str, memory: str) -> str:
    """A processor's host, `host` of ours, with the memory that is stated beside it: `DDR4-2400, 7 DIMMs` as `:7x2400`,
    more modules than channels as `:2dpc`; as it was where none states a speed, fewer channels or more modules.
    Channels are those of a socket, modules those of the machine.
    """
    n_channels, n_sockets = channels_of(host)
    crowded = "2dpc" if speed_of_two_dimms(host) else ""
    return _with_memory(host, memory, n_channels, n_sockets, official_speed(host), crowded)


_OF_DESKTOPS = 2
_LARGEST_GIB = ((2133, 16), (4000, 32), (10_000, 64))
"""The largest module without registers of DDR3, DDR4 and DDR5 (dies of 8, 16 and 32 Gbit in two ranks), by the speed
that each is below: a desktop with more than two of them has four."""


def _with_memory(host: str, memory: str, n_channels: int, n_sockets: int, official: int, crowded: str) -> str:
    """`host_with_memory` of a host with so many channels in all of its sockets; `official`: its memory's speed, where
    channels alone are told; `crowded`: what is said of more modules than channels, "" where nothing is known of them.
    """
    told = _SPEED.search(memory)
    speed = next(filter(None, told.groupdict().values())) if told else ""
    by_word = next((n for word, n in _WORDS_OF_CHANNELS.items() if re.search(rf"\b{word}\b", memory, re.IGNORECASE)), 0)
    channels, modules = _CHANNELS.search(memory), _MODULES.search(memory)
    count = int(channels["n"]) if channels else by_word
    if count:
        count = count * n_sockets if count * n_sockets <= n_channels else count
    elif modules:
        if crowded and not speed and int(modules["n"]) > n_channels:
            return f"{host}:{crowded}"
        count = min(int(modules["n"]), n_channels)
    elif crowded and not speed and n_channels == _OF_DESKTOPS:
        largest = next(gib for below, gib in _LARGEST_GIB if official < below)
        if sum(sizes_of(memory)) > n_channels * largest:
            return f"{host}:{crowded}"
    if not speed and 0 < count < n_channels:
        speed = str(official)
    return "".join((host, ":" if speed else "", f"{count}x" if count and speed else "", speed))


_SIZES = re.compile(
    r"(?:\b(?P<n>\d{1,2})\s*[x\u00d7*]\s*)?(?<![\d.])(?P<size>\d{1,5}(?:\.\d{1,3})?)\s*(?P<unit>G(?:i?B)?|Ti?B)\b",
    re.ASCII | re.IGNORECASE,
)
_GIB = {"G": 1, "T": 1024}


def sizes_of(memory: str) -> list[float]:
    """The sizes that are stated, GiB: those of modules all of them together."""
    found = list(_SIZES.finditer(memory))
    gib = [int(one["n"] or 1) * float(one["size"]) * _GIB[one["unit"][0].upper()] for one in found]
    modules = [n for n, one in zip(gib, found, strict=True) if one["n"]]
    return [sum(modules)] if modules else gib


def bytes_of(memory: str) -> str:
    """How much memory is stated, `96GiB`; "" where no size is, or more than one that is not of modules."""
    gib = sizes_of(memory)
    return f"{gib[0]:.10g}GiB" if len(gib) == 1 else ""


def is_memory(text: str) -> bool:
    """Whether `text` is of memory alone: `12x64GB DDR5-5600`, `128 GB RAM`."""
    is_told = _SIZES.search(text) or re.search(r"DDR\d|\bMC?RDIMM", text, re.IGNORECASE)
    return is_told is not None and not _beside_memory(text)


def _beside_memory(text: str) -> str:
    """Of `text` what says nothing of memory."""
    return _OF_MEMORY.sub("", _SIZES.sub("", text))


_OF_MEMORY = re.compile(
    r"\b(?:L?P?DDR\dX?|MC?RDIMMs?)(?:[\s-]*\d{3,5})?\b|\b\d{4,5}\s*(?:MT/?s|MHz)|"
    r"@\s*\d{4,5}\b(?!\s*M)|\b\d{1,2}\s*[x\u00d7*]|\b\d{1,2}\s*(?:DIMMs?|sticks|modules)\b|\bCL\d\d(?:-\d{1,3})*|"
    r"\b(?:\d{1,2}\s*(?:of|out of|/)\s*)?\d{1,2}(?:\s*memory)?[\s-]*ch(?:annels?)?\b|"
    r"\bPC\dL?-\d{4,5}\w?\b|\b(?:single|dual|quad|octa|channels?|v?ram|dram|memory|unified|"
    r"system|host|populated|of|and|with|at|in|total|kit|each|ranks?|ecc|(?:so-?|m?r|u|l|lr|cu|c)?dimms?|registered|xmp|expo)\b|[\s,()@+-]",
    re.IGNORECASE,
)
_PLAIN_SPEED = re.compile(r"(?<![\w.])(?:1[3-9]|[2-9]\d)\d\d\b", re.ASCII)
"""The speed of memory that nothing marks: `96GB 6000`."""


_CHOSEN = ("desktop-ddr4", "desktop-ddr5", "laptop-5900hx", "laptop-13900h")
"""Hosts that stand for any of their kind, known by no processor: memory in two channels."""
_DESKTOP = "ryzen-7950x"
"""The processor of `desktop-ddr5`."""


_THREADS = re.compile(
    r"\s*[,;(]?\s*(?<![\w.-])(?:\d{1,3}\s?c(?:ores)?\s*/\s*\d{1,3}\s?t(?:hreads)?\b|"
    r"(?:(?:using|with|on)\s+)?(?P<threads>[1-9]\d{0,2})(?:[\s-]?threads?\b|(?-i:t)\b)"
    r"(?:\s+(?:are\s+)?(?:used|in use))?|"
    r"(?P<cores>[1-9]\d{0,2})[\s-]?cores?\s+(?:are\s+)?(?:used|in use))\s*\)?",
    re.IGNORECASE | re.ASCII,
)


def host_and_numbers(text: str) -> tuple[str, dict[str, str]]:
    """A host as we call it, and the numbers that are stated beside its name: `9950X, 96 GB DDR5-6000` is
    `ryzen-9950x:6000` of 96 GiB, `EPYC 9355 (16 threads used)` has 16 cores. A host that nobody knows is as it was.

    Fewer threads than cores are as many cores; all others describe the processor, whose cores are known.

    Raises `InvalidInput` for memory alone, and for its speed beside a host whose channels are not known.
    """
    told = _THREADS.search(text[:200])
    if told is None:
        return _host_with_its_memory(text)
    host, numbers = _host_with_its_memory(f"{text[: told.start()]} {text[told.end() :]}".strip())
    if host.partition(":")[0] not in KNOWN["host"]():
        return _host_with_its_memory(text)
    found, used = load_component("host", host), int(told["threads"] or told["cores"] or 0)
    assert isinstance(found, Host)
    return host, {**numbers, "host.n_cores": str(used)} if 0 < used < found.n_cores else numbers


def _host_with_its_memory(text: str) -> tuple[str, dict[str, str]]:
    """`host_and_numbers` of a host whose threads are not stated."""
    text = without_drives(text)
    if is_memory(text):
        raise InvalidInput(
            f"host {text[:80]!r}: that is memory: name the processor before it ('ryzen-5900x, {text[:80]}'), or "
            f"--set host.dram_bytes=... and host.dram_bytes_per_s=..."
        )
    host, memory = host_and_memory(text)
    ours = part_as_ours("host", host)
    if not memory or ours.partition(":")[0] not in KNOWN["host"]():
        return part_as_ours("host", text), {}
    size = bytes_of(memory)
    of_card = re.search(r"\bv-?ram\b", memory, re.IGNORECASE)
    strange = of_card[0] if of_card else _PLAIN_SPEED.sub("", _beside_memory(memory), count=1)
    if strange:
        raise InvalidInput(
            f"host {text[:80]!r}: {strange[:40]!r} beside its memory is not read: leave it out, and say "
            f"'{ours}, 96GB DDR5-6000'"
        )
    if len(sizes_of(memory)) > 1:
        raise InvalidInput(f"host {text[:80]!r}: several sizes of memory: say how much there is in all, '{ours}, 96GB'")
    numbers = {"host.dram_bytes": size} if size else {}
    if is_processor(ours) and ":" not in ours:
        kind = re.search(r"\bDDR([45])", memory, re.IGNORECASE)
        if kind and not _SPEED.search(memory) and kind[1] != _kind_of(official_speed(ours)):
            raise InvalidInput(
                f"host {text[:80]!r}: the memory of {ours} is known as DDR{_kind_of(official_speed(ours))}: say the "
                f"speed of its DDR{kind[1]}, 'DDR{kind[1]}-{'3200' if kind[1] == '4' else '4800'}'"
            )
        ours = host_with_memory(ours, memory)
    elif ours in _CHOSEN:
        numbers |= _rate_of_two_channels(ours, memory)
    elif _SPEED.search(memory) and ":" in ours:
        raise InvalidInput(
            f"host {text[:80]!r}: its memory's speed is stated twice: leave out {ours.partition(':')[2]!r}, or "
            f"{memory[:40]!r}"
        )
    elif _SPEED.search(memory):
        raise InvalidInput(
            f"host {text[:80]!r}: of {host!r} no channels are known that memory could be in: name a processor, or "
            f"--set host.dram_bytes=... and host.dram_bytes_per_s=..."
        )
    return ours, numbers


def _kind_of(mega_transfers_per_s: int) -> str:
    """Which DDR has an official speed."""
    return "3" if mega_transfers_per_s < 2133 else "4" if mega_transfers_per_s <= 3200 else "5"


def _rate_of_two_channels(host: str, memory: str) -> dict[str, str]:
    """The rate of the memory that is stated beside a host of `_CHOSEN`; nothing where its own is meant."""
    found = load_component("host", host)
    assert isinstance(found, Host)
    crowded = str(speed_of_two_dimms(_DESKTOP) or "") if host == "desktop-ddr5" else ""
    told = _with_memory("", memory, 2, 1, round(found.dram_bytes_per_s / (2 * 8e6)), crowded).removeprefix(":")
    channels, speed = told.split("x") if "x" in told else ("2", told)
    return {"host.dram_bytes_per_s": f"{int(channels) * int(speed) * 8}MB/s"} if told else {}


def chosen_host(usual: str, memory: str) -> str:
    """The host that memory alone is said of, beside a card whose usual host is `usual`: a desktop of that kind of
    memory, DDR4 or DDR5.
    """
    told = re.search(r"\bDDR([45])", memory, re.IGNORECASE)
    return f"desktop-ddr{told[1]}" if told and usual.startswith("desktop-") else usual


def part_as_ours(column: str, text: str) -> str:
    """`our_name`, of a host with the memory that it states: `EPYC 7763:7x2400`."""
    name, mark, memory = text.partition(":") if column == "host" else (text, "", "")
    return f"{our_name(column, name)}{mark}{memory}"
