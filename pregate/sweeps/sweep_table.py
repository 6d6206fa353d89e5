"""The result of a sweep as arrays with named dimensions: what is written and drawn, before anybody asks for xarray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, slots=True, eq=False)
class NamedArray:
    """An array, or a part of a dataset that is not read yet, one name a dimension, with what is said of it (units)."""

    dims: tuple[str, ...]
    data: Any
    attrs: Mapping[str, str]

    @property
    def values(self) -> NDArray[Any]:
        """The array, read where it was not yet."""
        return np.asarray(self.data)

    def take(self, dim: str, at: int | slice | NDArray[np.int64]) -> NamedArray:
        """The part at an index of `dim`, which is then gone, or at several; all where it has no such dimension."""
        if dim not in self.dims:
            return self
        i = self.dims.index(dim)
        left = self.dims[:i] + self.dims[i + 1 :] if isinstance(at, int) else self.dims
        return NamedArray(left, self.data[(*[slice(None)] * i, at)], self.attrs)

    def along(self, *dims: str) -> NDArray[Any]:
        """The array with `dims` first, in that order, then the others in theirs."""
        order = [self.dims.index(dim) for dim in dims]
        return self.values.transpose(*order, *(i for i in range(len(self.dims)) if i not in order))


@dataclass(frozen=True, slots=True, eq=False)
class SweepTable:
    """Fields of results over `policy` and the axes of a sweep. `coordinates`: the values of each dimension, and the
    axes of a sample along `sample`; `attrs`: what the whole sweep is of.
    """

    variables: Mapping[str, NamedArray]
    coordinates: Mapping[str, NamedArray]
    attrs: Mapping[str, str]

    def __getitem__(self, name: str) -> NamedArray:
        """A variable or a coordinate. Raises `KeyError`."""
        return self.variables[name] if name in self.variables else self.coordinates[name]

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each dimension."""
        every = (*self.variables.values(), *self.coordinates.values())
        return {dim: n for one in every for dim, n in zip(one.dims, one.data.shape, strict=True)}

    @property
    def n_bytes(self) -> int:
        """Of all arrays."""
        return sum(int(one.data.nbytes) for one in (*self.variables.values(), *self.coordinates.values()))

    @property
    def policies(self) -> list[str]:
        """Names of designs, in their order."""
        found: list[str] = self["policy"].values.tolist()
        return found

    def take(self, dim: str, at: int | NDArray[np.int64]) -> SweepTable:
        """The part at an index of a dimension, which is then gone, or at several."""
        variables, coordinates = (
            {name: one.take(dim, at) for name, one in every.items()} for every in (self.variables, self.coordinates)
        )
        return SweepTable(variables, coordinates, self.attrs)

    def ascending(self, names: Sequence[str]) -> SweepTable:
        """The same with the values of these axes in ascending order."""
        table = self
        for name in names:
            order = np.argsort(table[name].values, kind="stable")
            if np.any(np.diff(order) < 0):
                table = table.take(name, order)
        return table

    def dataset(self) -> xr.Dataset:
        """The same for xarray, as `pregate.sweep` returns it."""
        import xarray as xr

        variables, coordinates = (
            {name: (one.dims, one.values, one.attrs) for name, one in every.items()}
            for every in (self.variables, self.coordinates)
        )
        return xr.Dataset(variables, coordinates, self.attrs)


def table_of(data: SweepTable | xr.Dataset) -> SweepTable:
    """`data`, of xarray or a part that was selected there. What lies in a file is read when it is looked at."""
    if isinstance(data, SweepTable):
        return data
    variables, coordinates = (
        {str(name): NamedArray(tuple(map(str, one.dims)), one, one.attrs) for name, one in every.items()}
        for every in (data.data_vars, data.coords)
    )
    return SweepTable(variables, coordinates, data.attrs)
