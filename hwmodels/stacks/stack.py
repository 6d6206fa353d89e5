"""What a software stack costs: launches, synchronisations, achieved fractions of what the machine claims.

`hwmodels.stacks.stack_files` reads them; every constant is a claim with its source, which a fit replaces by
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hwmodels.compute_formats import PEAK_DTYPES
from hwmodels.kernels.card_kernels import ByCard
from hwmodels.kernels.core_formats import NO_CORE_FORMATS, CoreFormats
from hwmodels.kernels.fused_tile import UNPADDED, FusedTile
from hwmodels.kernels.host_products import NO_HOST_PRODUCTS, HostProducts
from hwmodels.kernels.row_blocks import NO_ROW_BLOCKS, RowBlocks
from hwmodels.quantity import PLAUSIBLE, Quantity, check_plausible
from hwmodels.specs.machine_fields import HOST_MEMORY
from hwmodels.stacks.weight_formats import ANY_WEIGHTS, WeightFormats
from offload.execution import Execution
from offload.ops import KINDS, OpKind, Work
from traces.errors import InvalidFile, InvalidInput, unknown_name

CONSTANTS: dict[str, str] = {
    "launch_s": "time",  # host: to launch a kernel
    "kernel_s": "time",  # a kernel beyond its roofline: start-up, drain, dependent launch
    "sync_s": "time",  # host: to wake up from a blocking wait
    "step_s": "time",  # host: once a forward pass, which nothing hides
    "schedule_s": "time",  # host: once a pass while the one before computes, where the execution schedules ahead
    "copy_issue_s": "time",  # host: to issue one copy
    "copy_latency_s": "time",  # fixed device time of one copy
    "gemm_efficiency": "ratio",  # of the claimed arithmetic
    "hbm_efficiency": "ratio",  # of the memory rate
    "link_efficiency": "ratio",  # of the link
    "storage_efficiency": "ratio",  # of storage
    # Of weights that kernels read in host memory: of how many times as much every block of rows reads as one
    # reading, the exponent; near 0: what crosses the link is cached, 1: nothing is.
    "reread_exponent": "ratio",
    # Of what all cores of the host read of DRAM (`Host.read_efficiency`, no more than the links between dies
    # carry): the rest goes to barriers between products and to threads that end before others.
    "cpu_efficiency": "ratio",
    "dequant_efficiency": "ratio",  # of the memory rate, where weights of 4 bits are unpacked (`Figures.read_bits`)
    # In its place: to unpack a weight, as long on every card, by kernels that wait for what each of their steps
    # loads.
    "unpack_s": "time",
    "cpu_gemm_efficiency": "ratio",  # of the host's peak rate
    "cpu_attention_efficiency": "ratio",  # of the host's peak rate
    # Of the host's peak rate, its attention over keys and values made of latents for a prompt; left out:
    # cpu_attention_efficiency.
    "cpu_made_attention_efficiency": "ratio",
    # Of the peak of matrix units, where the host has them and the stack multiplies whole tiles
    # (`host_products`); left out: it has none.
    "cpu_tile_gemm_efficiency": "ratio",
    # How many times as fast the host multiplies weights of at most 8 bits but fp8, by integer dot products.
    "cpu_packed_speedup": "ratio",
    # What one core takes in at most, unpacking included, where `core_formats` says nothing of a format.
    "cpu_core_bytes_per_s": "bandwidth",
    "cpu_sockets": "count",  # whose memory the host reads and whose cores compute, at most those that there are
    "handover_s": "time",  # host: to wake its threads with the activations of a layer, and to collect their results
    "reserve_bytes": "size",  # HBM taken by context, libraries and workspaces
    "memory_share": "ratio",  # of HBM, what it uses at all
    "tiled_gemm_s": "time",  # a GEMM of two rows and more beyond that of one row, by matrix
    # The clock at which device times of kernels are as said, being cycles of the accelerator; left out: seconds
    # on any.
    "kernel_clock_hz": "frequency",
    "tile_load_s": "time",  # a block of `fused_tile` waits for one load
    "row_block_s": "time",  # a multiprocessor's time for a block of `row_blocks`
    "row_pass_s": "time",  # its time for each pass of the threads of such a block over weights
    # Host: a launch in a pass of more tokens than a CUDA graph is kept for (`graph_tokens`); left out:
    # launch_s.
    "batch_launch_s": "time",
    # Host: to look at one entry of a table of experts by token, where it sorts rows by expert; the order goes
    # to the device by a copy that the host waits for.
    "sort_s": "time",
    "load_s": "time",  # the first prompt of a run, for kernels that are loaded as they are first launched
    "mask_s": "time",  # host: to fill one entry of a mask of tokens by keys and to look at it
    # How much longer an op takes with copies to the device under way, whatever it does (mode `beside`).
    "beside_copies_s": "time",
    # Host: a launch where a pass is cut between accelerator and host, so that no CUDA graph spans it; left out:
    # launch_s.
    "split_launch_s": "time",
    "draft_s": "time",  # to propose one token to verify, where no model of the catalogue does (`draft=stated`)
    # Bytes of DRAM moved for each byte of keys and values that the host attends to; left out: 1.
    "cpu_kv_copies": "ratio",
    # Of the memory rate, what attention reads of its keys and values (no latents); left out: hbm_efficiency.
    "attention_efficiency": "ratio",
    # Moved of a score between kernels of an attention that is not fused; left out: nothing, it is.
    "score_bytes": "size",
    "all_reduce_s": "time",  # to begin a sum over cards that read each other's memory (`hwmodels.kernels.all_reduce`)
    "ring_step_s": "time",  # each step of a sum where each card hands on to the next
    "peer_efficiency": "ratio",  # of the rate between cards that read each other's memory
    "ring_efficiency": "ratio",  # of the rate of the host's link, which a ring of cards shares
    "gemm_floor_s": "time",  # the least device time of a GEMM (`hwmodels.kernels.floors`)
    "attention_floor_s": "time",  # of an attention kernel
    "experts_floor_s": "time",  # of a fused op of experts
    "narrow_experts_floor_s": "time",  # of such an op over weights of `NARROW_BITS` at most
}
"""Constants a stack owns, by dimension.

