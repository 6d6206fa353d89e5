"""Names as people write them, at the front door: on the command line and in Python; what ships, by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import pregate
from hwmodels.shipped import STACKS_DIR
from offload.policies.policy_descriptions import DESIGNS
from pregate.ask.calibration_summary import describe_calibration
from pregate.cli.checks import names
from pregate.spellings import machine_names
from pregate.spellings.machine_names import machines_listed
from pregate.spellings.models import model_and_format
from pregate.spellings.names import KNOWN, our_name
from pregate.spellings.unknown_names import unknown
from tests.command_line import Run, runner
from traces.errors import InvalidFile, InvalidInput, UnknownName


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("RTX 3060", "rtx-3060-12gb"),
        ("RTX 8000", "quadro-rtx-8000"),
        ("3060", "rtx-3060-12gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX4090", "rtx-4090"),
        ("RTX 2050", "rtx-2050-mobile"),
        ("Strix Halo", "strix-halo"),
        ("Ryzen AI Max+ 395", "strix-halo"),
        ("M3 Ultra", "apple-m3-ultra"),
        ("Mac Studio M3 Ultra", "apple-m3-ultra"),
        ("Mac mini M4 Pro 64GB", "apple-m4-pro"),
        ("MacBook Pro M3 Max", "apple-m3-max"),
        ("NVIDIA H20", "h20"),
        ("L40S", "l40s"),
        ("H100", "h100-sxm"),
        ("RTX 3090x2", "2x rtx-3090"),
        ("rtx-3090+rtx-3090", "2x rtx-3090"),
        ("RTX 3090 + RTX 3090 + RTX 3090", "3x rtx-3090"),
        ("3090 and 3090", "2x rtx-3090"),
        ("H200 141GB", "h200-sxm"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("RTX 2060", "rtx-2060-6gb"),
        ("RTX 4060 Ti 16G", "rtx-4060-ti-16gb"),
        ("A6000 48GB", "rtx-a6000"),
        ("4070 TiS", "rtx-4070-ti-super"),
        ("RTX 5090 FE", "rtx-5090"),
        ("NVIDIA A100 80 GB", "a100-sxm4-80gb"),
        ("A100 80 GB PCIe", "a100-pcie-80gb"),
        ("RTX PRO 6000 Blackwell Max-Q", "rtx-pro-6000-max-q"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("Radeon AI PRO R9700", "radeon-ai-pro-r9700"),
        ("Ryzen AI Max+ PRO 395", "strix-halo"),
        ("H800 PCIe", "h800-pcie"),
        ("NVIDIA A800 80GB PCIe", "a800-pcie-80gb"),
        ("NVIDIA H800", "h800-sxm"),
        ("A100-80G PCIe", "a100-pcie-80gb"),
        ("V100 32G", "v100-sxm2-32gb"),
        ("NVIDIA GH200 144G HBM3e", "gh200-144gb"),
        ("AMD Instinct MI355X", "mi355x"),
        ("B60", "arc-pro-b60"),
        ("MacBook Pro M5 Max", "apple-m5-max"),
        ("Jetson Thor", "jetson-agx-thor"),
        ("NVIDIA Jetson AGX Orin 64GB", "jetson-agx-orin-64gb"),
        ("RTX 5090D v2", "rtx-5090-d-v2"),
        ("M1", "apple-m1"),
        ("Mac mini M4", "apple-m4"),
        ("MacBook Pro M3 Pro 36GB", "apple-m3-pro"),
        ("AMD Ryzen AI Max PRO 385", "strix-halo-385"),
        ("Strix Halo 390", "strix-halo-390"),
        ("AMD Instinct MI300A", "mi300a"),
        ("RTX 4070M", "rtx-4070-mobile"),
        ("NVIDIA RTX 5000 Ada Generation Laptop GPU", "rtx-5000-ada-mobile"),
        ("NVIDIA RTX A4000 Laptop GPU", "rtx-a4000-mobile"),
        ("RTX A4000", "rtx-a4000"),
        ("Intel Arc A770", "arc-a770-16gb"),
        ("RTX PRO 5000 Blackwell", "rtx-pro-5000"),
        ("NVIDIA RTX PRO 5000 Blackwell 72GB", "rtx-pro-5000-72gb"),
        ("Radeon PRO W7900 Dual Slot", "radeon-pro-w7900"),
        ("W7900 Dual Slot", "radeon-pro-w7900"),
        ("GB300 NVL72", "gb300"),
        ("NVIDIA GB200-NVL72", "gb200"),
        ("7900 GRE", "rx-7900-gre"),
        ("RX 6700", "rx-6700"),
        ("2060S", "rtx-2060-super"),
        ("Orin NX 16GB", "jetson-orin-nx-16gb"),
        ("P4000", "quadro-p4000"),
        ("(2) RTX 3090", "2x rtx-3090"),
        ("RTX 3090 (2)", "2x rtx-3090"),
        ("RTX 3090 (2x)", "2x rtx-3090"),
        ("(2x) RTX 3090", "2x rtx-3090"),
        ("RTX 3090 (x2)", "2x rtx-3090"),
        ("quad RTX 3090", "4x rtx-3090"),
        ("3090*4", "4x rtx-3090"),
        ("RTX 4090 (Laptop)", "rtx-4090-mobile"),
        ("RTX 4090 (24 GB VRAM)", "rtx-4090"),
        ("H100 (PCIe)", "h100-pcie"),
        ("H100 (NVL)", "h100-nvl"),
        ("A100 80GB (PCIe)", "a100-pcie-80gb"),
        ("Titan X (Pascal)", "titan-x-pascal"),
        ("GTX TITAN X", "titan-x-maxwell"),
        ("RTX 5090 (undervolted)", "rtx-5090"),
        ("RTX 3060 Ti (GDDR6)", "rtx-3060-ti"),
        ("RX 9070 GRE 16 GB", "rx-9070-gre-16gb"),
        ("GTX 3090", "rtx-3090"),
    ],
)
def test_a_machine_is_loaded_by_what_people_call_it(written: str, ours: str) -> None:
    assert pregate.load_hardware(written).hardware == ours
    names.hardware("--hardware", written)


def test_a_card_with_more_memory_than_it_is_sold_with_has_it() -> None:
    for written in ("RTX 4090 48GB", "RTX 4090 (48GB)", "RTX 4090 (48 GB)"):
        assert pregate.load_hardware(written).machine.accelerator.hbm_bytes == 48 * 2**30
    stated = pregate.load_hardware("RTX 4090 48GB", overrides={"accelerator.hbm_bytes": 40e9})
    assert stated.machine.accelerator.hbm_bytes == 40_000_000_000


@pytest.mark.parametrize("written", ["B200 PCIe", "NVIDIA B300 PCIe", "MI300X PCIe", "GB200 PCIe"])
def test_a_card_with_a_slot_is_no_module(written: str) -> None:
    with pytest.raises(UnknownName, match="is a module and no card with a slot"):
        pregate.load_hardware(written)


def test_a_card_of_two_memories_is_none_whichever_is_read_first() -> None:
    cards = "rtx-3060-12gb", "p100-pcie-16gb", "m40-24gb", "v100s-pcie-32gb", "a100-sxm4-40gb", "a100-sxm4-80gb"
    for written in [f"{card} {n_gb}GB" for card in cards for n_gb in (8, 11, 20, 48, 64, 96)]:
        assert our_name("hardware", written) == written


def test_memory_beside_a_superchip_is_no_memory_of_its_card() -> None:
    """Drivers call a GH200 of 96 GB by the 480 GB of the processor beside it."""
    card = pregate.load_hardware("NVIDIA GH200 480GB").machine.accelerator
    assert card.hbm_bytes == pregate.load_hardware("gh200").machine.accelerator.hbm_bytes
    with pytest.raises(UnknownName, match="unknown hardware 'RTX 4090 96GB'"):
        pregate.load_hardware("RTX 4090 96GB")


@pytest.mark.parametrize("written", ["M4 Max 64GB", "Mac Studio M4 Max (64 GB)", "M4 Max 64G"])
def test_a_machine_of_one_memory_has_as_much_as_its_name_says(written: str) -> None:
    machine, whole = pregate.load_hardware(written).machine, pregate.load_hardware("apple-m4-max").machine
    assert machine.host.dram_bytes == 64 * 2**30
    assert machine.accelerator.hbm_bytes == whole.accelerator.hbm_bytes / 2
    assert pregate.load_hardware("M4 Max 128GB").machine == whole


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("2x EPYC 7402P", "epyc-7402p is for one socket: name epyc-7402p alone"),
        ("dual EPYC 9354P", "epyc-9354p is for one socket"),
        ("2x Ryzen 9 7950X", "ryzen-7950x is for one socket"),
        ("quad channel", "its memory by channels and speed behind a colon"),
    ],
)
def test_a_host_of_memory_or_of_sockets_that_it_has_not_is_told(written: str, told: str, run: Run) -> None:
    status, _, text = run("plan", "olmoe-1b-7b", "--hardware", "rtx-4090", "--host", written)
    assert status == 2
    assert told in text
    assert len(text.splitlines()) == 1


def test_a_processor_for_one_socket_is_read_as_one() -> None:
    host = pregate.load_hardware("rtx-3090", overrides={"host": "EPYC 7402P"}).machine.host
    assert host.name == "epyc-7402"


def test_what_is_shown_may_be_called_as_people_call_it(run: Run) -> None:
    status, out, _ = run("hardware", "show", "RTX 4090 48GB", "--format", "csv")
    assert status == 0
    assert f"accelerator.hbm_bytes,{48 * 2**30}" in out.replace(".0,", ",")
    assert run("models", "show", "Qwen 3 30B A3B")[1].startswith("name: qwen3-30b-a3b\n")


@pytest.mark.parametrize("written", ["Threadripper 7975WX", "Threadripper PRO 7975WX", "threadripper-7975wx", "7975WX"])
def test_a_workstation_processor_is_meant_with_or_without_its_series(written: str) -> None:
    named = pregate.load_hardware("rtx-3090", "llama.cpp", {"host": written})
    assert named.machine.host.name == "threadripper-pro-7975wx"


@pytest.mark.parametrize("written", ["2x", "2x ", "dual -", "(2) "])
def test_two_sockets_of_no_processor_are_told(written: str, run: Run) -> None:
    status, _, text = run("plan", "olmoe-1b-7b", "--hardware", "rtx-4090", "--host", written)
    assert status == 2
    assert f"unknown host {written!r}" in text


@pytest.mark.parametrize(
    ("written", "ours"),
    [("Xeon Platinum 8480", "xeon-8480+"), ("2x Xeon 8480", "xeon-8480+-2s"), ("Xeon 8470", "xeon-8470")],
)
def test_a_xeon_is_meant_without_the_plus_that_its_name_ends_in(written: str, ours: str) -> None:
    assert pregate.load_hardware("rtx-3090", "llama.cpp", {"host": written}).machine.host.name == ours


def test_a_machine_as_others_write_it_runs_an_engine_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "engine.yaml"
    shutil.copy(STACKS_DIR / "llama-cpp.yaml", own)
    assert pregate.load_hardware("RTX 3090", str(own)).stack.name == str(own)
    with pytest.raises(InvalidFile, match=r"gone\.yaml: there is no such file"):
        pregate.load_hardware("RTX 3090", str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize(
    ("written", "name", "dram_gib", "rate"),
    [
        ("9950X + 96GB DDR5-6000", "ryzen-9950x:6000", 96, 2 * 6000 * 8e6),
        ("Ryzen 9 9950X 2x48GB", "ryzen-9950x", 96, 2 * 5600 * 8e6),
        ("EPYC 9355, 12x64GB DDR5-6400", "epyc-9355:12x6400", 768, 12 * 6400 * 8e6),
        ("Xeon 6980P, 12x64GB MRDIMM-8800", "xeon-6980p:12x8800", 768, 12 * 8800 * 8e6),
        ("Xeon 6980P MRDIMM 8800", "xeon-6980p:8800", 3072, 12 * 8800 * 8e6),
        ("2x Xeon 6980P 24x64GB MCRDIMM-8800", "xeon-6980p-2s:24x8800", 1536, 24 * 8800 * 8e6),
        ("2x EPYC 9355 (1.5 TB)", "epyc-9355-2s", 1536, None),
        ("EPYC 7763 (512 GB)", "epyc-7763", 512, 8 * 3200 * 8e6),
        ("desktop-ddr5, 32GB DDR5-4800 single channel", "desktop-ddr5", 32, 4800 * 8e6),
        ("dgx-spark-cpu, 64GB", "dgx-spark-cpu", 64, None),
        ("9950X, 64 GB DDR5-6000 (2x32GB)", "ryzen-9950x:2x6000", 64, 2 * 6000 * 8e6),
        ("EPYC 9355, 12000 GB", "epyc-9355", 12000, None),
        ("EPYC 9355, 1152GB (12x96GB) DDR5-6000", "epyc-9355:12x6000", 1152, 12 * 6000 * 8e6),
        ("i9-14900K, 128GB DDR5-4400 (4 DIMMs)", "core-14900k:2x4400", 128, 2 * 4400 * 8e6),
        ("7950X, 4x48GB DDR5", "ryzen-7950x:2dpc", 192, 2 * 3600 * 8e6),
        ("9950X, 4x48GB", "ryzen-9950x:2dpc", 192, 2 * 3600 * 8e6),
        ("7950X, 2x48GB DDR5", "ryzen-7950x", 96, 2 * 5200 * 8e6),
        ("7950X, 4x48GB DDR5-5200", "ryzen-7950x:2x5200", 192, 2 * 5200 * 8e6),
        ("2x Xeon 8480+, 32x64GB", "xeon-8480+-2s:2dpc", 2048, 16 * 4400 * 8e6),
        ("i9-14900K, 4x48GB", "core-14900k", 192, 2 * 5600 * 8e6),  # no page read says what four run at
        ("desktop-ddr5, 4x48GB", "desktop-ddr5", 192, 2 * 3600 * 8e6),
        ("Intel Core i9-14900K (24 cores), 64GB", "core-14900k", 64, None),
        ("Ryzen AI Max+ 395, 64GB", "strix-halo-cpu", 64, None),
        ("9950X 64GiB", "ryzen-9950x", 64, None),
        ("9950X, 64G", "ryzen-9950x", 64, None),
        ("9950X, 2*48GB DDR5-6000", "ryzen-9950x:2x6000", 96, 2 * 6000 * 8e6),
        ("9950X, 96 GB DDR5-6000, 2 TB NVMe", "ryzen-9950x:6000", 96, 2 * 6000 * 8e6),
        ("9950X, 2TB SSD", "ryzen-9950x", 96, None),
        ("9950X, 192GB @ 3600 MT/s", "ryzen-9950x:3600", 192, 2 * 3600 * 8e6),
        ("epyc-7763:8x3200, 512GB", "epyc-7763:8x3200", 512, 8 * 3200 * 8e6),
    ],
)
def test_a_host_has_the_memory_that_stands_beside_it(
    written: str, name: str, dram_gib: int, rate: float | None
) -> None:
    host = pregate.load_hardware("rtx-4090", None, {"host": written}).machine.host
    assert (host.name, host.dram_bytes) == (name, dram_gib * 2**30)
    if rate is not None:
        assert host.dram_bytes_per_s == pytest.approx(rate)


@pytest.mark.parametrize(
    ("written", "ours", "overrides"),
    [
        ("RTX 3090 + EPYC 7763", "rtx-3090", {"host": "epyc-7763"}),
        (
            "2x 3090 + EPYC 7763 8x32GB DDR4-3200", "2x rtx-3090",
            {"host": "epyc-7763:8x3200", "host.dram_bytes": "256GiB"},
        ),
        (
            "RTX 4090 48GB, i9-14900K, 64GB DDR5-5600", "rtx-4090",
            {"accelerator.hbm_bytes": "48GiB", "host": "core-14900k:5600", "host.dram_bytes": "64GiB"},
        ),
        ("rtx-4090 with 128GB RAM", "rtx-4090", {"host": "desktop-ddr5", "host.dram_bytes": "128GiB"}),
        (
            "RTX 3090 w/ 64GB DDR5-6000", "rtx-3090",
            {"host": "desktop-ddr5", "host.dram_bytes": "64GiB", "host.dram_bytes_per_s": "96GB/s"},
        ),
        ("Mac Studio M4 Max with 64GB of memory", "apple-m4-max 64GB", {}),
        (
            "RTX 4090 + EPYC 9355, 12x64GB DDR5-6400", "rtx-4090",
            {"host": "epyc-9355:12x6400", "host.dram_bytes": "768GiB"},
        ),
        ("RTX 3090 with 1.5TB DDR4 ECC", "rtx-3090", {"host": "desktop-ddr4", "host.dram_bytes": "1536GiB"}),
        ("RTX 4090, 64G RAM", "rtx-4090", {"host": "desktop-ddr5", "host.dram_bytes": "64GiB"}),
        ("RTX 4090/9950X", "rtx-4090", {"host": "ryzen-9950x"}),
        (
            "M4 Max with 64.5GB RAM", "apple-m4-max",
            {"accelerator.hbm_bytes": "48.375GiB", "host.dram_bytes": "64.5GiB"},
        ),
        (
            "RTX 4090 (48GB) + EPYC 9355, 12x64GB DDR5-6400", "rtx-4090",
            {"accelerator.hbm_bytes": "48GiB", "host": "epyc-9355:12x6400", "host.dram_bytes": "768GiB"},
        ),
        ("RTX 3080 + 16GB", "rtx-3080", {"host": "desktop-ddr4", "host.dram_bytes": "16GiB"}),
        ("RTX 4090, 32GB", "rtx-4090", {"host": "desktop-ddr5", "host.dram_bytes": "32GiB"}),
        ("2x RTX 3090, 48GB RAM", "2x rtx-3090", {"host": "desktop-ddr4", "host.dram_bytes": "48GiB"}),
        ("RTX 4090 24GB VRAM, 64GB RAM", "rtx-4090", {"host": "desktop-ddr5", "host.dram_bytes": "64GiB"}),
        ("RTX 4090 64GB DDR5", "rtx-4090", {"host": "desktop-ddr5", "host.dram_bytes": "64GiB"}),
        ("RTX 4090 + 2x16GB DDR5", "rtx-4090", {"host": "desktop-ddr5", "host.dram_bytes": "32GiB"}),
        ("RTX 4090, 24GB, 9950X, 96GB", "rtx-4090", {"host": "ryzen-9950x", "host.dram_bytes": "96GiB"}),
        (
            "RTX 4090 + 96GB DDR5-6000 + 9950X", "rtx-4090",
            {"host": "ryzen-9950x:6000", "host.dram_bytes": "96GiB"},
        ),
        ("RTX 4090 + 9950X + 2TB NVMe", "rtx-4090", {"host": "ryzen-9950x"}),
        ("Arc B580 + 12400F, 32GB", "arc-b580", {"host": "core-12400", "host.dram_bytes": "32GiB"}),
        ("A100 (80GB, PCIe)", "a100-pcie-80gb", {}),
        ("2x RTX 3090 (24GB each) + EPYC 7763", "2x rtx-3090", {"host": "epyc-7763"}),
        ('MacBook Pro 16" M4 Max 64GB 2TB SSD', "apple-m4-max 64GB", {}),
        ("MacBook Pro, M4 Max with 64 GB of memory", "apple-m4-max 64GB", {}),
        ("M3 Max, 96GB", "apple-m3-max-30c", {}),
        ("GB10 with 128GB", "dgx-spark", {}),
        ("DGX Spark 128 GB LPDDR5X", "dgx-spark", {}),
    ],
)  # fmt: skip
def test_a_machine_is_read_with_what_stands_beside_its_card(written: str, ours: str, overrides: dict[str, Any]) -> None:
    assert pregate.load_hardware(written, "llama-cpp") == pregate.load_hardware(ours, "llama-cpp", overrides)


@pytest.mark.parametrize(
    ("written", "ours", "overrides"),
    [
        ("RTX 4090 with 24GB", "rtx-4090", {}),
        ("H100, 80GB", "h100-sxm", {}),
        ("A100 with 80 GB of memory", "a100-sxm4-80gb", {}),
        ("2x RTX 3090 with 24GB each", "2x rtx-3090", {}),
        ("RTX 4090 with 48GB VRAM", "rtx-4090", {"accelerator.hbm_bytes": "48GiB"}),
        ("RTX 4090, 24 GB VRAM, 9950X, 64GB", "rtx-4090", {"host": "ryzen-9950x", "host.dram_bytes": "64GiB"}),
        ("RTX 4090 with 24GB RAM", "rtx-4090", {"host.dram_bytes": "24GiB"}),
        ("RTX 4090 with 48GB", "rtx-4090", {"host.dram_bytes": "48GiB"}),
    ],
)  # fmt: skip
def test_memory_beside_a_card_that_is_the_cards_own_is_no_hosts(
    written: str, ours: str, overrides: dict[str, Any]
) -> None:
    assert pregate.load_hardware(written, "llama-cpp") == pregate.load_hardware(ours, "llama-cpp", overrides)


def test_memory_beside_a_card_is_that_of_the_host_that_is_said() -> None:
    host = pregate.load_hardware("RTX 4090 with 64GB RAM", "llama-cpp", {"host": "EPYC 7763"}).machine.host
    assert (host.name, host.dram_bytes) == ("epyc-7763", 64 * 2**30)


def test_a_name_of_many_parts_is_looked_at_part_by_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to part it asks for all shorter ones: of 28 parts that would be 2**27 looks."""
    n_looks, look = [0], machine_names.several

    def counted(hardware: str) -> tuple[int, str]:
        n_looks[0] += 1
        return look(hardware)

    monkeypatch.setattr(machine_names, "several", counted)
    written = "rtx-4090" + "+9950X" * 27 + "+gone"
    assert machine_names.machine_and_numbers(written) == (written, {})
    assert n_looks[0] < 1000


