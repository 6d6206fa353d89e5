"""The result of a sweep on disk: netCDF or Parquet, written whole."""

from __future__ import annotations

import errno
import io
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pregate.sweeps.sweep_table import NamedArray, SweepTable
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import require_writable, whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


_IN_MEMORY_BYTES = 1 << 30
"""Largest result that is put together in memory before it is written (1 GiB)."""


def check_output(path: Path) -> None:
    """Raise `InvalidInput` unless a dataset can be written to `path`: known before a long sweep, not after it."""
    if path.suffix not in (".nc", ".parquet"):
        raise InvalidInput(f"{path}: results are written as .nc (netCDF) or .parquet")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise InvalidInput(f"{path}: pyarrow is not installed: pip install 'pregate[parquet]', or write .nc")
    if not path.absolute().parent.is_dir():
        raise InvalidFile(f"{path}: cannot be written, there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise InvalidInput(f"{path}: it is a folder: name a file in it")
    require_writable(path.absolute().parent)


def write_table(table: SweepTable, path: Path) -> None:
    """Write what a sweep found as the suffix of `path` says: netCDF, which `xarray.open_dataset` reads, or Parquet.

    Parquet is one long table, a row a point and policy; the attributes are in its schema's metadata under `pregate`.
    Raises as `check_output`, `InvalidFile` when it cannot be written.
    """
    check_output(path)
    with whole_file(path) as partial:
        if path.suffix == ".nc":
            _write_netcdf(table, partial)
            return
        import pyarrow as pa
        from pyarrow import parquet

        columns = pa.table({name: pa.array(column) for name, column in _long(table).items()})
        parquet.write_table(columns.replace_schema_metadata({"pregate": json.dumps(dict(table.attrs))}), partial)


def _write_netcdf(table: SweepTable, path: Path) -> None:
    """Write a netCDF file. HDF5 cannot end a file that the disk has no room for: room is made sure of first."""
    if table.n_bytes <= _IN_MEMORY_BYTES:
        content = io.BytesIO()
        _fill_netcdf(table, content)
        path.write_bytes(content.getbuffer())
        return
    free = shutil.disk_usage(path.parent).free
    if free < 1.1 * table.n_bytes:
        raise OSError(errno.ENOSPC, f"about {table.n_bytes} bytes, and the disk has {free} left")
    _fill_netcdf(table, path)


def _fill_netcdf(table: SweepTable, target: Path | io.BytesIO) -> None:
    """The bytes that `xarray.Dataset.to_netcdf` writes: a missing number is NaN, a flag a byte that says it is one, and
    a variable names the axes of a sample that are its coordinates.
    """
    import h5netcdf
    import h5py

    along_sample = sorted(name for name, one in table.coordinates.items() if name not in one.dims)
    with h5netcdf.File(target, "w") as file:
        file.attrs.update(table.attrs)
        file.dimensions = table.sizes
        for name, one in {**table.variables, **table.coordinates}.items():
            values, attrs = one.values, dict(one.attrs)
            if values.dtype.kind == "b":
                values, attrs["dtype"] = values.astype(np.int8), "bool"
            if along_sample and name in table.variables:
                attrs["coordinates"] = " ".join(along_sample)
            kind = h5py.string_dtype() if values.dtype.kind in "OU" else values.dtype
            missing = np.nan if values.dtype.kind == "f" else None
            written = file.create_variable(name, one.dims, kind, fillvalue=missing)
            written.attrs.update(attrs)
            written[...] = values


def _long(table: SweepTable) -> dict[str, NDArray[Any]]:
    """Every coordinate and variable as a column, a row a point and policy; intervals as `..._low`, `..._high`."""
    sizes = {name: n for name, n in table.sizes.items() if name != "bound"}
    columns: dict[str, NDArray[Any]] = {}
    for name, variable in {**table.coordinates, **table.variables}.items():
        if name == "bound":
            continue
        parts: dict[str, NamedArray] = {name: variable}
        if "bound" in variable.dims:
            parts = {f"{name}_{end}": variable.take("bound", i) for i, end in enumerate(("low", "high"))}
        for column, part in parts.items():
            placed = part.values.reshape([n if dim in part.dims else 1 for dim, n in sizes.items()])
            columns[column] = np.broadcast_to(placed, tuple(sizes.values())).reshape(-1)
    return columns
