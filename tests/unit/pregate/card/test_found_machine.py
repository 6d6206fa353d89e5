"""The machine that is found: known devices and hosts by name, others by the nearest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import pregate
from pregate.card.found_gpu import Gpu, nearest_accelerator
from pregate.card.this_machine import find_machine, nearest_host
from pregate.cli.commands import plan as command
from tests.command_line import Run


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", 80, "h100-sxm"),
        ("NVIDIA H100 PCIe", 80, "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-sxm4-80gb"),
        ("NVIDIA A100-PCIE-40GB", 40, "a100-pcie-40gb"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-sxm4-40gb"),
        ("NVIDIA RTX 5880 Ada Generation", 48, "rtx-5880-ada"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 6, "rtx-3060-mobile"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA H200", 141, "h200-sxm"),
        ("NVIDIA H200 NVL", 140, "h200-nvl"),
        ("NVIDIA GeForce RTX 3060", 12, "rtx-3060-12gb"),
        ("NVIDIA RTX A6000", 48, "rtx-a6000"),
        ("NVIDIA L40S", 45, "l40s"),
        ("NVIDIA H100 NVL", 94, "h100-nvl"),
        ("NVIDIA A100 80GB PCIe", 80, "a100-pcie-80gb"),
        ("Tesla V100-SXM2-16GB", 16, "v100-sxm2-16gb"),
        ("Tesla V100-PCIE-32GB", 32, "v100-pcie-32gb"),
        ("NVIDIA A40", 45, "a40"),
        ("NVIDIA A10G", 22, "a10g"),
        ("Quadro RTX 8000", 48, "quadro-rtx-8000"),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", 24, "rtx-5090-mobile"),
        ("NVIDIA GeForce RTX 3080", 10, "rtx-3080"),
        ("NVIDIA GeForce RTX 3080", 12, "rtx-3080-12gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 16, "rtx-4060-ti-16gb"),
    ],
)
def test_a_device_is_taken_for_the_known_one_of_its_name(name: str, gib: int, known: str) -> None:
    assert nearest_accelerator(Gpu(name, gib << 30, 0.0, 0, 0, 0)) == (known, True)


@pytest.mark.parametrize(
    ("name", "gib", "rate", "cores", "known"),
    [
        ("NVIDIA A800-SXM4-40GB", 40, 1555e9, 6912, "a100-sxm4-40gb"),
        ("NVIDIA Z9000", 141, 4.8e12, 0, "h200-sxm"),
        ("NVIDIA RTX A5500 Laptop GPU", 16, 448e9, 7424, "rtx-3080-ti-mobile"),
        ("NVIDIA GeForce RTX 4090 D", 24, 1008e9, 14592, "rtx-4090d"),
        ("", 0, 0.0, 0, ""),
    ],
)
def test_a_device_that_nobody_describes_is_taken_for_the_nearest(
    name: str, gib: int, rate: float, cores: int, known: str
) -> None:
    taken, is_described = nearest_accelerator(Gpu(name, gib << 30, rate, cores, 0, 0))
    assert not is_described
    assert not known or taken == known


def test_a_host_is_taken_for_the_known_one_of_its_processor_or_its_cores() -> None:
    assert nearest_host("AMD Ryzen 9 7950X 16-Core Processor", 16) in ("desktop-ddr5", "ryzen-7950x-4dimm")
    assert nearest_host("AMD EPYC 7543 32-Core Processor", 32) == "epyc-7543"
    unknown = nearest_host("a processor of nobody", 16)
    assert isinstance(unknown, str)


def nvml(**told: object) -> SimpleNamespace:
    """What pynvml says of one card: an RTX 4090 where nothing else is `told`; an exception is raised."""
    answers = {
        "Init": None, "DeviceGetName": b"NVIDIA GeForce RTX 4090", "DeviceGetHandleByIndex": 0,
        "DeviceGetMemoryInfo": SimpleNamespace(total=24 << 30), "DeviceGetMaxPcieLinkGeneration": 4,
        "DeviceGetMaxPcieLinkWidth": 8, "DeviceGetMaxClockInfo": 10501, "DeviceGetMemoryBusWidth": 384, **told,
    }  # fmt: skip

    def function(answer: object) -> Callable[..., object]:
        def answered(*arguments: int) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return answered

    return SimpleNamespace(**{f"nvml{name}": function(answer) for name, answer in answers.items()})


PROC = {
    "/proc/meminfo": "MemTotal:       65536000 kB\nMemFree: 1 kB\n",
    "/proc/cpuinfo": "\n".join(
        f"physical id\t: {i % 2}\nmodel name\t: AMD Ryzen 9 7950X 16-Core Processor\ncpu cores\t: 16\n"
        for i in range(4)
    ),
}


def test_what_is_found_is_taken_with_its_own_memory_and_link() -> None:
    found = find_machine(lambda path: PROC.get(path, ""), nvml())
    assert (found.hardware, found.link, found.n_cores) == ("rtx-4090", {"link": "pcie4-x8"}, 32)
    assert found.is_described
    hw = pregate.load_hardware(found.hardware, "streams", found.overrides)
    assert hw.machine.accelerator.hbm_bytes == 24 << 30
    assert hw.machine.host.dram_bytes == 65536000 * 1024
    assert hw.machine.link.name == "pcie4-x8"
    assert "claimed" in " ".join(found.told())


def test_several_devices_of_a_name_are_counted_and_how_to_ask_of_all_is_said() -> None:
    found = find_machine(lambda path: PROC.get(path, ""), nvml(DeviceGetCount=2))
    assert found.hardware == "rtx-4090"
    assert "2 of them: --hardware '2x rtx-4090' asks of all" in " ".join(found.told())
    assert "one of 2" in found.briefly()
    assert "of them" not in " ".join(find_machine(lambda path: PROC.get(path, ""), nvml()).told())


UNKNOWN = {"DeviceGetName": "NVIDIA Z9000", "DeviceGetMemoryInfo": SimpleNamespace(total=40 << 30)}


def test_a_device_that_nobody_describes_has_a_card_that_says_what_is_assumed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, its rate and the link are what the driver says; the rest is the nearest card's, by name."""
    library = nvml(**UNKNOWN, DeviceGetMaxClockInfo=7001, DeviceGetMemoryBusWidth=320, DeviceGetMaxPcieLinkWidth=2)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(command, "WELL_KNOWN", (("mixtral-mini-8", None),))
    status, out, err = run()
    assert (status, err) == (0, "")
    told = " ".join(out.split())
    assert "Found: NVIDIA Z9000, 40.0 GiB at 560 GB/s, PCIe 4.0 x2. No file describes it" in told
    assert "As found: the size of its memory, its rate, the link; assumed from" in told
    found = find_machine(lambda path: PROC.get(path, ""), library)
    machine = pregate.load_hardware(found.hardware, "streams", found.overrides).machine
    assert (machine.accelerator.hbm_bytes, machine.accelerator.hbm_bytes_per_s) == (40 << 30, 7001e6 * 2 * 320 / 8)
    assert machine.link.h2d_bytes_per_s == pytest.approx(2 * 1.969e9)
    assert (machine.link.pageable_h2d_bytes_per_s or 0) <= machine.link.h2d_bytes_per_s
    assert f"mixtral-mini-8 on {found.hardware}" in told


