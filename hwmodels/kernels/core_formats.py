"""How long a core takes to unpack a weight of a format and multiply it by one row of activations.

Formats that look their weights up in a table (IQ1 to IQ3 of GGUF) take two to four times as long a weight as those of
shifts and masks, and have fewer bits: a few cores then take in a fraction of what their memory gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwmodels.quantity import ReadOnly
from traces.errors import InvalidFile
from traces.foundation.documents import Section
from traces.model.dtypes import find_dtype, format_shares

_MOST_CYCLES = 1000.0


@dataclass(frozen=True, slots=True)
class CoreFormats:
    """`cycles`: of a core for one weight, by format; `benchmarks/core_formats.cpp` measures them."""

    cycles: Mapping[str, float] = field(default_factory=lambda: ReadOnly({}))

    def cycles_of(self, stored: str) -> float | None:
        """Cycles for a weight of `stored`, of a mix their mean by its shares; None where one is not known."""
        if not stored or not self.cycles:
            return None
        shares = format_shares(stored)
        if any(name not in self.cycles for name, _ in shares):
            return None
        return sum(self.cycles[name] * share for name, share in shares)


NO_CORE_FORMATS = CoreFormats()
"""Of a stack that states none: a core takes in so many bytes a second, whatever their format."""


def read_core_formats(section: Section) -> CoreFormats:
    """What a stack states in `core_formats`. Raises `InvalidFile` or `UnknownName`."""
    table = section.optional_section("core_formats")
    if table is None:
        return NO_CORE_FORMATS
    table.take("source")
    cycles = {}
    for name in table.remaining():
        cycles[find_dtype(name, table.where).name] = one = table.number(name)
        if not 0 < one <= _MOST_CYCLES:
            raise InvalidFile(f"{table.where}: {name} = {one:g} cycles a weight, expected above 0 and at most 1000")
    table.done()
    return CoreFormats(ReadOnly(cycles))
