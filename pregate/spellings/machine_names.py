"""What the name of a machine states beside its card: how many there are, and their memory: `2x RTX 4090 48GB`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from hwmodels.specs.machine_files import cards_of, component_names, hardware_names, load_component, load_machine
from hwmodels.specs.spec import Accelerator, MachineSpec
from pregate.spellings.host_memory import (
    bytes_of,
    chosen_host,
    host_and_numbers,
    is_memory,
    sizes_of,
    without_drives,
)
from pregate.spellings.names import FILES, KNOWN, our_name
from pregate.spellings.plain_names import AND, BESIDE_CARD, GIGABYTES, SIZE, plain_name, without_brackets
from pregate.spellings.same_cards import has_bytes
from traces.errors import InvalidInput

_DIFFERENT = re.compile(r"\S\s*\+\s+\S|\S\s+(?:and|&)\s+\S", re.IGNORECASE)
_SEVERAL = re.compile(
    r"(?P<n>\d{1,2})\s+(?P<card>[a-wyz].*)|(?P<m>\d{1,3})\s*[x\u00d7*]\s*(?P<close>[a-z0-9].*)|"
    r"(?P<named>[a-z0-9].*?)\s+[x\u00d7*]\s*(?P<k>\d{1,3})|(?P<before>[a-z0-9].*?)\s+(?P<i>\d{1,2})[x\u00d7]|"
    r"(?P<tight>[a-z ]*\d{4}(?:\s?ti)?)[x\u00d7*](?P<j>\d{1,2})|"
    r"(?P<word>dual|two|triple|three|quad|four|six|eight)\s+(?P<worded>[a-z0-9].*)",
    re.IGNORECASE,
)
_WORDS = {"dual": 2, "two": 2, "triple": 3, "three": 3, "quad": 4, "four": 4, "six": 6, "eight": 8}


def several(hardware: str) -> tuple[int, str]:
    """How many cards `hardware` names, and what one of them is called: `2x RTX 3090`, `dual 3090`, `3090 + 3090`."""
    opened = without_brackets(hardware.strip()[:200])
    each = AND.split(opened)
    if len(each) > 1 and len(set(map(plain_name, each))) == 1:
        return len(each), each[0]
    match = _SEVERAL.fullmatch(opened)
    if match is None:
        return 1, opened if opened != hardware.strip() else hardware
    name = next(filter(None, map(match.group, ("card", "close", "named", "before", "tight", "worded"))))
    counted = next(filter(None, map(match.group, ("n", "m", "k", "i", "j"))), "")
    n_cards = int(counted) if counted else _WORDS[match["word"].lower()]
    return (n_cards, name) if n_cards else (1, hardware)


def are_different(hardware: str) -> bool:
    """Whether `hardware` names cards that differ: `RTX 3090 + RTX 3060`, `3090+3060`, and not `Ryzen AI Max+ 395`."""
    if several(hardware)[0] > 1 or "max+" in hardware.lower():
        return False
    cards = hardware_names()
    return bool(_DIFFERENT.search(hardware)) or (
        "+" in hardware and all(our_name("hardware", one) in cards for one in AND.split(hardware[:200]))
    )


def card_and_memory(text: str) -> tuple[str, dict[str, str]]:
    """A card of another memory than ours has, as we call it, and its numbers: of one that was given up to twice what it
    is sold with (`RTX 4090 48GB`), or of a machine of one memory (`M4 Max 64GB`); ("", {}) for any other name.
    """
    plain = plain_name(BESIDE_CARD.sub(" ", text))
    stated = SIZE.search(GIGABYTES.sub(r"-\1gb", plain))
    if stated is None or len(parts_of_machine(text)) > 1 or re.search(r"\d\.\d+\s*[GT]", text, re.IGNORECASE):
        return _with_its_memory(text)
    n_gib, ours = int(stated["gb"]), our_name("hardware", text)
    if ours in hardware_names():
        return _of_one_memory(ours, n_gib)
    card = our_name("hardware", stated.string[: stated.start()])
    if card not in component_names("accelerator"):
        return "", {}
    if has_bytes(card, n_gib):
        return card, {}
    found = load_component("accelerator", card)
    given = (
        isinstance(found, Accelerator)
        and found.hbm_bytes <= n_gib * 2**30 <= _MOST_GIVEN * found.hbm_bytes
        and found.hbm_bytes_per_s < _ON_THE_PACKAGE_BYTES_PER_S
    )
    return (card, {"accelerator.hbm_bytes": f"{n_gib}GiB"}) if given else ("", {})


def _with_its_memory(text: str) -> tuple[str, dict[str, str]]:
    """A machine of one memory whose size stands within the text: `MacBook Pro, M4 Max with 64 GB of memory`."""
    ours, size = our_name("hardware", text), bytes_of(text)
    return _of_one_memory(ours, float(size.removesuffix("GiB"))) if size and ours in hardware_names() else ("", {})


_MOST_GIVEN = 2.1
"""What boards were given at most, over what they are sold with, a little more for what drivers keep."""

_ON_THE_PACKAGE_BYTES_PER_S = 1.9e12
"""From here on it is HBM on the package, which no board maker adds to: more of it is another product, and faster."""


def _of_one_memory(name: str, n_gib: float) -> tuple[str, dict[str, str]]:
    """A machine of one memory that is smaller than ours, its accelerator's part as large a share; ("", {}) else."""
    machine = load_machine(name)
    whole = machine.host.dram_bytes
    if not machine.has_one_memory or n_gib * 2**30 >= 0.99 * whole:
        return "", {}
    part = n_gib * machine.accelerator.hbm_bytes / whole
    return name, {"accelerator.hbm_bytes": f"{part:g}GiB", "host.dram_bytes": f"{n_gib:g}GiB"}


