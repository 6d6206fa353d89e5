"""What can be swept: names, units and values of axes, and the points they make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.figures import figure_keys
from pregate.sweeps.axes import LatinHypercube, read_axes, spaced
from pregate.sweeps.points import MAX_EVALUATIONS, grid_points, sample_points
from traces.errors import InvalidInput, UnknownName


def test_values_are_si_whatever_they_are_written_in() -> None:
    link, hbm, sync = read_axes(
        {"link.h2d_bytes_per_s": ["8GB/s", 16e9, "32e9"], "hbm_bytes": ("24GiB", 8e9), "stack.sync_s": np.array([5e-6])}
    )
    assert link.values.tolist() == [8e9, 16e9, 32e9]
    assert hbm.values.tolist() == [24 * 2**30, 8e9]
    assert (link.unit, hbm.unit, sync.unit) == ("B/s", "B", "s")
    assert (hbm.name, hbm.key) == ("hbm_bytes", "accelerator.hbm_bytes")


def test_every_hardware_number_is_an_axis() -> None:
    for key in figure_keys():
        small = key.endswith(
            (
                "efficiency",
                "exponent",
                "n_sm",
                "n_cores",
                "tile_rows",
                "n_sockets",
                "n_cards",
                "sockets",
                "speedup",
                "price_usd",
                "share",
                "beside_cpu",
                "beside_copies",
            )
        ) or (key.endswith("_s") and "per_s" not in key)
        axis = read_axes({key: [1.0 if small else 1e9]})[0]
        assert axis.is_numeric
        assert axis.is_price_only == (
            key.split(".")[1] not in ("hbm_bytes", "n_cards", "dram_bytes", "reserve_bytes", "memory_share")
        )


def test_sizes_are_whole_bytes_and_counts_whole() -> None:
    sizes, batch = read_axes({"hbm_bytes": np.geomspace(8e9, 80e9, 7), "batch": np.geomspace(1, 64, 7)})
    assert np.array_equal(sizes.values, np.floor(np.geomspace(8e9, 80e9, 7)))
    assert batch.values.tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert type(batch.value(3)) is int


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"link.h2d_bytes_per_second": [1.0]}, "did you mean 'link.h2d_bytes_per_s'"),
        ({"bach": [1]}, "unknown axis 'bach'"),
        ({"bandwidth": [1]}, r"did you mean 'link\.h2d_bytes_per_s'"),
        ({"PCIe bandwidth": [1]}, r"did you mean 'link\.h2d_bytes_per_s'"),
        ({"prompt_length": [1]}, "did you mean 'input_tokens'"),
        ({"link": [8e9]}, r"is not a name; the rate of a link is link\.h2d_bytes_per_s"),
        ({"batch": []}, "no values"),
        ({"batch": 4}, "not a list"),
        ({"batch": "4"}, "not a list"),
        ({"batch": np.ones((2, 2))}, "shape"),
        ({"batch": [1.5]}, "not a whole number"),
        ({"batch": [0]}, "below 1"),
        ({"batch": [True]}, "not a number"),
        ({"batch": [10**400]}, "not finite"),
        ({"batch": [1, 1]}, "given twice"),
        ({"accelerator.n_sm": [1.5]}, "whole number"),
        ({"link.h2d_bytes_per_s": [-1.0]}, "above 0"),
        ({"link.h2d_bytes_per_s": [float("nan")]}, "not finite"),
        ({"link.h2d_bytes_per_s": ["8GiB"]}, "unit of size"),
        ({"stack.gemm_efficiency": [0.5, 1.5]}, "above 1"),
        ({"hbm_bytes": [1e9], "accelerator.hbm_bytes": [2e9]}, "given twice, as hbm_bytes too"),
        ({"cache_ratio": [1.5]}, "outside 0"),
        ({"dtype": ["fp7"]}, "unknown dtype 'fp7'"),
        ({"dtype": [16]}, "not a name"),
        ({"expert_tier": ["tape"]}, "expert_tier"),
    ],
)
def test_mistakes_are_one_clear_line(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read_axes(axes)
    assert "\n" not in str(caught.value)


def test_spaces_hit_both_ends_exactly() -> None:
    assert spaced("link.h2d_bytes_per_s", "log", "4GB/s", 128e9, 5)[[0, -1]].tolist() == [4e9, 128e9]
    assert spaced("stack.sync_s", "linear", "5us", "10us", 2).tolist() == [5e-6, 1e-5]
    assert spaced("batch", "log", 1, 4, 20).tolist() == [1, 2, 3, 4]
    assert spaced("accelerator.n_sm", "log", 1, 4, 20).tolist() == [1, 2, 3, 4]
    assert spaced("batch", "linear", 3, 9, 1).tolist() == [3]
    for wrong, message in (
        (("batch", "log", 0, 4, 2), "above 0"),
        (("batch", "cubic", 1, 4, 2), "neither linear nor log"),
        (("hardware", "log", 1, 4, 2), "takes names"),
        (("batch", "log", 1, 4, 0), "0 values"),
    ):
        with pytest.raises(InvalidInput, match=message):
            spaced(*wrong)  # type: ignore[arg-type]


def test_a_latin_hypercube_meets_every_stratum_of_every_axis_once() -> None:
    n = 64
    link, sync, dtype = LatinHypercube(n, seed=3).axes(
        {"link.h2d_bytes_per_s": (4e9, "64GB/s", "log"), "stack.sync_s": (1e-6, 2e-6), "dtype": ["bf16", "fp32"]}
    )
    assert sorted(np.floor(np.log(link.values / 4e9) / np.log(16) * n).tolist()) == list(range(n))
    assert sorted(np.floor((sync.values / 1e-6 - 1) * n).tolist()) == list(range(n))
    assert np.unique(dtype.values, return_counts=True)[1].tolist() == [n // 2, n // 2]


def test_a_sample_is_of_its_seed() -> None:
    ranges = {"stack.sync_s": (1e-6, 2e-6), "batch": (1, 8)}
    drawn = [LatinHypercube(20, seed).axes(ranges) for seed in (0, 0, 1)]
    assert all(np.array_equal(a.values, b.values) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not np.array_equal(drawn[0][0].values, drawn[2][0].values)
    assert set(drawn[0][1].values.tolist()) <= set(range(1, 9))
    for wrong in (0, -1):
        with pytest.raises(InvalidInput, match="at least 1"):
            LatinHypercube(wrong)
    with pytest.raises(InvalidInput, match="no axes"):
        LatinHypercube(4).axes({})
    with pytest.raises(InvalidInput, match="range to sample"):
        LatinHypercube(4).axes({"batch": (1,)})


SOME = {
    "link.h2d_bytes_per_s": [1e9, 2e9, 3e9],
    "hbm_bytes": [1e9, 2e9],
    "stack.sync_s": [1e-6, 2e-6],
    "batch": [1, 2, 4],
    "dtype": ["fp32", "bf16"],
}


@given(st.permutations(list(SOME)), st.integers(0, len(SOME)))
def test_every_point_of_a_grid_has_its_own_values(names: list[str], n_axes: int) -> None:
    axes = read_axes({name: SOME[name] for name in names[:n_axes]})
    points = grid_points(axes, 1)
    index = np.array(list(np.ndindex(points.shape))).T
    assert points.n == np.prod(points.shape, dtype=int)
    for i in range(points.n):
        choice = points.choice(int(points.i_choice[i]))
        for axis, place in zip(axes, index[:, i], strict=True):
            found = points.prices[axis.key][points.i_price[i]] if axis.is_price_only else choice[axis.key]
            assert found == axis.values[place]
    assert points.n_prices * len(points.choices) == points.n


def test_a_sample_shares_equal_choices() -> None:
    axes = LatinHypercube(50, 1).axes({"link.h2d_bytes_per_s": (1e9, 2e9), "batch": (1, 3), "dtype": ["fp32", "bf16"]})
    points = sample_points(axes, 50, 1)
    assert (points.dims, points.shape, points.n_prices) == (("sample",), (50,), 50)
    assert len(points.choices) == 6
    for i in range(50):
        choice = points.choice(int(points.i_choice[i]))
        assert (choice["batch"], choice["dtype"]) == (axes[1].values[i], axes[2].values[i])
        assert points.prices["link.h2d_bytes_per_s"][points.i_price[i]] == axes[0].values[i]


def test_absurd_sizes_are_refused_with_the_numbers() -> None:
    axes = read_axes({"link.h2d_bytes_per_s": np.arange(1, 10_001) * 1e6, "stack.sync_s": np.arange(1, 10_001) * 1e-9})
    with pytest.raises(
        InvalidInput, match=r"10000 link.h2d_bytes_per_s x 10000 stack.sync_s x 2 policies are 200,000,000"
    ):
        grid_points(axes, 2)
    with pytest.raises(InvalidInput, match=f"{MAX_EVALUATIONS:,}"):
        sample_points((), MAX_EVALUATIONS, 2)


def test_an_unknown_axis_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName):
        read_axes({"n_experts": [1]})
