"""The tile of a fused op of experts: how many rows it pads each expert to, and whether it loads while it multiplies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from hwmodels.quantity import ReadOnly
from offload.ops import FusedExperts, Gemm
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section

__all__ = [
    "UNPADDED",
    "USUAL_TILES",
    "CardTiles",
    "FusedTile",
    "TileSizedBy",
    "read_card_tiles",
    "read_fused_tile",
]

_BEFORE = " before "

TileSizedBy = Literal["expert", "pass", "pairs"]
"""Rows that a height is chosen for: those of an `expert` on average, the tokens of the `pass`, which one expert may get
all of, or all `pairs` of token and expert."""


@dataclass(frozen=True, slots=True)
class FusedTile:
    """`rows`: heights to choose from, ascending; empty: not padded. `sized_by`: the least that holds so many is chosen.

    `loads`: (rows, columns) of the weights that a thread block loads, waits for, and only then multiplies, one block a
    multiprocessor; None where loading is hidden. `from_tokens`: passes of fewer run a kernel without tiles.
    """

    rows: tuple[int, ...] = ()
    sized_by: TileSizedBy = "expert"
    loads: tuple[int, int] | None = None
    from_tokens: int = 1

    def __post_init__(self) -> None:
        if any(rows < 1 for rows in self.rows) or list(self.rows) != sorted(set(self.rows)):
            raise InvalidInput(f"rows = {list(self.rows)}: heights of tiles, ascending")

    def height(self, fused: FusedExperts) -> int:
        """Rows that those of each expert are padded to a multiple of."""
        if fused.n_tokens < self.from_tokens:
            return 1
        held = {
            "expert": fused.n_rows / fused.n_experts,
            "pass": fused.n_tokens,
            "pairs": fused.n_rows,
        }[self.sized_by]
        heights = self.rows or (1,)
        return next((rows for rows in heights if rows >= held), heights[-1])

    def n_loads(self, fused: FusedExperts, gemm: Gemm) -> int:
        """Loads of one of its products that something waits for, of all blocks together."""
        return 0 if fused.n_tokens < self.from_tokens else self._n_loads(gemm, self.height(fused))

    def n_loads_alone(self, gemm: Gemm, from_rows: int) -> int:
        """Loads of a product beside the fused ones, whose kernel is the same from `from_rows` rows on."""
        if gemm.m < from_rows or not self.rows:
            return 0
        return self._n_loads(gemm, next((rows for rows in self.rows if rows >= gemm.m), self.rows[-1]))

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
    return UNPADDED if table is None else _tile(table)


@dataclass(frozen=True, slots=True)
class CardTiles:
    """Tiles of cards whose kernels are not the usual ones, by `MAKER` or `MAKER before CAPABILITY` (MAJOR.MINOR)."""

    tiles: Mapping[str, FusedTile] = field(default_factory=lambda: ReadOnly({}))

    def tile_of(self, vendor: str, compute_capability: str) -> FusedTile | None:
        """That of a card; None where it is the usual one."""
        for cards, tile in self.tiles.items():
            maker, _, newer = cards.partition(_BEFORE)
            if vendor == maker and (not newer or _is_before(compute_capability, newer)):
                return tile
        return None


USUAL_TILES = CardTiles()
"""Of a stack whose kernels are alike on all cards."""


def read_card_tiles(section: Section) -> CardTiles:
    """What a stack states in `fused_experts_tile_of`. Raises `InvalidFile` for cards that are not said so."""
    table = section.optional_section("fused_experts_tile_of")
    if table is None:
        return USUAL_TILES
    tiles = {cards: _tile(table.section(cards)) for cards in table.remaining()}
    for cards in tiles:
        if not re.fullmatch(rf"\w+({_BEFORE}\d{{1,2}}\.\d)?", cards):
            raise InvalidFile(f"{table.where}: {cards!r} is not of the form MAKER or MAKER{_BEFORE}MAJOR.MINOR")
    return CardTiles(ReadOnly(tiles))


def _is_before(compute_capability: str, newer: str) -> bool:
    """Whether a card's capability is below `newer`; of a card that has none nothing is known."""
    if not compute_capability:
        return False
    one, other = (tuple(map(int, text.split("."))) for text in (compute_capability, newer))
    return one < other


def _tile(table: Section) -> FusedTile:
    rows, loads = table.items("rows"), table.items("loads") if "loads" in table.remaining() else None
    for what in (rows, loads if loads is not None else [1]):
        if not what or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in what):
            raise InvalidFile(f"{table.where}: {what!r}: a list of whole numbers above 0")
    if loads is not None and len(loads) != 2:
        raise InvalidFile(f"{table.where}: loads = {loads!r}: rows and columns of weights")
    sized_by, from_tokens = table.text("sized_by", "expert"), table.integer("from_tokens", 1, minimum=1)
    table.take("source")
    table.done()
    if sized_by not in get_args(TileSizedBy):
        raise unknown_name("way to size a tile", sized_by, get_args(TileSizedBy), table.where)
    pair = None if loads is None else (loads[0], loads[1])
    return FusedTile(tuple(rows), cast(TileSizedBy, sized_by), pair, from_tokens)
