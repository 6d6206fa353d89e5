"""A host by the name of its processor: `epyc-7763`, of two sockets `epyc-7763-2s`.

Every channel has one DIMM at the official speed, and there is as much memory as the processor takes: what a row or a
question ran on had enough. Other memory stands behind a colon: `epyc-7763:2400` at 2400 MT/s, `epyc-7763:7x2400` in
seven channels of the machine, `ryzen-7950x:2dpc` with two DIMMs a channel. Channels are counted as if they shared all
accesses evenly: where sockets or channels have unlike modules, less is reached (by up to a third, Dell on Xeons of the
second generation), which is not modelled.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodels.shipped import SPECS
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section, read_text, read_yaml

_TABLE, _FAMILIES = SPECS / "processors.csv", SPECS / "processor_families.yaml"
_MAX_BYTES = 1 << 18
_TWO_SOCKETS = "-2s"
_TWO_DIMMS = "2dpc"
_MEMORY = re.compile(r"(?P<name>[^:]+):(?:(?P<channels>\d{1,3})x)?(?P<speed>\d{1,6})", re.ASCII)
_ONE_SOCKET = re.compile(r"xeon-(?:\d{4}u|e5-1\d{3}-v\d|w-3175x)|epyc-\w+p")
"""Processors of families for two sockets that work alone."""
_SPEEDS_IN = "intel-processors"
"""The table among the sources of processors that says the speed of memory of each."""
_SLOWEST, _FASTEST = 800, 12_800
"""Transfers a second, in millions, of DDR3-800 and of the fastest DDR5 (and MRDIMM) that JEDEC has."""
_READ = "as packed in boaviztapi 2.5.0 on PyPI, read 2026-11-29, secondary"
_UNREAD = "entered from knowledge, not re-read"
_BYTES_A_LINK = 32
_READ_OF_LINK = 0.87
"""Reads that a link of a die of cores carries a cycle of the fabric, and what reads reach of that (37 of 42.7 GB/s);
source: `links` of processor_families.yaml."""


@dataclass(frozen=True, slots=True)
class Family:
    """What processors of a generation share: `channels` of memory at `mega_transfers_per_s`, fp32 FLOP of a core a
    cycle, the most memory of a socket, sockets at most. `fabric_ghz`: of the links between dies of cores and the memory
    controllers, None where there are none; up to `two_links_up_to` dies each has two. `staging_gb_per_s`: what one core
    copies into the buffers of a driver, None where nobody says. `bf16_flop_per_cycle`: of a core in bf16,
    None where it is widened to fp32 first. `tile_rows`: of a matrix unit of a core, None where it has none.
    `two_dimms_mega_transfers_per_s`: with two DIMMs a channel, by `two_dimms_source`, None where no page read says it.
    `memory_source`: the page that says channels and speed, empty where none was read. `read_efficiency`: the share of
    its memory's rate that all cores read, by source `reads`.
    """

    name: str
    title: str
    channels: int
    mega_transfers_per_s: int
    flop_per_cycle: int
    most_dram: str
    sockets: int
    fabric_ghz: float | None
    two_links_up_to: int
    staging_gb_per_s: float | None
    bf16_flop_per_cycle: int | None
    tile_rows: int | None
    note: str
    two_dimms_mega_transfers_per_s: int | None
    two_dimms_source: str
    memory_source: str
    read_efficiency: float
    reads: str


@dataclass(frozen=True, slots=True)
class Processor:
    """One processor: its `n_cores` at `base_ghz`, its dies of cores (0: all is one die), the speed of its memory, and
    the page that says so.
    """

    name: str
    family: Family
    n_cores: int
    base_ghz: float
    n_dies: int
    mega_transfers_per_s: int
    source: str


@functools.cache
def processor_names() -> tuple[str, ...]:
    """The hosts that are known by their processor, those of two sockets too."""
    two = [one.name for one in processors().values() if one.family.sockets == 2]
    return (*processors(), *(f"{name}{_TWO_SOCKETS}" for name in two if not _ONE_SOCKET.fullmatch(name)))


def is_processor(name: str) -> bool:
    """Whether a host is known by that name, whatever memory it states."""
    return name.partition(":")[0] in processor_names()


def channels_of(name: str) -> tuple[int, int]:
    """Channels of memory of all sockets of a processor's host, and its sockets."""
    n_sockets = 2 if name.endswith(_TWO_SOCKETS) else 1
    return processors()[name.removesuffix(_TWO_SOCKETS)].family.channels * n_sockets, n_sockets


