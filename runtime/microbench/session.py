"""Measure a machine: every microbenchmark in turn, each beside a watch on what else the machine does.

A part that was disturbed is measured again; one that still was makes the measurements unclean, and says why.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hwmodels.calibrate.measurements import Measurements, Sample, workload_digest
from hwmodels.quantity import ReadOnly
from runtime.backend import Action, Backend
from runtime.cpu import CpuBackend
from runtime.cuda import CudaBackend
from runtime.device import describe, software, stack_of
from runtime.microbench.contention import contention_samples
from runtime.microbench.copies import copy_samples, round_trip_samples
from runtime.microbench.gemms import PARAMS, gemm_samples
from runtime.microbench.host import host_samples
from runtime.microbench.ops import offloaded_samples, op_samples
from runtime.microbench.probes import Probe, probes
from runtime.microbench.storage import read_samples
from runtime.model.weights import Experts
from runtime.pacing import Link
from runtime.program import resident_slots
from runtime.watch import Busy, LoadWatch, require_quiet
from traces.model.dtypes import DTYPES

__all__ = ["LINK_LATENCY_S", "Settings", "cpu_link", "measure"]

LINK_LATENCY_S = 20e-6
"""Fixed time of a copy over a paced link of the CPU back end: of the order of a copy's over PCIe."""

_TRIES = 3
"""Times that a disturbed part is measured before it is taken as it is."""

_QUICK_ROWS, _QUICK_ASPECTS = (1, 2, 4, 16, 64, 256, 1024), (1 / 4, 1.0, 4.0)
"""The coarser grid of GEMMs."""

_SLEEP_CYCLES = 20_000_000
"""What a CUDA device sleeps while its host fills the queue: some 10 ms, for a hundred ops."""

_LONGER = 4
"""So many times that for hundreds of ops."""

_LARGE_PARAMS = (1 << 26,)
"""Weights of a matrix that only a CUDA device is asked to multiply by: those of the largest experts."""


