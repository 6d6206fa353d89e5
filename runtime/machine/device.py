"""What the machine under the runtime is, in the words of a machine description; read, nothing is measured."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from hwmodels.specs.device_names import described_as, file_name, processor_file_name, processor_name


def describe_device(backend: str) -> dict[str, Any]:
    """The machine behind a back end ("cpu", "cuda"): JSON values.

    `spec`: the description that ships with the project, None where there is none. Sizes in bytes, clocks in Hz.
    """
    dram_bytes = _dram_bytes()
    host = {"dram_bytes": dram_bytes, "n_cores": os.cpu_count() or 1, "system": platform.platform()}
    return host | (_cuda() if backend == "cuda" else _cpu(dram_bytes))


def stack_of(backend: str, graphs: bool) -> str:
    """The software stack that a back end is: of a CUDA device with kernels launched one by one, or as `graphs`."""
    if backend == "cpu":
        return "threads"
    return "streams" if graphs else "pytorch-eager"


def _cuda() -> dict[str, Any]:
    """A device that no maker describes is described by its driver, as far as this PyTorch asks it."""
    properties = torch.cuda.get_device_properties(0)
    spec = described_as(properties.name, properties.total_memory)
    clock_khz, cache_bytes = (getattr(properties, name, 0) or None for name in ("clock_rate", "L2_cache_size"))
    return {
        "backend": "cuda",
        "name": properties.name if spec else file_name(properties.name),
        "vendor": "NVIDIA",
        "spec": spec,
        "hbm_bytes": int(properties.total_memory),
        "n_compute_cores": int(properties.multi_processor_count),
        "clock_hz": 1e3 * float(clock_khz or 1e6),
        "cache_bytes": int(cache_bytes or 1 << 20),
        **_assumed(clock_hz=clock_khz, cache_bytes=cache_bytes),
    }


def _assumed(**read: object) -> dict[str, str]:
    """Which figures the machine did not say, so that a round number stands for them."""
    missing = [name for name, value in read.items() if value is None]
    return {"assumed": " ".join(missing)} if missing else {}


def _cpu(dram_bytes: int) -> dict[str, Any]:
    """A core computes, its memory is the host's."""
    model = processor_name(_cpuinfo("model name") or platform.processor() or "processor")
    clock_mhz, cache_bytes = _cpuinfo("cpu MHz"), _cache_bytes()
    return {
        "backend": "cpu",
        "name": processor_file_name(model, os.cpu_count() or 1),
        "vendor": _cpuinfo("vendor_id") or "unknown",
        "spec": None,
        "processor": model,
        "hbm_bytes": dram_bytes // 2,
        "n_compute_cores": 1,
        "clock_hz": float(clock_mhz or 1000.0) * 1e6,
        "cache_bytes": cache_bytes or 1 << 20,
        **_assumed(clock_hz=clock_mhz, cache_bytes=cache_bytes),
    }


def has_cuda() -> bool:
    """Whether PyTorch sees a CUDA device."""
    return bool(torch.cuda.is_available())


def software() -> dict[str, str]:
    """Versions of what computes."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if torch.cuda.is_available():
        versions |= {"cuda": str(torch.version.cuda), "driver": _driver()}
    return versions


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    if not version.exists():
        return "unknown"
    found = re.search(r"(\d+\.\d+(\.\d+)?)", version.read_text().split("Module", 1)[-1])
    return found.group(1) if found else "unknown"


def _cpuinfo(key: str) -> str | None:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _dram_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cache_bytes() -> int | None:
    """The largest cache that the first processor names; None where it names none."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM") or 0) * factor)
    return max(sizes) or None
