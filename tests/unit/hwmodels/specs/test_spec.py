"""Claimed specs: every file parses, every number has a source and agrees with what is known otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hwmodels.platform import load_platform
from hwmodels.specs.machine_fields import FIELDS
from hwmodels.specs.machine_files import SPECS, component_names, hardware_names, load_component, load_machine
from hwmodels.specs.spec import MachineSpec
from traces.errors import InvalidFile, UnknownName

LANES_OF_CAPABILITY = dict.fromkeys(("6.0", "7.0", "7.5", "8.0"), 64)
LANES_OF_UNIT = dict.fromkeys(
    (
        "mi50", "mi60", "mi100", "mi210", "radeon-vii", "radeon-pro-vii", "rx-6700-xt", "rx-6800",
        "rx-6800-xt", "rx-6900-xt",
        "rx-6950-xt", "rx-580-8gb", "rx-vega-64", "mi25", "rx-5700-xt", "rx-6600-xt", "rx-6750-xt", "radeon-pro-v620",
        "radeon-pro-w6800", "mi250x-gcd", "rx-6600", "rx-6650-xt", "radeon-pro-w6600", "rx-6700", "rx-5700",
        "rx-5600-xt", "rx-vega-56", "rx-480-8gb", "rx-590",
    ),
    64,
)  # fmt: skip
"""fp32 lanes of a multiprocessor: 64 on GP100, Volta, Turing and GA100, 128 on all later ones, on Maxwell and GP102; of
a compute unit 64 on GCN, CDNA 1 and 2 and RDNA 1 and 2, 128 on CDNA 3, on RDNA with dual issue, and on Apple's and
Intel's cores."""

UNIFIED = tuple(name for name in hardware_names() if load_machine(name).link.name.startswith("unified-"))
"""Machines whose accelerator and host share one memory, which the link stands for."""

NOT_SOLD_ALONE_FOR_DOLLARS = {
    "rtx-4090d", "rtx-pro-6000", "rtx-pro-6000-max-q", "rtx-pro-6000-server", "rtx-pro-5000", "rtx-pro-5000-72gb",
    "rtx-pro-4500", "rtx-pro-4000", "rtx-pro-4000-sff", "rtx-pro-2000",
}  # fmt: skip
WITHOUT_A_LAUNCH_PRICE = {
    "rtx-2060-12gb", "rtx-3080-12gb", "gtx-1060-6gb", "gtx-1660-super", "gtx-1660-ti", "rtx-2060-6gb", "rtx-3050-6gb",
    "rtx-3050-8gb", "gtx-1650", "gtx-1660", "gtx-980-ti", "gtx-980", "gtx-970", "gtx-1650-super", "gtx-1070-ti",
    "rtx-2060-super",
}  # fmt: skip
"""Cards that NVIDIA left to its partners to price, and those whose launch nobody has re-read."""


@pytest.fixture
def machine() -> MachineSpec:
    return load_machine("a100-sxm4-80gb")


def test_every_machine_loads_and_every_figure_has_a_source() -> None:
    for name in hardware_names():
        machine = load_machine(name)
        quantities = machine.quantities()
        for key, quantity in quantities.items():
            assert len(quantity.source) > 20, f"{name}: {key} needs the name of a document"
        for kind, fields in FIELDS.items():
            for field, rule in fields.items():
                attribute, _, dtype = field.partition(".")
                value = getattr(getattr(machine, kind), attribute)
                value = value.get(dtype) if dtype else value
                if value is None:
                    assert rule.optional, name
                    assert f"{kind}.{field}" not in quantities, name
                else:
                    assert value == pytest.approx(quantities[f"{kind}.{field}"].value, rel=1e-9), name