def test_what_a_driver_does_not_say_is_the_nearest_cards() -> None:
    refused = RuntimeError("Not Supported")
    names = ("DeviceGetMaxClockInfo", "DeviceGetMemoryBusWidth", "DeviceGetMaxPcieLinkGeneration")
    silent = nvml(**UNKNOWN, **dict.fromkeys(names, refused))
    found = find_machine(lambda path: PROC.get(path, ""), silent)
    assert not found.link
    assert set(found.overrides) == {"host", "host.dram_bytes", "accelerator.hbm_bytes"}
    assert "As found: the size of its memory; assumed from" in " ".join(found.told())


@pytest.mark.parametrize(
    ("generation", "width", "rate"), [(2, 16, 8e9), (1, 1, 0.25e9), (3, 4, 3.938e9), (6, 32, 236e9)]
)
def test_a_link_has_as_many_lanes_as_the_driver_says(generation: int, width: int, rate: float) -> None:
    library = nvml(DeviceGetMaxPcieLinkGeneration=generation, DeviceGetMaxPcieLinkWidth=width)
    found = find_machine(lambda path: PROC.get(path, ""), library)
    hw = pregate.load_hardware(found.hardware, "streams", found.overrides)
    assert hw.machine.link.h2d_bytes_per_s == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("text", ["", "MemTotal: many kB", "cpu cores : 9" * 1000])
def test_a_machine_without_a_device_says_what_its_card_is_of(text: str) -> None:
    found = find_machine(lambda path: text, nvml(Init=RuntimeError("NVML Shared Library Not Found")))
    assert found.gpu is None
    assert found.hardware == "rtx-4090"
    told = " ".join(found.told())
    assert "No accelerator found" in told
    assert "CPU back end" in told
    assert "claimed" in told
