"""How many rows of activations the host multiplies by a piece of a weight matrix before it reads the next piece.

A thread takes a strip of a matrix that its caches hold and multiplies it by so many rows, then by so many others,
before it goes on to the next strip. Memory is read while it multiplies by the first of them; what it multiplies after
that comes out of caches, and memory waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from hwmodels.kernels.roofline import binding_term
from traces.foundation.documents import Section


@dataclass(frozen=True, slots=True)
class HostProducts:
    """Products of the host's processor.

    `rows`: multiplied at once by a strip of weights, which are unpacked anew for the next so many; 0: reading overlaps
    with all of the arithmetic. `padded_from`: rows of a product from which on it takes as long as a whole number of
    `rows` on a processor with matrix units, whose tiles are whole; 0: never.
    """

    rows: int = 0
    padded_from: int = 0

    def on(self, has_tiles: bool) -> HostProducts:
        """The same on a processor with matrix units, or without."""
        return self if has_tiles or not self.padded_from else replace(self, padded_from=0)

    def seconds(self, n_rows: float, flop_s: Any, bytes_s: Any, unpack_s: Any) -> tuple[Any, Any]:
        """(arithmetic, reading) of a product of `n_rows`: its arithmetic takes `flop_s`, its weights are read, and
        unpacked for the first rows, in `bytes_s`, and unpacked for others in `unpack_s` each time (None: within
        `flop_s`).
        """
        if self.padded_from and n_rows >= self.padded_from:
            padded = math.ceil(n_rows / self.rows) * self.rows
            n_rows, flop_s = padded, flop_s * (padded / n_rows)
        if not self.rows or n_rows <= self.rows:
            return binding_term(flop_s, bytes_s)
        first = self.rows / n_rows
        compute_s, dram_s = binding_term(flop_s * first, bytes_s)
        later_s = flop_s if unpack_s is None else sum(binding_term(flop_s, unpack_s / first))
        return compute_s + later_s * (1 - first), dram_s


NO_HOST_PRODUCTS = HostProducts()
"""Of a stack that says nothing: arithmetic or reading, whichever takes longer."""


def read_host_products(section: Section) -> HostProducts:
    """What a stack states in `host_products`. Raises `InvalidFile`."""
    table = section.optional_section("host_products")
    if table is None:
        return NO_HOST_PRODUCTS
    found = HostProducts(table.integer("rows", minimum=1), table.integer("padded_from", 0, minimum=0))
    table.take("source")
    table.done()
    return found
