"""Hosts by the names of their processors."""

from __future__ import annotations

import re

import pytest

from hwmodels.platform import load_platform
from hwmodels.specs.machine_files import component_names, load_component
from hwmodels.specs.processors import host_document, processor_names, processors
from hwmodels.specs.spec import Host
from traces.errors import PregateError, UnknownName


def host(name: str) -> Host:
    found = load_component("host", name)
    assert isinstance(found, Host)
    return found


def test_every_processor_is_a_host_whose_figures_are_the_arithmetic_of_their_notes() -> None:
    for name in processor_names():
        found, document = host(name), host_document(name)
        if name in component_names("host"):  # a file of its own says more
            continue
        channels = re.match(r"(\d+) x (\d+) MT/s x 8 bytes", document["dram_bytes_per_s"]["note"])
        peak = re.match(r"(\d+) cores x (\d+) x ([\d.]+) GHz", document["peak_flop_per_s"]["note"])
        assert channels is not None, name
        assert peak is not None, name
        assert found.dram_bytes_per_s == int(channels[1]) * int(channels[2]) * 8e6, name
        assert found.n_cores == int(peak[1]), name
        assert found.peak_flop_per_s == pytest.approx(int(peak[1]) * int(peak[2]) * float(peak[3]) * 1e9), name
        assert (found.n_sockets == 2) == name.endswith("-2s"), name
        for quantity in found.sources.values():
            assert "read 2026" in quantity.source or "not re-read" in quantity.source, name
            assert quantity.unverified or "http" in quantity.source, name


@pytest.mark.parametrize(("name", "mega_transfers"), [
    ("xeon-w3-2525", 4400), ("xeon-w3-2535", 4400), ("xeon-w5-2545", 4800), ("xeon-w7-2595x", 4800),
])  # fmt: skip
def test_the_smallest_workstation_xeons_have_slower_memory(name: str, mega_transfers: int) -> None:
    """By Intel's product comparison."""
    assert host(name).dram_bytes_per_s == 4 * mega_transfers * 8e6


@pytest.mark.parametrize(("name", "flop_per_cycle"), [
    ("xeon-3106", 32), ("xeon-4110", 32), ("xeon-5120", 32), ("xeon-6126", 64), ("xeon-8180", 64),
    ("xeon-4216", 32), ("xeon-4214r", 32), ("xeon-5218", 32), ("xeon-5220r", 32), ("xeon-6226", 64), ("xeon-8280", 64),
    ("xeon-w-2123", 64), ("core-7800x", 64), ("core-10900x", 64),
])  # fmt: skip
def test_small_xeons_of_two_generations_have_one_unit_for_avx_512(name: str, flop_per_cycle: int) -> None:
    """By Intel's product pages, as jeffhammond/vpu-count has them."""
    found = host(name)
    assert found.clock_hz is not None
    assert found.peak_flop_per_s == pytest.approx(found.n_cores * flop_per_cycle * found.clock_hz)


@pytest.mark.parametrize(("name", "gib"), [
    ("core-5820k", 64), ("core-6950x", 128), ("core-9980xe", 128), ("core-10980xe", 256), ("xeon-w-2295", 1024),
])  # fmt: skip
def test_what_core_x_takes_is_not_what_xeons_of_its_socket_take(name: str, gib: int) -> None:
    """By Intel's product pages, as felixsteinke/cpu-spec-dataset has them."""
    assert host(name).dram_bytes == gib << 30


DIFFER = {"core-14900k": {"n_cores", "peak_flop_per_s"}}  # with its efficiency cores
NAMED_FOR_THEIR_MEMORY = {
    "dgx-b200-xeon-8570-2s": "xeon-8570-2s", "epyc-9355-5600-2s": "epyc-9355-2s", "epyc-9355-6400": "epyc-9355",
    "ryzen-7950x-4dimm": "ryzen-7950x", "ryzen-9950x3d-4dimm": "ryzen-9950x3d",
    "threadripper-pro-7975wx-5600": "threadripper-pro-7975wx",
}  # fmt: skip
"""Hosts as somebody measured them, with memory that is not at the official speed: their names say so."""
SAME = {name: name for name in sorted(set(component_names("host")) & set(processor_names()))} | NAMED_FOR_THEIR_MEMORY


@pytest.mark.parametrize("name", SAME)
def test_a_processor_and_a_host_with_a_file_of_its_own_agree(name: str) -> None:
    """Twenty hosts were written one by one from other pages than the table. A bare name has memory at the official
    speed, one DIMM a channel."""
    document = host_document(SAME[name])
    own = host(name)
    other_memory = {"dram_bytes_per_s"} if name in NAMED_FOR_THEIR_MEMORY else set()
    assert ("dram_bytes_per_s" in other_memory) == (
        document["dram_bytes_per_s"]["value"] != pytest.approx(own.dram_bytes_per_s, rel=2e-3)
    )
    for figure in ("dram_bytes_per_s", "n_cores", "peak_flop_per_s", "n_sockets", "fabric_bytes_per_s",
                   "staging_bytes_per_s", "bf16_flop_per_s", "tile_rows", "read_efficiency", "clock_hz"):  # fmt: skip
        stated = getattr(own, figure)
        if stated is not None and figure not in DIFFER.get(name, set()) | other_memory:
            assert document[figure]["value"] == pytest.approx(stated, rel=2e-3), figure


def test_of_two_sockets_there_is_twice_as_much() -> None:
    one, two = host("epyc-7763"), host("epyc-7763-2s")
    for figure in ("dram_bytes", "dram_bytes_per_s", "n_cores", "peak_flop_per_s", "fabric_bytes_per_s"):
        assert getattr(two, figure) == 2 * getattr(one, figure)
    assert (one.n_sockets, two.n_sockets) == (None, 2)


