"""The result of a sweep as an `xarray.Dataset`: variables named as the fields of a result, axes with units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.sweeps.axes import Axis
from pregate.sweeps.points import Points

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["build_dataset", "unit_of"]


def build_dataset(
    points: Points, policies: Sequence[str], fields: Sequence[Mapping[str, NDArray[Any]]], attrs: Mapping[str, str]
) -> xr.Dataset:
    """Fields of each policy at each point (`pregate.sweeps.layout.scatter`) over `policy` and the axes.

    Intervals have a last dimension `bound`, "low" and "high". A sample has the dimension `sample`, its axes being
    coordinates along it.
    """
    import xarray as xr

    shape = (len(policies), *points.shape)
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in fields for name in part):
        like = next(part[name] for part in fields if name in part)
        missing = np.full(like.shape, "" if like.dtype.kind == "U" else np.nan)
        stacked = np.stack([part.get(name, missing) for part in fields]).reshape(*shape, *like.shape[1:])
        dims = ("policy", *points.dims, *(("bound",) if like.ndim > 1 else ()))
        variables[name] = (dims, stacked, {"units": unit} if (unit := unit_of(name)) else {})
    coordinates: dict[str, Any] = {"policy": list(policies)}
    if any("bound" in dims for dims, _, _ in variables.values()):
        coordinates["bound"] = ["low", "high"]
    for axis in points.axes:
        dim = axis.name if axis.name in points.dims else "sample"
        coordinates[axis.name] = ((dim,), axis.values, _axis_attributes(axis))
    return xr.Dataset(variables, coordinates, attrs)


def unit_of(name: str) -> str:
    """The SI unit that the name of a field ends in; "1" for ratios and counts, "" for text and flags."""
    stem = name.replace("_ci95", "")
    if stem.endswith("tokens_per_s"):
        return "1/s"
    if stem.endswith("_bytes"):
        return "B"
    if stem.endswith("_s"):
        return "s"
    return "" if stem in ("fits", "memory", "binding", "calibration") else "1"


def _axis_attributes(axis: Axis) -> dict[str, str]:
    return {"units": axis.unit} if axis.unit else {}
