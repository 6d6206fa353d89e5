"""Arrays with named dimensions do what xarray does with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pregate.sweeps.sweep_table import NamedArray, SweepTable, table_of


@pytest.fixture
def dataset() -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "rate": (("policy", "link", "batch"), rng.random((2, 4, 3)), {"units": "1/s"}),
            "rate_ci95": (("policy", "link", "batch", "bound"), rng.random((2, 4, 3, 2))),
            "fits": (("policy", "link", "batch"), rng.random((2, 4, 3)) < 0.5),
        },
        {
            "policy": ["b", "a"], "link": ("link", [3.0, 1.0, 2.0, 4.0], {"units": "B/s"}), "batch": [1.0, 2.0, 4.0],
            "bound": ["low", "high"],
        },
        {"model": "m"},
    )  # fmt: skip


def test_a_table_is_the_dataset_that_it_is_of(dataset: xr.Dataset) -> None:
    table = table_of(dataset)
    assert table.dataset().identical(dataset)
    assert table_of(table) is table
    assert table.sizes == dict(dataset.sizes)
    assert table.n_bytes == dataset.nbytes
    assert table.policies == ["b", "a"]
    assert table["link"].attrs == {"units": "B/s"}
    with pytest.raises(KeyError):
        table["nosuch"]


def test_a_part_is_what_xarray_selects(dataset: xr.Dataset) -> None:
    table = table_of(dataset)
    assert table.take("batch", 1).dataset().identical(dataset.isel(batch=1))
    assert table.take("link", np.array([2, 0])).dataset().identical(dataset.isel(link=[2, 0]))
    assert "batch" not in table.take("batch", 1).sizes


def test_axes_are_put_in_order_as_xarray_sorts_them(dataset: xr.Dataset) -> None:
    table = table_of(dataset)
    assert table.ascending(["link", "batch"]).dataset().identical(dataset.sortby(["link", "batch"]))
    assert table.ascending(["batch"]) is table


def test_equal_values_of_an_axis_stay_in_their_order() -> None:
    at = np.random.default_rng(0).integers(0, 2, 99).astype(float)
    table = SweepTable({"n": NamedArray(("x",), np.arange(99), {})}, {"x": NamedArray(("x",), at, {})}, {})
    assert table.ascending(["x"])["n"].values.tolist() == sorted(range(99), key=at.tolist().__getitem__)


def test_dimensions_come_first_in_the_order_asked_for(dataset: xr.Dataset) -> None:
    rate = table_of(dataset)["rate_ci95"]
    assert np.array_equal(rate.along("bound", "batch"), dataset["rate_ci95"].transpose("bound", "batch", ...).values)


def test_what_lies_in_a_file_is_read_when_it_is_looked_at(dataset: xr.Dataset, tmp_path: Path) -> None:
    dataset.to_netcdf(tmp_path / "some.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "some.nc") as opened:
        part = table_of(opened).take("policy", 0).ascending(["link"])
        assert np.array_equal(part["rate"].values, dataset["rate"].isel(policy=0).sortby("link").values)
        assert not opened["rate_ci95"].variable._in_memory


def test_a_table_of_nothing_has_no_size() -> None:
    empty = SweepTable({}, {"policy": NamedArray(("policy",), np.array([], dtype=str), {})}, {})
    assert (empty.sizes, empty.policies) == ({"policy": 0}, [])
