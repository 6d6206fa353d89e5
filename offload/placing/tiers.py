"""Where experts wait for their turn: in host memory, or on storage, above which host memory may keep some of them.

Sizes are in bytes here; what a user types is read in `pregate.ask.capturing.tier_names`. Nothing here may know time.
"""

from __future__ import annotations

from dataclasses import dataclass

from offload.policy import Cache
from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields
from traces.model.architecture import ModelArchitecture

PAGE_BYTES = 4096
"""A page of memory, and the least that is read past the page cache of most drives."""

READAHEAD_BYTES = 128 * 1024
"""What a fault on a mapped file reads at most: Linux' read_ahead_kb of a drive is 128 unless somebody changes it."""

MAX_DEPTH = 1024
"""Most reads at once: more than a queue of a drive that is used so holds."""


@dataclass(frozen=True, slots=True)
class Reads:
    """How an expert is read from storage.

    `n_bytes`: of one read, None of all that lies together. `by_matrix`: its matrices lie apart and are read apart.
    `align_bytes`: what lies together begins on a multiple of it, and whole ones are read. `depth`: reads at once of
    one (step, layer). `mapped`: through the page cache as the reader touches it, so that one read waits for the use of
    the one before; else they are asked for together. `filed`: what was read is copied once within host memory, by its
    processor, to where it is used from. Raises `InvalidInput` for a size or a depth that cannot be.
    """

    n_bytes: int | None = None
    by_matrix: bool = False
    align_bytes: int = 1
    depth: int = 1
    mapped: bool = False
    filed: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.align_bytes < 1 or self.align_bytes & (self.align_bytes - 1):
            raise InvalidInput(f"align = {self.align_bytes} bytes is no power of two, such as 4KiB")
        if self.n_bytes is not None and (self.n_bytes < 1 or self.n_bytes % self.align_bytes):
            raise InvalidInput(
                f"read = {self.n_bytes} bytes: at least 1, in whole multiples of align = {self.align_bytes}"
            )
        if not 1 <= self.depth <= MAX_DEPTH:
            raise InvalidInput(f"depth = {self.depth} reads at once: 1 to {MAX_DEPTH}")
        if self.mapped and self.depth > 1:
            raise InvalidInput(
                f"mapped and depth = {self.depth}: a mapped file is read as it is touched, one read at a time; give one"
            )
        if self.mapped and self.filed:
            raise InvalidInput("mapped and filed: a mapped file is used where it was read to; leave one of them out")

    @property
    def is_whole(self) -> bool:
        """Whether an expert is one read of its own bytes."""
        return self == Reads()

    def pieces(self, model: ModelArchitecture) -> tuple[int, ...]:
        """The bytes of each read of one expert of `model`, in order."""
        n_parts = model.n_expert_matrices if self.by_matrix else 1
        part = -(-model.expert_bytes // n_parts)
        part = -(-part // self.align_bytes) * self.align_bytes
        each = part if self.n_bytes is None else min(self.n_bytes, part)
        n_whole, rest = divmod(part, each)
        return ((each,) * n_whole + ((rest,) if rest else ())) * n_parts

    def expert_bytes(self, model: ModelArchitecture) -> int:
        """What is read of one expert, and what it takes in host memory."""
        return sum(self.pieces(model))


@dataclass(frozen=True, slots=True)
class Tier:
    """Where experts wait that are not on the device. `on_disk`: on storage, read as `reads` says, else in host memory.

    `cache`: host memory keeps some of them, as many as it says, as `cache_bytes` hold, or with neither as host memory
    has room for; its eviction is asked about what the device had not, all of one (step, layer) at once. `name`: as
    typed. Raises `InvalidInput` for reads or a cache of experts that all are in host memory.
    """

    name: str = "dram"
    on_disk: bool = False
    reads: Reads = Reads()
    cache: Cache | None = None
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.on_disk and (not self.reads.is_whole or self.cache is not None):
            raise InvalidInput(
                f"tier {self.name!r}: host memory holds every expert, nothing is read: leave the rest out"
            )
        if self.cache_bytes is not None and self.cache_bytes < 1:
            raise InvalidInput(f"tier {self.name!r}: a cache of {self.cache_bytes} bytes, leave it out instead")

    @property
    def is_plain(self) -> bool:
        """Whether an expert is one read of its own bytes, and nothing is kept."""
        return self.reads.is_whole and self.cache is None

    def takes_rest(self, model: ModelArchitecture) -> bool:
        """Whether the cache is of all host memory that is left."""
        if self.cache is None or self.cache_bytes is not None:
            return False
        return self.cache.capacity(model.n_moe_layers, model.n_experts) is None

    def n_slots(self, model: ModelArchitecture, room_bytes: int) -> int:
        """Experts that the cache holds where `room_bytes` of host memory are left. Raises `InvalidInput` for a stated
        size that holds none.
        """
        if self.cache is None:
            return 0
        each, n_all = self.reads.expert_bytes(model), model.n_moe_layers * model.n_experts
        stated = self.cache.capacity(model.n_moe_layers, model.n_experts)
        if stated is None:
            stated = (room_bytes if self.cache_bytes is None else self.cache_bytes) // each
            if self.cache_bytes is not None and not stated:
                raise InvalidInput(
                    f"tier {self.name!r}: an expert of {model.name} takes {each} bytes, the cache has "
                    f"{self.cache_bytes}: give it more, or leave it out"
                )
        return max(min(stated, n_all), 0)


DRAM = Tier()
"""Host memory holds every expert."""

SSD = Tier("ssd", on_disk=True)
"""Every expert is read whole each time it is needed."""