def test_a_list_of_machines_has_hosts_and_memory_beside_their_cards(run: Run) -> None:
    assert machines_listed("rtx-3090,RTX 4090,i9-14900K,64GB DDR5-5600") == [
        "rtx-3090", "RTX 4090 + i9-14900K + 64GB DDR5-5600",
    ]  # fmt: skip
    asked = ("plan", "olmoe-1b-7b", "--hardware", "rtx-3090,RTX 4090, 9950X, 64GB DDR5-6000", "--stack", "llama-cpp")
    status, out, text = run(*asked, "--format", "json", "--output-tokens", "2", "--policies", "gpu_only")
    assert status == 0, text
    assert "ryzen-9950x:6000" in out


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--hardware", "rtx-4090", "--host", "64GB DDR5-6000"), "that is memory: name the processor before it"),
        (("--hardware", "rtx-4090", "--host", "i9-99999K, 64GB"), "unknown host 'i9-99999K'"),
        (("--hardware", "rtx-4090", "--host", "9950X, 4 channels DDR5-5600"), "it has 2 channels, not 4"),
        (("--hardware", "h100-sxm + 2TB DDR5-4800"), "no channels are known"),
        (("--hardware", "rtx-4090", "--host", "ryzen-9950x:6000, 96GB DDR5-4800"), "speed is stated twice"),
        (("--hardware", "RTX 4090 + 9950X 96GB", "--host", "EPYC 7763"), "has the host ryzen-9950x, and epyc-7763"),
        (("--hardware", "RTX 4090 with 64GB DDR5-6000", "--host", "EPYC 7763"), "has the host desktop-ddr5, and epyc"),
        (("--hardware", "3090 + 3060"), "cards that differ cannot be said"),
        (("--hardware", "64GB DDR5-6000"), "that is memory: name the card before it"),
        (("--hardware", "rtx-4090", "--host", "9950X, 64GB, 32GB"), "several sizes of memory"),
        (("--hardware", "rtx-4090", "--host", "9950X, 0GB"), "must be above 0"),
        (("--hardware", "rtx-4090", "--host", "9950X, 96GB, RTX 3090"), "'RTX3090' beside its memory is not read"),
        (("--hardware", "rtx-4090", "--host", "12700K, 64GB DDR4"), "say the speed of its DDR4"),
        (("--hardware", "M4 Max 256GB"), "apple-m4-max has 128 GiB of memory at most"),
        (("--hardware", "M4 Max with 256GB RAM"), "apple-m4-max has 128 GiB of memory at most"),
        (("--hardware", "M4 Max 64GB RAM, 1TB"), "several sizes of memory"),
        (("--hardware", "MI300A + 512GB"), "mi300a has 128 GiB of memory at most"),
        (("--hardware", "M2 Ultra 192GB + 5950X"), "has its own processor"),
        (("--hardware", "M4 Max + 9950X + 64 GB RAM"), "has its own processor"),
        (("--hardware", "RTX 4090 + 9950X 24GB VRAM"), "'VRAM' beside its memory is not read"),
        (("--hardware", "RTX 4090 + 9950X + 5950X"), "more than one host stands beside rtx-4090"),
        (("--hardware", "RTX 4090 + Ryzen 9950Z"), "an unknown host 'Ryzen 9950Z': did you mean 'ryzen-9950x'"),
        (("--hardware", "RTX 4090 + FooCPU 9, 96GB"), "an unknown host 'FooCPU 9'"),
        (("--hardware", "RTX 3090 + RTX 3060 + 5950X"), "cards that differ cannot be said"),
        (("--hardware", "9950X + RTX 4090 + Foo 7"), "name the card first: 'RTX 4090 + 9950X'"),
        (("--hardware", "RTX 4090 9950X 96GB"), "part the card and its host: 'RTX 4090 + 9950X 96GB'"),
        (("--hardware", "RTX 4090 + 9950X, PCIe 5.0"), "that is a link: name it with --set link=pcie5-x16"),
        (("--hardware", "rtx-4090,,rtx-3090"), "has an empty place"),
        (("--hardware", "rtx-4090,rtx-4090"), "twice"),
    ],
)
def test_memory_that_is_nobodys_is_told(option: Sequence[str], told: str, run: Run) -> None:
    status, _, text = run("plan", "olmoe-1b-7b", *option)
    assert status == 2
    assert told in text


