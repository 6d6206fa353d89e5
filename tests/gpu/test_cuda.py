"""On a real CUDA device: the same states under every policy, close to the CPU's, and races caught."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hwmodels.platform import load_platform
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.policies import policy_named
from offload.schedule import COLUMNS, Schedule
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import capture_request
from pregate.ask.capturing.request import request
from pregate.ask.capturing.starting_cache import resident_set
from tests.small_models import MODELS, routing
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.programs.program import cached_slots, resident_slots  # noqa: E402
from runtime.run import MeasuredRun, OutputMismatch, check_same_output, execute  # noqa: E402
from tests.close_outputs import check_close_output  # noqa: E402

HW = load_platform("rtx-4090", "pytorch-eager")
POLICIES = ["gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "lru", "lfu", "on_demand+lru:5:warm"]
CLOCKS_S = 1e-4
"""How far the host's clock and the device's may disagree."""


def run(
    model: ModelArchitecture, trace: RoutingTrace, policy: str, experts: Experts, backend: CpuBackend | CudaBackend, *,
    tier: str = "dram", storage: Path | None = None,
) -> MeasuredRun:  # fmt: skip
    asked = request(model, HW, trace, policy, expert_tier=tier)
    cache = resident_set(asked)
    initial = resident_slots(model) if asked.policy.resident else {}
    if cache is not None:
        initial = cached_slots(cache, asked.plan.n_buffers)
    decoded = capture_request(asked).decoded
    done = execute(backend, model, trace.steps(), decoded.schedule, initial=initial, experts=experts, storage=storage)
    assert done.lookups[Phase.DECODE] == (decoded.n_lookups, decoded.n_hits)
    return done


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_all_policies_agree_bit_for_bit_and_with_the_cpu_within_tolerance(
    name: str, batch: int, tmp_path: Path
) -> None:
    model, trace = MODELS[name], routing(MODELS[name], batch=batch, seed=7)
    pinned = Experts(model, allocate=CudaBackend().allocate_host)
    runs = {policy: run(model, trace, policy, pinned, CudaBackend()) for policy in POLICIES}
    for policy in ("on_demand", "pregate"):
        runs[f"{policy} from ssd"] = run(
            model, trace, policy, pinned, CudaBackend(), tier="ssd", storage=tmp_path
        )  # fmt: skip
    runs["chunks"] = run(model, trace, "pregate", pinned, CudaBackend(chunk_bytes=1000))
    for policy in ("gpu_only", "on_demand", "pregate"):
        runs[f"{policy} in graphs"] = run(model, trace, policy, pinned, CudaBackend(graphs=True))
    check_same_output(runs)
    check_close_output(run(model, trace, "gpu_only", Experts(model), CpuBackend()), runs["gpu_only"])
    for done in runs.values():
        assert_sane(done)


def assert_sane(done: MeasuredRun) -> None:
    timeline, schedule = done.timeline, done.timeline.schedule
    for lane in (Lane.COMPUTE, Lane.H2D, Lane.D2H):
        mine = np.flatnonzero(schedule.lane == lane)
        assert np.all(timeline.start_s[mine][1:] >= timeline.end_s[mine][:-1] - 1e-6)
        assert done.moved_bytes[lane] == schedule.bytes[mine].sum()
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    assert np.all(timeline.start_s[owner] >= timeline.end_s[schedule.dep] - CLOCKS_S)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_runs_too(dtype: str) -> None:
    model = MODELS["shared experts, three matrices"].with_dtype(dtype)
    trace, experts = routing(model, batch=2), Experts(model)
    runs = {policy: run(model, trace, policy, experts, CudaBackend()) for policy in ("gpu_only", "pregate")}
    runs["graphs"] = run(model, trace, "pregate", experts, CudaBackend(graphs=True))
    check_same_output(runs)
    assert np.isfinite(runs["pregate"].states).all()


def test_an_ffn_that_does_not_wait_for_its_expert_is_caught() -> None:
    """Experts so large that a copy takes many times an FFN."""
    model = dataclasses.replace(MODELS["decoder-only"], d_ff_expert=1 << 18)
    steps = list(routing(model, seed=2).steps())
    how = EXECUTIONS["streams"]
    schedule = decode(model, steps, policy_named("on_demand"), how, n_buffers=model.n_experts).schedule
    experts = Experts(model, allocate=CudaBackend().allocate_host)
    good = execute(CudaBackend(), model, steps, schedule, experts=experts)
    keep = np.ones(len(schedule.dep), dtype=bool)
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    keep &= ~((schedule.kind[owner] == OpKind.EXPERTS) & (schedule.kind[schedule.dep] == OpKind.FETCH))
    columns = {name: getattr(schedule, name) for name in COLUMNS} | {
        "dep": schedule.dep[keep],
        "dep_ptr": np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=len(schedule)))]),
    }
    broken = Schedule(**columns, works=schedule.works, static_bytes=schedule.static_bytes)
    bad = execute(CudaBackend(), model, steps, broken, experts=experts, prove=False)
    with pytest.raises(OutputMismatch):
        check_same_output({"good": good, "bad": bad})


def test_the_budget_bounds_the_pool() -> None:
    model = MODELS["decoder-only"]
    with pytest.raises(CapacityExceeded, match="try a larger --hbm"):
        run(model, routing(model), "gpu_only", Experts(model), CudaBackend(hbm_bytes=100_000))
