"""What the name of a machine states beside its card: how many there are, and their memory: `2x RTX 4090 48GB`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from hwmodels.specs.machine_files import cards_of, component_names, hardware_names, load_component, load_machine
from hwmodels.specs.spec import Accelerator
from pregate.spellings.host_memory import bytes_of, chosen_host, host_and_numbers, is_memory
from pregate.spellings.names import FILES, KNOWN, our_name
from pregate.spellings.plain_names import AND, BESIDE_CARD, GIGABYTES, SIZE, plain_name, without_brackets
from pregate.spellings.same_cards import has_bytes

__all__ = ["are_different", "card_and_memory", "cards_and_beside", "machine_and_numbers", "machines_listed", "several"]

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
    if stated is None:
        return _with_its_memory(text)
    n_gib, ours = int(stated["gb"]), our_name("hardware", text)
    if ours in hardware_names():
        return _of_one_memory(ours, n_gib)
    card = our_name("hardware", stated.string[: stated.start()])
    if card not in component_names("accelerator") or has_bytes(card, n_gib):
        return "", {}
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

    Raises `InvalidInput` as `host_and_numbers`.
    """
    n, one = several(text)
    card, numbers = card_and_memory(one)
    name = card or our_name("hardware", one)
    if not card and name not in hardware_names():
        beside = _with_host(text)
        return (beside[0], dict(beside[1])) if beside else (text, {})
    return f"{n}x {name}" if n > 1 else name, dict(numbers)


_BESIDE = re.compile(r"\s*(?:\+|,|;|/|\bwith\b|\bw/|\band\b|&)\s*", re.IGNORECASE)


def cards_and_beside(text: str) -> Iterator[tuple[str, str]]:
    """The ways to part a machine into its cards and what stands beside them, fewest cards first: `RTX 3090` and
    `EPYC 7763, 256 GB`.
    """
    parts = [part for part in _BESIDE.split(text[:200]) if part]
    for i in range(1, len(parts)):
        yield " + ".join(parts[:i]), ", ".join(parts[i:])


def machines_listed(words: Sequence[str]) -> list[str]:
    """The machines of a list, each with the host and the memory that stand after it: `RTX 4090, i9-14900K, 64GB` is
    one machine, `rtx-3090, rtx-4090` are two.
    """
    if len(words) < 2:
        return list(words)
    machines: list[str] = []
    for word in words:
        if machines and (is_memory(word) or _OF_A_CARD.fullmatch(word) or _is_host(word)):
            machines[-1] += f" + {word}"
        else:
            machines.append(word)
    return machines


def _is_host(word: str) -> bool:
    """Whether `word` names a host, and no machine."""
    if our_name("hardware", word) in hardware_names() or word.endswith(FILES):
        return False
    return host_and_numbers(word)[0].partition(":")[0] in KNOWN["host"]()


_OF_A_CARD = re.compile(
    r"(?P<size>\d{1,3}\s*G(?:i?B)?)(?:\s+of)?(?:\s+(?:(?P<vram>vram)|memory))?(?:\s+each)?", re.ASCII | re.IGNORECASE
)
"""Memory of which nothing says that it is a host's."""


def _with_memory_of_its_own(cards: str, beside: str) -> tuple[str, dict[str, float | str]] | None:
    """Cards beside which their own memory stands, `H100, 80GB`; None where it is a host's: of another size, and not
    said to be VRAM.
    """
    told = _OF_A_CARD.fullmatch(beside)
    name, numbers = machine_and_numbers(f"{cards} {told['size']}") if told else ("", {})
    is_theirs = told is not None and (told["vram"] or not numbers) and cards_of(name)[1] in hardware_names()
    return (name, numbers) if is_theirs else None


@lru_cache(256)  # each way to part a name asks for all shorter ones
def _with_host(text: str) -> tuple[str, dict[str, float | str]] | None:
    """A machine and its numbers where a host, or memory, stands beside its card; None where none does."""
    for cards, beside in cards_and_beside(text):
        if told := _with_memory_of_its_own(cards, beside):
            return told
        name, numbers = machine_and_numbers(cards)
        if cards_of(name)[1] not in hardware_names():
            return None
        if is_memory(beside):
            beside = f"{chosen_host(load_machine(name).host.name, beside)}, {beside}"
        host, of_host = host_and_numbers(beside)
        if host.partition(":")[0] in KNOWN["host"]():
            return name, {**numbers, "host": host, **of_host}
    return None