def test_two_machines_of_a_list_may_have_as_much_memory(run: Run) -> None:
    asked = ("plan", "olmoe-1b-7b", "--hardware", "RTX 4090, 64GB, RTX 3090, 64GB", "--stack", "llama-cpp")
    status, out, text = run(*asked, "--format", "json", "--output-tokens", "2", "--policies", "gpu_only")
    assert status == 0, text
    assert {"rtx-4090", "rtx-3090"} <= set(re.findall(r"rtx-\d+", out))


def test_an_optimum_is_searched_on_a_machine_with_its_host(run: Run) -> None:
    asked = ("optimize", "olmoe-1b-7b", "--hardware", "RTX 4090 + 9950X, 96GB DDR5-6000", "--policies", "gpu_only")
    status, out, text = run(*asked, "--output-tokens", "2", "--input-tokens", "4", "--maximize", "tokens_per_s")
    assert status == 0, text
    assert "rtx-4090" in out


def test_python_says_of_several_machines_which_is_none() -> None:
    with pytest.raises(InvalidInput, match="one machine is asked about"):
        pregate.load_hardware("RTX 4090, RTX 3090")
    with pytest.raises(UnknownName, match="unknown hardware 'foo 9'"):
        pregate.load_hardware("RTX 4090, foo 9")
    with pytest.raises(UnknownName, match="unknown host 'foo'"):
        pregate.load_hardware("rtx-4090", None, {"host": "foo, 96GB"})


