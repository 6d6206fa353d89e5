"""The tile of a fused op of experts: how many rows it pads each expert to, and whether it loads while it multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from offload.ops import FusedExperts, Gemm
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section

TileSizedBy = Literal["expert", "pass", "pairs"]
"""Rows that a height is chosen for: those of an `expert` on average, the tokens of the `pass`, which one expert may get
all of, or all `pairs` of token and expert."""


@dataclass(frozen=True, slots=True)
class FusedTile:
    """`rows`: heights to choose from, ascending; empty: not padded. `sized_by`: the least that holds so many is chosen.

    `loads`: (rows, columns) of the weights that a thread block loads, waits for, and only then multiplies; None where
    loading is hidden. `from_tokens`: passes of fewer run a kernel without tiles, which with `each_pair` reads an expert
    anew for each of its rows, in blocks of rows (`RowBlocks`). `apart_from`: passes of so many tokens and more have a
    product of its own for each matrix of an expert, of `launches_apart` kernels; 0: none. `blocks`: on a multiprocessor
    at a time, each of which loads while the others multiply. `arithmetic`: of what `gemm_efficiency` says of products,
    the share that these tiles achieve.
    """

    rows: tuple[int, ...] = ()
    sized_by: TileSizedBy = "expert"
    loads: tuple[int, int] | None = None
    from_tokens: int = 1
    each_pair: bool = False
    apart_from: int = 0
    launches_apart: int = 0
    blocks: int = 1
    arithmetic: float = 1.0

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise InvalidInput(f"blocks = {self.blocks}: a multiprocessor has one at least")
        if not 0 < self.arithmetic <= 1:
            raise InvalidInput(f"arithmetic = {self.arithmetic:g}: a share, above 0 and at most 1")
        if any(rows < 1 for rows in self.rows) or list(self.rows) != sorted(set(self.rows)):
            raise InvalidInput(f"rows = {list(self.rows)}: heights of tiles, ascending")

    @property
    def tiled_from(self) -> int:
        """Tokens of a pass from which on products of several rows have tiles."""
        return self.from_tokens if self.each_pair else 2

    def height(self, fused: FusedExperts) -> int:
        """Rows that those of each expert are padded to a multiple of."""
        if fused.n_tokens < self.from_tokens:
            return 1
        held = {
            "expert": fused.n_rows / fused.n_experts,
            "pass": fused.n_tokens,
            "pairs": fused.n_rows,
        }[self.sized_by]
        return self._least(held)

    def are_apart(self, fused: FusedExperts) -> bool:
        """Whether each expert is multiplied by kernels of its own, sized by the rows that it has."""
        return 0 < self.apart_from <= fused.n_tokens

    def height_of(self, fused: FusedExperts, n_rows: int) -> int:
        """`height` of an expert of `n_rows` rows."""
        return self._least(n_rows) if self.are_apart(fused) else self.height(fused)

    def _least(self, n_rows: float) -> int:
        heights = self.rows or (1,)
        return next((rows for rows in heights if rows >= n_rows), heights[-1])

    def reads_each_pair(self, fused: FusedExperts) -> bool:
        """Whether an expert is read for each of its rows; of one token an expert has one."""
        return fused.n_tokens == 1 or (self.each_pair and fused.n_tokens < self.from_tokens)

    def n_loads(self, fused: FusedExperts, gemm: Gemm) -> int:
        """Loads of one of its products that something waits for, of all blocks together."""
        return 0 if fused.n_tokens < self.from_tokens else self._n_loads(gemm, self.height_of(fused, gemm.m))

    def n_loads_alone(self, gemm: Gemm, from_rows: int) -> int:
        """Loads of a product beside the fused ones, whose kernel is the same from `from_rows` rows on."""
        if gemm.m < from_rows or not self.rows:
            return 0
        return self._n_loads(gemm, self._least(gemm.m))

    def _n_loads(self, gemm: Gemm, height: int) -> int:
        if self.loads is None:
            return 0
        rows, columns = self.loads
        return gemm.n_gemms * -(-gemm.m // height) * -(-gemm.n // rows) * -(-gemm.k // columns)


UNPADDED = FusedTile()
"""Of a stack that states no tile: each expert has the rows that it has."""


def read_fused_tile(section: Section) -> FusedTile:
    """The tile that a stack states in `fused_experts_tile`. Raises `InvalidFile`, of a rule of sizes `UnknownName`."""
    table = section.optional_section("fused_experts_tile")
    return UNPADDED if table is None else read_tile(table)


def read_tile(table: Section) -> FusedTile:
    """A tile as its section states it. Raises `InvalidFile`, of a rule of sizes `UnknownName`."""
    rows, loads = table.items("rows"), table.items("loads") if "loads" in table.remaining() else None
    for what in (rows, loads if loads is not None else [1]):
        if not what or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in what):
            raise InvalidFile(f"{table.where}: {what!r}: a list of whole numbers above 0")
    if loads is not None and len(loads) != 2:
        raise InvalidFile(f"{table.where}: loads = {loads!r}: rows and columns of weights")
    sized_by, from_tokens = table.text("sized_by", "expert"), table.integer("from_tokens", 1, minimum=1)
    each_pair = table.flag("each_pair")
    apart = table.integer("apart_from", 0), table.integer("launches_apart", 0), table.integer("blocks", 1, minimum=1)
    arithmetic = table.number("arithmetic", 1.0)
    table.take("source")
    table.done()
    if sized_by not in get_args(TileSizedBy):
        raise unknown_name("way to size a tile", sized_by, get_args(TileSizedBy), table.where)
    pair = None if loads is None else (loads[0], loads[1])
    return FusedTile(tuple(rows), cast(TileSizedBy, sized_by), pair, from_tokens, each_pair, *apart, arithmetic)
