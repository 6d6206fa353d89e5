"""What others measured copies to achieve, row by row beside what our links say: `specs/measured_links.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from hwmodels.specs.machine_fields import HOST_MEMORY, WAYS
from hwmodels.specs.machine_files import SPECS
from traces.errors import InvalidFile
from traces.foundation.documents import read_text

MEASURED_LINKS = SPECS / "measured_links.csv"
_MAX_BYTES = 1 << 20
_BESIDE = ("nothing", "other way")


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """One measured rate of a link. `memory`: of `HOST_MEMORY`; `beside`: "nothing" or "other way"; `reason`: why it
    cannot be said in these words, empty where it can.
    """

    gpu: str
    link: str
    direction: str
    beside: str
    memory: str
    bytes_per_s: float
    tool: str
    source: str
    note: str
    reason: str

    def __post_init__(self) -> None:
        if self.direction not in WAYS or self.beside not in _BESIDE:
            raise InvalidFile(f"{self.gpu}: {self.direction} beside {self.beside} is no copy: h2d or d2h, {_BESIDE}")
        if not self.reason and self.memory not in HOST_MEMORY:
            raise InvalidFile(f"{self.gpu}: memory = {self.memory!r}: one of {', '.join(HOST_MEMORY)}, or a reason")

    @property
    def predicted_bytes_per_s(self) -> float:
        """What our link says of it, by the cost model; of a claimed stack, so that it is the link's figure."""
        overrides = {"link": self.link, "stack.host_memory": self.memory}
        figures = figures_of(load_platform("rtx-4090", "streams", overrides))
        rate = float(figures.link_bytes_per_s(self.direction))
        return rate if self.beside == "nothing" else rate / float(figures.crossing_slowdown)

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_bytes_per_s / self.bytes_per_s - 1


def measured_links(path: Path = MEASURED_LINKS) -> Iterator[MeasuredLink]:
    """The rows of the table. Raises `InvalidFile` for one that is none."""
    for i, row in enumerate(csv.DictReader(io.StringIO(read_text(path, _MAX_BYTES))), start=2):
        try:
            rate = 1e9 * float(row.pop("measured_gb_per_s"))
            yield MeasuredLink(bytes_per_s=rate, **row)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"{path}: line {i}: {error}") from None
