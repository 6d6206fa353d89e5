"""What a machine says of the conditions it is measured under: read, by the driver's library where it is installed."""

from __future__ import annotations

import platform
import re
import statistics
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from hwmodels.fits.conditions import CONDITIONS, check_conditions
from hwmodels.specs.device_names import processor_name
from runtime.machine.device import describe_device, software
from runtime.machine.numa import nodes
from traces.errors import PregateError

_THROTTLES = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal", 0x40: "hardware thermal", 0x80: "power brake",
}  # fmt: skip
"""Bits of the driver's clock event reasons that hold a busy device back; idle and settings are none."""

_SOCKETS = Path("/sys/devices/system/cpu")
_PCI = Path("/sys/bus/pci/devices")
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
"""PCI Express generation by GT/s a lane."""


class ConditionsWatch:
    """Clocks and throttling between the parts of a session (`look`), and what does not change."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._clocks_hz: list[float] = []
        self._reasons: set[str] = set()
        self._nvml = _Nvml() if backend == "cuda" else None

    def look(self) -> None:
        """Take note of the clock and of what holds it back."""
        if self._nvml is None:
            self._clocks_hz += [mhz * 1e6 for mhz in (_cpu_mhz(),) if mhz]
            return
        clock = self._nvml.read("nvmlDeviceGetClockInfo", 1)
        bits = self._nvml.read("nvmlDeviceGetCurrentClocksThrottleReasons")
        self._clocks_hz += [] if clock is None else [clock * 1e6]
        self._reasons |= {name for bit, name in _THROTTLES.items() if bits is not None and bits & bit}

    def found(self) -> dict[str, Any]:
        """The conditions by name (`CONDITIONS`); what nobody says is left out."""
        self.look()
        about = describe_device(self._backend)
        found: dict[str, Any] = {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(about.get("processor")),
            "dram_bytes": float(about["dram_bytes"]),
            "n_sockets": _n_sockets(),
            "n_numa_nodes": float(len(nodes())) or None,
            "sm_clock_hz": statistics.median(self._clocks_hz) if self._clocks_hz else None,
            "sm_clock_least_hz": min(self._clocks_hz, default=None),
        }
        if self._backend == "cuda":
            found |= {"device": torch.cuda.get_device_properties(0).name, "driver": software().get("driver")}
            found |= _of_bus() | self._nvml.found(sorted(self._reasons)) if self._nvml is not None else {}
        kept = {key: value for key, value in found.items() if key in CONDITIONS and value not in (None, "")}
        for key in list(kept):
            try:
                check_conditions({key: kept[key]})
            except PregateError:  # a name that could be somebody's: the file does without it
                del kept[key]
        return kept


class _Nvml:
    """The driver's management library through nvidia-ml-py; without it everything is unknown."""

    def __init__(self) -> None:
        try:
            self._library: Any = import_module("pynvml")
            self._library.nvmlInit()
            self._device = self._library.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        except Exception:  # no such package, or a driver that does not answer
            self._library = None

    def read(self, function: str, *arguments: int) -> Any:
        """The answer of one function of the library, None where it has none."""
        if self._library is None:
            return None
        try:
            return getattr(self._library, function)(self._device, *arguments)
        except Exception:  # not every device answers everything
            return None

    def found(self, reasons: list[str]) -> dict[str, Any]:
        """What the library says of the device."""
        if self._library is None:
            return {}
        scaled = {
            "pcie_generation": (1.0, "nvmlDeviceGetCurrPcieLinkGeneration", ()),
            "pcie_generation_max": (1.0, "nvmlDeviceGetMaxPcieLinkGeneration", ()),
            "pcie_width": (1.0, "nvmlDeviceGetCurrPcieLinkWidth", ()),
            "pcie_width_max": (1.0, "nvmlDeviceGetMaxPcieLinkWidth", ()),
            "sm_clock_max_hz": (1e6, "nvmlDeviceGetMaxClockInfo", (1,)),
            "memory_clock_hz": (1e6, "nvmlDeviceGetClockInfo", (2,)),
            "power_limit_w": (1e-3, "nvmlDeviceGetPowerManagementLimit", ()),
            "temperature_c": (1.0, "nvmlDeviceGetTemperature", (0,)),
        }
        read = {key: (factor, self.read(name, *arguments)) for key, (factor, name, arguments) in scaled.items()}
        found: dict[str, Any] = {
            key: factor * float(value) for key, (factor, value) in read.items() if value is not None
        }
        ecc = self.read("nvmlDeviceGetEccMode")
        if ecc is not None:
            found["ecc"] = bool(ecc[0])
        return found | {"throttled": ", ".join(reasons) or "no"}


def device_node() -> int | None:
    """The memory node that the CUDA device is attached to; None where the kernel does not say."""
    slot = _slot()
    node = "" if slot is None else _text(slot / "numa_node")
    return int(node) if node.isdigit() else None


def _slot() -> Path | None:
    """The device's slot as the kernel shows it."""
    properties = torch.cuda.get_device_properties(0)
    if not hasattr(properties, "pci_bus_id"):
        return None
    domain, bus, device = (int(getattr(properties, f"pci_{name}_id")) for name in ("domain", "bus", "device"))
    return _PCI / f"{domain:04x}:{bus:02x}:{device:02x}.0"


def _of_bus() -> dict[str, Any]:
    """Generation, width and memory node of the device's slot, by the kernel."""
    slot = _slot()
    if slot is None:
        return {}
    found: dict[str, Any] = {}
    for key, name in (("pcie_generation", "current_link_speed"), ("pcie_generation_max", "max_link_speed")):
        speed = re.match(r"([\d.]+) GT/s", _text(slot / name))
        found[key] = _GENERATIONS.get(float(speed[1])) if speed else None
    for key, name in (("pcie_width", "current_link_width"), ("pcie_width_max", "max_link_width")):
        found[key] = int(width) if (width := _text(slot / name)).isdigit() else None
    found["device_numa_node"] = device_node()
    return {key: float(value) for key, value in found.items() if value is not None}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _processor(model: object) -> str:
    """The processor's name; of a CUDA machine the host's."""
    return processor_name(str(model or _cpuinfo("model name") or platform.machine()))


def _cpu_mhz() -> float | None:
    text = _cpuinfo("cpu MHz")
    return float(text) if text and re.fullmatch(r"[\d.]+", text) else None


def _cpuinfo(key: str) -> str | None:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _n_sockets() -> float | None:
    packages = {_text(path) for path in _SOCKETS.glob("cpu[0-9]*/topology/physical_package_id")} - {""}
    return float(len(packages)) if packages else None
