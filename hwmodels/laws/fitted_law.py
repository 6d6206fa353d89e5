"""A law as it was fitted: its constants with covariance, the shapes it was measured on, and how well it says others."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hwmodels.compute_formats import PEAK_DTYPES
from hwmodels.laws.dispatch import DISPATCHES, FLASHINFER_CUTLASS, INSTRUCTION_TILES, TRITON_DEFAULT
from hwmodels.laws.law_forms import FORMS, KERNELS, Form
from hwmodels.quantity import DIMENSIONS, ReadOnly
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section
from traces.model.dtypes import find_dtype

_ERRORS = ("mape", "median", "p90", "bias", "tau", "scatter")

MOST_TIME_S = 1e-2
"""Of a constant that is a time."""

_MOST_CONSTANT = 1e6
"""Ratios to what a machine claims; a ramp is counted in elements."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How well a law says kernels that it was not fitted on, `n` of them: relative errors.

    `mape`, `median`, `p90`: mean, median and 90th percentile of |error|; `bias`: mean error; `tau`: Kendall's rank
    correlation; `scatter`: root mean square of the logarithm of predicted over measured.
    """

    n: int
    mape: float
    median: float
    p90: float
    bias: float
    tau: float
    scatter: float

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 <= self.mape < 1e6 or not -1 <= self.tau <= 1 or not 0 <= self.scatter < 30:
            raise InvalidInput(
                f"held out: n = {self.n}, mape = {self.mape:g}, tau = {self.tau:g}, scatter = {self.scatter:g}: no "
                f"errors of a law, fit it again"
            )

    def to_dict(self) -> dict[str, float]:
        """YAML-ready."""
        return {"n": self.n, **{name: round(float(getattr(self, name)), 4) for name in _ERRORS}}


@dataclass(frozen=True, slots=True)
class FittedLaw:
    """A law of kernels that compute in `compute` with weights (of attention: a cache) stored in `stored`.

    `kernel`: how its attention is laid out; of a quantised GEMM and of experts by what the tile is chosen, "" by what
    is fastest. `values`: constants by name, ratios over what the machine claims; `covariance` of their logarithms in
    that order. `within`: least and most of each number of the measured shapes. `families`: by shapes that were left
    out; `elsewhere`: by the law of the nearest other machine of its family, None where none was measured; `windows`: of
    attention in sliding windows, none of which was fitted, None where none was measured. `source`: table, version,
    digest, and how many of its rows were drawn.
    """

    form: str
    compute: str
    stored: str
    kernel: str
    values: Mapping[str, float]
    covariance: tuple[tuple[float, ...], ...]
    within: Mapping[str, tuple[float, float]]
    families: HeldOut
    elsewhere: HeldOut | None
    windows: HeldOut | None
    source: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown_name("law", self.form, FORMS)
        if self.compute not in PEAK_DTYPES:
            raise unknown_name("format of arithmetic", self.compute, PEAK_DTYPES)
        find_dtype(self.stored)
        _check_kernel(self.law, self.kernel)
        if list(self.values) != list(self.law.constants):
            odd = sorted(set(self.values) ^ set(self.law.constants)) or ["in another order"]
            raise InvalidInput(
                f"law {self.form}: {', '.join(odd)}: missing or unknown, its constants are "
                f"{', '.join(self.law.constants)}: `pregate calibrate --from aiconfigurator` writes "
                "the fit of an earlier version anew"
            )
        for name, value in self.values.items():
            most = MOST_TIME_S if self.law.constants[name][0] == "time" else _MOST_CONSTANT
            if not 0 < value <= most:
                raise InvalidInput(f"law {self.form}: {name} = {value:g}: above 0 and at most {most:g} can be")
        n = len(self.values)
        if len(self.covariance) != n or any(len(row) != n for row in self.covariance):
            raise InvalidInput(f"law {self.form}: the covariance is not {n} x {n}")
        if not all(self.covariance[i][i] > 0 for i in range(n)):
            raise InvalidInput(f"law {self.form}: no constant is known exactly")
        if set(self.within) != set(self.law.axes) or not all(0 < low <= high for low, high in self.within.values()):
            raise InvalidInput(f"law {self.form}: within has to bound {', '.join(self.law.axes)}")

    @property
    def law(self) -> Form:
        """The form."""
        return FORMS[self.form]

    @property
    def bits(self) -> float:
        """Of a weight, or of a number in the cache."""
        return find_dtype(self.stored).bits

    def covers(self, shape: Mapping[str, Any]) -> Any:
        """Whether every number of a shape lies within what was measured; of arrays of shapes, of each."""
        within: Any = True
        for name, (low, high) in self.within.items():
            if name in shape:
                number = shape[name].real
                within = within & (low <= number) & (number <= high)
        return within

    def to_dict(self) -> dict[str, Any]:
        """YAML-ready; intervals of 95 % beside the constants, the lower triangle of the covariance."""
        constants = {}
        for i, (name, value) in enumerate(self.values.items()):
            spread = math.exp(1.96 * math.sqrt(self.covariance[i][i]))
            unit = DIMENSIONS[self.law.constants[name][0]]
            ends = [float(f"{end:.3g}") for end in (value / spread, value * spread)]
            constants[name] = {"value": value, "unit": unit, "ci95": ends}
        found: dict[str, Any] = {
            "law": self.form,
            "compute": self.compute,
            "stored": self.stored,
            **({"kernel": self.kernel} if self.kernel else {}),
            "constants": constants,
            "log_covariance": [list(row[: i + 1]) for i, row in enumerate(self.covariance)],
            "within": {name: list(span) for name, span in self.within.items()},
            "left_family_out": self.families.to_dict(),
        }
        if self.elsewhere is not None:
            found["left_machine_out"] = self.elsewhere.to_dict()
        if self.windows is not None:
            found["windows_left_out"] = self.windows.to_dict()
        return {**found, "source": dict(self.source)}


_TILE_CHOICES: Mapping[str, Collection[str]] = {
    "gemm": INSTRUCTION_TILES,
    "quantised_gemm": DISPATCHES,
    "experts": (TRITON_DEFAULT, FLASHINFER_CUTLASS),
}
"""By law, what its tile may be chosen by, but for what is fastest, and kernels that read weights another way."""


def _check_kernel(law: Form, kernel: str) -> None:
    """Raise `UnknownName` unless such a law knows `kernel`."""
    if law.is_attention:
        if kernel not in KERNELS:
            raise unknown_name("attention kernel", kernel, KERNELS)
    elif kernel and kernel not in (known := _TILE_CHOICES[law.name]):
        raise unknown_name("choice of tiles", kernel, known)


def read_law(section: Section) -> FittedLaw:
    """A law from its section of a fit. Raises `InvalidFile`."""
    form, compute, stored = section.text("law"), section.text("compute"), section.text("stored")
    kernel = section.text("kernel", "")
    values = {}
    for name, entry in section.section("constants").sections():
        values[name] = entry.number("value")
        entry.take("unit")
        entry.take("ci95")
        entry.done()
    if form in FORMS and set(values) == set(FORMS[form].constants):  # in their own order, however they are written
        values = {name: values[name] for name in FORMS[form].constants}
    covariance = _symmetric([_numbers(row, section.where) for row in section.items("log_covariance")], section.where)
    within_section = section.section("within")
    within = {name: _numbers(within_section.take(name), section.where) for name in within_section.remaining()}
    if any(len(span) != 2 for span in within.values()):
        raise InvalidFile(f"{section.where}: within: a least and a most for each number of a shape")
    families = _held_out(section.section("left_family_out"))
    others = (section.optional_section(name) for name in ("left_machine_out", "windows_left_out"))
    elsewhere, windows = (None if one is None else _held_out(one) for one in others)
    source = section.section("source")
    told = {key: str(source.take(key)) for key in source.remaining()}
    section.done()
    try:
        return FittedLaw(
            form=form,
            compute=compute,
            stored=stored,
            kernel=kernel,
            values=ReadOnly(values),
            covariance=covariance,
            within=ReadOnly({name: (span[0], span[1]) for name, span in within.items()}),
            families=families,
            elsewhere=elsewhere,
            windows=windows,
            source=ReadOnly(told),
        )
    except InvalidInput as error:
        raise InvalidFile(f"{section.where}: {error}") from None


def _symmetric(rows: list[tuple[float, ...]], where: str) -> tuple[tuple[float, ...], ...]:
    """The matrix of which a file has the lower triangle."""
    n = len(rows)
    if [len(row) for row in rows] != list(range(1, n + 1)):
        raise InvalidFile(f"{where}: log_covariance is a lower triangle: rows of 1, 2, 3 and so on numbers")
    return tuple(tuple(rows[max(i, j)][min(i, j)] for j in range(n)) for i in range(n))


def _held_out(entry: Section) -> HeldOut:
    n = entry.integer("n")
    errors = [entry.number(name) for name in _ERRORS]
    entry.done()
    try:
        return HeldOut(n, *errors)
    except InvalidInput as error:
        raise InvalidFile(f"{entry.where}: {error}") from None


def _numbers(raw: object, where: str) -> tuple[float, ...]:
    if not isinstance(raw, list) or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in raw
    ):
        raise InvalidFile(f"{where}: expected a list of finite numbers")
    return tuple(float(x) for x in raw)