def official_speed(name: str) -> int:
    """Million transfers a second of a processor's memory, by its maker."""
    return processors()[name.removesuffix(_TWO_SOCKETS)].mega_transfers_per_s


def speed_of_two_dimms(name: str) -> int | None:
    """Million transfers a second of a processor's memory with two DIMMs a channel; None where nobody says."""
    one = processors()[name.removesuffix(_TWO_SOCKETS)]
    crowded = one.family.two_dimms_mega_transfers_per_s
    return None if crowded is None else min(crowded, one.mega_transfers_per_s)


def host_document(stated: str) -> dict[str, Any]:
    """The host of that name, spelt as a file of its own. Raises `UnknownName` for none of `processor_names`,
    `InvalidInput` for memory that it has not.
    """
    name = stated.partition(":")[0]
    if name not in processor_names():
        raise unknown_name("processor", name, processor_names())
    one, n_sockets = processors()[name.removesuffix(_TWO_SOCKETS)], 2 if name.endswith(_TWO_SOCKETS) else 1
    document: dict[str, Any] = {"sources": {**_sources(), "chip": f"{one.family.title}, {one.name}: {_chip(one)}"}}
    if stated == f"{name}:{_TWO_DIMMS}":
        document["sources"]["two_dimms"] = one.family.two_dimms_source
    elif stated != name:
        document["sources"]["stated"] = "the host's name, by whoever asked"
    if memory := _memory_source(one):
        document["sources"]["memory"] = memory
    read = {"memory", "stated", "two_dimms", one.family.reads} | ({"chip"} if one.source else set())
    for figure, (value, unit, source, note) in _figures(stated, one, n_sockets).items():
        mark = {} if source in read else {"unverified": True}
        document[figure] = {"value": value, "unit": unit, "source": source, "note": note, **mark}
    return document


def _figures(stated: str, one: Processor, n_sockets: int) -> dict[str, tuple[float, str, str, str]]:
    """Value, unit, name of the source and a note of every figure of a host of so many sockets."""
    family, both = one.family, "; both sockets" if n_sockets == 2 else ""
    n_channels, speed = _memory(stated, family.channels * n_sockets, one)
    of_memory = "memory" if _memory_source(one) else "maker"
    n_cores = one.n_cores * n_sockets
    flop = n_cores * family.flop_per_cycle * one.base_ghz * 1e9
    size, unit = family.most_dram.split()
    figures: dict[str, tuple[float, str, str, str]] = {
        "dram_bytes": (float(size) * n_sockets, unit, "maker", f"the most that it takes{both}"),
        "dram_bytes_per_s": (
            n_channels * speed * 8e6, "B/s",
            "two_dimms" if stated.endswith(f":{_TWO_DIMMS}") else "stated" if ":" in stated else of_memory,
            f"{n_channels} x {speed} MT/s x 8 bytes{both}",
        ),
        "n_cores": (n_cores, "count", "chip", family.note + both),
        "peak_flop_per_s": (
            flop, "FLOP/s", "cores", f"{n_cores} cores x {family.flop_per_cycle} x {one.base_ghz:g} GHz",
        ),
        "read_efficiency": (family.read_efficiency, "1", family.reads, ""),
        "clock_hz": (one.base_ghz * 1e9, "Hz", "chip", "the base clock"),
    }  # fmt: skip
    if n_sockets == 2:
        figures["n_sockets"] = (2, "count", "chip", "by its name")
    if family.fabric_ghz is not None and one.n_dies:
        n_links = one.n_dies * n_sockets * (2 if one.n_dies <= family.two_links_up_to else 1)
        figures["fabric_bytes_per_s"] = (
            n_links * _BYTES_A_LINK * _READ_OF_LINK * family.fabric_ghz * 1e9, "B/s", "links",
            f"{n_links} x {_BYTES_A_LINK} bytes x {family.fabric_ghz:g} GHz, {_READ_OF_LINK:g} of it{both}",
        )  # fmt: skip
    if family.staging_gb_per_s is not None:
        figures["staging_bytes_per_s"] = (family.staging_gb_per_s * 1e9, "B/s", "staging", "one core")
    if family.bf16_flop_per_cycle is not None:
        figures["bf16_flop_per_s"] = (
            flop * family.bf16_flop_per_cycle / family.flop_per_cycle, "FLOP/s", "bf16",
            f"{n_cores} cores x {family.bf16_flop_per_cycle} x {one.base_ghz:g} GHz",
        )  # fmt: skip
    if family.tile_rows is not None:
        figures["tile_rows"] = (family.tile_rows, "count", "tiles", "")
    return figures