def test_hosts_links_and_software_are_loaded_by_what_people_call_them() -> None:
    hw = pregate.load_hardware("RTX 3090", "llama.cpp", {"host": "EPYC 7763:4x2400", "link": "PCIe 4.0 x8"})
    ours = pregate.load_hardware("rtx-3090", "llama-cpp", {"host": "epyc-7763:4x2400", "link": "pcie4-x8"})
    assert hw == ours
    names.part_of_machine("host")("--host", "EPYC 7763:4x2400")
    names.part_of_machine("host")("--host", "epyc-7763")
    names.part_of_machine("link")("--link", "PCIe 4.0 x8")
    names.sets("--set", ["host=EPYC 7763:4x2400", "link=PCIe 4.0 x8"])
    names.stacks("--stack", "llama.cpp,Ollama")


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ("host=EPYC 9999Q", "unknown host 'EPYC 9999Q'.*another is read from a YAML file"),
        ("host=epyc-7763:99x1", "99"),
        ("link=PCIe 9", "unknown link 'PCIe 9'"),
        ("host=gone.yaml", "gone.yaml"),
    ],
)
def test_a_part_that_nobody_knows_is_told_where_a_number_of_a_machine_is_set(stated: str, told: str) -> None:
    with pytest.raises((UnknownName, InvalidInput, InvalidFile), match=told):
        names.sets("--set", [stated])


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("Xeon 6530P", "xeon-6530p"),
        ("Xeon 6 6787P", "xeon-6787p"),
        ("EPYC 7402P", "epyc-7402"),
        ("EPYC 4564P", "epyc-4564p"),
        ("Intel(R) Xeon(R) CPU Max 9480", "xeon-max-9480"),
        ("Ampere Altra Max M128-30", "altra-max-m128-30"),
        ("AWS Graviton4", "graviton-4"),
        ("AMD Ryzen Threadripper PRO 7995WX 96-Cores", "threadripper-pro-7995wx"),
        ("AMD Ryzen AI 9 HX 370 w/ Radeon 890M", "ryzen-ai-9-hx-370"),
        ("Xeon W-3275M", "xeon-w-3275m"),
        ("AMD RYZEN AI MAX+ PRO 395 w/ Radeon 8060S", "strix-halo-cpu"),
        ("Apple M2 Pro", "apple-m2-pro-cpu"),
        ("M4 Max", "apple-m4-max-cpu"),
        ("2x E5-2697 v2", "xeon-e5-2697-v2-2s"),
        ("Ryzen AI Max 390", "strix-halo-390-cpu"),
    ],
)
def test_a_letter_that_makes_another_processor_is_kept(written: str, ours: str) -> None:
    """A Xeon Gold 6530 is two generations before the 6530P; an EPYC 7402P is a 7402 for one socket."""
    assert pregate.load_hardware("rtx-4090", overrides={"host": written}).machine.host.name == ours


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("RTX 9999 Ti", "did you mean 'rtx-"),
        ("Mac Studio", "known: apple-m1, apple-m1-max, .*, apple-m5.*; another is read from a YAML file"),
        ("Tesla M4", "unknown hardware"),
        ("RTX A2000", "did you mean 'rtx-a2000-12gb' or 'rtx-a2000-6gb'"),
        ("RTX A3000 Laptop", "did you mean 'rtx-a3000-mobile-12gb' or 'rtx-a3000-mobile-6gb'"),
        ("Jetson AGX Orin", "did you mean 'jetson-agx-orin-32gb' or 'jetson-agx-orin-64gb'"),
        ("M6 Max", "did you mean 'apple-m"),
        ("RX 6800M", "did you mean 'rx-6"),
        ("Ryzen AI Max+ 392", "known: strix-halo, strix-halo-385, strix-halo-390"),
        ("Intel Data Center GPU Max 1550", "Intel's data center GPUs"),
        ("Data Center GPU Flex 170", "Intel's data center GPUs"),
        ("rtx-3090+rtx-4090", "cards that differ cannot be said"),
        ("3090 + 4090", "cards that differ cannot be said"),
        ("RTX 4099 + EPYC 7763", "unknown hardware 'RTX 4099': did you mean"),
        ("H20 141GB", "h20.* has other memory, .*: name h20.*, and --set accelerator.hbm_bytes"),
        ("Ryzen AI Max PRO 380", "unknown hardware"),
        ("none", "gpu_only@layers=cpu of --stack llama-cpp"),
        ("CPU only", "gpu_only@layers=cpu of --stack llama-cpp"),
        ("RTX 2080 (Max-Q)", "unknown hardware"),
        ("RTX 3080 (Mobile)", "did you mean 'rtx-3080-mobile-16gb' or 'rtx-3080-mobile-8gb'"),
        ("Tesla M40", "did you mean 'm40-12gb' or 'm40-24gb'"),
        ("Titan X", "did you mean 'titan-x-maxwell' or 'titan-x-pascal'"),
        ("Titan", "unknown hardware"),
        ("GTX TITAN", "unknown hardware"),
        ("GTX 480", "unknown hardware"),
        ("GeForce GTX 590", "unknown hardware"),
        ("Quadro 4000", "unknown hardware"),
        ("Arc Pro A40", "unknown hardware"),
        ("GRID M3-3020", "unknown hardware"),
        ("GTX 1650 GDDR6", "gtx-1650 has other memory, .*: name gtx-1650, and --set accelerator.hbm_bytes"),
        ("RTX 3060 Ti GDDR6X", "rtx-3060-ti has other memory"),
        ("4x A100", "did you mean 'a100-pcie-40gb'"),
        ("MI250X", "two dies, each a device to software: name 2x mi250x-gcd"),
        ("4x MI250X", "name 8x mi250x-gcd"),
        ("MI308X", "no source of its rates was read: describe it in a YAML file"),
        ("DGX H100", "a machine of several modules: name how many, 8x h100-sxm"),
        ("Tesla K80", "no engine here has constants for it"),
        ("Gaudi 3", "Intel Gaudi: no engine here has constants for it: describe the machine and the software"),
        ("TPU v5e", "Google TPU: no engine"),
        ("trn1.32xlarge", "AWS Trainium or Inferentia: no engine"),
        ("Ascend 910B", "Huawei Ascend: no engine"),
        ("MTT S4000", "Moore Threads: no engine"),
        ("Radeon 780M", "graphics of a processor: no engine"),
    ],
)
def test_a_machine_that_nobody_knows_is_told_the_nearest_in_our_spelling(written: str, told: str) -> None:
    with pytest.raises(UnknownName, match=told):
        pregate.load_hardware(written)
    with pytest.raises(UnknownName, match=told):
        names.hardware("--hardware", written)


