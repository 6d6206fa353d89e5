"""Steps of an engine that computes on a processor and reads experts from storage: each replayed from what it read.

Constants come from one run: the rate at which weights are computed with, of one reader of storage, of all of them
together, and of filing what was read. A step of another run, of the same model or another one, is a schedule: a layer's
own weights, its resident experts, and for each one that is missed its read in matrices, its filing and its FFN. Which
ones are missed follows from the bytes of the step.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import price_figures
from hwmodels.figures import Figures
from hwmodels.stack import load_stack
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.slots.host_tier import HostTier, ReadWorks
from simulator import recurrence
from traces.documents import read_text
from traces.errors import InvalidInput, unknown_name

__all__ = [
    "PARTS",
    "ReaderConstants",
    "StreamedRun",
    "StreamedShape",
    "constants_of_run",
    "load_runs",
    "median_errors",
    "predict_steps",
    "reader_figures",
    "steps_schedule",
]

STEPS = Path(__file__).parent / "tables" / "streamed_steps.csv"
"""The runs that ship; where they are from stands in SOURCES.md beside them."""

PARTS = ("wall", "compute", "stall", "filing", "reading")
"""Milliseconds of a step; `reading` is summed over readers, the wall is compute, stall and filing."""

MATRICES = 3
"""Reads an expert: its up, gate and down projection lie apart in a file of weights."""


@dataclass(frozen=True, slots=True)
class StreamedShape:
    """What of a model a step touches: layers, bytes of an expert, and of all else in a layer."""

    n_layers: int
    expert_bytes: float
    dense_bytes: float


SHAPES: Mapping[str, StreamedShape] = {
    "qwen3-30b-a3b": StreamedShape(48, 2_856_960, 11_817_984),
    "gpt-oss-120b": StreamedShape(36, 13_219_200, 23_003_648),
}
"""Means over layers, in Q4_K_M, as the engine's route traces of these files state them."""


@dataclass(frozen=True, slots=True)
class StreamedRun:
    """One run: `parts` (n_steps,) of each of `PARTS`, and the bytes that each step read."""

    name: str
    model: str
    top_k: int
    n_readers: int
    parts: Mapping[str, NDArray[np.float64]]
    read_bytes: NDArray[np.float64]

    @property
    def shape(self) -> StreamedShape:
        """Of its model."""
        return SHAPES[self.model]

    @property
    def touched_bytes(self) -> float:
        """Weights that a step computes with."""
        return self.shape.n_layers * (self.shape.dense_bytes + self.top_k * self.shape.expert_bytes)


@dataclass(frozen=True, slots=True)
class ReaderConstants:
    """Bytes a second: computed with, read by one reader and by all that there were, filed into the cache."""

    compute_bytes_per_s: float
    reader_bytes_per_s: float
    drive_bytes_per_s: float
    filing_bytes_per_s: float


def load_runs(path: Path = STEPS) -> list[StreamedRun]:
    """The runs of a table, without the first step of each, which also brings in what is mapped.

    Raises `InvalidFile` or `UnknownName`.
    """
    rows: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(read_text(path))):
        if row["model"] not in SHAPES:
            raise unknown_name("model", row["model"], SHAPES, str(path))
        rows.setdefault((row["run"], row["model"], row["top_k"], row["io_lanes"]), []).append(row)
    columns = dict(zip(PARTS, ("wall_ms", "compute_ms", "stall_ms", "mgmt_ms", "io_ms"), strict=True))
    return [
        StreamedRun(
            name, model, int(top_k), int(n_readers),
            {part: np.array([float(row[column]) for row in steps[1:]]) for part, column in columns.items()},
            np.array([float(row["read_bytes"]) for row in steps[1:]]),
        )
        for (name, model, top_k, n_readers), steps in rows.items()
    ]  # fmt: skip


def constants_of_run(run: StreamedRun) -> ReaderConstants:
    """The rates of one run: the middle step's compute, and all bytes over all time read and filed.

    Storage is taken to be no faster than the readers of the run were together.
    """
    total = float(run.read_bytes.sum())
    reader = total / float(run.parts["reading"].sum()) * 1e3
    return ReaderConstants(
        run.touched_bytes / float(np.median(run.parts["compute"])) * 1e3,
        reader,
        reader * run.n_readers,
        total / float(run.parts["filing"].sum()) * 1e3,
    )


def reader_figures(rates: ReaderConstants) -> Figures:
    """A machine of these rates, whose processor is never short of arithmetic."""
    plenty = 1e30
    values = {
        "host.dram_bytes_per_s": rates.compute_bytes_per_s, "host.n_cores": 1.0, "host.peak_flop_per_s": plenty,
        "storage.read_bytes_per_s": rates.drive_bytes_per_s, "storage.reader_bytes_per_s": rates.reader_bytes_per_s,
        "storage.filing_bytes_per_s": rates.filing_bytes_per_s, "stack.cpu_core_bytes_per_s": plenty,
        "stack.launch_s": 0.0,
    }  # fmt: skip
    shares = ("cpu_efficiency", "cpu_gemm_efficiency", "cpu_attention_efficiency", "storage_efficiency")
    values |= {f"stack.{name}": 1.0 for name in (*shares, "cpu_packed_speedup")}
    return Figures(values, load_stack("streams"), "a phone", offloaded=False)


