"""The name of a machine, parted: how many cards of which name and memory, and the host and memory beside them.

    machine = [count] card [memory] [link] {beside (host | memory | drive)}     2x RTX 4090 48GB each + 9950X, 96GB DDR5

`machine_parts` parts a name, knowing which words are hosts and which are sizes; `machine_and_numbers` says which parts
are a machine here, and refuses the rest.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import combinations, takewhile

from hwmodels.specs.machine_files import cards_of, hardware_names, load_machine
from pregate.spellings.card_memory import OF_CARD, card_and_numbers, sold
from pregate.spellings.cloud_instances import cards_of_instance
from pregate.spellings.host_memory import chosen_host, host_and_numbers, is_memory, sizes_of, without_drives
from pregate.spellings.laptop_power import figures_at, stated_power
from pregate.spellings.names import FILES, KNOWN, our_name
from pregate.spellings.plain_names import AND, plain_name, without_brackets
from pregate.spellings.stated_links import without_link, without_outside
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


@dataclass(frozen=True, slots=True)
class MachineParts:
    """What the name of a machine says, each part as it is written: cards (`2x RTX 4090`), memory beside them that is
    their own, and all that is said of the host, its processor first.
    """

    cards: str
    of_cards: tuple[str, ...] = ()
    of_host: tuple[str, ...] = ()


_BESIDE = re.compile(
    r"\s*(?:(?<!max)\+|,|;|(?<!MT)/|\bwith\b|\bw/|\band\b|&)\s*(?![^()]*\))|"
    r"(?<![x\u00d7*\s])\s+(?=\d{1,4}\s?[GT]i?B\s+(?:of\s+)?(?:system\s+|host\s+)?(?:RAM|L?P?DDR\d))",
    re.IGNORECASE,
)
_OF_HOST = re.compile(r"\b(?:d?ram|L?P?DDR\d\w*|system|host)\b", re.IGNORECASE)


def parts_beside(text: str) -> list[str]:
    """What stands beside each other in the name of a machine, "" alone of none."""
    return [part for part in _BESIDE.split(text[:200]) if part] or [""]


def machine_parts(text: str) -> MachineParts:
    """The parts of a machine's name: cards up to the first host or memory; memory is the cards' where it says so, where
    the machine has no other, or where it is of their size and not said to be the host's.
    """
    words = parts_beside(without_drives(_named_in_brackets(text)))
    if len(words) > 1 and is_host(words[0]):  # before its cards: `2x EPYC 9355 + RTX 4090`
        n_before = next((i for i, word in enumerate(words) if not is_host(word) and not is_memory(word)), 0)
        words = words[n_before:] + words[:n_before]
    first = next((i for i, word in enumerate(words) if i and (is_memory(word) or is_host(word))), len(words))
    cards, beside = " + ".join(words[:first]), words[first:]
    own = [word for word in takewhile(is_memory, beside) if _is_of_cards(cards, word)]
    own += [word for word in beside if word not in own and is_memory(word) and OF_CARD.search(word)]
    return MachineParts(cards, tuple(own), tuple(sorted((word for word in beside if word not in own), key=is_memory)))


def is_host(word: str) -> bool:
    """Whether `word` names a host, and no machine."""
    if our_name("hardware", word) in hardware_names() or word.endswith(FILES):
        return False
    return not is_memory(word) and host_and_numbers(word)[0].partition(":")[0] in KNOWN["host"]()


def _is_of_cards(cards: str, memory: str) -> bool:
    n, card = several(cards)
    ours, n_gib = our_name("hardware", card), sizes_of(memory)
    if ours in hardware_names() and load_machine(ours).has_one_memory:
        return True
    return len(n_gib) == 1 and not _OF_HOST.search(memory) and any(sold(card, n_gib[0] / k) for k in {1, n})


def machine_and_numbers(text: str) -> tuple[str, dict[str, float | str]]:
    """A machine as we call it, and the numbers that its name states beside: the memory of `RTX 4090 48GB`, the host of
    `RTX 3090 + EPYC 7763, 256 GB`, the memory of the usual host in `RTX 4090 with 64GB RAM`; `text` as it is, and no
    numbers, where that is no machine.

    The link that it states is one too, and the power of a laptop's card. Raises `InvalidInput` as `host_and_numbers`,
    `card_and_numbers`, `StatedLink.beside` and `figures_at`, for a link whose lanes are not known, and for an instance
    of a cloud.
    """
    bare, link = without_link(text)
    inside, why = without_outside(bare)
    if link is not None or why:
        name, numbers = _as_card_of_pcie(text, inside) if link is not None else machine_and_numbers(inside)
        card = cards_of(name)[1]
        if card not in hardware_names():
            return text, {}
        if link is None:
            raise InvalidInput(f"hardware {text[:80]!r}: {why}")
        return name, {**numbers, "link": link.beside(card)}
    cool, power_w = stated_power(text)
    if power_w:
        name, numbers = machine_and_numbers(cool)
        of_card = figures_at(cards_of(name)[1], power_w)
        return (name, {**numbers, **of_card}) if of_card else (text, {})
    cards = cards_of_instance(text)[1]
    if cards:
        raise InvalidInput(
            f"hardware {text[:80]!r}: that is {cards} and a share of a processor that is not described: name "
            f"'{cards} + PROCESSOR', or {cards} alone where the host holds nothing"
        )
    parts = machine_parts(text)
    n, card = several(parts.cards)
    name, numbers = card_and_numbers(n, card, parts.of_cards, text)
    if not name:
        return text, {}
    machine, told = load_machine(name), ", ".join(parts.of_host)
    if machine.has_one_memory and (told or unparted(parts.cards)):
        return text, {}
    if told:
        has_name = not is_memory(told)
        host, of_host = host_and_numbers(told if has_name else f"{chosen_host(machine.host.name, told)}, {told}")
        if host.partition(":")[0] not in KNOWN["host"]():
            return text, {}
        numbers |= {"host": host, **of_host}
    return f"{n}x {name}" if n > 1 else name, numbers


def _as_card_of_pcie(text: str, bare: str) -> tuple[str, dict[str, float | str]]:
    """A machine whose name states PCIe, as the card of a slot where there is one beside the module: `A100 PCIe 4.0`."""
    card = several(machine_parts(bare).cards)[1]
    of_slot = our_name("hardware", f"{card} PCIe")
    if "pcie" in text.lower() and "pcie" in of_slot and of_slot in hardware_names():
        return machine_and_numbers(bare.replace(card, of_slot, 1))
    return machine_and_numbers(bare)


_IN_BRACKETS = re.compile(r"(?P<outside>[^()]+)\((?P<inside>[^()]+)\)(?P<rest>.*)")


def _named_in_brackets(text: str) -> str:
    """A machine by the card in its brackets, where what stands outside is none: `Legion 7 (RTX 4090 Laptop)`."""
    told = _IN_BRACKETS.fullmatch(text[:200].strip())
    if told is None or "+" in told["outside"] or "," in told["outside"]:
        return text
    n, outside = several(told["outside"].strip())
    inside = parts_beside(told["inside"])[0].strip()
    known = hardware_names()
    if our_name("hardware", several(inside)[1]) not in known or our_name("hardware", outside) in known:
        return text
    if our_name("hardware", text) in known or card_and_numbers(1, outside, (), outside)[0] or is_host(outside):
        return text
    return f"{f'{n}x ' * (n > 1)}{told['inside']}{told['rest']}"


def unparted(text: str) -> str:
    """A card and the host or the other card that nothing parts from it, parted: `RTX 4090 9950X`; "" of others."""
    words, whole = re.split(r"[\s+,;&]+", text[:200].strip()), our_name("hardware", several(text)[1])
    for i in range(1, len(words)):
        card, other = " ".join(words[:i]), " ".join(words[i:])
        ours, its = card_and_numbers(*several(card), (), card)[0], our_name("hardware", other)
        is_part = whole not in hardware_names() or whole == ours or (whole == its and not its.startswith(ours))
        if ours and is_part and its != ours and (its in hardware_names() or is_host(other)):
            return f"{card} + {other}"
    return ""


_MAC = re.compile(r"(?:apple\s+)?mac(?:book)?\s?(?:pro|air|mini|studio)?[\d\s\"”-]*(?:inch)?", re.IGNORECASE)


def machines_listed(text: str) -> list[str]:
    """The machines of a list by comma, each with the host and the memory that stand after it: `RTX 4090, i9-14900K,
    64GB` is one machine, `rtx-3090, rtx-4090` are two; commas in brackets and in names of files part nothing.
    """
    machines: list[str] = []
    for word in _words_of_list(text):
        beside = machines and machines[-1] and word
        if beside and not without_drives(word):
            continue
        if beside and (is_memory(word) or is_host(word)):
            machines[-1] += f" + {word}"
        elif beside and _MAC.fullmatch(machines[-1]):
            machines[-1] += f" {word}"
        else:
            machines.append(word)
    return machines


def _words_of_list(text: str) -> list[str]:
    words = re.split(r",(?![^()]*\))", text)
    for i, j in combinations(range(len(words) + 1 if len(words) < 20 else 0), 2):
        file = ",".join(words[i:j]).strip()
        if j > i + 1 and file.endswith(FILES) and os.path.isfile(file):
            words[i:j] = [file]
            break
    return [word.strip() for word in words]
