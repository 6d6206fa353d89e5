"""What a session measures: its settings, and every microbenchmark as a part that can be measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

from hwmodels.calibrate.measurements import Sample
from runtime.backends.backend import Action, Backend
from runtime.backends.cpu import CpuBackend
from runtime.backends.cuda import CudaBackend
from runtime.backends.pacing import Link
from runtime.machine.conditions import device_node
from runtime.machine.device import stack_of
from runtime.machine.numa import other_node
from runtime.microbench.contention import contention_samples
from runtime.microbench.copies import copy_samples
from runtime.microbench.gemms import PARAMS, gemm_samples
from runtime.microbench.host import host_samples
from runtime.microbench.live import live_samples
from runtime.microbench.ops import offloaded_samples, op_samples
from runtime.microbench.probes import Probe, probes
from runtime.microbench.records import record_samples
from runtime.microbench.rounds import Microbenchmark
from runtime.microbench.storage import read_samples
from runtime.model.weights import Experts
from runtime.programs.program import resident_slots
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.dtypes import DTYPES

LINK_LATENCY_S = 20e-6
"""Fixed time of a copy over a paced link of the CPU back end: of the order of a copy's over PCIe."""

_BUDGET_S, _QUICK_BUDGET_S = 240.0, 45.0
"""Time for all rounds: two of them on a quiet machine of two cores."""

_QUICK_ROWS, _QUICK_ASPECTS = (1, 2, 4, 16, 64, 256, 1024), (1 / 4, 1.0, 4.0)
"""The coarser grid of GEMMs."""

_SLEEP_CYCLES = 20_000_000
"""What a CUDA device sleeps while its host fills the queue: some 10 ms, for a hundred ops."""

_LONG_HOLD = 4
"""So many times that for hundreds of ops."""

_OFFLOADING = ("on_demand", "pregate")
"""Policies under which ops are timed beside fetches."""

_PASS = 1.5
"""So many times that for all ops of a forward pass."""

_RECORD_SIZES: dict[str, tuple[tuple[int, ...], int, int]] = {
    "cuda": ((4 << 10, 1 << 20, 16 << 20, 64 << 20), 64 << 20, 64),
    "cpu": ((4 << 10, 1 << 20), 8 << 20, 24),
}
"""By back end: bytes that kernels read, bytes of a copy beside them, records."""

_LARGE_PARAMS = (1 << 26,)
"""Weights of a matrix that only a CUDA device is asked to multiply by: those of the largest experts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure. `backend`: "cpu" or "cuda"; `link_bytes_per_s`: of the CPU back end's link, None for as fast as
    memory copies; `storage`: a folder to read from, None to leave storage out; `quick`: a third of the points;
    `graphs`: a CUDA device runs sections of layers as CUDA graphs; `budget_s`: time for all rounds, of which only what
    a fit needs is measured whatever it takes (None: 240 s, 45 s if `quick`). Raises `InvalidInput` for a budget that is
    not above 0.
    """

    backend: str
    dtypes: tuple[str, ...] = ("fp32",)
    link_bytes_per_s: float | None = 2e9
    storage: Path | None = None
    quick: bool = False
    graphs: bool = False
    budget_s: float | None = None

    def __post_init__(self) -> None:
        if self.budget_s is not None and not 0 < self.budget_s < float("inf"):
            raise InvalidInput(f"budget_s = {self.budget_s:g} is no time: give seconds above 0, or leave it out")

    @property
    def stack(self) -> str:
        """The software stack that the back end is."""
        return stack_of(self.backend, self.graphs)

    @property
    def rounds_s(self) -> float:
        """Time for all rounds."""
        return self.budget_s or (_QUICK_BUDGET_S if self.quick else _BUDGET_S)

    def make(self) -> Backend:
        """A back end for one run."""
        if self.backend == "cuda":
            return CudaBackend(graphs=self.graphs)
        link = cpu_link(self.link_bytes_per_s)
        return CpuBackend(h2d=link, d2h=link)


def cpu_link(bytes_per_s: float | None) -> Link:
    """The link of the CPU back end at a speed; unpaced without one."""
    return Link(bytes_per_s, LINK_LATENCY_S) if bytes_per_s is not None else Link()


def microbenchmarks_of(settings: Settings) -> list[Microbenchmark]:
    """Every part, in the order in which a round measures them; those of one model share its experts."""
    return [*_machine_parts(settings), *_op_parts(settings), *_storage_parts(settings)]


def probes_of(settings: Settings) -> Iterator[Probe]:
    """The models whose ops are timed."""
    width_factor = 2 if settings.backend == "cuda" else 1
    for dtype in settings.dtypes:
        yield from (probe for probe in probes(dtype, width_factor) if probe.quick or not settings.quick)


def _part(name: str, measure: Callable[[], list[Sample]], *, needed: bool = False) -> Microbenchmark:
    """A part whose rounds are all alike."""
    return Microbenchmark(name, lambda _: measure(), needed)


