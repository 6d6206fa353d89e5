"""The machine as its makers claim it: accelerator, host, link and storage, each number with its source.

What a machine was measured to do is another file (`fits/`): no number in here is an efficiency.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hwmodels.compute_formats import PEAK_DTYPES
from hwmodels.quantity import Quantity, ReadOnly
from hwmodels.specs.machine_fields import FIELDS, possible_figure
from traces.errors import InvalidInput, unknown_name


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU as its datasheet has it. Raises `InvalidInput` for a figure that is not finite and above 0.

    `hbm_bytes` is the whole memory, before what a driver reserves; `peak_flop_per_s` the dense peak by dtype
    (`PEAK_DTYPES`), fp32 without tensor cores, 16-bit formats with fp32 accumulation; `n_sm` multiprocessors or compute
    units at `clock_hz`, the highest boost clock; `price_usd` the price of it alone, launch or market as its source
    says, None where none could be cited; `n_cards` such cards that share the layers, or every layer, of a model, None:
    one; `peer_bytes_per_s` one way between a card and all others together, None where they have but the host's link.
    `sources` has a `Quantity` for every figure, by field name.

    `compute_capability` is NVIDIA's MAJOR.MINOR, which says whose kernels it runs (`hwmodels.laws.families`), or the
    name that AMD's compilers have for an architecture (gfx906); empty where nothing depends on it.
    """

    name: str
    vendor: str
    hbm_bytes: int
    hbm_bytes_per_s: float
    peak_flop_per_s: Mapping[str, float]
    n_sm: int
    clock_hz: float
    l2_bytes: int
    price_usd: float | None
    sources: Mapping[str, Quantity]
    compute_capability: str = ""
    n_cards: int | None = None
    peer_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak_flop_per_s", ReadOnly(self.peak_flop_per_s))
        if self.compute_capability and not re.fullmatch(r"\d{1,2}\.\d|gfx[0-9a-f]{3,4}", self.compute_capability):
            raise InvalidInput(
                f"compute_capability = {self.compute_capability!r}: it is MAJOR.MINOR, such as '8.9', or gfx906 (AMD)"
            )
        _check_figures("accelerator", self)


@dataclass(frozen=True, slots=True)
class Host:
    """Host processors (all sockets) and their DRAM: `peak_flop_per_s` is fp32 at the base clock; `n_sockets` None: one.

    While the processor computes experts and copies read the same memory, `copies_beside_cpu` is the share of its rate
    that a copy keeps, `cpu_beside_copies` that of what the processor reads; None where nobody measured it.

    `read_efficiency` is the share of `dram_bytes_per_s` that all cores together read, None where that rate is measured.
    `clock_hz` is the base clock of a core, None where nobody says.
    `fabric_bytes_per_s` is what the links between all dies of cores and the memory controllers carry of reads, None
    where they carry all that DRAM gives. `staging_bytes_per_s` is what one core copies of ordinary memory, or of mapped
    pages, into the buffers that a driver's copies are made from; None where nobody says, and the figure of the link,
    a median of machines, stands. `bf16_flop_per_s`: its peak rate of bf16 at the same clock, None where bf16 is
    widened to fp32 first. `tile_rows`: rows of a tile of its cores' matrix units (AMX), None where they have none.
    Raises `InvalidInput` for a figure that is not finite and above 0.
    """

    name: str
    dram_bytes: int
    dram_bytes_per_s: float
    n_cores: int
    peak_flop_per_s: float
    sources: Mapping[str, Quantity]
    n_sockets: int | None = None
    copies_beside_cpu: float | None = None
    cpu_beside_copies: float | None = None
    fabric_bytes_per_s: float | None = None
    staging_bytes_per_s: float | None = None
    bf16_flop_per_s: float | None = None
    tile_rows: int | None = None
    read_efficiency: float | None = None
    clock_hz: float | None = None

    def __post_init__(self) -> None:
        _check_figures("host", self)


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """Host to device and back: bandwidth of each direction after line encoding, before packet headers.

    `copy_latency_s` is None where no maker claims one: a fit has it. The rest is what copies were seen to achieve, None
    where nobody says. `h2d_efficiency`, `d2h_efficiency`: shares of those bandwidths, from pinned memory one way at a
    time. `both_ways_bytes_per_s`: bytes of both directions together while copies go both ways. By kind of host memory
    other than pinned (`HOST_MEMORY`): rates and latencies, which the processor sets, not the lanes. Raises
    `InvalidInput` for a bandwidth that is not finite and above 0.
    """

    name: str
    h2d_bytes_per_s: float
    d2h_bytes_per_s: float
    copy_latency_s: float | None
    sources: Mapping[str, Quantity]
    h2d_efficiency: float | None = None
    d2h_efficiency: float | None = None
    both_ways_bytes_per_s: float | None = None
    pageable_h2d_bytes_per_s: float | None = None
    mapped_h2d_bytes_per_s: float | None = None
    gathered_h2d_bytes_per_s: float | None = None
    remote_h2d_bytes_per_s: float | None = None
    pageable_d2h_bytes_per_s: float | None = None
    remote_d2h_bytes_per_s: float | None = None
    pageable_copy_latency_s: float | None = None
    mapped_copy_latency_s: float | None = None
    gathered_copy_latency_s: float | None = None
    remote_copy_latency_s: float | None = None

    def __post_init__(self) -> None:
        _check_figures("link", self)