@pytest.mark.parametrize(
    ("written", "ours", "format"),
    [
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", "bf16"),
        (
            "qwen3:30b-a3b",
            "qwen3-30b-a3b",
            "q4_k*0.8333+q6_k*0.1667",
        ),  # q4_k_m, as Ollama's files are whose tag says nothing
        ("mixtral:8x7b", "mixtral-8x7b", "q4_0"),  # an old one
        ("llama4:scout", "llama-4-scout", "q4_k*0.8333+q6_k*0.1667"),
        ("llama4:17b-scout-16e-instruct-q4_K_M", "llama-4-scout", "q4_k*0.8333+q6_k*0.1667"),
        ("mixtral", "mixtral-8x7b", "q4_0"),
        ("deepseek-v2:16b", "deepseek-v2-lite", "q4_0"),
        ("deepseek-coder-v2:16b-lite-instruct-q8_0", "deepseek-v2-lite", "q8_0"),
        ("deepseek-v2", "deepseek-v2", "bf16"),  # of 236 billion, as its maker calls it
        ("gpt-oss", "gpt-oss-20b", "mxfp4"),
        ("qwen3-coder:latest", "qwen3-30b-a3b", "q4_k*0.8333+q6_k*0.1667"),
        ("gpt-oss:20b", "gpt-oss-20b", "mxfp4"),
        ("openai/gpt-oss-20b", "gpt-oss-20b", "mxfp4"),
        ("unsloth/Qwen3-30B-A3B-GGUF:Q8_0", "qwen3-30b-a3b", "q8_0"),
        ("Mixtral-8x7B", "mixtral-8x7b", "bf16"),
        ("allenai/OLMoE-1B-7B-0924", "olmoe-1b-7b", "bf16"),
    ],
)
def test_a_model_is_loaded_by_its_repository_or_tag(written: str, ours: str, format: str) -> None:
    model = pregate.load_model(written)
    assert (model.name, model.expert_dtype.name) == (ours, format)


