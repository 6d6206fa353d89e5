"""What the machine under the runtime is, in the words of a machine description; read, nothing is measured."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

__all__ = ["describe", "has_cuda", "software"]

_SPECS = (
    ("GH200", "gh200"), ("B200", "b200"), ("H200", "h200-sxm"), ("H100 PCIe", "h100-pcie"), ("H100", "h100-sxm"),
    ("A100-SXM4-80GB", "a100-sxm4-80gb"), ("A100-PCIE-40GB", "a100-pcie-40gb"), ("RTX A6000", "rtx-a6000"),
    ("RTX A5000", "rtx-a5000"), ("RTX 5090", "rtx-5090"), ("RTX 4090", "rtx-4090"), ("RTX 3090", "rtx-3090"),
    ("L40S", "l40s"), ("V100-SXM2-16GB", "v100-sxm2-16gb"), ("L4", "l4"), ("T4", "t4"), ("A10", "a10"),
)  # fmt: skip
"""What a device calls itself, and the description of it that ships with the project; the first that fits."""


def describe(backend: str) -> dict[str, Any]:
    """The machine behind a back end ("cpu", "cuda"): JSON values.

    `spec`: the description that ships with the project, None where there is none. Sizes in bytes, clocks in Hz.
    """
    dram_bytes = _dram_bytes()
    host = {"dram_bytes": dram_bytes, "n_cores": os.cpu_count() or 1, "system": platform.platform()}
    return host | (_cuda() if backend == "cuda" else _cpu(dram_bytes))


def _cuda() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    found = next((spec for words, spec in _SPECS if words in properties.name), None)
    return {
        "backend": "cuda",
        "name": properties.name,
        "vendor": "NVIDIA",
        "spec": found,
        "hbm_bytes": int(properties.total_memory),
        "n_compute_cores": int(properties.multi_processor_count),
    }


def _cpu(dram_bytes: int) -> dict[str, Any]:
    """A core computes, its memory is the host's."""
    model = _cpuinfo("model name") or platform.processor() or "processor"
    words = [word for word in re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*", " ", model).split() if word]
    return {
        "backend": "cpu",
        "name": "-".join(["cpu", *(re.sub(r"[^a-z0-9]+", "-", word.lower()) for word in words), f"{os.cpu_count()}c"]),
        "vendor": _cpuinfo("vendor_id") or "unknown",
        "spec": None,
        "processor": model,
        "hbm_bytes": dram_bytes // 2,
        "n_compute_cores": 1,
        "clock_hz": float(_cpuinfo("cpu MHz") or 1000.0) * 1e6,
        "cache_bytes": _cache_bytes(),
    }


def has_cuda() -> bool:
    """Whether PyTorch sees a CUDA device."""
    return bool(torch.cuda.is_available())


def software() -> dict[str, str]:
    """Versions of what computes."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
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


def _cache_bytes() -> int:
    """The largest cache that the first processor names; a megabyte where it names none."""
    sizes = [1 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM") or 0) * factor)
    return max(sizes)
