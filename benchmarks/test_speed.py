"""How fast: `make benchmarks` runs this and writes results/benchmarks.json, from which the table in docs is made.

Every figure is read as a ratio to SimPy in the same run; see `docs/speed_tables.py`.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.jobs import JOBS, POLICIES, captured, machines, one_machine
from benchmarks.smallest_simpy import simulate as smallest
from hwmodels.cost import Costs
from offload.decode import Decoded, decode
from offload.metrics.metric_probes import find_probes
from pregate.ask.capturing.starting_cache import resident_set
from simulator.batched import batch
from simulator.definition import des
from simulator.events import event_engine

ROOT = Path(__file__).resolve().parents[1]
N_BATCH = 512
HBM_BYTES = 1 << 50


def describe(benchmark: Any, model: str, policy: str, engine: str, n_machines: int = 1) -> None:
    n_ops = len(captured(model, policy).decoded.schedule)
    benchmark.group = f"{model}/{policy}"
    benchmark.extra_info.update(model=model, policy=policy, engine=engine, n_ops=n_ops, n_machines=n_machines)


def compiled(model: str, policy: str) -> batch.Compiled:
    job = captured(model, policy)
    most = job.plan.static_bytes + (job.plan.n_buffers + job.plan.n_cache_slots) * job.model.expert_bytes
    return batch.compile_schedule(
        job.decoded.schedule, find_probes(job.decoded.schedule, job.trace), most_hbm_bytes=most
    )


@pytest.mark.parametrize(("model", "policy"), JOBS)
def test_simpy(benchmark: Any, model: str, policy: str) -> None:
    schedule, costs = captured(model, policy).decoded.schedule, one_machine(model, policy)
    describe(benchmark, model, policy, "des")
    timeline = benchmark.pedantic(des.simulate, (schedule, costs, HBM_BYTES), rounds=3, warmup_rounds=1)
    assert timeline.makespan_s > 0


@pytest.mark.parametrize(("model", "policy"), JOBS)
def test_the_smallest_program_on_simpy(benchmark: Any, model: str, policy: str) -> None:
    schedule, costs = captured(model, policy).decoded.schedule, one_machine(model, policy)
    describe(benchmark, model, policy, "smallest")
    start, end = benchmark.pedantic(smallest, (schedule, costs), rounds=1, warmup_rounds=1)
    ratios = []
    for _ in range(5):  # one right after the other, so that what else the machine does is the same for both
        gc.collect()  # and neither pays for the other's garbage
        began = time.perf_counter()
        timeline = des.simulate(schedule, costs, HBM_BYTES)
        des_s = time.perf_counter() - began
        gc.collect()
        began = time.perf_counter()
        smallest(schedule, costs)
        ratios.append(des_s / (time.perf_counter() - began))
    benchmark.extra_info["des_over_smallest"] = statistics.median(ratios)
    assert np.array_equal(start, timeline.start_s)
    assert np.array_equal(end, timeline.end_s)


@pytest.mark.parametrize(("model", "policy"), JOBS)
def test_the_event_engine(benchmark: Any, model: str, policy: str) -> None:
    schedule, costs = captured(model, policy).decoded.schedule, one_machine(model, policy)
    prepared = event_engine.prepare(schedule)
    describe(benchmark, model, policy, "event")
    timeline = benchmark.pedantic(
        event_engine.simulate, (schedule, costs), {"prepared": prepared}, rounds=30, warmup_rounds=3
    )
    assert timeline.makespan_s == des.simulate(schedule, costs, HBM_BYTES).makespan_s


@pytest.mark.parametrize(("model", "policy"), JOBS)
def test_the_recurrence_on_one_core(benchmark: Any, model: str, policy: str) -> None:
    ready, costs = compiled(model, policy), machines(model, policy, N_BATCH)
    describe(benchmark, model, policy, "recurrence", N_BATCH)
    found = benchmark.pedantic(batch.evaluate, (ready, costs), rounds=3, warmup_rounds=1)
    assert found.makespan_s.shape == (N_BATCH,)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_recurrence_on_more_cores(benchmark: Any, n_threads: int) -> None:
    """The same machines in as many equal parts as there are threads."""
    model, policy = "switch-base-128", "pregate"
    ready, costs = compiled(model, policy), machines(model, policy, 2048)
    describe(benchmark, model, policy, f"recurrence, {n_threads} threads", 2048)
    edges = np.linspace(0, 2048, n_threads + 1).astype(int)
    parts = [Costs(costs.issue_s[:, a:b], costs.duration_s[:, a:b]) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(n_threads) as pool:
        found = benchmark.pedantic(
            lambda: list(pool.map(lambda part: batch.evaluate(ready, part), parts)), rounds=5, warmup_rounds=1
        )
    assert sum(len(part.makespan_s) for part in found) == 2048


@pytest.mark.parametrize(("model", "policy"), JOBS)
def test_decode(benchmark: Any, model: str, policy: str) -> None:
    """From trace and policy to a schedule, digest and all."""
    request = captured(model, policy).request
    describe(benchmark, model, policy, "decode")

    def run() -> Decoded:
        return decode(
            request.model, request.trace.steps(), request.policy, request.execution,
            n_buffers=request.plan.n_buffers, cache=resident_set(request), static_bytes=request.plan.static_bytes,
        )  # fmt: skip

    assert benchmark.pedantic(run, rounds=5, warmup_rounds=1).schedule == captured(model, policy).decoded.schedule


def test_a_sweep_of_ten_thousand_machines_from_the_command_line(benchmark: Any, tmp_path: Path) -> None:
    """Five designs, schedules written anew, from the shell prompt to the file."""
    command = ["pregate", "sweep", str(ROOT / "examples" / "ten-thousand-machines.yaml"), "--no-cache", "-o", "out.nc"]
    program = Path(sys.executable).parent / command[0]
    benchmark.group = "sweep"
    benchmark.extra_info.update(engine="sweep", n_machines=10_000, n_policies=len(POLICIES))

    def run() -> None:
        subprocess.run([program, *command[1:]], check=True, capture_output=True, cwd=tmp_path)

    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    assert (tmp_path / "out.nc").is_file()


STREAM = """
import dataclasses, json, resource, sys, time
import pregate
from traces.transforms.rebatching import rebatch

model = pregate.load_model("mixtral-8x7b")
decoder = dataclasses.replace(model.decoder, n_layers=24, moe_layers=tuple(range(24)))
model = dataclasses.replace(model, name="mixtral-8x7b of 24 layers", decoder=decoder)
hw = pregate.load_hardware("h200-sxm")
trace = rebatch(pregate.synthesize(model, 1, 256, 3907), 1)
began = time.perf_counter()
result = pregate.simulate(model, hw, trace, "pregate", engine="stream")
print(json.dumps({
    "seconds": time.perf_counter() - began,
    "n_tokens": result.n_output_tokens,
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def test_a_million_tokens_in_bounded_memory(benchmark: Any) -> None:
    """1 M tokens x 24 MoE layers, top-2, one token a step; the trace, the interpreter and libraries included."""
    benchmark.group = "stream"

    def run() -> dict[str, float]:
        done = subprocess.run([sys.executable, "-c", STREAM], check=True, capture_output=True, text=True, cwd=ROOT)
        return json.loads(done.stdout)

    found = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(engine="stream", n_machines=1, **found)
    assert found["n_tokens"] >= 1_000_000
    assert found["peak_rss_bytes"] < 1 << 30
