"""What the link itself was measured to do: the way back, and both directions at once."""

from __future__ import annotations

from collections.abc import Mapping

from hwmodels.calibrate.host_memory import copy_line, memory_figures
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.specs.machine_fields import WAYS

_LEAST_SIZES = 3
"""A rate and a latency are told apart by so many sizes of copies."""


def link_figures(measured: Measurements, claimed_bytes_per_s: Mapping[str, float], described: bool) -> dict[str, float]:
    """Figures by field of a link, of what was timed: `d2h_efficiency` of the claimed rate, `both_ways_bytes_per_s`, and
    the kinds of host memory of a machine that makers describe (another's link says them itself).

    What a copy to the device achieves of its claim is a constant of the fit, `link_efficiency`.
    """
    found = memory_figures(measured) if described else {}
    back = _pinned(measured, "d2h", "nothing")
    if len(back) >= _LEAST_SIZES:
        found["d2h_efficiency"] = min(copy_line(list(back.values()))[1] / claimed_bytes_per_s["d2h"], 1.0)
    both = {way: _pinned(measured, way, "other way") for way in WAYS}
    sizes = set(both["h2d"]) & set(both["d2h"])
    rates = [sum(n_bytes / both[way][n_bytes].mean_s for way in WAYS) for n_bytes in sizes]
    if rates:
        found["both_ways_bytes_per_s"] = max(rates)
    return found


def _pinned(measured: Measurements, way: str, beside: str) -> dict[int, Sample]:
    """Copies of pinned memory by size."""
    return {int(sample.parameters["n_bytes"]): sample for sample in measured.of(way, memory="pinned", beside=beside)}
