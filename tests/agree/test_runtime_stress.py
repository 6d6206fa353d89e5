"""Random small models, traces, policies and slots under random delays: always the states of `gpu_only`, no leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from offload.caches.residency import ResidentSet
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.policies import policy_named
from offload.policy import BlockView, Buffers, Fetch, MissAction, Policy
from offload.schedule import Schedule
from offload.slots.memory import CapacityExceeded
from traces.model.architecture import DTYPES, Attention, LayerStack, ModelArchitecture
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.pacing import Link  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.programs.program import resident_slots  # noqa: E402
from runtime.run import check_same_output, execute  # noqa: E402

EXECUTION = EXECUTIONS["streams"]


def random_model(rng: np.random.Generator) -> ModelArchitecture:
    """One to three layers, some of them MoE, two to five experts."""
    n_experts, n_layers = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    n_moe = int(rng.integers(1, n_layers + 1))
    moe = tuple(sorted(rng.choice(n_layers, n_moe, replace=False).tolist()))
    attention = Attention("gqa", n_heads=2, n_kv_heads=int(rng.integers(1, 3)), head_dim=4)
    encoding, n_matrices, shared = rng.random() < 0.4, int(rng.integers(2, 4)), int(rng.integers(2))
    dense = 12 if n_moe < n_layers else 0
    return ModelArchitecture(
        name="random",
        d_model=8,
        vocab_size=16,
        tied_embeddings=True,
        encoder=LayerStack(2, (1,), attention, False, 12, n_matrices) if encoding else None,
        decoder=LayerStack(n_layers, moe, attention, encoding, dense, n_matrices),
        n_experts=n_experts,
        top_k=int(rng.integers(1, min(3, n_experts) + 1)),
        d_ff_expert=16,
        n_expert_matrices=n_matrices,
        n_shared_experts=shared,
        d_ff_shared=8 * shared,
        dtype=DTYPES["fp32"],
        expert_dtype=DTYPES["fp32"],
        sources=("a test",),
    )


def random_trace(model: ModelArchitecture, rng: np.random.Generator) -> RoutingTrace:
    """A prompt of up to three tokens a sequence, then up to three decode steps of up to three sequences."""
    batch, prompt, n_steps = (int(n) for n in rng.integers(1, 4, size=3))
    first = 0 if model.is_encoder_decoder else prompt
    rows = [(0, s, p, Phase.PREFILL) for s in range(batch) for p in range(prompt)]
    rows += [(1 + i, s, first + i, Phase.DECODE) for i in range(n_steps) for s in range(batch)]
    step, sequence, position, phase = (np.array(column) for column in zip(*rows, strict=True))
    ids = np.broadcast_to(np.arange(model.n_experts), (len(rows), model.n_moe_layers, model.n_experts))
    experts = rng.permuted(ids, axis=2)[..., : model.top_k].astype(np.int16)
    n = model.n_encoder_moe_layers
    if model.is_encoder_decoder:
        experts[phase == Phase.PREFILL, n:] = -1
        experts[phase == Phase.DECODE, :n] = -1
    return RoutingTrace(experts, sequence, position, phase, step, model.n_experts, Provenance("random", "a test"))


def guessing(rng: np.random.Generator) -> Policy:
    """Prefetches that can be wrong, misses that the host computes when they serve one token."""

    def guess(view: BlockView) -> Sequence[Fetch]:
        if view.block + 1 == view.n_blocks:
            return ()
        n = int(rng.integers(view.n_experts + 1))
        return [Fetch(view.block + 1, tuple(sorted(rng.choice(view.n_experts, n, replace=False).tolist())))]

    def on_miss(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        tokens = dict(zip(view.active, view.tokens, strict=True))
        return {expert: MissAction.CPU if tokens[expert] < 2 else MissAction.FETCH for expert in missing}

    return Policy("guess", prefetch=guess, on_miss=on_miss, buffers=lambda n, n_experts: Buffers(n, 2 * n_experts))


def random_schedule(model: ModelArchitecture, trace: RoutingTrace, rng: np.random.Generator) -> Schedule:
    """A policy with as few slots as it can do with, or some more; a cache or none; from memory or storage."""
    presets = ["on_demand", "prefetch_all", "pregate", "pregate(2)", "pregate:encoder"]
    policy = guessing(rng) if rng.random() < 0.3 else policy_named(str(rng.choice(presets)))
    n_slots = int(rng.integers(model.n_experts, 2 * model.n_experts + 1))
    cache = None
    if rng.random() < 0.5:
        eviction = str(rng.choice(["lru", "lfu", "fifo"]))
        sizes = dict(n_layers=model.n_moe_layers, n_experts=model.n_experts)
        cache = ResidentSet(int(rng.integers(1, 6)), eviction, per_layer=bool(rng.integers(2)), **sizes)
    disk = bool(rng.random() < 0.3)
    return decode(model, trace.steps(), policy, EXECUTION, n_buffers=n_slots, cache=cache, disk=disk).schedule


def test_random_models_and_policies_under_delays_end_as_all_resident(tmp_path: Path) -> None:
    n_cpu = n_disk = n_run = 0
    for seed in range(15):  # one forgotten wait of a hundred is noticed by the first
        rng = np.random.default_rng(seed)
        model = random_model(rng)
        trace, experts = random_trace(model, rng), Experts(model, seed)
        steps = list(trace.steps())
        resident = decode(model, steps, policy_named("gpu_only"), EXECUTION, n_buffers=0).schedule
        initial = resident_slots(model)
        runs = {"gpu_only": execute(CpuBackend(), model, steps, resident, initial=initial, experts=experts)}
        for i in range(5):
            try:
                schedule = random_schedule(model, trace, rng)
            except CapacityExceeded:
                continue
            held_s = np.where(rng.random(len(schedule)) < 0.05, rng.random(len(schedule)) * 1e-3, 0.0).tolist()
            backend = CpuBackend(
                h2d=Link(1e9, 1e-6) if i % 2 else Link(),
                disturb=lambda op, held_s=held_s: time.sleep(held_s[op]),
            )
            runs[f"{seed}.{i}"] = execute(backend, model, steps, schedule, experts=experts, storage=tmp_path)
            n_cpu += int(np.any(schedule.kind == OpKind.CPU_EXPERT))
            n_disk += int(np.any(schedule.kind == OpKind.DISK_READ))
            n_run += 1
        check_same_output(runs)
    assert min(n_cpu, n_disk, n_run - 50) > 0
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pregate-")]
    assert not list(tmp_path.iterdir())