Times are of the device unless they say host; an efficiency is an achieved rate over the claimed one.
"""

VENDORS = ("NVIDIA", "AMD", "Apple", "Intel")
"""Makers of accelerators that a stack may be bound to."""

FLOORS = ("gemm", "attention", "experts", "narrow_experts")
"""Kinds of kernel that a stack may state a floor for, in a section `floors` of its file."""

BETWEEN_CARDS = ("all_reduce_s", "ring_step_s", "peer_efficiency", "ring_efficiency")
"""What sums over cards take: a stack whose cards share every layer states all."""

UNPACKING = ("dequant_efficiency", "unpack_s")
"""What unpacking costs: a stack states one of the two."""

OPTIONAL = (
    *UNPACKING,
    "schedule_s",
    "memory_share",
    "tiled_gemm_s",
    "kernel_clock_hz",
    "tile_load_s",
    "row_block_s",
    "row_pass_s",
    "batch_launch_s",
    "sort_s",
    "load_s",
    "mask_s",
    "beside_copies_s",
    "split_launch_s",
    "draft_s",
    "cpu_kv_copies",
    "cpu_made_attention_efficiency",
    "cpu_tile_gemm_efficiency",
    "attention_efficiency",
    "score_bytes",
    "reread_exponent",
    *BETWEEN_CARDS,
    *(f"{kind}_floor_s" for kind in FLOORS),
)
"""Constants that a stack may leave out: it uses all of HBM, and its kernels take their fixed time and roofline."""

BACKEND_STACKS: dict[str, tuple[str, ...]] = {"cpu": ("threads",), "cuda": ("pytorch-eager", "streams")}
"""The stacks that each back end of the runtime is: microbenchmarks measure these and no other."""

LAUNCHED: tuple[OpKind, ...] = tuple(
    kind for kind, row in KINDS.items() if row.time == "kernel" and kind is not OpKind.DRAFT
)
"""Kinds of op whose kernels are launched; a stack says of those that it runs how many."""


@dataclass(frozen=True, slots=True)
class SoftwareStack:
    """A way to run a model on a device. Raises `UnknownName` for a format or a kind of host memory that is none."""

    name: str
    summary: str
    execution: Execution
    """Which waits, copies and groupings it makes."""
    launches: Mapping[OpKind, int]
    """Kernels (of `stage`: copies) that an op of each kind launches."""
    tile: tuple[int, int] | None
    """(rows, columns) of the output tile of its grouped expert GEMM, one thread block each and no split of the inner
    dimension; None prices expert GEMMs by roofline.
    """
    constants: Mapping[str, Quantity]
    """By a name of `CONSTANTS`."""
    host_memory: str = "pinned"
    """How host memory holds the weights: one of `HOST_MEMORY`."""
    claimed_execution: Execution | None = None
    """The execution on a machine where the stack was not measured."""
    fused_tile: FusedTile = UNPADDED
    """The tile of its fused op of experts."""
    card_tiles: ByCard[FusedTile] = field(default_factory=ByCard)
    """That tile on cards that have other kernels."""
    latent_launches: int = 0
    """Kernels of a latent attention that absorbs its up-projection; 0: as many as of any other attention."""
    shared_launches: int = 0
    """Kernels that an op of experts launches beyond `launches` where shared ones run beside them."""
    tiled_launches: int = 0
    """Kernels that fused experts launch beyond `launches` for more than one token."""
    graph_tokens: int = 0
    """Most tokens of a pass that is launched as one CUDA graph; 0: any."""
    row_blocks: RowBlocks = NO_ROW_BLOCKS
    """Blocks of the products of one row."""
    card_row_blocks: ByCard[RowBlocks] = field(default_factory=ByCard)
    """Those blocks on cards that have other kernels."""
    packed_compute: str = ""
    """The format in which unpacked weights are multiplied; empty: that of the activations."""
    core_formats: CoreFormats = NO_CORE_FORMATS
    """What a core of the host takes for a weight, by format."""
    host_products: HostProducts = NO_HOST_PRODUCTS
    """How the host multiplies several rows."""
    half_sums: bool = False
    """Whether its attention sums values in 16 bits."""
    vendors: tuple[str, ...] = ()
    """Whose accelerators it runs on; none: any's."""
    weights: WeightFormats = ANY_WEIGHTS
    """The formats of weights that it reads."""
    cards_in_turn: bool = False
    """Whether several cards have whole layers each, which a token passes through one after the other."""

    def __post_init__(self) -> None:
        if self.packed_compute and self.packed_compute not in PEAK_DTYPES:
            raise unknown_name("number format", self.packed_compute, PEAK_DTYPES, f"stack {self.name}")
        if self.host_memory not in HOST_MEMORY:
            raise unknown_name("kind of host memory", self.host_memory, HOST_MEMORY)

    def runs_on(self, vendor: str) -> bool:
        """Whether its documents say that it runs on accelerators of `vendor`."""
        return not self.vendors or vendor.casefold() in (name.casefold() for name in self.vendors)

    def on(self, vendor: str, compute_capability: str) -> SoftwareStack:
        """The stack as it runs on such accelerators."""
        tile = self.card_tiles.of(vendor, compute_capability)
        blocks = self.card_row_blocks.of(vendor, compute_capability)
        if tile is None and blocks is None:
            return self
        return replace(self, fused_tile=tile or self.fused_tile, row_blocks=blocks or self.row_blocks)

    def launches_of(self, work: Work) -> int:
        """Kernels that an op launches; each matrix of an expert alone has one, the last what is left of an expert's.

        Raises `InvalidInput` for a kind of op that the stack says nothing of.
        """
        if work.kind in LAUNCHED and work.kind not in self.launches:
            raise InvalidInput(
                f"stack {self.name} does not say how many kernels {work.kind.name.lower()} launches: state it under "
                f"launches in its file"
            )
        latent = work.attending is not None and work.attending.is_latent
        launched = self.latent_launches if latent and self.latent_launches else self.launches.get(work.kind, 0)
        if work.fused is not None and len(work.gemms) > work.fused.n_gemms:
            launched += self.shared_launches
        if work.fused is not None and work.fused.n_tokens >= self.fused_tile.tiled_from:
            launched += self.tiled_launches
        if work.fused is not None and self.fused_tile.are_apart(work.fused):
            launched += self.fused_tile.launches_apart * sum(one.n_gemms for one in work.gemms[: work.fused.n_gemms])
        if work.piece is None:
            return launched
        return max(launched - work.piece.i, 1) if work.piece.is_last else 1


def check_constant(name: str, value: float, where: str) -> None:
    """Raise `InvalidInput` unless `value` is possible for constant `name`: finite, above 0, an efficiency at most 1."""
    if name not in CONSTANTS:
        raise unknown_name("constant", name, CONSTANTS, where)
    if not (value > 0 and math.isfinite(value)):
        raise InvalidInput(f"{where}: {name} = {value:g} must be above 0 and finite")
    if CONSTANTS[name] != "ratio":
        check_plausible(max(value, PLAUSIBLE[CONSTANTS[name]][0]), CONSTANTS[name], f"{where}: {name}")
    if name == "reread_exponent" and value > 1:
        raise InvalidInput(f"{where}: {name} = {value:g} is above 1, at which every block of rows reads anew")
    if (name.endswith("efficiency") or name == "memory_share") and value > 1:
        raise InvalidFile(f"{where}: {name} = {value:g} is above 1: an efficiency is a fraction of the claim")