@dataclass(frozen=True, slots=True)
class Storage:
    """A solid-state drive: its sequential read rate, the time of one 4 KB read at queue depth 1, the rate at which one
    of several readers gets what it reads, whatever the others do, and the rate at which the processor files it.

    Latency, a reader's rate and that of filing are None where they are not stated. Raises `InvalidInput` for a rate
    that is not finite and above 0.
    """

    name: str
    read_bytes_per_s: float
    read_latency_s: float | None
    sources: Mapping[str, Quantity]
    reader_bytes_per_s: float | None = None
    filing_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        _check_figures("storage", self)


Component = Accelerator | Host | LinkSpec | Storage


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One accelerator, the host it sits in, the link between them and the drive behind them."""

    accelerator: Accelerator
    host: Host
    link: LinkSpec
    storage: Storage

    @property
    def has_one_memory(self) -> bool:
        """Whether host and accelerator share one memory: the link is then that memory, and named `unified-...`."""
        return self.link.name.startswith("unified-")

    @property
    def n_cards(self) -> int:
        """Cards that a token passes through in turn."""
        return self.accelerator.n_cards or 1

    @property
    def cards_usd(self) -> float | None:
        """The price of all its cards together, None where that of one is not known."""
        return None if self.accelerator.price_usd is None else self.n_cards * self.accelerator.price_usd

    def quantities(self) -> Mapping[str, Quantity]:
        """Every figure with its source, by dotted key; overridden ones have the source `override`."""
        return ReadOnly(
            {f"{kind}.{field}": quantity for kind in FIELDS for field, quantity in getattr(self, kind).sources.items()}
        )


def _check_figures(kind: str, component: Component) -> None:
    """Check every figure of `component` and make its sources read-only. Raises `InvalidInput`."""
    object.__setattr__(component, "sources", ReadOnly(component.sources))
    for field, rule in FIELDS[kind].items():
        attribute, _, dtype = field.partition(".")
        value = getattr(component, attribute)
        if dtype:
            value = value.get(dtype)
        if value is None and rule.optional:
            continue
        possible_figure(value, rule, f"{kind}.{field}")
    if isinstance(component, Accelerator):
        for dtype in component.peak_flop_per_s:
            if dtype not in PEAK_DTYPES:
                raise unknown_name("dtype", dtype, PEAK_DTYPES, "accelerator.peak_flop_per_s")
