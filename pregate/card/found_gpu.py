"""The accelerator that NVIDIA's management library finds, and the known one that it is taken for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hwmodels.specs.device_names import CARDS, by_words, described_as, words_of
from hwmodels.specs.machine_fields import HOST_MEMORY, WAYS
from hwmodels.specs.machine_files import component_names, hardware_names, load_component
from hwmodels.specs.spec import Accelerator, LinkSpec

_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.375e9}
"""A lane of each generation of PCI Express after encoding (PCI-SIG, base specifications: 2.5, 5, 8, 16, 32 and 64 GT/s;
8b/10b, 128b/130b from the third on, 236 of 256 bytes in the sixth)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a driver says of a device: its name, bytes of memory and a second of it, cores, generation and width of the
    link; 0 for what it does not say. `n_alike`: devices of that name, itself among them.
    """

    name: str
    hbm_bytes: int
    hbm_bytes_per_s: float
    n_cores: int
    generation: int
    width: int
    n_alike: int = 1


def find_gpu(nvml: Any) -> Gpu | None:
    """The first device that the module `pynvml` finds; None where there is none.

    The rate of memory is twice its clock times the width of its bus, as CUDA's deviceQuery has it: it gives the
    datasheets' 1008 GB/s of an RTX 4090 (10,501 MHz, 384 bits) and 2039 of an A100 (1,593 MHz, 5,120 bits).
    """
    try:
        nvml.nvmlInit()
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        name = nvml.nvmlDeviceGetName(device)
        memory = int(nvml.nvmlDeviceGetMemoryInfo(device).total)
    except Exception:
        # No library, no driver, no device, or another version: its errors are classes made while it runs.
        return None

    def told(function: str, *arguments: int) -> int:
        try:
            return max(int(getattr(nvml, function)(device, *arguments)), 0)
        except Exception:  # not supported by this device or library
            return 0

    rate = 2 * told("nvmlDeviceGetMaxClockInfo", 2) * 1e6 * told("nvmlDeviceGetMemoryBusWidth") / 8
    return Gpu(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name),
        memory,
        rate,
        told("nvmlDeviceGetNumGpuCores"),
        told("nvmlDeviceGetMaxPcieLinkGeneration"),
        told("nvmlDeviceGetMaxPcieLinkWidth"),
        _alike(nvml, name),
    )


def _alike(nvml: Any, name: Any) -> int:
    """How many devices are called `name`."""
    try:
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(int(nvml.nvmlDeviceGetCount())))
        return max([nvml.nvmlDeviceGetName(handle) for handle in handles].count(name), 1)
    except Exception:  # not supported by this library
        return 1


def nearest_accelerator(gpu: Gpu) -> tuple[str, bool]:
    """The known accelerator that a device is taken for, and whether it is described: by its name and its memory.

    One that nobody describes is taken for the nearest of its maker in memory, its rate and cores; where the driver says
    no rate, for the one whose name has most words in common, of those the one of the nearest memory.
    """
    described = described_as(gpu.name, gpu.hbm_bytes)
    if described is not None:
        return described, True
    words = words_of(gpu.name)
    specs = {known: _accelerator(known) for known in hardware_names()}
    if not gpu.hbm_bytes_per_s:

        def by_name(known: str) -> tuple[object, ...]:
            return by_words(words, known), _apart(specs[known].hbm_bytes, gpu.hbm_bytes), known

        return min(specs, key=by_name), False
    alike = [known for known in specs if specs[known].vendor == "NVIDIA"]

    def by_figures(known: str) -> tuple[float, bool, str]:
        spec = specs[known]
        pairs = (
            (spec.hbm_bytes, gpu.hbm_bytes),
            (spec.hbm_bytes_per_s, gpu.hbm_bytes_per_s),
            (
                spec.peak_flop_per_s["fp32"] / (2 * spec.clock_hz),
                gpu.n_cores,
            ),  # a core adds and multiplies once a cycle
        )
        return sum(_apart(one, other) for one, other in pairs), bool(words_of(known) & CARDS), known

    return min(alike, key=by_figures), False


def link_of(gpu: Gpu) -> dict[str, float | str]:
    """The link of a device as settings of a machine: a known one, or the nearest known with its lanes' rates.

    Empty where the driver does not say.
    """
    if not gpu.generation or not gpu.width:
        return {}
    name = f"pcie{gpu.generation}-x{gpu.width}"
    if name in component_names("link"):
        return {"link": name}
    rate = _LANE_BYTES_PER_S.get(gpu.generation, 0.0) * gpu.width
    if not rate:
        return {}
    base = f"pcie{max(gpu.generation, 3)}-x{4 if gpu.width < 8 else 16}"
    link = load_component("link", base)
    assert isinstance(link, LinkSpec)
    settings: dict[str, float | str] = {"link": base} | {f"link.{way}_bytes_per_s": rate for way in WAYS}
    for kind in HOST_MEMORY[1:]:
        for way in WAYS:
            known = getattr(link, f"{kind}_{way}_bytes_per_s", None)
            if known is not None and known > rate:  # no kind of memory is copied faster than the lanes allow
                settings[f"link.{kind}_{way}_bytes_per_s"] = rate
    return settings


def _apart(one: float, other: float) -> float:
    return abs(math.log(one / other)) if one and other else 0.0


def _accelerator(name: str) -> Accelerator:
    spec = load_component("accelerator", name)
    assert isinstance(spec, Accelerator)
    return spec