def steps_schedule(run: StreamedRun, rng: np.random.Generator) -> Schedule:
    """The ops of all steps of `run`.

    A step misses as many experts as its bytes hold; which of its layers they are of is not known of every run, and
    drawn, all being as likely. Reads of a layer begin once its own weights are computed with, which names its experts;
    those that are there are computed first.
    """
    shape, recorder = run.shape, Recorder()
    n_bytes = round(shape.expert_bytes)
    read = Work(OpKind.DISK_READ, copy_bytes=n_bytes)
    works = ReadWorks(
        read,
        MATRICES,
        -(-n_bytes // MATRICES),
        run.n_readers,
        is_plain=False,
        filing=Work(OpKind.FILE, copy_bytes=n_bytes),
    )
    host = HostTier(recorder, works, range(shape.n_layers), run.top_k)
    layer_work = Work(OpKind.CPU_LAYER, hbm_bytes=round(shape.dense_bytes))
    expert_work = Work(OpKind.CPU_EXPERT, hbm_bytes=n_bytes)
    n_used = shape.n_layers * run.top_k
    for step, n_missed in enumerate(np.clip(np.rint(run.read_bytes / n_bytes), 0, n_used).astype(int).tolist()):
        is_missed = np.zeros(n_used, dtype=np.bool_)
        is_missed[rng.permutation(n_used)[:n_missed]] = True
        for layer, missed in enumerate(is_missed.reshape(shape.n_layers, run.top_k)):
            gate = recorder.issue(Lane.CPU, layer_work, step=step, layer=layer)
            host.ask(layer, np.flatnonzero(missed).tolist())
            for expert in np.argsort(missed, kind="stable").tolist():
                after = host.read(layer, expert, step, gate) if missed[expert] else -1
                deps = (after,) if after >= 0 else ()
                op = recorder.issue(Lane.CPU, expert_work, deps, step=step, layer=layer, expert=expert)
                if missed[expert]:
                    host.use(layer, expert, Lane.CPU, op)
    return recorder.schedule()


def predict_steps(run: StreamedRun, rates: ReaderConstants, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each of `PARTS`, (n_steps,), of `run` from its bytes and the rates of another one, simulated.

    The processor computes, files or waits for a read; a reader reads from when its round begins until it ends.
    """
    schedule = steps_schedule(run, np.random.default_rng(seed))
    timeline = recurrence.simulate(schedule, price_figures(schedule.works, reader_figures(rates), shares=False))
    n_steps, took_s = run.read_bytes.size, timeline.end_s - timeline.start_s
    of_cpu, of_disk = schedule.lane == Lane.CPU, schedule.kind == OpKind.DISK_READ
    filing = schedule.kind == OpKind.FILE

    def summed(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        of_step = np.zeros(n_steps)
        np.add.at(of_step, schedule.step[chosen], took_s[chosen])
        return of_step * 1e3

    ends_s = np.zeros(n_steps)
    np.maximum.at(ends_s, schedule.step[of_cpu], timeline.end_s[of_cpu])
    wall, compute = np.diff(ends_s, prepend=0.0) * 1e3, summed(of_cpu & ~filing)
    reading = _reading_ms(run, schedule, took_s, of_disk)
    return dict(zip(PARTS, (wall, compute, wall - compute - summed(filing), summed(filing), reading), strict=True))


def _reading_ms(
    run: StreamedRun, schedule: Schedule, took_s: NDArray[np.float64], of_disk: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Milliseconds, (n_steps,), that readers read: of a layer, each of its reads a round of them."""
    n_layers, n_steps = run.shape.n_layers, run.read_bytes.size
    event = schedule.step[of_disk].astype(np.int64) * n_layers + schedule.layer[of_disk]
    busy_s = np.bincount(event, took_s[of_disk], n_layers * n_steps)
    n_reads = np.bincount(event, minlength=n_layers * n_steps) * MATRICES
    rounds = np.maximum(-(-n_reads // run.n_readers), 1)
    read_s: NDArray[np.float64] = (busy_s * n_reads / rounds).reshape(n_steps, n_layers).sum(axis=1)
    return read_s * 1e3


def median_errors(runs: Sequence[StreamedRun], fitted: str) -> dict[str, dict[str, float]]:
    """By run and part, the median of |predicted / measured - 1| over steps, with constants of the run `fitted`.

    Raises `InvalidInput` where there is no such run.
    """
    named = {run.name: run for run in runs}
    if fitted not in named:
        raise InvalidInput(f"no run {fitted!r}: there are {', '.join(named)}")
    rates = constants_of_run(named[fitted])
    found = {}
    for run in runs:
        predicted = predict_steps(run, rates)
        found[run.name] = {part: float(np.median(np.abs(predicted[part] / run.parts[part] - 1))) for part in PARTS}
    return found
