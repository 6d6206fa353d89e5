"""Which figures of machines were read, where, and with what verdict: `specs/checked.csv`, a row a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwmodels.quantity import UNITS, Quantity
from hwmodels.specs.machine_files import SPECS, component_names, load_component
from traces.errors import InvalidFile, unknown_name
from traces.foundation.documents import read_text

CHECKED = SPECS / "checked.csv"
_MAX_BYTES = 1 << 20

_KINDS = {"accelerators": "accelerator", "hosts": "host", "links": "link", "storage": "storage"}

VERDICTS = ("confirmed", "corrected", "contradicted", "chosen", "unverified")
"""confirmed: somebody printed the same. corrected: the file said otherwise before. contradicted: sources disagree, the
note says how. chosen: a configuration, not a product's figure. unverified: no page with it was found."""


@dataclass(frozen=True, slots=True)
class CheckedFigure:
    """A figure as it was checked: `value` in `unit` of a component of `kind` (a key of `FIELDS`)."""

    kind: str
    spec: str
    figure: str
    value: float
    unit: str
    verdict: str
    note: str
    source: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise unknown_name("verdict", self.verdict, VERDICTS, f"{self.spec}: {self.figure}")
        if bool(self.source) != (self.verdict != "unverified"):
            raise InvalidFile(f"{self.spec}: {self.figure}: a source, or the verdict unverified, and not both")

    @property
    def si_value(self) -> float:
        """`value` in SI."""
        return self.value * UNITS[self.unit].factor

    @property
    def stated(self) -> Quantity:
        """The figure as its component states it. Raises `UnknownName` for another component."""
        return load_component(self.kind, self.spec).sources[self.figure]


def checked_figures(path: Path = CHECKED) -> Iterator[CheckedFigure]:
    """The rows of the table. Raises `InvalidFile` for one that is none."""
    for i, row in enumerate(csv.DictReader(io.StringIO(read_text(path, _MAX_BYTES))), start=2):
        try:
            kind, value = _KINDS[row.pop("kind")], float(row.pop("value"))
            row["figure"] = "price_usd" if row["figure"] == "price" else row["figure"]
            yield CheckedFigure(kind, value=value, **row)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"{path}: line {i}: {error}") from None


def unverified_figures() -> Iterator[tuple[str, str, Quantity]]:
    """Every figure that nobody could read: the component's name, the dotted key and the number."""
    for kind in _KINDS.values():
        for name in component_names(kind):
            for field, quantity in load_component(kind, name).sources.items():
                if quantity.unverified:
                    yield name, f"{kind}.{field}", quantity