def test_every_document_listed_in_a_file_is_cited_in_it() -> None:
    for path in sorted(SPECS.glob("*/*.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        figures = [*data.values(), *data.get("peak_flop_per_s", {}).values()]
        cited = {figure["source"] for figure in figures if isinstance(figure, dict) and "source" in figure}
        assert cited == set(data["sources"]), path


def test_fp32_peak_is_lanes_times_two_times_boost_clock() -> None:
    for name in hardware_names():
        gpu = load_component("accelerator", name)
        lanes = LANES_OF_UNIT.get(name, LANES_OF_CAPABILITY.get(gpu.compute_capability, 128))
        assert gpu.n_sm * lanes * 2 * gpu.clock_hz == pytest.approx(gpu.peak_flop_per_s["fp32"], rel=0.01), name


def test_narrower_formats_are_never_slower() -> None:
    for name in hardware_names():
        peak = load_component("accelerator", name).peak_flop_per_s
        order = [peak[dtype] for dtype in ("fp32", "tf32", "bf16", "fp8", "fp4") if dtype in peak]
        assert order == sorted(order), name
        assert peak.get("fp16", peak["fp32"]) >= peak["fp32"], name
        if "bf16" in peak:
            assert peak["bf16"] == peak["fp16"] / (2 if name == "mi100" else 1), name


@pytest.mark.parametrize(("architecture", "share"), [("gfx803", 1 / 2), ("gfx900", 2 / 3), ("gfx1010", 2 / 3)])
def test_cards_without_a_dot_product_of_int8_have_what_the_instructions_in_its_place_leave(
    architecture: str, share: float
) -> None:
    cards = [load_component("accelerator", name) for name in hardware_names()]
    peaks = [card.peak_flop_per_s for card in cards if card.compute_capability == architecture]
    assert len(peaks) == 3
    for peak in peaks:
        assert peak["int8"] == pytest.approx(share * peak["fp32"], rel=1e-3)


def test_memory_is_slower_the_further_it_is_from_the_gpu() -> None:
    for name in sorted({*hardware_names()} - {*UNIFIED}):
        machine = load_machine(name)
        assert machine.storage.read_bytes_per_s < machine.link.h2d_bytes_per_s, name
        assert machine.link.h2d_bytes_per_s < machine.accelerator.hbm_bytes_per_s, name
        assert machine.host.dram_bytes_per_s < machine.accelerator.hbm_bytes_per_s, name


@pytest.mark.parametrize("name", UNIFIED)
def test_a_unified_machine_has_one_memory_and_a_copy_reads_and_writes_it(name: str) -> None:
    machine = load_machine(name)
    assert machine.host.dram_bytes_per_s == machine.accelerator.hbm_bytes_per_s
    assert machine.accelerator.hbm_bytes <= machine.host.dram_bytes
    assert machine.link.h2d_bytes_per_s == machine.link.d2h_bytes_per_s == machine.accelerator.hbm_bytes_per_s / 2
    assert machine.link.pageable_h2d_bytes_per_s == machine.link.mapped_h2d_bytes_per_s == machine.link.h2d_bytes_per_s


def test_unified_machines_are_those_that_people_run_models_on() -> None:
    apple = ("m1-max", "m1-ultra", "m2-max", "m2-ultra", "m3-max", "m3-ultra", "m4-pro", "m4-max", "m5-pro", "m5-max")
    apple += ("m3-max-30c", "m4-max-32c", "m1", "m1-pro", "m2", "m2-pro", "m3", "m3-pro", "m4", "m5")
    others = ("dgx-spark", "strix-halo", "strix-halo-385", "strix-halo-390", "mi300a", "jetson-agx-thor")
    others += ("jetson-agx-orin-64gb", "jetson-agx-orin-32gb", "jetson-orin-nx-16gb", "jetson-orin-nano-super")
    assert set(UNIFIED) == {*(f"apple-{chip}" for chip in apple), *others}
    assert {load_machine(name).link.name for name in ("gh200", "gb300")} == {"nvlink-c2c"}


@pytest.mark.parametrize(
    ("name", "hbm_bytes_per_s", "dtype", "peak_flop_per_s"),
    [
        ("a100-sxm4-80gb", 2039e9, "bf16", 312e12),
        ("a100-pcie-40gb", 1555e9, "tf32", 156e12),
        ("h100-sxm", 3352e9, "fp8", 1978.9e12),
        ("v100-sxm2-16gb", 900e9, "fp16", 125e12),
        ("t4", 320e9, "int8", 130e12),
        ("rtx-3090", 936e9, "fp16", 71e12),
        ("rtx-4090", 1008e9, "bf16", 165.2e12),
        ("rtx-5090", 1792e9, "fp4", 1676e12),
        ("mi300x", 5325e9, "fp8", 2614.9e12),
        ("rtx-5080", 960e9, "fp4", 900.5e12),
        ("rtx-4080", 716.8e9, "fp16", 97.48e12),
        ("rtx-pro-6000", 1792e9, "bf16", 503.8e12),
        ("h800-sxm", 3352e9, "fp8", 1978.9e12),
        ("rx-9070-xt", 640e9, "fp8", 389.3e12),
        ("l40", 864e9, "bf16", 181.05e12),
        ("l40s", 864e9, "bf16", 362.05e12),
        ("mi100", 1230e9, "bf16", 92.3e12),
        ("rtx-pro-4000-sff", 432e9, "fp32", 24.05e12),
    ],
)
def test_headline_figures_are_the_datasheets(
    name: str, hbm_bytes_per_s: float, dtype: str, peak_flop_per_s: float
) -> None:
    gpu = load_component("accelerator", name)
    assert gpu.hbm_bytes_per_s == pytest.approx(hbm_bytes_per_s, rel=1e-12)
    assert gpu.peak_flop_per_s[dtype] == pytest.approx(peak_flop_per_s, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        ("a10", 23028),
        ("a100-pcie-40gb", 40960),
        ("a100-sxm4-80gb", 81920),
        ("b200", 178.35 * 1024),
        ("gh200", 97871),
        ("h100-pcie", 81559),
        ("h100-sxm", 81559),
        ("h200-sxm", 143771),
        ("l4", 23034),
        ("l40s", 46068),
        ("gb300", 284208),
        ("rtx-4090", 24564),
        ("rtx-pro-6000", 97887),
        ("rtx-a6000", 49140),
        ("t4", 15360),
    ],
)
def test_memory_is_what_a_driver_reports(name: str, mib: float) -> None:
    assert load_component("accelerator", name).hbm_bytes == pytest.approx(mib * 2**20, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "n_channels", "mega_transfers_per_s"),
    [
        ("xeon-8480c-2s", 16, 4400),
        ("dgx-b200-xeon-8570-2s", 16, 4400),
        ("epyc-9654-2s", 24, 4800),
        ("desktop-ddr5", 2, 5200),
    ],
)
def test_host_memory_runs_at_the_speed_of_its_population(
    name: str, n_channels: int, mega_transfers_per_s: float
) -> None:
    """Two DIMMs a channel run slower than one: 32 DIMMs on 16 channels at 4400 MT/s."""
    assert load_component("host", name).dram_bytes_per_s == pytest.approx(
        n_channels * mega_transfers_per_s * 1e6 * 8, rel=1e-9
    )


