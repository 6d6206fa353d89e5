"""Steps of an engine that computes on a processor and reads experts from storage: each predicted from what it read.

Constants come from one run: the rate at which weights are computed with, of one reader of storage, and of filing what
was read. A step of another run, of the same model or another one, follows from its bytes and its share of experts
that are not resident. Readers share a layer's reads, three matrices an expert; the layer waits for the last of them,
less what its resident experts take to compute meanwhile.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    """Bytes a second: computed with, read by one reader, filed into the cache."""

    compute_bytes_per_s: float
    reader_bytes_per_s: float
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
    """The three rates of one run: the middle step's compute, and all bytes over all time read and filed."""
    total = float(run.read_bytes.sum())
    return ReaderConstants(
        run.touched_bytes / float(np.median(run.parts["compute"])) * 1e3,
        total / float(run.parts["reading"].sum()) * 1e3,
        total / float(run.parts["filing"].sum()) * 1e3,
    )


def predict_steps(run: StreamedRun, rates: ReaderConstants) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each of `PARTS`, (n_steps,), of `run` from its bytes and the rates of another one.

    Which layers miss is not known of every run: misses fall on experts independently, at the step's own share.
    """
    shape = run.shape
    share = np.clip(run.read_bytes / (shape.n_layers * run.top_k * shape.expert_bytes), 0.0, 1.0)
    stall_s = np.zeros_like(share)
    for missed in range(1, run.top_k + 1):
        odds = comb(run.top_k, missed) * share**missed * (1 - share) ** (run.top_k - missed)
        stall_s += shape.n_layers * odds * _layer_stall_s(run, rates, missed)
    compute = np.full_like(share, run.touched_bytes / rates.compute_bytes_per_s * 1e3)
    stall, filing = stall_s * 1e3, run.read_bytes / rates.filing_bytes_per_s * 1e3
    reading = run.read_bytes / rates.reader_bytes_per_s * 1e3
    return dict(zip(PARTS, (compute + stall + filing, compute, stall, filing, reading), strict=True))


def _layer_stall_s(run: StreamedRun, rates: ReaderConstants, missed: int) -> float:
    """Seconds that a layer waits when `missed` of its experts are read."""
    rounds = ceil(MATRICES * missed / run.n_readers)
    read_s = rounds * run.shape.expert_bytes / MATRICES / rates.reader_bytes_per_s
    meanwhile_s = (run.top_k - missed) * run.shape.expert_bytes / rates.compute_bytes_per_s
    return max(0.0, read_s - meanwhile_s)


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