@pytest.mark.parametrize("written", ["qwen3:latest", "qwen3", "qwen3:8b", "deepseek-r1:latest", "deepseek-r1:32b"])
def test_a_tag_of_ollama_that_is_a_dense_model_says_so(written: str) -> None:
    with pytest.raises(UnknownName, match="Ollama's is dense: name the tag of a mixture of experts"):
        pregate.load_model(written)


@pytest.mark.parametrize("written", ["gpt-oss:120b-cloud", "deepseek-v3.1:671b-cloud"])
def test_a_tag_that_runs_on_ollamas_machines_says_so(written: str) -> None:
    with pytest.raises(UnknownName, match="it runs on Ollama's machines: leave -cloud out"):
        pregate.load_model(written)


@pytest.mark.parametrize(
    ("written", "gigabytes"),
    [
        ("bartowski/openai_gpt-oss-20b-GGUF", 12.1),
        ("unsloth/gpt-oss-20b-GGUF", 12.1),
        ("gpt-oss-20b-MXFP4", 12.1),
        ("openai/gpt-oss-20b", 13.8),
        ("gpt-oss:20b", 13.8),
        ("unsloth/Qwen3-30B-A3B-GGUF", 61.1),  # which of its files nobody said
    ],
)
def test_a_repository_of_files_whose_experts_stay_as_published_is_the_file_that_it_recommends(
    written: str, gigabytes: float
) -> None:
    assert pregate.load_model(written).total_bytes / 1e9 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize(
    ("stack", "formats", "is_told"),
    [("llama-cpp", None, True), ("vllm", None, False), ("llama-cpp", {"all": "mxfp4_moe"}, False)],
)
def test_an_engine_of_files_says_that_they_have_other_formats_beside_the_experts(
    stack: str, formats: dict[str, str] | None, is_told: bool
) -> None:
    model = pregate.load_model("gpt-oss-20b", formats=formats)
    words = describe_calibration(pregate.load_hardware("rtx-5080", stack), model, [], [])
    assert ("--formats all=mxfp4_moe" in words) == is_told