_NOTHING: Mapping[str, str] = ReadOnly({})


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure. `backend`: "cpu" or "cuda"; `link_bytes_per_s`: of the CPU back end's link, None for as fast as
    memory copies; `storage`: a folder to read from, None to leave storage out; `quick`: a third of the points;
    `graphs`: a CUDA device runs sections of layers as CUDA graphs.
    """

    backend: str
    dtypes: tuple[str, ...] = ("fp32",)
    link_bytes_per_s: float | None = 2e9
    storage: Path | None = None
    quick: bool = False
    graphs: bool = False

    @property
    def stack(self) -> str:
        """The software stack that the back end is."""
        return stack_of(self.backend, self.graphs)

    def make(self) -> Backend:
        """A back end for one run."""
        if self.backend == "cuda":
            return CudaBackend(graphs=self.graphs)
        link = cpu_link(self.link_bytes_per_s)
        return CpuBackend(h2d=link, d2h=link)


def cpu_link(bytes_per_s: float | None) -> Link:
    """The link of the CPU back end at a speed; unpaced without one."""
    return Link(bytes_per_s, LINK_LATENCY_S) if bytes_per_s is not None else Link()


def measure(
    settings: Settings,
    provenance: Mapping[str, str] = _NOTHING,
    *,
    say: Callable[[str], None] = lambda _: None,
    insist: bool = True,
) -> Measurements:
    """Run every microbenchmark on `settings.backend`; `say` hears what is being done.

    `provenance`: command, date, commit. Raises `Busy`, if `insist`, when others use the machine before it begins, or
    still while a part is measured again; otherwise the measurements say so and are not clean.
    """
    if insist:
        require_quiet()
    samples: list[Sample] = []
    disturbances: list[str] = []
    for name, part in _parts(settings):
        say(name)
        found, disturbance = _undisturbed(part)
        samples += found
        if disturbance is not None:
            disturbances.append(f"{name}: {disturbance}")
            if insist:
                raise Busy(
                    f"the machine is busy: while measuring {disturbances[0]}: stop other work, or try again later"
                )
    machine = describe(settings.backend)
    if settings.backend == "cpu":
        speed = settings.link_bytes_per_s
        machine |= {"h2d_bytes_per_s": speed, "d2h_bytes_per_s": speed}
    return Measurements(
        machine=ReadOnly(machine),
        stack=settings.stack,
        provenance=ReadOnly({**provenance, **software()}),
        disturbances=tuple(disturbances),
        probes=tuple(dict.fromkeys(workload_digest(probe.model, probe.trace) for probe in _probes(settings))),
        samples=tuple(samples),
    )


def _undisturbed(part: Callable[[], list[Sample]]) -> tuple[list[Sample], str | None]:
    """The samples of a part, and what disturbed the last of a few tries."""
    disturbance: str | None = None
    samples: list[Sample] = []
    for _ in range(_TRIES):
        gc.collect()
        with LoadWatch() as watch:
            samples = part()
        disturbance = watch.seen.disturbance()
        if disturbance is None:
            break
    return samples, disturbance


def _parts(settings: Settings) -> Iterator[tuple[str, Callable[[], list[Sample]]]]:
    """Every part by name, in the order in which they are measured."""
    make, cuda = settings.make, settings.backend == "cuda"
    hold, longer = (partial(_sleep, n * _SLEEP_CYCLES) if cuda else None for n in (1, _LONGER))
    params = (*PARAMS, *_LARGE_PARAMS) if cuda else PARAMS
    for dtype in settings.dtypes:
        gemms = partial(gemm_samples, make, dtype, params=params, hold=hold)
        if settings.quick:
            gemms = partial(gemms, rows=_QUICK_ROWS, aspects=_QUICK_ASPECTS, point_s=0.015)
        yield f"GEMMs in {dtype}", gemms
    speed = settings.link_bytes_per_s
    slowest = speed or (20e9 if cuda else 5e9)
    copies = partial(copy_samples, make, slowest_bytes_per_s=slowest, link_bytes_per_s=speed)
    copies = partial(copies, pageable=cuda, hold=longer)
    yield "copies", partial(copies, budget_s=2.0, both_ways=False) if settings.quick else partial(copies, budget_s=5.0)
    launching = dataclasses.replace(settings, graphs=False).make  # a pause of the host cannot be captured
    yield "round trips", partial(round_trip_samples, launching, _tiny, budget_s=1.0 if settings.quick else 3.0)
    yield "launches and edges", partial(host_samples, make, _tiny, hold=longer)
    yield "copies beside kernels", partial(contention_samples, make, settings.dtypes[0])
    narrowest = min(settings.dtypes, key=lambda name: DTYPES[name].bits)  # its slots are the smallest
    experts: Experts | None = None
    for probe in _probes(settings):
        if experts is None or experts.model != probe.model:
            experts = None  # the old ones go before the new ones come
            experts = Experts(probe.model, allocate=make().allocate_host, keep_static=True)
            experts.keep(resident_slots(probe.model).values())
        yield f"ops of {probe.name}", partial(op_samples, make, probe, experts)
        for policy in ("on_demand", "pregate") if probe.offloaded and probe.model.dtype.name == narrowest else ():
            beside = partial(offloaded_samples, make, probe, experts, policy, quick=settings.quick)
            yield f"ops of {probe.name} under {policy}", beside
    if settings.storage is not None:
        yield "storage", partial(read_samples, settings.storage)


def _probes(settings: Settings) -> Iterator[Probe]:
    scale = 2 if settings.backend == "cuda" else 1
    for dtype in settings.dtypes:
        yield from (probe for probe in probes(dtype, scale) if probe.quick or not settings.quick)


def _tiny(backend: Backend) -> Action:
    """A kernel that adds nothing to a few numbers."""
    return partial(_add_nothing, backend.allocate(64, "a few numbers"))


def _add_nothing(numbers: Tensor) -> None:
    numbers.add_(0)


def _sleep(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # no public name for it