SUM = re.compile(r"(\d+) (?:performance )?cores x (\d+) x ([\d.]+) GHz")
CHANNELS = re.compile(r"(\d+) (?:channels )?x (\d+) MT/s x 8 bytes")


def test_a_hosts_figures_are_the_arithmetic_of_their_notes() -> None:
    """Cores x FLOP a cycle x base clock, and channels x rate x 8 bytes, wherever the file says so."""
    for name in component_names("host"):
        host = load_component("host", name)
        data = yaml.safe_load((SPECS / "hosts" / f"{name}.yaml").read_text(encoding="utf-8"))
        peak = SUM.search(data["peak_flop_per_s"].get("note", ""))
        if peak is not None:
            n_cores, flop, ghz = peak.groups()
            assert host.peak_flop_per_s == pytest.approx(int(n_cores) * int(flop) * float(ghz) * 1e9, rel=1e-3), name
            assert int(n_cores) == host.n_cores or "performance" in peak.group(), name
        memory = CHANNELS.search(data["dram_bytes_per_s"].get("note", ""))
        if memory is not None:
            n_channels, rate = memory.groups()
            assert host.dram_bytes_per_s == pytest.approx(int(n_channels) * int(rate) * 1e6 * 8, rel=1e-3), name
        assert peak is not None or name.startswith(("core-", "laptop-13", "grace-", "dgx-spark")), name


def test_a_host_named_for_two_sockets_has_them() -> None:
    for name in component_names("host"):
        assert (load_component("host", name).n_sockets == 2) == name.endswith("-2s"), name


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ("ryzen-5600x", "ryzen-9950x"),
        ("ryzen-9950x3d-4dimm", "ryzen-9950x3d"),
        ("ryzen-7950x-4dimm", "desktop-ddr5"),
        ("threadripper-3960x", "threadripper-pro-3955wx"),
        ("threadripper-pro-7975wx", "threadripper-pro-7975wx-5600"),
        ("xeon-w9-3495x", "threadripper-pro-7975wx"),
        ("epyc-7502", "epyc-9355"),
        ("xeon-6430-2s", "xeon-6454s-2s"),
    ],
)
def test_hosts_stand_in_the_order_of_their_channels_and_speed(slower: str, faster: str) -> None:
    assert load_component("host", slower).dram_bytes_per_s < load_component("host", faster).dram_bytes_per_s