def _memory(stated: str, n_channels: int, one: Processor) -> tuple[int, int]:
    """Channels with memory, and its speed, as the name says or as the processor has them. Raises `InvalidInput`."""
    if ":" not in stated:
        return n_channels, one.mega_transfers_per_s
    if stated.endswith(f":{_TWO_DIMMS}"):
        crowded = speed_of_two_dimms(one.name)
        if crowded is None:
            raise InvalidInput(
                f"host {stated[:60]}: how fast two DIMMs a channel run on it is not known: say it, "
                f"{stated.partition(':')[0]}:{one.mega_transfers_per_s}"
            )
        return n_channels, crowded
    told = _MEMORY.fullmatch(stated)
    if told is None:
        raise InvalidInput(
            f"host {stated[:60]}: its memory is said as :3200 (MT/s), :6x3200 with its channels, or :{_TWO_DIMMS}"
        )
    channels, speed = int(told["channels"] or n_channels), int(told["speed"])
    if not 1 <= channels <= n_channels:
        raise InvalidInput(f"host {stated[:60]}: it has {n_channels} channels, not {channels}")
    if not _SLOWEST <= speed <= _FASTEST:
        raise InvalidInput(f"host {stated[:60]}: {speed} MT/s, expected {_SLOWEST} to {_FASTEST}")
    return channels, speed


def _memory_source(one: Processor) -> str:
    """The pages that say channels and speed, empty where the family's page says another speed than the processor's."""
    source = one.family.memory_source
    if not source or one.mega_transfers_per_s == one.family.mega_transfers_per_s:
        return source
    return f"{source}; its own speed: {one.source}" if _SPEEDS_IN in one.source else ""


def _chip(one: Processor) -> str:
    """Where the figures of a processor alone are from, and when that was read; most were in one package."""
    if not one.source:
        return _UNREAD
    return one.source if ": read " in one.source else f"{one.source} ({_READ})"


@functools.cache
def processors() -> Mapping[str, Processor]:
    """Every processor of the table by name. Raises `InvalidFile` where the table is none."""
    found: dict[str, Processor] = {}
    for i, row in enumerate(csv.DictReader(io.StringIO(read_text(_TABLE, _MAX_BYTES))), start=2):
        try:
            family = _families()[row["family"]]
            found[row["name"]] = Processor(
                row["name"], family, int(row["n_cores"]), float(row["base_ghz"]), int(row["n_dies"] or 0),
                int(row["mega_transfers_per_s"] or family.mega_transfers_per_s), row["source"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"{_TABLE}: line {i}: {error}") from None
    return found


@functools.cache
def _families() -> Mapping[str, Family]:
    table = read_yaml(_FAMILIES).section("families")
    return {name: _family(name, table.section(name)) for name in table.remaining()}


def _family(name: str, section: Section) -> Family:
    fabric, staging = (section.number(key) if key in section else None for key in ("fabric_ghz", "staging_gb_per_s"))
    bf16, tile_rows, two_dimms = (
        section.integer(key, minimum=1) if key in section else None
        for key in ("bf16_flop_per_cycle", "tile_rows", "two_dimms_mega_transfers_per_s")
    )
    family = Family(
        name=name,
        title=section.text("title"),
        channels=section.integer("channels", minimum=1),
        mega_transfers_per_s=section.integer("mega_transfers_per_s", minimum=1),
        flop_per_cycle=section.integer("flop_per_cycle", minimum=1),
        most_dram=section.text("most_dram"),
        sockets=section.integer("sockets", 1, minimum=1),
        fabric_ghz=fabric,
        two_links_up_to=section.integer("two_links_up_to", 0),
        staging_gb_per_s=staging,
        bf16_flop_per_cycle=bf16,
        tile_rows=tile_rows,
        note=section.text("note", ""),
        two_dimms_mega_transfers_per_s=two_dimms,
        two_dimms_source=section.text("two_dimms_source", ""),
        memory_source=section.text("memory_source", ""),
        read_efficiency=section.number("read_efficiency"),
        reads=section.text("reads"),
    )
    section.done()
    return family


@functools.cache
def _sources() -> dict[str, str]:
    table = read_yaml(_FAMILIES).section("sources")
    return {key: table.text(key) for key in table.remaining()}
