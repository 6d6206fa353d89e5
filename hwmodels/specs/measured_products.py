"""What others measured products of matrices to achieve beside what our cards say: `specs/measured_products.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwmodels.cost import parts_of
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from hwmodels.specs.machine_files import SPECS
from offload.ops import Gemm, OpKind, Work
from traces.errors import InvalidFile
from traces.foundation.documents import read_text

MEASURED_PRODUCTS = SPECS / "measured_products.csv"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MeasuredProduct:
    """One measured rate of one product of `m` rows, by itself. `hardware` and `stack` say it here; the weights have
    `weight_bits` each and are multiplied in `compute`. `role`: "card" or "stack" where a number of that is from it.
    """

    gpu: str
    hardware: str
    stack: str
    compute: str
    weight_bits: float
    m: int
    n: int
    k: int
    flop_per_s: float
    tool: str
    source: str
    role: str
    note: str

    @property
    def predicted_flop_per_s(self) -> float:
        """What the cost model says of it, on the claims of its card alone."""
        gemm = Gemm(self.m, self.n, self.k)
        work = Work(OpKind.DENSE_FFN, (gemm,), self.compute, self.weight_bits)
        figures = figures_of(load_platform(self.hardware, self.stack)).for_works([work])
        return 2 * self.m * self.n * self.k / float(parts_of(work, figures).total_s)

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_flop_per_s / self.flop_per_s - 1


def measured_products(path: Path = MEASURED_PRODUCTS) -> Iterator[MeasuredProduct]:
    """The rows of the table. Raises `InvalidFile` for one that is none."""
    for i, row in enumerate(csv.DictReader(io.StringIO(read_text(path, _MAX_BYTES))), start=2):
        try:
            numbers = int(row["m"]), int(row["n"]), int(row["k"]), 1e12 * float(row["measured_tflop_per_s"])
            named = row["gpu"], row["hardware"], row["stack"], row["compute"], float(row["weight_bits"])
            yield MeasuredProduct(*named, *numbers, row["tool"], row["source"], row["role"], row["note"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"{path}: line {i}: {error}") from None