def machine_and_numbers(text: str) -> tuple[str, dict[str, float | str]]:
    """A machine as we call it, and the numbers that its name states beside: the memory of `RTX 4090 48GB`, the host of
    `RTX 3090 + EPYC 7763, 256 GB`, the memory of the usual host in `RTX 4090 with 64GB RAM`.

    Raises `InvalidInput` as `host_and_numbers`, and for a machine of one memory that is never sold with so much.
    """
    text = without_drives(text)
    n, one = several(text)
    found = _with_host(text) if is_memory(parts_of_machine(one)[-1]) else None
    if found is not None:
        return found[0], dict(found[1])
    card, numbers = card_and_memory(one)
    name = card or our_name("hardware", one)
    if (not card and name not in hardware_names()) or _has_host_beside(one):
        found = _with_host(text)
        return (found[0], dict(found[1])) if found else (text, {})
    _check_one_memory(name, one)
    return f"{n}x {name}" if n > 1 else name, dict(numbers)


def _check_one_memory(name: str, text: str) -> None:
    """Raise `InvalidInput` where `text` states several sizes, or more than ours, of a machine of one memory."""
    machine, n_gib = load_machine(name), sizes_of(text)
    most = machine.host.dram_bytes / 2**30
    if not machine.has_one_memory or not n_gib:
        return
    if len(n_gib) > 1:
        raise InvalidInput(f"hardware {text[:80]!r}: several sizes of memory: say the one that {name} has")
    if n_gib[0] * 1e9 > 1.01 * machine.host.dram_bytes:  # 128 GB of a maker may be 119 GiB
        raise InvalidInput(f"hardware {text[:80]!r}: {name} has {most:.4g} GiB of memory at most")


_BESIDE = re.compile(
    r"\s*(?:(?<!max)\+|,|;|(?<!MT)/|\bwith\b|\bw/|\band\b|&)\s*(?![^()]*\))|"
    r"(?<![x\u00d7*\s])\s+(?=\d{1,4}\s?[GT]i?B\s+(?:of\s+)?(?:system\s+|host\s+)?(?:RAM|L?P?DDR\d))",
    re.IGNORECASE,
)
_MAC = re.compile(r"(?:apple\s+)?mac(?:book)?\s?(?:pro|air|mini|studio)?[\d\s\"”-]*(?:inch)?", re.IGNORECASE)


def parts_of_machine(text: str) -> list[str]:
    """What stands beside each other in the name of a machine, "" alone of none."""
    return [part for part in _BESIDE.split(text[:200]) if part] or [""]


def cards_and_beside(text: str) -> Iterator[tuple[str, str]]:
    """The ways to part a machine into its cards and what stands beside them, fewest cards first: `RTX 3090` and
    `EPYC 7763, 256 GB`.
    """
    parts = parts_of_machine(text)
    for i in range(1, len(parts)):
        yield " + ".join(parts[:i]), ", ".join(sorted(parts[i:], key=is_memory))  # the processor first


