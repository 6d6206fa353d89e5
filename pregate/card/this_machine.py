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

from hwmodels.specs.device_names import words_of
from hwmodels.specs.machine_files import component_names, load_component
from hwmodels.specs.spec import Host
from pregate.card.found_gpu import Gpu, find_gpu, link_of, nearest_accelerator

DEFAULT_HARDWARE = "rtx-4090"
"""The machine whose card is shown where there is no accelerator."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, and what of the known it is taken for.

    `gpu`: the accelerator, None without one; `dram_bytes`: 0 where it is not told. `hardware`: the known accelerator
    that it is (`is_described`) or is nearest to, `DEFAULT_HARDWARE` without one; `host`: the nearest known; `link`:
    settings of the link, empty to leave the accelerator's.
    """

    gpu: Gpu | None
    processor: str
    n_cores: int
    dram_bytes: int
    hardware: str
    is_described: bool
    host: str
    link: Mapping[str, float | str]
    note: str

    @property
    def overrides(self) -> dict[str, float | str]:
        """What `pregate.load_hardware` takes for the machine that was found, with its own sizes of memory."""
        if self.gpu is None:
            return {}
        found: dict[str, float | str] = {"host": self.host, **self.link}
        if self.gpu.hbm_bytes:
            found["accelerator.hbm_bytes"] = float(self.gpu.hbm_bytes)
        if self.gpu.hbm_bytes_per_s and not self.is_described:
            found["accelerator.hbm_bytes_per_s"] = self.gpu.hbm_bytes_per_s
        if self.dram_bytes:
            found["host.dram_bytes"] = float(self.dram_bytes)
        return found

    def with_given(self, given: Mapping[str, float | str]) -> dict[str, float | str]:
        """`overrides`, and `given` in place of them: HBM under either name, a host with memory of its own."""
        replaced = {"hbm_bytes": "accelerator.hbm_bytes", "host": "host.dram_bytes"}
        dropped = {ours for theirs, ours in replaced.items() if theirs in given}
        return {key: value for key, value in self.overrides.items() if key not in dropped} | dict(given)

    def briefly(self) -> str:
        """What was found, in a line above a card."""
        if self.gpu is None:
            return f"No accelerator found: a card of {self.hardware} with its usual host, claimed."
        if not self.is_described:
            return f"Found {self.gpu.name}, undescribed: taken for {self.hardware}."
        several = f", one of {self.gpu.n_alike}" * (self.gpu.n_alike > 1)
        return f"Found {self.gpu.name}, {self.gpu.hbm_bytes / 2**30:.1f} GiB{several}: its speeds are claimed."

    def told(self) -> list[str]:
        """What was found, in sentences, each number with what it rests on."""
        memory = f"{self.dram_bytes / 2**30:.0f} GiB of memory" if self.dram_bytes else "memory of unknown size"
        cores = f"{self.n_cores} cores" if self.n_cores else "cores not counted"
        lines = [f"Found: {self.processor or 'a processor without a name'}, {cores}, {memory}."]
        if self.gpu is not None:
            lines.append(self._told_of(self.gpu))
        else:
            lines.append(
                f"No accelerator found{self.note}. Here `pregate run`, `measure` and `validate` use the CPU back end: "
                "a core plays the accelerator and a thread the link, for small models. The cards below are of "
                f"{self.hardware} with its usual host: claimed, not found here."
            )
        lines.append("`pregate measure`, then `pregate calibrate`, turn claimed into fitted.")
        return lines

    def _told_of(self, gpu: Gpu) -> str:
        rate = f" at {gpu.hbm_bytes_per_s / 1e9:.0f} GB/s" if gpu.hbm_bytes_per_s else ""
        lanes = f", PCIe {gpu.generation}.0 x{gpu.width}" if gpu.generation and gpu.width else ""
        found = f"Found: {gpu.name}, {gpu.hbm_bytes / 2**30:.1f} GiB{rate}{lanes}."
        link = self.link.get("link", "as usual")
        beside = f"Taken for {self.hardware} with host {self.host} and link {link}"
        several = f" {gpu.n_alike} of them: --hardware '{gpu.n_alike}x {self.hardware}' asks of all." * (
            gpu.n_alike > 1
        )
        if self.is_described:
            return f"{found} {beside}: speeds are claimed, sizes of memory are as found.{several}"
        as_found = ", ".join(["the size of its memory", *["its rate"] * bool(rate), *["the link"] * bool(self.link)])
        by = "memory and cores" if rate else "name"
        return (
            f"{found} No file describes it: {beside}, the nearest by {by}. As found: {as_found}; assumed from "
            f"{self.hardware}: all else, arithmetic above all. `pregate hardware show {self.hardware} --format yaml` "
            "writes a file to correct, --hardware FILE takes it."
        )


def find_machine(read: Callable[[str], str] | None = None, nvml: Any = None) -> Found:
    """Look at this machine. `read(path)`: a file of /proc as text; `nvml`: the module pynvml, None: where installed."""
    text = read or _read
    gpu = find_gpu(nvml if nvml is not None else _nvml())
    processor, n_cores = _processor(text("/proc/cpuinfo"))
    dram_bytes = _memory(text("/proc/meminfo"))
    if gpu is None:
        hint = " (an NVIDIA driver is there: pip install nvidia-ml-py)" if text("/proc/driver/nvidia/version") else ""
        return Found(None, processor, n_cores, dram_bytes, DEFAULT_HARDWARE, False, "", {}, hint)
    hardware, is_described = nearest_accelerator(gpu)
    host = nearest_host(processor, n_cores)
    return Found(gpu, processor, n_cores, dram_bytes, hardware, is_described, host, link_of(gpu), "")


def nearest_host(processor: str, n_cores: int) -> str:
    """The known host whose name or sources have the model of the processor, else the one of the nearest core count."""
    models = {word for word in words_of(processor) if re.search(r"\d{3}", word)}
    by_cores = []
    for known in component_names("host"):
        spec = load_component("host", known)
        assert isinstance(spec, Host)
        told = words_of(" ".join((known, *(quantity.source for quantity in spec.sources.values()))))
        by_cores.append((not models & told, abs(spec.n_cores - n_cores), known))
    return min(by_cores)[-1]


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
