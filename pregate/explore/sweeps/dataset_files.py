"""The result of a sweep on disk: netCDF or Parquet, written whole."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.errors import InvalidFile, InvalidInput
from traces.foundation.whole_file import require_writable, whole_file

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["check_output", "write_dataset"]

_IN_MEMORY_BYTES = 1 << 30
"""Largest dataset that is put together in memory before it is written (1 GiB)."""


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


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write `dataset` as its suffix says: netCDF (`xarray.open_dataset` reads it back), or Parquet as one long table.

    The table has a row for each point and policy; the attributes of the dataset are in the schema's metadata under
    `pregate`. Raises as `check_output`, `InvalidFile` when it cannot be written.
    """
    check_output(path)
    with whole_file(path) as partial:
        if path.suffix == ".nc":
            _write_netcdf(dataset, partial)
            return
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({name: pa.array(column) for name, column in _long(dataset).items()})
        parquet.write_table(table.replace_schema_metadata({"pregate": json.dumps(dataset.attrs)}), partial)


@contextmanager
def _no_cluster() -> Iterator[None]:
    """What is written in memory asks no cluster for a lock: its workers know no name for it."""
    if "dask" not in sys.modules:
        yield
        return
    import dask

    with dask.config.set(scheduler="synchronous"):
        yield


def _write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write a netCDF file. HDF5 cannot end a file that the disk has no room for: room is made sure of first."""
    if dataset.nbytes <= _IN_MEMORY_BYTES:
        with _no_cluster():
            path.write_bytes(bytes(dataset.to_netcdf(engine="h5netcdf")))
        return
    free = shutil.disk_usage(path.parent).free
    if free < 1.1 * dataset.nbytes:
        raise OSError(errno.ENOSPC, f"about {dataset.nbytes} bytes, and the disk has {free} left")
    dataset.to_netcdf(path, engine="h5netcdf")


def _long(dataset: xr.Dataset) -> dict[str, NDArray[Any]]:
    """Every coordinate and variable as a column, a row a point and policy; intervals as `..._low`, `..._high`."""
    dims = [name for name in dataset.sizes if name != "bound"]
    shape = tuple(dataset.sizes[name] for name in dims)
    import numpy as np

    columns: dict[str, NDArray[Any]] = {}
    for name, variable in {**dataset.coords, **dataset.data_vars}.items():
        if name == "bound":
            continue
        parts = {str(name): variable}
        if "bound" in variable.dims:
            parts = {f"{name}_{end}": variable.sel(bound=end) for end in ("low", "high")}
        for column, part in parts.items():
            placed = part.values.reshape([dataset.sizes[dim] if dim in part.dims else 1 for dim in dims])
            columns[column] = np.broadcast_to(placed, shape).reshape(-1)
    return columns
