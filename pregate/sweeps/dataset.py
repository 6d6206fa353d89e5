"""What a sweep found as one table: variables named as the fields of a result, axes with units."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pregate.ask.simulation import SimulationResult
from pregate.sweeps.axes import Axis
from pregate.sweeps.points import Points
from pregate.sweeps.sweep_table import NamedArray, SweepTable

_NAMES = (
    "policy", "model", "hardware", "stack", "schedule_digest", "trace_digest", "routing", "prefetches", "timeline",
    "rate_error",
)  # fmt: skip
"""Fields of a result that are coordinates or attributes here."""
_RESULT = tuple(field.name for field in dataclasses.fields(SimulationResult) if field.name not in _NAMES)
_TEXTS = ("calibration", "beyond_fit", "asked_machine", "policy_source", "output", "binding", "memory")


def build_table(
    points: Points, policies: Sequence[str], fields: Sequence[Mapping[str, NDArray[Any]]], attrs: Mapping[str, str]
) -> SweepTable:
    """Fields of each policy at each point (`pregate.sweeps.layout.scatter`) over `policy` and the axes.

    Intervals have a last dimension `bound`, "low" and "high". A sample has the dimension `sample`, its axes being
    coordinates along it.
    """
    shape = (len(policies), *points.shape)
    variables: dict[str, NamedArray] = {}
    known = dict.fromkeys(name for part in fields for name in part)
    always = [name for name in _RESULT if name in known or "_ci95" not in name]
    for name in [*always, *(name for name in known if name not in always)]:
        like = next((part[name] for part in fields if name in part), _missing(name, (points.n,)))
        stacked = np.stack([part.get(name, _missing(name, like.shape)) for part in fields])
        dims = ("policy", *points.dims, *(("bound",) if like.ndim > 1 else ()))
        attributes = {"units": unit} if (unit := unit_of(name)) else {}
        variables[name] = NamedArray(dims, stacked.reshape(*shape, *like.shape[1:]), attributes)
    coordinates = {"policy": NamedArray(("policy",), np.array(policies), {})}
    if any("bound" in one.dims for one in variables.values()):
        coordinates["bound"] = NamedArray(("bound",), np.array(["low", "high"]), {})
    for axis in points.axes:
        dim = axis.name if axis.name in points.dims else "sample"
        coordinates[axis.name] = NamedArray((dim,), axis.values, _axis_attributes(axis))
    return SweepTable(variables, coordinates, attrs)


def unit_of(name: str) -> str:
    """The SI unit that the name of a field ends in; "1" for ratios and counts, "" for text and flags."""
    stem = name.replace("_ci95", "")
    if stem.endswith("tokens_per_s"):
        return "1/s"
    if stem.endswith("_bytes"):
        return "B"
    if stem.endswith("_s"):
        return "s"
    return "" if stem in ("fits", *_TEXTS) else "1"


def _missing(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.full(shape, "" if name in _TEXTS else np.nan)


def _axis_attributes(axis: Axis) -> dict[str, str]:
    return {"units": axis.unit} if axis.unit else {}
