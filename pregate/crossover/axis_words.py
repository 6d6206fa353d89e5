"""An axis in words and units: `7.674e9` along `link.h2d_bytes_per_s` is 7.674 GB/s of link bandwidth."""

from __future__ import annotations

from collections.abc import Mapping

from hwmodels.quantity import ReadOnly
from hwmodels.specs.machine_fields import ALIASES
from pregate.sweeps.axes import axis_unit

_WORDS: Mapping[str, str] = ReadOnly(
    {
        "link.h2d_bytes_per_s": "link bandwidth",
        "link.d2h_bytes_per_s": "link bandwidth back to the host",
        "link.copy_latency_s": "fixed time of a copy",
        "accelerator.hbm_bytes": "HBM",
        "accelerator.hbm_bytes_per_s": "HBM bandwidth",
        "accelerator.n_sm": "multiprocessors",
        "accelerator.clock_hz": "clock of the accelerator",
        "accelerator.l2_bytes": "last-level cache of the accelerator",
        "accelerator.price_usd": "price of the accelerator",
        "host.dram_bytes": "DRAM",
        "host.dram_bytes_per_s": "DRAM bandwidth",
        "host.n_cores": "cores of the host",
        "host.peak_flop_per_s": "arithmetic of the host",
        "storage.read_bytes_per_s": "storage bandwidth",
        "storage.read_latency_s": "fixed time of a read from storage",
        "storage.filing_bytes_per_s": "rate of filing what was read",
        "input_tokens": "prompt tokens",
        "output_tokens": "generated tokens",
        "n_active": "active experts a layer",
        "top_k": "experts a token",
        "lookahead": "blocks ahead",
        "tier_bytes": "experts kept in host memory above storage",
        "cache_ratio": "share of the experts cached",
    }
)
"""What an axis measures; one that is not here goes by its key."""

_SCALES: Mapping[str, tuple[tuple[float, str], ...]] = ReadOnly(
    {
        "B": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
        "B/s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
        "FLOP/s": ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"), (1.0, "FLOP/s")),
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
        "Hz": ((1e9, "GHz"), (1e6, "MHz"), (1.0, "Hz")),
        "USD": ((1.0, "USD"),),
    }
)
"""Units by what they are of in SI, the largest first."""

_USUAL: Mapping[str, tuple[float, str]] = ReadOnly(
    {"B": (1e9, "GB"), "B/s": (1e9, "GB/s"), "FLOP/s": (1e12, "TFLOP/s"), "s": (1e-6, "us"), "Hz": (1e9, "GHz")}
)
"""The unit that a picture's axis is drawn in."""


def axis_words(key: str) -> str:
    """What axis `key` measures; the key itself where there is no word."""
    return _WORDS.get(ALIASES.get(key, key), key)


def axis_value(key: str, value: float) -> str:
    """A value of an axis, in four digits of its unit; a whole number without one in full below a million."""
    for factor, unit in _SCALES.get(axis_unit(key), ()):
        if abs(value) >= factor * 0.99995:
            return f"{value / factor:.4g} {unit}"
    bare = f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"
    unit = axis_unit(key)
    return f"{bare} {unit}" if unit in _SCALES else bare


def scale_of(key: str) -> tuple[float, str]:
    """What the values of an axis are divided by in a picture, and the unit they are in then, "" for none."""
    unit = axis_unit(key)
    return _USUAL.get(unit, (1.0, "" if unit in ("1", "count", "") else unit))


def axis_label(key: str) -> str:
    """What stands at the axis of a picture: words and unit."""
    unit = scale_of(key)[1]
    return f"{axis_words(key)} ({unit})" if unit else axis_words(key)
