"""The memory that the name of a card states: what it is sold with, what it was given, or what several have in all."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hwmodels.specs.machine_files import hardware_names, load_component, load_machine
from hwmodels.specs.spec import Accelerator
from pregate.spellings.host_memory import sizes_of
from pregate.spellings.names import our_name
from pregate.spellings.plain_names import BESIDE_CARD, GIGABYTES, SIZE, plain_name
from traces.errors import InvalidInput

OF_CARD = re.compile(r"\b(?:v-?ram|each)\b", re.IGNORECASE)
"""Words that say whose memory it is."""
_EACH = re.compile(r"\beach\b", re.IGNORECASE)


def sold(card: str, n_gib: float) -> str:
    """A card, as we call it, that is sold with so much memory; "" of none."""
    ours = our_name("hardware", f"{card} {n_gib:g}GB")
    return ours if ours in hardware_names() else ""


def card_and_numbers(n: int, card: str, beside: Sequence[str], text: str) -> tuple[str, dict[str, float | str]]:
    """One of `n` cards as we call it, and the numbers of memory that it is not sold with; ("", {}) where none is known.

    `beside`: its memory where that stands beside its name, in `text`, which errors name. Raises `InvalidInput` for
    memory that it is not sold with, and for memory that may be each card's or all of theirs.
    """
    sizes = sizes_of(", ".join(beside))
    if len(sizes) > 1:
        raise InvalidInput(f"hardware {text[:80]!r}: several sizes of memory: say the one that {card} has")
    written = f"{card} {sizes[0]:g}GB" if sizes else card
    ours = our_name("hardware", written)
    size = SIZE.search(GIGABYTES.sub(r"-\1gb", plain_name(BESIDE_CARD.sub(" ", written))))
    stem = size.string[: size.start()] if size else ""
    base = our_name("hardware", stem)
    if ours in hardware_names() or (base in hardware_names() and load_machine(base).has_one_memory):
        name = ours if ours in hardware_names() else base
        return name, _of_one_memory(name, written, text)
    if size is not None and len(sizes_of(written)) == 1:
        n_gib = int(size["gb"])
        of_all, is_given = sold(stem, n_gib / n) if n > 1 else "", _is_given(base, n_gib)
        if of_all and not _EACH.search(text):
            if is_given or (beside and not OF_CARD.search(text)):
                raise InvalidInput(
                    f"hardware {text[:80]!r}: {n_gib} GB may be each card's, all {n} cards' or the host's: say "
                    f"'{n}x {of_all}', '{n}x {stem} {n_gib}GB each' or '{n}x {of_all}, {n_gib}GB RAM'"
                )
            return of_all, {}
        if is_given:
            return base, {"accelerator.hbm_bytes": f"{n_gib}GiB"}
    if beside and our_name("hardware", card) in hardware_names():
        raise InvalidInput(
            f"hardware {card[:80]}, {', '.join(beside)[:80]!r}: no such memory is known of it: name it alone, and "
            f"--set accelerator.hbm_bytes=... and host.dram_bytes=..."
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
    """The numbers of a machine of one memory that `written` says is smaller than ours, its accelerator's part as large
    a share; {} of others. Raises `InvalidInput` for several sizes, and for one above ours.
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
