"""One table of the names of machines: what each means, as cards and memory of one | host and memory, or its refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

import pregate
from hwmodels.specs.machine_files import cards_of, hardware_names
from pregate.spellings.cloud_instances import _AWS, _AWS_FIXED, _AZURE, _GOOGLE, cards_of_instance
from pregate.spellings.machine_names import machine_and_numbers, machine_parts, machines_listed
from traces.errors import InvalidInput, PregateError

MEANT = """
RTX 4090  =>  rtx-4090 24 | desktop-ddr5 64
2x RTX 3090  =>  2x rtx-3090 24 | desktop-ddr4 64
RTX 3090 x2  =>  2x rtx-3090 24 | desktop-ddr4 64
(2) RTX 3090  =>  2x rtx-3090 24 | desktop-ddr4 64
dual 3090 24GB  =>  2x rtx-3090 24 | desktop-ddr4 64
3090 + 3090  =>  2x rtx-3090 24 | desktop-ddr4 64
RTX 3090 (24GB each) x 2  =>  2x rtx-3090 24 | desktop-ddr4 64
RTX 4090 24GB  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090 48GB  =>  rtx-4090 48 | desktop-ddr5 64
RTX 4090 (48 GB)  =>  rtx-4090 48 | desktop-ddr5 64
2080 Ti 22GB  =>  rtx-2080-ti 22 | desktop-ddr4 64
RTX 4090, 24GB  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090 with 24GB VRAM  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090 with 48GB VRAM  =>  rtx-4090 48 | desktop-ddr5 64
RTX 4090 with 48GB  =>  rtx-4090 24 | desktop-ddr5 48
RTX 4090 with 24GB RAM  =>  rtx-4090 24 | desktop-ddr5 24
2x RTX 3090 48GB  =>  ! 48 GB may be each card's, all 2 cards' or the host's
2x RTX 3090, 48GB  =>  ! 48 GB may be each card's, all 2 cards' or the host's
2x RTX 3090 (48GB)  =>  ! 48 GB may be each card's, all 2 cards' or the host's
2x RTX 3090 with 48GB VRAM  =>  ! 48 GB may be each card's, all 2 cards' or the host's
2x RTX 4090 48GB  =>  ! 48 GB may be each card's, all 2 cards' or the host's
2x RTX 4090 48GB each  =>  2x rtx-4090 48 | desktop-ddr5 64
2x RTX 4090 (48GB each)  =>  2x rtx-4090 48 | desktop-ddr5 64
2x RTX 3090 with 24GB each  =>  2x rtx-3090 24 | desktop-ddr4 64
2x RTX 3090, 48GB RAM  =>  2x rtx-3090 24 | desktop-ddr4 48
4x RTX 3090 96GB  =>  4x rtx-3090 24 | desktop-ddr4 64
4x RTX 3090, 96GB  =>  ! 96 GB may be each card's, all 4 cards' or the host's
4x RTX 3090 with 96GB VRAM  =>  4x rtx-3090 24 | desktop-ddr4 64
4x RTX 3090, 96GB RAM  =>  4x rtx-3090 24 | desktop-ddr4 96
8x H100 (640GB)  =>  8x h100-sxm 79.65 | xeon-8480c-2s 2048
2x A100 160GB  =>  2x a100-sxm4-80gb 80 | epyc-7v12 1676
2x A100 80GB  =>  2x a100-sxm4-80gb 80 | epyc-7v12 1676
2x RTX 4060 Ti 16GB  =>  2x rtx-4060-ti-16gb 16 | desktop-ddr5 64
A100, 80GB  =>  a100-sxm4-80gb 80 | epyc-7v12 1676
A100 (80GB, PCIe)  =>  a100-pcie-80gb 80 | epyc-7v12 1676
A100, 81GB  =>  a100-sxm4-80gb 80 | epyc-7v12 1676
H100 94GB  =>  h100-nvl 93.58 | xeon-8480c-2s 2048
H100 NVL 94GB  =>  h100-nvl 93.58 | xeon-8480c-2s 2048
H100 96GB  =>  ! has other memory, and of this one no rate is known
H100 SXM 96GB  =>  ! has other memory, and of this one no rate is known
H100 64GB  =>  ! has other memory, and of this one no rate is known
RTX 4090 96GB  =>  ! has other memory, and of this one no rate is known
RTX 4090 1024GB  =>  ! unknown hardware 'RTX 4090 1024GB'
RTX 4090 12GB  =>  ! has other memory, and of this one no rate is known
GH200 480GB  =>  gh200 95.58 | grace-480gb 447
RTX 3090 + EPYC 7763  =>  rtx-3090 24 | epyc-7763 4096
2x 3090 + EPYC 7763 8x32GB DDR4-3200  =>  2x rtx-3090 24 | epyc-7763:8x3200 256
RTX 4090 48GB, i9-14900K, 64GB DDR5-5600  =>  rtx-4090 48 | core-14900k:5600 64
2x RTX 4090 48GB each, 9950X, 96GB  =>  2x rtx-4090 48 | ryzen-9950x 96
RTX 4090 with 128GB RAM  =>  rtx-4090 24 | desktop-ddr5 128
RTX 3090 w/ 64GB DDR5-6000  =>  rtx-3090 24 | desktop-ddr5 64
RTX 3090 with 1.5TB DDR4 ECC  =>  rtx-3090 24 | desktop-ddr4 1536
RTX 4090/9950X  =>  rtx-4090 24 | ryzen-9950x 96
RTX 4090 64GB DDR5  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090 24GB VRAM, 64GB RAM  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090, 24GB, 9950X, 96GB  =>  rtx-4090 24 | ryzen-9950x 96
4x RTX 4090, 24GB, 9950X, 96GB  =>  4x rtx-4090 24 | ryzen-9950x 96
RTX 4090 + 96GB DDR5-6000 + 9950X  =>  rtx-4090 24 | ryzen-9950x:6000 96
RTX 4090 + 9950X + 2TB NVMe  =>  rtx-4090 24 | ryzen-9950x 96
RTX 4090, 2TB NVMe  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090, 64GB, 2TB SSD  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090 + 9950X, 24GB VRAM  =>  rtx-4090 24 | ryzen-9950x 96
RTX 4090 + 2x EPYC 9355, 24x64GB DDR5-6400  =>  rtx-4090 24 | epyc-9355-2s:24x6400 1536
RTX 4090, 64GB RAM, 1TB  =>  ! several sizes of memory
RTX 4090 + 9950X + 5950X  =>  ! more than one host stands beside rtx-4090
RTX 4090 + Ryzen 9950Z  =>  ! beside rtx-4090 stands an unknown host 'Ryzen 9950Z'
RTX 4090 + FooCPU 9, 96GB  =>  ! beside rtx-4090 stands an unknown host 'FooCPU 9'
9950X + RTX 4090  =>  rtx-4090 24 | ryzen-9950x 96
RTX 4090 9950X  =>  ! part the card and its host
RTX 4090 9950X 64GB  =>  ! part the card and its host
RTX 4090 48GB 9950X  =>  ! part the card and its host
2x RTX 3090 9950X  =>  ! part the card and its host
RTX 4090 + 9950X, PCIe 5.0  =>  ! that is a link
RTX 4090 + 9950X 24GB VRAM  =>  ! 'VRAM' beside its memory is not read
RTX 3090 + RTX 3060  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
2x RTX 3090 + RTX 3060  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
RTX 3090 + RTX 3060 + 5950X  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
RTX 4090 + Apple M4  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
RTX 4090 M4 Max  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
RTX 4090 at 300W  =>  ! of this card no clock by its power is known
M4 Max  =>  apple-m4-max 96 | apple-m4-max-cpu 128
M4 Max 64GB  =>  apple-m4-max 48 | apple-m4-max-cpu 64
M4 Max, 64GB  =>  apple-m4-max 48 | apple-m4-max-cpu 64
M4 Max with 64GB RAM  =>  apple-m4-max 48 | apple-m4-max-cpu 64
M4 Max with 64.5GB RAM  =>  apple-m4-max 48.38 | apple-m4-max-cpu 64.5
M4 Max 128GB  =>  apple-m4-max 96 | apple-m4-max-cpu 128
M4 Max 256GB  =>  ! apple-m4-max has 128 GiB of memory at most
M4 Max, 256GB  =>  ! apple-m4-max has 128 GiB of memory at most
M4 Max 64GB RAM, 1TB  =>  ! several sizes of memory
M4 Max 64GB, 1TB SSD  =>  apple-m4-max 48 | apple-m4-max-cpu 64
M4 Max 9950X  =>  ! apple-m4-max has its own processor, and one memory with it
M4 Max 9950X 64GB  =>  ! apple-m4-max has its own processor, and one memory with it
M4 Max + 9950X  =>  ! apple-m4-max has its own processor, and one memory with it
M4 Max + RTX 3060  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
M4 Max RTX 3060  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
M4 Max + M4 Max  =>  ! machines with one memory for all are no cards of one host
2x M3 Ultra 512GB  =>  ! machines with one memory for all are no cards of one host
M3 Max, 96GB  =>  apple-m3-max-30c 72 | apple-m3-max-30c-cpu 96
M3 Ultra 0.5TB  =>  apple-m3-ultra 384 | apple-m3-ultra-cpu 512
MacBook Pro, M4 Max with 64 GB of memory  =>  apple-m4-max 48 | apple-m4-max-cpu 64
MacBook Pro 16" M4 Max 64GB 2TB SSD  =>  apple-m4-max 48 | apple-m4-max-cpu 64
Mac mini M4 Pro 64GB  =>  apple-m4-pro 48 | apple-m4-pro-cpu 64
Apple M4 Max 40-core  =>  apple-m4-max 96 | apple-m4-max-cpu 128
Strix Halo 9950X  =>  ! strix-halo has its own processor, and one memory with it
Strix Halo + 128GB  =>  strix-halo 96 | strix-halo-cpu 128
Strix Halo RTX 3060  =>  ! cards that differ cannot be said, as 2x rtx-3090 can
Ryzen AI Max+ 395 128GB  =>  strix-halo 96 | strix-halo-cpu 128
Framework Desktop 64GB  =>  strix-halo 48 | strix-halo-cpu 64
GB10 with 128GB  =>  dgx-spark 119.7 | dgx-spark-cpu 119.7
DGX Spark 128 GB LPDDR5X  =>  dgx-spark 119.7 | dgx-spark-cpu 119.7
MI300A + 512GB  =>  ! mi300a has 128 GiB of memory at most
NVIDIA Jetson AGX Orin 64GB  =>  jetson-agx-orin-64gb 61.4 | jetson-agx-orin-64gb-cpu 61.4
Intel Core i9-14900K  =>  ! that is a processor; a machine is called by its accelerator
9950X  =>  ! that is a processor; a machine is called by its accelerator
64GB DDR5-6000  =>  ! that is memory
none  =>  ! a machine is called by its accelerator
foo card  =>  ! (all: pregate hardware)
RTX 4090 +  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090,  =>  ! one machine is asked about here
(RTX 4090)  =>  rtx-4090 24 | desktop-ddr5 64
RTX 4090 ()  =>  rtx-4090 24 | desktop-ddr5 64
0x RTX 4090  =>  ! did you mean 'rtx-4090'
99x RTX 4090  =>  ! 99 cards, at most 16
RTX 4090 0GB  =>  ! has other memory, and of this one no rate is known
RTX 4090, 0GB  =>  ! host.dram_bytes = 0
Arc B580 + 12400F, 32GB  =>  arc-b580 12 | core-12400 32
RTX 3080 + 16GB  =>  rtx-3080 10 | desktop-ddr4 16
RTX 3060 12GB  =>  rtx-3060-12gb 12 | desktop-ddr4 64
RTX 3060, 12GB, 5600X, 32GB DDR4-3200  =>  rtx-3060-12gb 12 | ryzen-5600x:3200 32
H100 PCIe + 2x Xeon 8480+  =>  h100-pcie 79.65 | xeon-8480+-2s 8192
h100-sxm + 2TB DDR5-4800  =>  ! of 'xeon-8480c-2s' no channels are known that memory could be in
RTX 5090 with 192 GB DDR5-5600 and 9950X  =>  rtx-5090 32 | ryzen-9950x:5600 192
RTX 5090 and 9950X & 192GB  =>  rtx-5090 32 | ryzen-9950x:2dpc 192
RTX 4090 w/ 9950X; 96GB  =>  rtx-4090 24 | ryzen-9950x 96
RTX 4090 (24 GB, PCIe 4.0) + 9950X  =>  rtx-4090 24 | ryzen-9950x 96
eight H200  =>  8x h200-sxm 140.4 | xeon-8480c-2s 2048
Radeon AI PRO R9700 x4, 256GB RAM  =>  4x radeon-ai-pro-r9700 32 | desktop-ddr5 256
RTX 4090, desktop-ddr5, 32GB DDR5-4800 single channel  =>  rtx-4090 24 | desktop-ddr5 32
RTX PRO 6000 96GB, EPYC 9355, 768GB  =>  rtx-pro-6000 95.59 | epyc-9355 768
2x RTX PRO 6000 192GB  =>  ! 192 GB may be each card's, all 2 cards' or the host's
2x RTX 3060 24GB  =>  ! 24 GB may be each card's, all 2 cards' or the host's
3x RTX 3090 72GB  =>  3x rtx-3090 24 | desktop-ddr4 64
"""
"""GiB; `!` before what is said of a name that is no machine."""


@pytest.mark.parametrize(("written", "meant"), [tuple(line.split("  =>  ")) for line in MEANT.strip().splitlines()])
def test_the_name_of_a_machine_means_its_cards_their_memory_and_its_host(written: str, meant: str) -> None:
    if meant.startswith("! "):
        with pytest.raises(PregateError) as error:
            pregate.load_hardware(written, "llama-cpp")
        assert meant[2:] in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        return
    found = pregate.load_hardware(written, "llama-cpp")
    card, host = found.machine.accelerator, found.machine.host
    each, theirs = card.hbm_bytes / 2**30, host.dram_bytes / 2**30
    assert f"{found.hardware} {each:.4g} | {host.name} {theirs:.4g}" == meant


def test_a_name_is_parted_into_cards_their_memory_and_what_is_said_of_the_host() -> None:
    parts = machine_parts("2x RTX 3090, 24GB each, 128GB DDR4-3200, EPYC 7763, 2TB NVMe")
    assert (parts.cards, parts.of_cards, parts.of_host) == (
        "2x RTX 3090", ("24GB each",), ("EPYC 7763", "128GB DDR4-3200"),
    )  # fmt: skip


def test_a_file_of_a_machine_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "my rig, with 64 GB.yaml"
    file.write_text("")
    assert machines_listed(f"rtx-3090,{file}, RTX 4090, 64GB") == ["rtx-3090", str(file), "RTX 4090 + 64GB"]


@pytest.mark.parametrize(
    ("written", "name", "link"),
    [
        ("RTX 4090 PCIe 3.0 x8", "rtx-4090", "pcie3-x8"),
        ("4x PCIe 4.0 RTX 3090", "4x rtx-3090", "pcie4-x16"),
        ("16x PCIe 3.0 RTX 3090", "rtx-3090", "pcie3-x16"),
        ("RTX 3090, 4x PCIe 3.0", "rtx-3090", "pcie3-x4"),
        ("RTX 3090 (PCIe 4.0 x4)", "rtx-3090", "pcie4-x4"),
        ("RTX 3090 in a PCIe 5.0 x16 slot", "rtx-3090", "pcie4-x16"),
        ("RTX 3090 gen3 x4", "rtx-3090", "pcie3-x4"),
        ("RTX 3090 @ PCIe x8", "rtx-3090", "pcie4-x8"),
        ("2x RTX 3090 PCIe 4.0 x8", "2x rtx-3090", "pcie4-x8"),
        ("RTX 4060 Ti 16GB, PCIe 3.0", "rtx-4060-ti-16gb", "pcie3-x8"),
        ("RTX 4060 Ti 16GB PCIe 4.0 x16", "rtx-4060-ti-16gb", "pcie4-x8"),
        ("RTX 3090 TB4 PCIe 3.0 x4", "rtx-3090", "pcie3-x4"),
        ("A100 80GB PCIe 4.0 x16", "a100-pcie-80gb", "pcie4-x16"),
        ("H100 PCIe 5.0 x16", "h100-pcie", "pcie5-x16"),
        ("A100 PCIe 80GB", "a100-pcie-80gb", ""),
        ("A100-PCIE-40GB", "a100-pcie-40gb", ""),
        ("RTX 4090 x8", "8x rtx-4090", ""),
        ("EPYC 9355 + RTX PRO 6000 (PCIe 5.0 x16)", "rtx-pro-6000", "pcie5-x16"),
        ("Lenovo Legion 7 (RTX 4090 Laptop)", "rtx-4090-mobile", ""),
        ("inference server (2x RTX 3090, EPYC 7302)", "2x rtx-3090", ""),
    ],
)
def test_a_link_a_host_before_its_card_and_a_card_in_brackets_are_read(written: str, name: str, link: str) -> None:
    machine, numbers = machine_and_numbers(written)
    assert (machine, numbers.get("link", "")) == (name, link)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("RTX 3090 over OCuLink", "OCuLink has four lanes of PCIe 3.0 or 4.0: say which, 'RTX 3090 PCIe 4.0 x4'"),
        ("RTX 3090 eGPU (Thunderbolt 4)", "what eGPU copies is not known: .*say 'RTX 3090 PCIe 3.0 x4'"),
        ("RTX 3090 via USB4", "what USB4 copies is not known"),
        ("RTX 3090 PCIe 3.0 x1", "no link pcie3-x1 is described: say what it copies, link.h2d_bytes_per_s"),
        ("M4 Max PCIe 4.0 x4", "apple-m4-max has no PCIe: leave the link out"),
        ("g6e.xlarge", r"that is l40s and a share of a processor .*name 'l40s \+ PROCESSOR'"),
        ("p4d.24xlarge", "that is 8x a100-sxm4-40gb"),
        ("Standard_NC48ads_A100_v4", "that is 2x a100-pcie-80gb"),
        ("a2-ultragpu-4g", "that is 4x a100-sxm4-80gb"),
        ("GCP g2-standard-24", "that is 2x l4"),
        ("ml.g5.12xlarge", "that is 4x a10g"),
    ],
)
def test_links_and_shares_of_hosts_that_are_not_known_are_told_of(written: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        machine_and_numbers(written)


@pytest.mark.parametrize(
    "written", ["g7x.xlarge", "p4d", "p9.24xlarge", "Standard_NC24_v9", "g2-standard-5", "m5.large"]
)
def test_an_instance_that_is_not_known_has_no_cards(written: str) -> None:
    assert cards_of_instance(written) == ("", "")


def test_every_instance_is_of_cards_that_are_described() -> None:
    names = [*_AWS_FIXED.values(), *_AWS.values(), *_GOOGLE.values(), *_AZURE.values()]
    assert {cards_of(name)[1] for name in names} <= set(hardware_names())


def test_a_link_that_is_set_stands_over_the_one_in_a_name() -> None:
    machine = pregate.load_hardware("RTX 3090 PCIe 3.0 x8")
    assert machine.machine.link.name == "pcie3-x8"
    assert pregate.load_hardware("RTX 3090 PCIe 3.0 x8", overrides={"link": "pcie4-x4"}).machine.link.name == "pcie4-x4"
