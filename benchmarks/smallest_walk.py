"""The smallest walk over a schedule in C, beside many machines with all metrics: `python -m benchmarks.smallest_walk`.

C is compiled with `cc -O3 -march=native` for 16, 32 and 64 machines side by side, the fastest counts. Processor time of
one core, the least of several rounds that take turns.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.jobs import JOBS, captured, machines
from hwmodels.cost import Costs
from offload.metrics.metric_probes import find_probes
from offload.schedule import Schedule
from simulator.batched import batch, batch_waits

SOURCE = Path(__file__).with_suffix(".c")
WIDTHS = (16, 32, 64)
N_BATCH = 256
N_ROUNDS = 7


def built(folder: Path, width: int) -> Any:
    """The walk for `width` machines side by side. Raises `FileNotFoundError` without a C compiler."""
    library = folder / f"walk{width}.so"
    options = [
        "-O3",
        "-march=native",
        "-mprefer-vector-width=512",
        "-ffp-contract=off",
        f"-DWIDTH={width}",
        "-shared",
        "-fPIC",
    ]
    subprocess.run(["cc", *options, "-o", str(library), str(SOURCE)], check=True)
    return ctypes.CDLL(str(library)).walk


def smallest(walk: Any, width: int, schedule: Schedule, costs: Costs) -> Callable[[], NDArray[np.float64]]:
    """A call that walks `schedule` on every machine of `costs` and returns the makespans, (n_machines,)."""
    place, dep, n_places = batch_waits.placed(schedule.dep_ptr, schedule.dep)
    place[place < 0] = n_places
    n_machines, n_works = costs.issue_s.shape[1], len(schedule.works)
    tables = [
        np.ascontiguousarray(values.reshape(n_works, -1, width).swapaxes(0, 1))
        for values in (costs.issue_s, costs.duration_s)
    ]
    end, makespan = np.empty((n_places + 1, width)), np.empty(n_machines)
    fixed = [
        array.ctypes.data_as(ctypes.c_void_p) for array in (schedule.lane, schedule.cost, schedule.dep_ptr, dep, place)
    ]

    def run() -> NDArray[np.float64]:
        for i in range(n_machines // width):
            mine = (table[i].ctypes.data_as(ctypes.c_void_p) for table in tables)
            walk(ctypes.c_long(len(schedule)), *fixed, *mine, end.ctypes.data_as(ctypes.c_void_p),
                 makespan[i * width :].ctypes.data_as(ctypes.c_void_p))  # fmt: skip
        return makespan

    return run


def cpu_s(call: Callable[[], Any]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def measured_ns(model: str, policy: str, walks: dict[int, Any]) -> list[float]:
    """Nanoseconds an op and machine: of each of `walks`, and of `batch.evaluate`. Makespans are compared bit by bit."""
    job = captured(model, policy)
    schedule, costs = job.decoded.schedule, machines(model, policy, N_BATCH)
    most = job.plan.static_bytes + job.plan.n_slots * job.model.expert_bytes
    ready = batch.compile_schedule(schedule, find_probes(schedule, job.trace), most_hbm_bytes=most)
    calls = [smallest(walk, width, schedule, costs) for width, walk in walks.items()]
    found = batch.evaluate(ready, costs)
    assert all(np.array_equal(call(), found.makespan_s) for call in calls), "the smallest walk says something else"
    rounds = [[*map(cpu_s, calls), cpu_s(lambda: batch.evaluate(ready, costs))] for _ in range(N_ROUNDS)]
    least: list[float] = (np.min(rounds, axis=0) / N_BATCH / len(schedule) * 1e9).tolist()
    return least


def main() -> None:
    """Print what each takes, and the share that the fastest smallest walk takes of the other."""
    with tempfile.TemporaryDirectory() as folder:
        walks = {width: built(Path(folder), width) for width in WIDTHS}
        for model, policy in JOBS:
            *in_c, ours = measured_ns(model, policy, walks)
            told = ", ".join(f"{width}: {value:.2f}" for width, value in zip(WIDTHS, in_c, strict=True))
            print(
                f"{model:16} {policy:13} C {told}; evaluated {ours:.2f} ns; C {min(in_c) / ours:.0%} of it", flush=True
            )


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
