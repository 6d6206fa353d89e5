"""The machine under the runtime: which back end, how much memory, and the schedule that fits it.

Nothing is taken here: what does not fit is refused before the first byte of it is.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offload.execution import EXECUTIONS
from offload.metrics import run_metrics
from offload.ops import KINDS
from offload.policy import Cache, Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.machine_memory import MachineMemory
from pregate.ask.capturing.request import Request, request
from pregate.ask.capturing.tier_names import tier_named
from pregate.extras import BACKENDS, backend_named
from runtime.backends.pacing import Link
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    from runtime.backends.backend import Backend
    from runtime.programs.passes import Passes


_LIBRARIES_BYTES = 256 << 20
"""What a plan leaves of a CUDA device's free memory: workspaces of the BLAS library (at most 32 MiB a stream), pools
rounded up to 2 MiB by the allocator, the trace's expert ids, code of kernels loaded on first use. Assumed."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where a schedule is executed, and how much of that it may use.

    `backend`: "cpu", "cuda", or "auto": CUDA where there is a device. `hbm_bytes`: at most so much (None: what is free,
    of the CPU back end half of it; as a cache takes what it is given, name a size to get one schedule twice). `h2d`,
    `d2h`: the links that the CPU back end imitates. `storage`: a folder for experts that are read from disk.
    `chunk_bytes`: copies of a CUDA device in parts of this size (None: an expert at a time); `graphs`: it runs sections
    of layers as CUDA graphs.

    Raises `UnknownName` for another back end, `InvalidInput` for a size below 1.
    """

    backend: str = "auto"
    hbm_bytes: int | None = None
    h2d: Link = Link()  # noqa: RUF009 (frozen)
    d2h: Link = Link()  # noqa: RUF009 (frozen)
    storage: Path | None = None
    chunk_bytes: int | None = None
    graphs: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise unknown_name("back end", self.backend, BACKENDS)
        for name in ("hbm_bytes", "chunk_bytes"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise InvalidInput(f"{name} = {size} is below 1: leave it out for no limit")


def resolve(device: Device) -> Device:
    """`device` with its back end named. Raises `InvalidInput` where this machine does not have it, or PyTorch, or for
    what the back end has no use for.
    """
    name = backend_named(device.backend)
    if name == "cuda" and (device.h2d != Link() or device.d2h != Link()):
        raise InvalidInput("--link is of the CPU back end: a CUDA device has its own; leave it out, or --backend cpu")
    if name == "cpu" and device.chunk_bytes is not None:
        raise InvalidInput("--chunk is of the CUDA back end: leave it out")
    require_graphs(name, device.graphs)
    if device.storage is not None and not device.storage.is_dir():
        raise InvalidFile(f"{device.storage}: there is no such folder for experts: name one that exists")
    return dataclasses.replace(device, backend=name)


def require_graphs(backend: str, graphs: bool) -> None:
    """Raise `InvalidInput` where CUDA graphs are asked of a back end that has none."""
    if graphs and backend != "cuda":
        raise InvalidInput("--graphs is of the CUDA back end: leave it out")


def require_storage(expert_tier: str, storage: Path | None) -> None:
    """Raise `InvalidInput` for experts that are to wait on storage without a folder for them."""
    if tier_named(expert_tier).on_disk and storage is None:
        raise InvalidInput("experts are to wait on storage (--tier ssd): name a folder for them, --storage DIR")


def make_backend(device: Device) -> Backend:
    """The back end of a resolved device, for one run."""
    if device.backend == "cuda":
        from runtime.backends.cuda import CudaBackend

        return CudaBackend(device.hbm_bytes, device.chunk_bytes, device.graphs)
    from runtime.backends.cpu import CpuBackend

    return CpuBackend(device.hbm_bytes, device.h2d, device.d2h)


def memory_of_device(device: Device) -> MachineMemory:
    """The memories of `device` as a schedule sees them. Raises `CapacityExceeded` for more HBM than is free, and as
    `resolve`.
    """
    device = resolve(device)
    from runtime.machine.device import describe_device

    free = _free_bytes(device)
    if device.hbm_bytes is not None and device.hbm_bytes > free:
        raise CapacityExceeded(
            f"hbm_bytes: {device.hbm_bytes / 1e9:.1f} GB of HBM are asked for, the {device.backend} back end has "
            f"{free / 1e9:.1f} GB free here: try a smaller --hbm",
            device.hbm_bytes,
        )
    most = free // 2 if device.backend == "cpu" else free
    dram_bytes = int(describe_device(device.backend)["dram_bytes"])
    hbm_bytes, way_out = device.hbm_bytes or most, "--tier ssd with --storage DIR, or a smaller model"
    return MachineMemory(hbm_bytes, 0, dram_bytes, "this machine", EXECUTIONS["streams"], way_out)


def _free_bytes(device: Device) -> int:
    """What could be taken as HBM now."""
    if device.backend == "cpu":
        return _free_host_bytes()
    whole = make_backend(dataclasses.replace(device, hbm_bytes=None)).budget.hbm_bytes
    return max((whole or 0) - _LIBRARIES_BYTES, 0)


def _free_host_bytes() -> int:
    from runtime.memory import available_bytes

    return available_bytes()


def capture_on(
    device: Device,
    model: ModelArchitecture,
    trace: RoutingTrace,
    policy: str | Policy,
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
) -> Captured:
    """Write the schedule of `policy` that `device` executes: its pools fit, and its experts have a place to wait.

    Raises `InvalidInput` for a model in a format that the runtime does not compute in, or experts on storage without a
    folder for them, `CapacityExceeded` when a memory is too small, and as `pregate.ask.capturing.request.request`.
    """
    device = resolve(device)
    asked, passes = request_on(device, model, trace, policy, cache=cache, expert_tier=expert_tier)
    captured = capture_request(asked)
    _require_free(captured, device, passes)
    return captured


def request_on(
    device: Device,
    model: ModelArchitecture,
    trace: RoutingTrace,
    policy: str | Policy,
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
) -> tuple[Request, Passes]:
    """What `capture_on` captures on a resolved device: memory is granted so that its pools fit. Raises as that does."""
    from runtime.memory import element_type
    from runtime.programs.passes import plan_passes

    require_storage(expert_tier, device.storage)
    element_type(model)
    memory = memory_of_device(device)
    asked = request(model, memory, trace, policy, cache=cache, expert_tier=expert_tier)
    passes = plan_passes(model, trace.steps())
    reserve_bytes = _reserve_bytes(asked, passes, memory.hbm_bytes)
    if reserve_bytes:
        memory = dataclasses.replace(memory, reserve_bytes=reserve_bytes)
        asked = request(model, memory, trace, policy, cache=cache, expert_tier=expert_tier, workload=asked.workload)
    return asked, passes


def _n_slots(asked: Request) -> int:
    """Expert slots that a run takes at most; what a placement keeps in HBM has slots of its own."""
    placed = asked.placed
    return placed.n_kept + (placed.n_decided * asked.model.n_experts if asked.policy.resident else asked.plan.n_slots)


def _reserve_bytes(asked: Request, passes: Passes, hbm_bytes: int) -> int:
    """What a plan made without a reserve must keep back for the pools of its run to fit; 0 where they do.

    A plan counts experts to the byte and activations by a formula; a run takes whole pages a slot and what it carves.
    """
    model, n_slots = asked.model, _n_slots(asked)
    none, one, all_of_them = (_pool_bytes(asked, passes, n) for n in (0, 1, n_slots))
    if all_of_them <= hbm_bytes:
        return 0
    n_fit = (hbm_bytes - none) // (one - none) + math.ceil(asked.plan.low_bytes / model.expert_bytes)
    n_counted = n_slots if asked.policy.resident else asked.placed.n_kept
    return hbm_bytes - (asked.plan.static_bytes - n_counted * model.expert_bytes) - n_fit * model.expert_bytes


def _pool_bytes(asked: Request, passes: Passes, n_slots: int) -> int:
    """HBM of a run with `n_slots` expert slots."""
    from runtime.pools import pool_bytes
    from runtime.programs.host_layers import HostLayers
    from runtime.programs.program import Rounding

    low = asked.plan.low
    rounding = None if asked.policy.is_exact else Rounding() if low is None else Rounding(low.n, low.bits)
    host = HostLayers(asked.model, asked.placed.host_layers)
    return sum(pool_bytes(asked.model, passes, n_slots, host, rounding).values())


def _require_free(captured: Captured, device: Device, passes: Passes) -> None:
    """Raise `CapacityExceeded` unless the host has room for the experts that it holds and, as "HBM", for the pools."""
    from runtime.memory import PAGE_BYTES, round_up

    model = captured.model
    experts_bytes = _n_held(captured) * round_up(model.expert_bytes, PAGE_BYTES)
    hbm_bytes = _pool_bytes(captured.request, passes, _n_slots(captured.request))
    needed = experts_bytes + (hbm_bytes if device.backend == "cpu" else 0)
    free = _free_host_bytes()
    if needed > free:
        too = ", which is host memory too" if device.backend == "cpu" else ""
        raise CapacityExceeded(
            f"{captured.policy.name}: {model.name} takes {experts_bytes / 1e9:.1f} GB of host memory for experts and "
            f"{hbm_bytes / 1e9:.1f} GB of HBM{too}; {free / 1e9:.1f} GB of host memory are free: try --tier ssd with "
            f"--storage DIR, a smaller --hbm or a smaller model",
            needed,
            "DRAM",
        )


def _n_held(captured: Captured) -> int:
    """Experts that the schedule takes from host memory; those on storage pass through a few buffers, or are kept."""
    if captured.request.tier.on_disk:
        return captured.plan.n_host_slots
    schedule, model = captured.decoded.schedule, captured.model
    taken = np.isin(schedule.kind, [kind for kind, row in KINDS.items() if row.takes == "host"])
    encoding = ~np.isin(schedule.step[taken], run_metrics.decode_steps(captured.trace)) & model.is_encoder_decoder
    keys = np.stack([encoding, schedule.layer[taken], schedule.expert[taken]]).astype(np.int64)
    return int(np.unique(keys, axis=1).shape[1])
