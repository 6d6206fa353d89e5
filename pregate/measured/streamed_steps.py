"""Steps of an engine that computes on a processor and reads experts from storage: each replayed from what it read.

Constants come from one run: the rate at which weights are computed with, of one reader of storage, of all of them
together, and of filing what was read. A step of another run, of the same model or another one, is a schedule: a layer's
own weights, then matrix by matrix the reads of the experts that are missed, their filing and the products of all of
them. How many are missed follows from the bytes of the step.
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
from hwmodels.stacks.stack_files import load_stack
from offload.ops import Lane, OpKind, ReadRounds, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from simulator import recurrence
from traces.errors import InvalidInput, unknown_name
from traces.foundation.documents import read_text

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
    drawn, all being as likely. Reads of a layer begin once its own weights are computed with, which names its experts:
    the first matrix of each that is missed, then the second of each, a round of readers after the other. A product of
    llama.cpp is of one matrix of all experts of the layer (ggml's MUL_MAT_ID), so that it waits for the last of them,
    whatever lies there; what has landed is filed first.
    """
    shape, recorder = run.shape, Recorder()
    part = _part_bytes(shape)
    dense = Work(OpKind.CPU_LAYER, hbm_bytes=round(shape.dense_bytes))
    product = Work(OpKind.CPU_EXPERT, hbm_bytes=run.top_k * part)
    filing = {n: Work(OpKind.FILE, copy_bytes=n * part) for n in range(1, run.top_k + 1)}
    reads = {
        n: Work(OpKind.DISK_READ, copy_bytes=n * part, reading=ReadRounds(1, part)) for n in range(1, run.n_readers + 1)
    }
    n_used = shape.n_layers * run.top_k
    n_missed = np.clip(np.rint(run.read_bytes / round(shape.expert_bytes)), 0, n_used).astype(int)
    for step, n in enumerate(n_missed.tolist()):
        of_layer = np.bincount(rng.permutation(n_used)[:n] // run.top_k, minlength=shape.n_layers)
        for layer, missed in enumerate(of_layer.tolist()):
            gate = recorder.issue(Lane.CPU, dense, step=step, layer=layer)
            rounds = []
            for begun in range(0, MATRICES * missed, run.n_readers):
                work = reads[min(run.n_readers, MATRICES * missed - begun)]
                rounds.append(recorder.issue(Lane.DISK, work, (gate,), step=step, layer=layer))
            for matrix in range(MATRICES):
                if missed:
                    landed = rounds[((matrix + 1) * missed - 1) // run.n_readers]
                    recorder.issue(Lane.CPU, filing[missed], (landed,), step=step, layer=layer)
                recorder.issue(Lane.CPU, product, step=step, layer=layer)
    return recorder.schedule()


def _part_bytes(shape: StreamedShape) -> int:
    """Of one matrix of an expert."""
    return -(-round(shape.expert_bytes) // MATRICES)


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
    n_each = schedule.bytes[of_disk] // _part_bytes(run.shape)  # readers that a round keeps busy
    reading = np.zeros(n_steps)
    np.add.at(reading, schedule.step[of_disk], took_s[of_disk] * n_each * 1e3)
    return dict(zip(PARTS, (wall, compute, wall - compute - summed(filing), summed(filing), reading), strict=True))


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
