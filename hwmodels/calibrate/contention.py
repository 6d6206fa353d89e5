"""What copies and the host's processor were measured to keep of their rates while both read host memory."""

from __future__ import annotations

from hwmodels.calibrate.measurements import Measurements, Sample
from traces.errors import InvalidInput

_LEAST = 0.01
"""A hundredth of a rate: what keeps less was not slowed down by another reader."""


def contention_figures(measured: Measurements) -> dict[str, float]:
    """Shares by field of a host: `copies_beside_cpu`, `cpu_beside_copies`. Empty where the two were not timed together.

    Medians alone over medians beside the other, at most 1. Raises `InvalidInput` for a share below a hundredth.
    """
    found = {}
    for name, of, beside in (("copies_beside_cpu", "h2d", "cpu"), ("cpu_beside_copies", "cpu", "h2d")):
        alone, together = (list(measured.of("contention", of=of, beside=other)) for other in ("nothing", beside))
        if not alone or not together:
            return {}
        share = _median_s(alone) / _median_s(together)
        if not share >= _LEAST:
            where = f"sample {together[0].row}: {of} beside {beside}"
            raise InvalidInput(f"{where} keeps {share:.2g} of its rate: measure again")
        found[name] = min(share, 1.0)
    return found


def _median_s(samples: list[Sample]) -> float:
    """The middle of the medians of rounds. Raises `InvalidInput` for what took no time."""
    values = sorted(sample.median_s for sample in samples)
    if not values[0] > 0:
        raise InvalidInput(f"sample {samples[0].row} took no time at all: measure again")
    return values[len(values) // 2]
