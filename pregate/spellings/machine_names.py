"""The name of a machine, parted: how many cards of which name and memory, and the host and memory beside them.

    machine = [count] card [memory] {beside (host | memory | drive)}        2x RTX 4090 48GB each + 9950X, 96GB DDR5

`parts_of` parts a name, knowing which words are hosts and which are sizes; `machine_and_numbers` says which parts are a
machine here, and refuses the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile

from hwmodels.specs.machine_files import hardware_names, load_component, load_machine
from hwmodels.specs.spec import Accelerator
from pregate.spellings.host_memory import (
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
_OF_CARD = re.compile(r"\b(?:v-?ram|each)\b", re.IGNORECASE)
_EACH = re.compile(r"\beach\b", re.IGNORECASE)
_OF_HOST = re.compile(r"\b(?:d?ram|L?P?DDR\d\w*|system|host)\b", re.IGNORECASE)


def parts_beside(text: str) -> list[str]:
    """What stands beside each other in the name of a machine, "" alone of none."""
    return [part for part in _BESIDE.split(text[:200]) if part] or [""]


def parts_of(text: str) -> MachineParts:
    """The parts of a machine's name: cards up to the first host or memory; memory is the cards' where it says so, where
    the machine has no other, or where it is of their size and not said to be the host's.
    """
    words = parts_beside(without_drives(text))
    first = next((i for i, word in enumerate(words) if i and (is_memory(word) or is_host(word))), len(words))
    cards, beside = " + ".join(words[:first]), words[first:]
    own = [word for word in takewhile(is_memory, beside) if _is_of_cards(cards, word)]
    own += [word for word in beside if word not in own and is_memory(word) and _OF_CARD.search(word)]
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
    return len(n_gib) == 1 and not _OF_HOST.search(memory) and any(_sold(card, n_gib[0] / k) for k in {1, n})


def _sold(card: str, n_gib: float) -> str:
    """A card, as we call it, that is sold with so much memory; "" of none."""
    ours = our_name("hardware", f"{card} {n_gib:g}GB")
    return ours if ours in hardware_names() else ""


def machine_and_numbers(text: str) -> tuple[str, dict[str, float | str]]:
    """A machine as we call it, and the numbers that its name states beside: the memory of `RTX 4090 48GB`, the host of
    `RTX 3090 + EPYC 7763, 256 GB`, the memory of the usual host in `RTX 4090 with 64GB RAM`; `text` as it is, and no
    numbers, where that is no machine.

    Raises `InvalidInput` as `host_and_numbers`, and for memory that a card is not sold with, or that may be one's or all's.
    """
    parts = parts_of(text)
    n, card = several(parts.cards)
    name, numbers = _card_and_numbers(n, card, parts.of_cards, text)
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


def _card_and_numbers(n: int, card: str, beside: Sequence[str], text: str) -> tuple[str, dict[str, float | str]]:
    """One of `n` cards as we call it, and the numbers of memory that it is not sold with; ("", {}) where none is known.

    `beside`: its memory where that stands beside its name, in `text`, which errors name.
    """
    sizes = sizes_of(", ".join(beside))
    if len(sizes) > 1:
        raise InvalidInput(f"hardware {text[:80]!r}: several sizes of memory: say the one that {card} has")
    written = f"{card} {sizes[0]:g}GB" if sizes else card
    ours = our_name("hardware", written)
    size = SIZE.search(GIGABYTES.sub(r"-\1gb", plain_name(BESIDE_CARD.sub(" ", written))))
    stem = size.string[: size.start()] if size else ""
    if ours not in hardware_names() and (one := our_name("hardware", stem)) in hardware_names():
        ours = one if load_machine(one).has_one_memory else ours
    if ours in hardware_names():
        return ours, _of_one_memory(ours, written, text)
    if size is not None and len(sizes_of(written)) == 1:
        ours, n_gib = our_name("hardware", stem), int(size["gb"])
        of_all, is_given = _sold(stem, n_gib / n) if n > 1 else "", _is_given(ours, n_gib)
        if of_all and not _EACH.search(text):
            if is_given or (beside and not _OF_CARD.search(text)):
                raise InvalidInput(
                    f"hardware {text[:80]!r}: {n_gib} GB may be each card's, all {n} cards' or the host's: say "
                    f"'{n}x {of_all}', '{n}x {stem} {n_gib}GB each' or '{n}x {of_all}, {n_gib}GB RAM'"
                )
            return of_all, {}
        if is_given:
            return ours, {"accelerator.hbm_bytes": f"{n_gib}GiB"}
    if beside and our_name("hardware", card) in hardware_names():
        raise InvalidInput(
            f"hardware {card[:80]}, {', '.join(beside)[:80]!r}: no such memory is known of it: name it alone, and --set "
            f"accelerator.hbm_bytes=... and host.dram_bytes=..."
        )
    return "", {}


_MOST_GIVEN = 2.1
"""What boards were given at most, over what they are sold with, a little more for what drivers keep."""

_ON_THE_PACKAGE_BYTES_PER_S = 1.9e12
"""From here on it is HBM on the package, which no board maker adds to: more of it is another product, and faster."""


def _is_given(card: str, n_gib: float) -> bool:
    """Whether a card, as we call it, may have been given so much memory: up to twice what it is sold with."""
    found = load_component("accelerator", card) if card in hardware_names() else None
    return (
        isinstance(found, Accelerator)
        and found.hbm_bytes <= n_gib * 2**30 <= _MOST_GIVEN * found.hbm_bytes
        and found.hbm_bytes_per_s < _ON_THE_PACKAGE_BYTES_PER_S
    )


def _of_one_memory(name: str, written: str, text: str) -> dict[str, float | str]:
    """The numbers of a machine of one memory that `written` says is smaller than ours, its accelerator's part as large a
    share; {} of others. Raises `InvalidInput` for several sizes, and for one above ours.
    """
    machine, n_gib = load_machine(name), sizes_of(written)
    whole = machine.host.dram_bytes
    if not machine.has_one_memory or not n_gib:
        return {}
    if len(n_gib) > 1:
        raise InvalidInput(f"hardware {text[:80]!r}: several sizes of memory: say the one that {name} has")
    if n_gib[0] * 1e9 > 1.01 * whole:  # 128 GB of a maker may be 119 GiB
        raise InvalidInput(f"hardware {text[:80]!r}: {name} has {whole / 2**30:.4g} GiB of memory at most")
    if n_gib[0] * 2**30 >= 0.99 * whole:
        return {}
    part = n_gib[0] * machine.accelerator.hbm_bytes / whole
    return {"accelerator.hbm_bytes": f"{part:g}GiB", "host.dram_bytes": f"{n_gib[0]:g}GiB"}


def unparted(text: str) -> str:
    """A card and the host or the other card that nothing parts from it, parted: `RTX 4090 9950X`; "" of others."""
    words, whole = re.split(r"[\s+,;&]+", text[:200].strip()), our_name("hardware", several(text)[1])
    for i in range(1, len(words)):
        card, other = " ".join(words[:i]), " ".join(words[i:])
        ours, its = _card_and_numbers(*several(card), (), card)[0], our_name("hardware", other)
        is_part = whole not in hardware_names() or whole == ours or (whole == its and not its.startswith(ours))
        if ours and is_part and its != ours and (its in hardware_names() or is_host(other)):
            return f"{card} + {other}"
    return ""


_MAC = re.compile(r"(?:apple\s+)?mac(?:book)?\s?(?:pro|air|mini|studio)?[\d\s\"”-]*(?:inch)?", re.IGNORECASE)


def machines_listed(text: str) -> list[str]:
    """The machines of a list by comma, each with the host and the memory that stand after it: `RTX 4090, i9-14900K, 64GB`
    is one machine, `rtx-3090, rtx-4090` are two; commas in brackets and in the names of files part nothing.
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