@pytest.mark.parametrize(
    ("written", "ours", "format"),
    [
        ("Qwen3-30B-A3B Q4_K_M", "qwen3-30b-a3b", "Q4_K_M"),
        ("Qwen3-235B-A22B (Q2_K)", "qwen3-235b-a22b", "Q2_K"),
        ("qwen3moe 30B.A3B Q4_K - Medium", "qwen3-30b-a3b", "Q4_K_M"),
        ("glm4moe 106B.A12B Q4_K - Small", "glm-4.5-air", "Q4_K_S"),
        ("deepseek2 671B Q4_K - Medium", "deepseek-v3", "Q4_K_M"),
        ("llama 8x7B Q5_K - Medium", "mixtral-8x7b", "Q5_K_M"),
        ("gpt-oss 120B MXFP4 MoE", "gpt-oss-120b", "MXFP4"),
        ("llama 8B Q4_0", "", ""),
    ],
)
def test_a_model_is_read_as_llama_bench_prints_it(written: str, ours: str, format: str) -> None:
    assert model_and_format(written) == (ours, format)


def test_a_model_that_does_not_ship_is_told_what_it_is_read_from() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'foo/bar'.*read from its config.json or GGUF file$"):
        pregate.load_model("foo/bar")


def test_a_format_that_is_given_stands_before_that_of_the_name() -> None:
    model = pregate.load_model("unsloth/Qwen3-30B-A3B-GGUF:Q8_0", formats={"all": "q4_0"})
    assert model.expert_dtype.name == "q4_0"


