"""The machine this runs on: what its operating system says of accelerator, memory and processor, and the known machine
that is nearest. Nothing is timed here.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hwmodels.machine_files import component_names, hardware_names, load_component
from hwmodels.spec import Accelerator, Host

__all__ = ["DEFAULT_HARDWARE", "Found", "find_machine"]

DEFAULT_HARDWARE = "rtx-4090"
"""The machine whose card is shown where there is no accelerator."""

_NOISE = (
    "nvidia",
    "geforce",
    "tesla",
    "gpu",
    "graphics",
    "laptop",
    "generation",
    "amd",
    "radeon",
    "intel",
    "core",
    "tm",
)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, and what of the known it is taken for.

    `gpu`: its name, "" without one; `gpu_bytes`, `dram_bytes`: 0 where they are not told. `hardware`: the nearest known
    accelerator, `DEFAULT_HARDWARE` without one; `host`, `link`: the nearest known, "" to leave the accelerator's.
    """

    gpu: str
    gpu_bytes: int
    processor: str
    n_cores: int
    dram_bytes: int
    hardware: str
    host: str
    link: str
    note: str

    @property
    def has_gpu(self) -> bool:
        """Whether an accelerator was found."""
        return bool(self.gpu)

    @property
    def overrides(self) -> dict[str, float | str]:
        """What `pregate.load_hardware` takes for the machine that was found, with its own sizes of memory."""
        if not self.gpu:
            return {}
        found: dict[str, float | str] = {
            key: value for key, value in (("host", self.host), ("link", self.link)) if value
        }
        if self.gpu_bytes:
            found["accelerator.hbm_bytes"] = float(self.gpu_bytes)
        if self.host and self.dram_bytes:
            found["host.dram_bytes"] = float(self.dram_bytes)
        return found

    def told(self) -> list[str]:
        """What was found, in sentences, each number with what it rests on."""
        memory = f"{self.dram_bytes / 2**30:.0f} GiB of memory" if self.dram_bytes else "memory of unknown size"
        cores = f"{self.n_cores} cores" if self.n_cores else "cores not counted"
        lines = [f"Found: {self.processor or 'a processor without a name'}, {cores}, {memory}."]
        if self.gpu:
            lines.append(
                f"Found: {self.gpu}, {self.gpu_bytes / 2**30:.1f} GiB. Taken for {self.hardware} with host "
                f"{self.host or 'as usual'} and link {self.link or 'as usual'}: speeds are claimed, "
                "sizes of memory are as found."
            )
        else:
            lines.append(
                f"No accelerator found{self.note}. Here `pregate run`, `measure` and `validate` use the CPU back end: "
                "a core plays the accelerator and a thread the link, for small models. The cards below are of "
                f"{self.hardware} with its usual host: claimed, not found here."
            )
        lines.append("`pregate measure`, then `pregate calibrate`, turn claimed into fitted.")
        return lines


def find_machine(read: Callable[[str], str] | None = None, nvml: Any = None) -> Found:
    """Look at this machine. `read(path)`: a file of /proc as text; `nvml`: the module pynvml, None: where installed."""
    text = read or _read
    name, gpu_bytes, generation, width = _gpu(nvml if nvml is not None else _nvml())
    processor, n_cores = _processor(text("/proc/cpuinfo"))
    dram_bytes = _memory(text("/proc/meminfo"))
    if not name:
        hint = " (an NVIDIA driver is there: pip install nvidia-ml-py)" if text("/proc/driver/nvidia/version") else ""
        return Found("", 0, processor, n_cores, dram_bytes, DEFAULT_HARDWARE, "", "", hint)
    link = f"pcie{generation}-x{width}" if generation and width else ""
    return Found(
        name, gpu_bytes, processor, n_cores, dram_bytes, nearest_accelerator(name, gpu_bytes),
        nearest_host(processor, n_cores), link if link in component_names("link") else "", "",
    )  # fmt: skip


def nearest_accelerator(name: str, n_bytes: int) -> str:
    """The known accelerator most of whose words are in `name`, of those the one of the nearest memory."""
    words = _words(name)
    scored = []
    for known in hardware_names():
        own = _words(known)
        spec = load_component("accelerator", known)
        assert isinstance(spec, Accelerator)
        apart = abs(spec.hbm_bytes - n_bytes) / spec.hbm_bytes if n_bytes else 0.0
        unsaid = own - words  # a name that says nothing of PCIe is of the module
        scored.append((-len(own & words), len(unsaid), "pcie" in unsaid, apart, known))
    return min(scored)[-1]


def nearest_host(processor: str, n_cores: int) -> str:
    """The known host whose name or sources have the model of the processor, else the one of the nearest core count."""
    models = {word for word in _words(processor) if re.search(r"\d{3}", word)}
    by_cores = []
    for known in component_names("host"):
        spec = load_component("host", known)
        assert isinstance(spec, Host)
        told = _words(" ".join((known, *(quantity.source for quantity in spec.sources.values()))))
        by_cores.append((not models & told, abs(spec.n_cores - n_cores), known))
    return min(by_cores)[-1]


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9]+", text.lower()) if word and word not in _NOISE}


def _gpu(nvml: Any) -> tuple[str, int, int, int]:
    """Name, bytes, and generation and width of the PCIe of the first device; "" where there is none."""
    if nvml is None:
        return "", 0, 0, 0
    try:
        nvml.nvmlInit()
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        name = nvml.nvmlDeviceGetName(device)
        memory = int(nvml.nvmlDeviceGetMemoryInfo(device).total)
    except Exception:
        # No driver, no device, or another library version: its errors are classes made while it runs.
        return "", 0, 0, 0
    try:
        generation = int(nvml.nvmlDeviceGetMaxPcieLinkGeneration(device))
        width = int(nvml.nvmlDeviceGetMaxPcieLinkWidth(device))
    except Exception:
        generation = width = 0
    return (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)), memory, generation, width


def _nvml() -> Any:
    try:
        return import_module("pynvml")
    except ImportError:
        return None


def _processor(cpuinfo: str) -> tuple[str, int]:
    """The name and the physical cores of all sockets."""
    found: Mapping[str, str] = dict(re.findall(r"^(model name|Hardware|cpu cores)\s*:\s*(.+)$", cpuinfo, re.MULTILINE))
    sockets = set(re.findall(r"^physical id\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)) or {"0"}
    cores = found.get("cpu cores", "")
    n_cores = int(cores) * len(sockets) if cores.isdecimal() else os.cpu_count() or 0
    return found.get("model name") or found.get("Hardware") or platform.processor() or platform.machine(), n_cores


def _memory(meminfo: str) -> int:
    match = re.search(r"^MemTotal:\s*(\d{1,15}) kB", meminfo, re.MULTILINE)
    if match is not None:
        return int(match[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