def test_a_new_source_says_whether_it_was_read() -> None:
    """A page says that it was read and whether it is the maker's; what was not found says so."""
    for path in [
        path for path in sorted(SPECS.glob("*/*.yaml")) if "read 2026-11-28" in path.read_text(encoding="utf-8")
    ]:
        for text in yaml.safe_load(path.read_text(encoding="utf-8"))["sources"].values():
            assert "http" not in text or "read 2026" in text or "PCI-SIG" in text or "github.com" in text, text
            assert "techpowerup.com" not in text or "secondary" in text, path


def test_a_grace_reads_its_memory_at_least_as_fast_as_stream_has() -> None:
    assert load_component("host", "grace-480gb").dram_bytes_per_s >= 486e9


def test_the_papers_machine_is_an_a100_with_an_epyc_7v12_on_pcie_4(machine: MachineSpec) -> None:
    assert (machine.host.name, machine.link.name) == ("epyc-7v12", "pcie4-x16")
    assert (machine.host.n_cores, machine.host.dram_bytes) == (64, 1_800_000_000_000)


@pytest.mark.parametrize(
    ("gen", "gt_per_s", "efficiency"),
    [(3, 8, 128 / 130), (4, 16, 128 / 130), (5, 32, 128 / 130), (6, 64, 236 / 256)],
)
def test_pcie_bandwidth_is_lanes_times_rate_after_encoding(gen: int, gt_per_s: float, efficiency: float) -> None:
    for lanes in (4, 8, 16):
        link = load_component("link", f"pcie{gen}-x{lanes}")
        expected = gt_per_s * 1e9 * lanes / 8 * efficiency
        assert link.h2d_bytes_per_s == pytest.approx(expected, rel=1e-6)
        assert link.d2h_bytes_per_s == link.h2d_bytes_per_s


@pytest.mark.parametrize("kind", FIELDS)
def test_every_component_loads_by_name(kind: str) -> None:
    assert component_names(kind)
    for name in component_names(kind):
        assert load_component(kind, name).name == name


GEFORCE = [name for name in hardware_names() if name.startswith(("rtx-", "gtx-")) and "-a" not in name]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in GEFORCE
        if "mobile" not in name and name not in NOT_SOLD_ALONE_FOR_DOLLARS | WITHOUT_A_LAUNCH_PRICE
    ],
)
def test_geforce_cards_have_a_dated_launch_price(name: str) -> None:
    price = load_machine(name).quantities()["accelerator.price_usd"]
    assert price.date is not None
    assert "launch" in price.source


def test_every_price_says_what_kind_it_is_and_how_old() -> None:
    found = {name: load_machine(name).quantities().get("accelerator.price_usd") for name in hardware_names()}
    prices = {name: price for name, price in found.items() if price is not None}
    assert {"rtx-4090", "h100-sxm", "mi300x"} <= set(prices)
    kinds = ("launch MSRP", "list price", "retail price", "street price", "market price", "expected price")
    for name, price in prices.items():
        assert any(kind in price.source for kind in kinds), name
        assert price.date is not None or "undated" in price.source, name


def partial(tmp_path: Path, *left_out: str) -> Path:
    """A file of an RTX 4090 without some of its keys."""
    data = yaml.safe_load((SPECS / "accelerators" / "rtx-4090.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: data[key] for key in data if key not in left_out}), encoding="utf-8")
    return path


def test_a_file_of_an_accelerator_alone_names_all_that_it_lacks_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="keys 'host', 'link', 'storage' are missing: name known ones in it") as told:
        load_machine(partial(tmp_path, "host", "link", "storage"))
    assert "or give --set host=NAME --set link=NAME --set storage=NAME" in str(told.value)
    with pytest.raises(InvalidFile, match="keys 'hbm_bytes', 'n_sm', 'vendor' are missing: `pregate hardware show"):
        load_machine(partial(tmp_path, "n_sm", "hbm_bytes", "vendor"))
    with pytest.raises(InvalidFile, match=r"key 'peak_flop_per_s\.fp32' is missing"):
        load_machine(partial(tmp_path, "peak_flop_per_s"))


def test_what_a_file_leaves_out_can_be_given_beside_it(tmp_path: Path) -> None:
    path = str(partial(tmp_path, "host", "link"))
    with pytest.raises(InvalidFile, match="key 'link' is missing"):
        load_platform(path, overrides={"host": "desktop-ddr4"})
    machine = load_platform(path, overrides={"host": "desktop-ddr4", "link": "pcie3-x16"}).machine
    assert (machine.host.name, machine.link.name, machine.storage.name) == ("desktop-ddr4", "pcie3-x16", "nvme-gen4")
    with pytest.raises(UnknownName, match="host 'nosuch'"):
        load_platform(path, overrides={"host": "nosuch", "link": "pcie3-x16"})