def _machine_parts(settings: Settings) -> Iterator[Microbenchmark]:
    make, cuda, quick = settings.make, settings.backend == "cuda", settings.quick
    hold, long_hold = (_hold(settings, n) for n in (1, _LONG_HOLD))
    params = (*PARAMS, *_LARGE_PARAMS) if cuda else PARAMS
    for dtype in settings.dtypes:
        gemms = partial(gemm_samples, make, dtype, params=params, hold=hold)
        if quick:
            gemms = partial(gemms, rows=_QUICK_ROWS, aspects=_QUICK_ASPECTS, point_s=0.01, least=4 if cuda else 1)
        yield _part(f"GEMMs in {dtype}", gemms, needed=True)
    speed = settings.link_bytes_per_s
    slowest = speed or (20e9 if cuda else 5e9)
    copies = partial(copy_samples, make, slowest_bytes_per_s=slowest, link_bytes_per_s=speed)
    remote = other_node(device_node()) if cuda else None
    copies = partial(copies, memory=_kinds_of_memory(settings, remote), remote_node=remote, hold=long_hold)
    copies = partial(copies, budget_s=1.5, both_ways=False) if quick else partial(copies, budget_s=5.0)
    yield _part("copies", copies, needed=True)
    yield _part("launches", partial(host_samples, make, _tiny, hold=long_hold), needed=True)
    if not settings.graphs:  # which are made of ops that are known beforehand
        yield _part("deciding live", partial(live_samples, make))
    if not quick:
        yield _part("copies beside kernels", partial(contention_samples, make, settings.dtypes[0], hold=long_hold))
        sizes, copy_bytes, n = _RECORD_SIZES[settings.backend]
        records = partial(record_samples, make, settings.dtypes[0], sizes=sizes, copy_bytes=copy_bytes, n=n)
        yield _part("records beside copies", partial(records, hold=long_hold))


def _kinds_of_memory(settings: Settings, remote: int | None) -> tuple[str, ...]:
    """The kinds of host memory whose copies differ: all on a CUDA device, none from another where a link is paced.

    That of another socket where there is one and it is known which is the device's.
    """
    if settings.backend == "cuda":
        return "pinned", "pageable", "mapped", *(("remote",) if remote is not None else ())
    return ("pinned", "mapped") if settings.link_bytes_per_s is None else ("pinned",)


def _op_parts(settings: Settings) -> Iterator[Microbenchmark]:
    """A quick session runs each probe that offloads under one policy, in turn.

    Needed is one probe of each kind of model and format, which have every kind of op between them, and one that
    offloads.
    """
    keep, turns, kinds = _Keep(), cycle(_OFFLOADING), set[object]()
    narrowest = min(settings.dtypes, key=lambda name: DTYPES[name].bits)  # its slots are the smallest
    for probe in probes_of(settings):
        kind = probe.model.dtype.name, probe.model.encoder is None
        needed = kind not in kinds
        kinds.add(kind)
        yield Microbenchmark(f"ops of {probe.name}", partial(_ops, settings, keep, probe), needed)
        if probe.offloaded and probe.model.dtype.name == narrowest:
            for policy in (next(turns),) if settings.quick else _OFFLOADING:
                beside = partial(_offloaded, settings, keep, probe, policy)
                yield _part(f"ops of {probe.name} under {policy}", beside, needed="offloaded" not in kinds)
                kinds.add("offloaded")


def _storage_parts(settings: Settings) -> Iterator[Microbenchmark]:
    if settings.storage is not None:
        yield _part("storage", partial(read_samples, settings.storage))


class _Keep:
    """The experts of one model at a time, which its probes share."""

    def __init__(self) -> None:
        self._experts: Experts | None = None

    def experts(self, settings: Settings, model: ModelArchitecture) -> Experts:
        if self._experts is None or self._experts.model != model:
            self._experts = None  # the old ones go before the new ones come
            self._experts = Experts(model, allocate=settings.make().allocate_host, keep_static=True)
            self._experts.keep(resident_slots(model).values())
        return self._experts


def _ops(settings: Settings, keep: _Keep, probe: Probe, first: bool) -> list[Sample]:
    experts = keep.experts(settings, probe.model)
    return op_samples(settings.make, probe, experts, warm=first and not settings.quick, hold=_hold(settings, _PASS))


def _offloaded(settings: Settings, keep: _Keep, probe: Probe, policy: str) -> list[Sample]:
    experts = keep.experts(settings, probe.model)
    hold = _hold(settings, _PASS)
    return offloaded_samples(settings.make, probe, experts, policy, quick=settings.quick, hold=hold)


def _tiny(backend: Backend) -> Action:
    """A kernel that adds nothing to a few numbers."""
    return partial(_add_nothing, backend.allocate(64, "a few numbers"))


def _add_nothing(numbers: Tensor) -> None:
    numbers.add_(0)


def _hold(settings: Settings, times: float) -> Action | None:
    """What keeps a device busy while its host issues ops; a processor's lanes need none."""
    return partial(_sleep, int(times * _SLEEP_CYCLES)) if settings.backend == "cuda" else None


def _sleep(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # no public name for it