@pytest.mark.parametrize(("column", "written"), [("hardware", "Jetson AGX Orin"), ("host", "8088"), ("stack", "TGI")])
def test_what_does_not_ship_is_told_that_a_file_describes_it(column: str, written: str) -> None:
    assert re.search(r"unknown .*; another is read from a YAML file \(docs/extend.md\)$", str(unknown(column, written)))


def test_a_file_that_is_not_there_is_not_taken_for_a_model_of_its_name() -> None:
    with pytest.raises(InvalidFile, match=r"no such file.*or ask about qwen3-30b-a3b with --formats all=Q4_K_M"):
        pregate.load_model("Qwen3-30B-A3B-Q4_K_M.gguf")


@pytest.mark.parametrize(("bare", "whole"), [("q4_k_m", "all=q4_k_m"), ("Q8_0", "all=q8_0"), ("18GB", "all=18GB")])
def test_a_bare_format_is_that_of_a_file(run: Run, bare: str, whole: str) -> None:
    asked = ["compare", "qwen3-30b-a3b", "--hardware", "3090", "--policies", "on_demand", "--output-tokens", "2"]
    shown = [run(*asked, "--input-tokens", "4", "--format", "json", "--formats", text) for text in (bare, whole)]
    assert shown[0] == shown[1]
    assert shown[0][0] == 0


@pytest.mark.parametrize(
    ("system", "ours"),
    [
        ("fiddler", ["min_latency/paper", "min_latency/released"]),
        ("FreeToken", ["bandwidth_split"]),
        ("HybriMoE", ["hybrid_schedule"]),
        ("hobbit", ["mixed_precision"]),
        ("moe-infinity", ["activation_aware"]),
        ("ProMoE", ["chunked_learned"]),
        ("KTransformers", ["static_cpu"]),
        ("se-moe", ["prefetch_all"]),
        ("mixtral-offloading", ["lru_next_gate"]),
    ],
)
def test_a_policy_by_the_name_of_its_system_is_told_what_it_is_here(run: Run, system: str, ours: list[str]) -> None:
    status, out, err = run("compare", "mixtral-8x7b", "--hardware", "rtx-4090", "--policies", system)
    assert (status, out) == (2, "")
    assert all(name in err for name in ours)
    assert "pregate policies" in err


def test_policies_are_listed_with_who_published_them(run: Run) -> None:
    listed = json.loads(run("policies", "--format", "json")[1])
    assert [row["policy"] for row in listed] == list(DESIGNS)
    assert all(row["what it does"] for row in listed)
    assert {row["output"] for row in listed} == {"exact", "approximate"}
    assert "Fiddler" in run("policies")[1]


def test_all_policies_are_compared(run: Run) -> None:
    asked = ["compare", "mixtral-mini-8", "--hardware", "rtx-4090", "--input-tokens", "4", "--output-tokens", "2"]
    status, out, err = run(*asked, "--policies", "all", "--format", "json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    told = {row["policy"] for row in (*found["results"], *found["does_not_fit"])}
    assert {name.partition("/")[0] for name in DESIGNS} == {re.split(r"[/(+:]", name)[0] for name in told}


def test_a_model_is_loaded_in_the_formats_of_the_command_line() -> None:
    whole = pregate.load_model("qwen3-30b-a3b", formats="Q4_K_M")
    assert whole == pregate.load_model("qwen3-30b-a3b", formats={"all": "q4_k_m"})
    parts = pregate.load_model("unsloth/Qwen3-30B-A3B-GGUF:Q8_0", formats="experts=q4_k,kv=q8_0")
    assert parts == pregate.load_model("qwen3-30b-a3b", formats={"experts": "q4_k", "kv": "q8_0"})
    with pytest.raises(InvalidInput, match="flags of an engine, which rows of a table may have"):
        pregate.load_policy("-tp 8 --enable-expert-parallel")


@pytest.mark.parametrize(
    ("written", "ours", "gigabytes_per_s"),
    [
        ("M3 Max 30-core GPU", "apple-m3-max-30c", 300),
        ("MacBook Pro M3 Max (36 GB)", "apple-m3-max-30c", 300),
        ("M3 Max 96GB", "apple-m3-max-30c", 300),
        ("M3 Max 64GB", "apple-m3-max", 400),
        ("M3 Max", "apple-m3-max", 400),
        ("Apple M4 Max (32-core GPU)", "apple-m4-max-32c", 410),
        ("M4 Max 36GB", "apple-m4-max-32c", 410),
        ("M4 Max 128GB", "apple-m4-max", 546),
        ("M2 Max 96GB", "apple-m2-max", 400),
    ],
)
def test_of_two_chips_of_one_name_the_one_with_those_cores_or_that_memory(
    written: str, ours: str, gigabytes_per_s: float
) -> None:
    machine = pregate.load_hardware(written).machine
    assert machine.accelerator.name == ours
    assert machine.accelerator.hbm_bytes_per_s == machine.host.dram_bytes_per_s == gigabytes_per_s * 1e9


@pytest.mark.parametrize("column", ["hardware", "host"])
def test_no_machine_in_other_letters_is_another(column: str) -> None:
    for name in KNOWN[column]():
        for written in (name.upper(), name.replace("-", " "), name.replace("-mobile", " Laptop GPU").replace("-", " ")):
            assert our_name(column, written) in (name, written), written  # itself, or nobody


@pytest.mark.parametrize("part", ["host", "link"])
def test_a_name_too_long_for_a_file_is_unknown(part: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown {part} 'aaa"):
        pregate.load_hardware("rtx-4090", "llama-cpp", {part: "a" * 300})
