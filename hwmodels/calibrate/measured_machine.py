"""The machine that measurements are of: as its maker describes it, or, where nobody does, as it was measured.

Efficiencies are fractions of these figures. Of a processor that plays the accelerator the best rates seen count as
claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodels.calibrate.contention import contention_figures
from hwmodels.calibrate.host_memory import memory_figures
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.fits.shared_fit import SOURCES
from hwmodels.specs.machine_fields import WAYS
from hwmodels.specs.machine_files import load_machine, read_machine
from hwmodels.specs.spec import MachineSpec
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.documents import Section
from traces.model.dtypes import DTYPES

_SETTINGS = {
    "hbm_bytes": "size", "n_compute_cores": "count", "clock_hz": "frequency", "cache_bytes": "size",
    "dram_bytes": "size", "n_cores": "count",
}  # fmt: skip
"""What a machine says of itself."""

_CORE_FLOP_PER_S = 48e9
"""The least of the cores that makers describe here."""

_ASSUMED_DISK = 1e9


@dataclass(frozen=True, slots=True)
class Rates:
    """What efficiencies are fractions of: peak arithmetic by number format, HBM, link by direction, storage."""

    flop_per_s: Mapping[str, float]
    hbm_bytes_per_s: float
    link_bytes_per_s: Mapping[str, float]
    storage_bytes_per_s: float

    def bytes_of(self, dtype: str) -> float:
        """Bytes a weight takes."""
        return DTYPES[dtype].bytes_per_param


def machine_of(measured: Measurements) -> tuple[str, MachineSpec | None, Rates]:
    """Name of the hardware, its description where it has none of its own, and its rates.

    Raises `InvalidInput` when the measurements do not say enough.
    """
    spec = measured.machine.get("spec")
    if spec is not None:
        machine = load_machine(str(spec))
        return machine.accelerator.name, None, _rates(machine)
    try:
        machine = _measured_document(measured)
    except (KeyError, TypeError, ValueError, InvalidFile) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise InvalidInput(f"the measurements do not describe their machine ({what}): measure again") from None
    return machine.accelerator.name, machine, _rates(machine)


def _rates(machine: MachineSpec) -> Rates:
    accelerator = machine.accelerator
    return Rates(
        accelerator.peak_flop_per_s,
        accelerator.hbm_bytes_per_s,
        {way: getattr(machine.link, f"{way}_bytes_per_s") for way in WAYS},
        machine.storage.read_bytes_per_s,
    )


def _measured_document(measured: Measurements) -> MachineSpec:
    """A machine document from what was read and measured."""
    about = measured.machine
    gemms = list(measured.of("gemm"))
    flop, rate = _best_flop_per_s(gemms), _best_bytes_per_s(gemms)
    if "fp32" not in flop:
        raise ValueError("no GEMMs in fp32, the format that every machine is described in")
    copies = {way: _best_copy(measured, way) for way in ("h2d", "d2h")}
    disk = max((s.parameters["n_bytes"] / s.median_s for s in measured.of("disk_read", direct=True)), default=None)
    settings = {
        name: _figure(
            about[name],
            dimension,
            SOURCES["not_said"] if name in str(about.get("assumed", "")).split() else SOURCES["setting"],
        )
        for name, dimension in _SETTINGS.items()
    }
    document = {
        "vendor": str(about["vendor"]),
        "hbm_bytes": settings["hbm_bytes"],
        "hbm_bytes_per_s": _figure(rate, "bandwidth", SOURCES["best"]),
        "peak_flop_per_s": {dtype: _figure(value, "compute", SOURCES["best"]) for dtype, value in flop.items()},
        "n_sm": settings["n_compute_cores"],
        "clock_hz": settings["clock_hz"],
        "l2_bytes": settings["cache_bytes"],
        "host": {"dram_bytes": settings["dram_bytes"], "n_cores": settings["n_cores"]}
        | _host_rates(about, flop["fp32"], rate, max(copies.values()))
        | {name: _figure(value, "ratio", SOURCES["beside"]) for name, value in contention_figures(measured).items()},
        "link": {
            f"{way}_bytes_per_s": _figure(
                about.get(f"{way}_bytes_per_s") or copies[way], "bandwidth", _link_source(about)
            )
            for way in copies
        }
        | {
            name: _figure(value, "bandwidth" if name.endswith("bytes_per_s") else "time", SOURCES["best"])
            for name, value in memory_figures(measured).items()
        },
        "storage": {
            "read_bytes_per_s": _figure(_ASSUMED_DISK, "bandwidth", SOURCES["no_disk"])
            if disk is None
            else _figure(disk, "bandwidth", SOURCES["best"])
        },
    }
    return read_machine(str(about["name"]), Section(document, "measurements"))


def _host_rates(about: Mapping[str, Any], flop_per_s: float, read: float, copied: float) -> dict[str, object]:
    """What the host's memory and cores do: as was measured where the processor is the accelerator, else at least.

    `flop_per_s`: of fp32 products; `read`, `copied`: bytes a second that products and copies reached.
    """
    if about.get("backend") == "cpu":
        return {
            "dram_bytes_per_s": _figure(max(copied, read), "bandwidth", SOURCES["one_memory"]),
            "peak_flop_per_s": _figure(flop_per_s, "compute", SOURCES["one_processor"]),
        }
    return {
        "dram_bytes_per_s": _figure(copied, "bandwidth", SOURCES["least_dram"]),
        "peak_flop_per_s": _figure(_CORE_FLOP_PER_S * int(about["n_cores"]), "compute", SOURCES["cores"]),
    }


def _link_source(about: Mapping[str, object]) -> str:
    return SOURCES["setting"] if about.get("h2d_bytes_per_s") else SOURCES["best"]


def _figure(value: object, dimension: str, source: str) -> dict[str, object]:
    """A figure of a machine document; what is assumed is unverified."""
    units = {"size": "B", "bandwidth": "B/s", "compute": "FLOP/s", "count": "count", "frequency": "Hz", "time": "s"}
    units["ratio"] = "1"
    mark = {"unverified": True} if source.startswith("assumed") else {}
    return {"value": float(str(value)), "unit": units[dimension], "source": source, **mark}


def _best_flop_per_s(gemms: list[Sample]) -> dict[str, float]:
    best: dict[str, float] = {}
    for sample in gemms:
        m, n, k = (int(sample.parameters[name]) for name in ("m", "n", "k"))
        dtype = str(sample.parameters["dtype"])
        best[dtype] = max(best.get(dtype, 0.0), 2 * m * n * k / sample.median_s)
    return best


def _best_bytes_per_s(gemms: list[Sample]) -> float:
    """The fastest that weights were read by products that have little else to do. Raises `ValueError` without one."""
    rates = []
    for sample in gemms:
        n_bytes = int(sample.parameters["n"]) * int(sample.parameters["k"])
        rates.append(n_bytes * DTYPES[str(sample.parameters["dtype"])].bytes_per_param / sample.median_s)
    if not rates:
        raise ValueError("no GEMMs")
    return max(rates)


def _best_copy(measured: Measurements, way: str) -> float:
    """The fastest copy of a direction. Raises `ValueError` without one."""
    rates = [float(s.parameters["n_bytes"]) / s.median_s for s in measured.of(way)]
    if not rates:
        raise ValueError(f"no {way} copies")
    return max(rates)