@pytest.mark.parametrize(
    ("name", "gb_per_s"),
    [
        ("threadripper-pro-5955wx", 102.4),  # two dies and half of eight channels
        ("threadripper-pro-7955wx", 128),
        ("ryzen-9800x3d", 64),
        ("epyc-7282", 2 * 32 * 1.467),
        ("epyc-9334", 8 * 32 * 1.8),  # four dies, two links each
        ("epyc-9755", 16 * 32 * 2),
        ("xeon-6330", None),
        ("ryzen-5700g", None),  # one die
    ],
)
def test_dies_of_cores_read_what_their_links_carry(name: str, gb_per_s: float | None) -> None:
    fabric = host(name).fabric_bytes_per_s
    assert fabric == (None if gb_per_s is None else pytest.approx(0.87 * gb_per_s * 1e9))


def test_two_dimms_a_channel_run_at_what_a_page_says() -> None:
    document = host_document("ryzen-7950x:2dpc")
    rate = document["dram_bytes_per_s"]
    assert (rate["value"], rate["source"], rate.get("unverified")) == (2 * 3600 * 8e6, "two_dimms", None)
    assert "http" in document["sources"]["two_dimms"]
    assert host("xeon-6430-2s:2dpc").dram_bytes_per_s == 16 * 4400 * 8e6
    assert host("xeon-4410y:2dpc").dram_bytes_per_s == 8 * 4000 * 8e6  # no faster than one


def test_what_is_no_processor_names_a_near_one() -> None:
    with pytest.raises(UnknownName, match="did you mean 'epyc-7"):
        load_component("host", "epyc-7762")
    with pytest.raises(UnknownName):
        load_component("host", "ryzen-7950x3d-2s")
    with pytest.raises(UnknownName, match="unknown processor"):
        host_document("nosuch")


@pytest.mark.parametrize("name", ["xeon-5512u", "xeon-e5-1650-v4", "xeon-w-3175x", "epyc-7232p", "epyc-4564p"])
def test_processors_for_one_socket_have_no_pair(name: str) -> None:
    assert name in processor_names()
    assert f"{name}-2s" not in processor_names()


def test_a_speed_of_its_own_is_not_what_the_page_of_its_family_says() -> None:
    """An EPYC 7251 has DDR4-2400, which no page read says; a Gold 5411N's is in the table of Intel's."""
    assert host_document("epyc-7601")["dram_bytes_per_s"].get("unverified") is None
    assert host_document("epyc-7251")["dram_bytes_per_s"]["unverified"]
    slower = host_document("xeon-5411n")
    assert slower["dram_bytes_per_s"].get("unverified") is None
    assert slower["sources"]["memory"].count("http") == 2


@pytest.mark.parametrize(
    ("name", "n_cores", "ghz", "mega_transfers"),
    [
        ("ryzen-7700", 8, 3.8, 5200),
        ("ryzen-9955hx3d", 16, 2.5, 5600),
        ("xeon-3106", 8, 1.7, 2133),
        ("xeon-5318n", 24, 2.1, 2666),
        ("xeon-5411n", 24, 1.9, 4400),
        ("xeon-8352v", 36, 2.1, 2933),
        ("xeon-8356h", 8, 3.9, 2933),
        ("xeon-w-3225", 8, 3.7, 2666),
    ],
)
def test_figures_of_the_tables_that_were_wrong(name: str, n_cores: int, ghz: float, mega_transfers: int) -> None:
    one = processors()[name]
    assert (one.n_cores, one.base_ghz, one.mega_transfers_per_s) == (n_cores, ghz, mega_transfers)


def test_names_of_processors_are_written_as_ours() -> None:
    for name, one in processors().items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9+]+)*", name)
        assert one.n_dies <= one.n_cores


def test_a_machine_is_built_around_a_processor() -> None:
    hw = load_platform("rtx-4090", "llama-cpp", {"host": "epyc-7763", "host.dram_bytes": "256GiB"})
    assert (hw.machine.host.n_cores, hw.machine.host.dram_bytes) == (64, 256 << 30)


@pytest.mark.parametrize(
    ("name", "channels", "speed"),
    [("epyc-7763:2400", 8, 2400), ("epyc-7763:7x2400", 7, 2400), ("epyc-7763-2s:16x2933", 16, 2933),
     ("ryzen-7950x:6000", 2, 6000)],
)  # fmt: skip
def test_a_name_may_say_which_memory_there_is(name: str, channels: int, speed: int) -> None:
    """Channels of 8 bytes a transfer; cores and FLOP are those of the processor."""
    found, plain = host(name), host(name.partition(":")[0])
    assert found.dram_bytes_per_s == channels * speed * 8e6
    assert (found.n_cores, found.peak_flop_per_s) == (plain.n_cores, plain.peak_flop_per_s)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("epyc-7763:9x2400", "it has 8 channels, not 9"),
        ("epyc-7763:0x2400", "it has 8 channels, not 0"),
        ("epyc-7763:24", "24 MT/s, expected 800 to 12800"),
        ("core-14900k:2dpc", "two DIMMs a channel run on it is not known: say it, core-14900k:5600"),
        ("epyc-7763:", "its memory is said as :3200"),
        ("epyc-7763:DDR4", "its memory is said as :3200"),
        ("nosuch:3200", "unknown processor 'nosuch'|unknown host 'nosuch:3200'"),
    ],
)
def test_memory_that_a_host_has_not_is_one_clear_line(name: str, expected: str) -> None:
    with pytest.raises(PregateError, match=expected):
        host(name)