def words_of_machines(text: str) -> list[str]:
    """The words of a list by comma, but for commas in brackets: `A100 (80GB, PCIe)` is one."""
    return [word.strip() for word in re.split(r",(?![^()]*\))", text)]


def machines_listed(words: Sequence[str]) -> list[str]:
    """The machines of a list, each with the host and the memory that stand after it: `RTX 4090, i9-14900K, 64GB` is
    one machine, `rtx-3090, rtx-4090` are two.
    """
    if len(words) < 2:
        return list(words)
    machines: list[str] = []
    for word in words:
        if machines and machines[-1] and word and (not without_drives(word) or is_memory(word) or _is_host(word)):
            machines[-1] += f" + {word}"
        elif machines and _MAC.fullmatch(machines[-1]):
            machines[-1] += f" {word}"
        else:
            machines.append(word)
    return machines


def _is_host(word: str) -> bool:
    """Whether `word` names a host, and no machine."""
    if our_name("hardware", word) in hardware_names() or word.endswith(FILES):
        return False
    return not is_memory(word) and host_and_numbers(word)[0].partition(":")[0] in KNOWN["host"]()


def _has_host_beside(text: str) -> bool:
    """Whether a part of a machine's name is a host: `M2 Ultra + 5950X`."""
    return any(_is_host(part) for part in parts_of_machine(text)[1:])


@lru_cache(256)  # each way to part a name asks for all shorter ones
def _with_host(text: str) -> tuple[str, dict[str, float | str]] | None:
    """A machine and its numbers where a host, or memory, stands beside its card; None where none does."""
    parts = parts_of_machine(text)
    for i in range(1, len(parts)):
        cards, beside = " + ".join(parts[:i]), sorted(parts[i:], key=is_memory)  # the processor first
        name, numbers = machine_and_numbers(cards)
        if cards_of(name)[1] not in hardware_names() and is_memory(parts[i]) and not _OF_HOST.search(parts[i]):
            name, numbers = machine_and_numbers(f"{cards} {bytes_of(parts[i]).removesuffix('GiB')}GB")  # `A100, 80GB`
            beside.remove(parts[i])
        if cards_of(name)[1] not in hardware_names() or "host" in numbers:
            return None
        machine = load_machine(name)
        for own in [part for part in beside if _is_of_card(machine, part)]:
            name, of_card = _with_own_memory(name, own)
            numbers |= of_card
            beside.remove(own)
        if not beside:
            return name, numbers
        told = ", ".join(beside)
        host, of_host = host_and_numbers(f"{chosen_host(machine.host.name, told)}, {told}" if is_memory(told) else told)
        if host.partition(":")[0] in KNOWN["host"]() and not machine.has_one_memory:
            return name, {**numbers, "host": host, **of_host}
    return None


_OF_CARD = re.compile(r"\b(?:v-?ram|each)\b", re.IGNORECASE)
_OF_HOST = re.compile(r"\b(?:d?ram|L?P?DDR\d\w*|system|host)\b", re.IGNORECASE)


def _is_of_card(machine: MachineSpec, memory: str) -> bool:
    """Whether `memory`, beside a card, is that card's own: said so, the only one there is, or of the card's size and
    not said to be the host's.
    """
    n_gib = sizes_of(memory)
    return is_memory(memory) and bool(
        machine.has_one_memory
        or _OF_CARD.search(memory)
        or (len(n_gib) == 1 and not _OF_HOST.search(memory) and has_bytes(machine.accelerator.name, round(n_gib[0])))
    )


def _with_own_memory(name: str, memory: str) -> tuple[str, dict[str, float | str]]:
    """A machine whose card has the memory that stands beside it: `M3 Max, 96GB` has fewer cores than one of 128.

    Raises `InvalidInput` for memory that it is not sold with, and was not given.
    """
    n, card = cards_of(name)
    ours, numbers = machine_and_numbers(f"{card} {bytes_of(memory).removesuffix('GiB')}GB")
    if ours not in hardware_names():
        raise InvalidInput(
            f"hardware {card}, {memory[:80]!r}: no such memory is known of it: name it alone, and --set "
            f"accelerator.hbm_bytes=... and host.dram_bytes=..."
        )
    return f"{n}x {ours}" if n > 1 else ours, numbers
