"""Workloads that take many minutes: what they would cost is said before the work, and `--yes` goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from traces.errors import InvalidInput

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture


LARGE_JOB_LAYERS = 5_000_000
"""Forward passes x layers of a workload that is simulated without being asked again: some minutes a design."""

_LAYERS_PER_S = 20_000
"""Layers that are decoded, priced and timed a second, of the order of magnitude, by one core."""

LARGE_SWEEP_POINTS = 2_000_000
"""Machines x designs that a sweep predicts without being asked again: some minutes."""

_POINTS_PER_S = 20_000
"""Machines x designs that are priced and timed a second, of the order of magnitude, by one core."""

_BYTES_A_POINT = 8 * 40
"""What a point takes of memory and of the file: a figure each of some forty variables."""

_SIZES = ("input_tokens", "output_tokens", "batch")


def require_consent(model: ModelArchitecture, *, input_tokens: int, output_tokens: int, batch: int | None) -> None:
    """Raise `InvalidInput` for a workload that takes long, saying how long: `--yes` is the way on."""
    n_sequences = max(1 if batch is None else batch, 1)
    layers = max(output_tokens, 1) * model.decoder.n_layers
    cells = (input_tokens + output_tokens) * n_sequences * model.n_moe_layers * model.top_k
    if layers > LARGE_JOB_LAYERS or cells > 20 * LARGE_JOB_LAYERS:
        minutes = max(layers, cells / 20) / _LAYERS_PER_S / 60
        raise InvalidInput(
            f"--output-tokens {output_tokens} x batch {n_sequences} is {layers:.2g} layers to simulate, some "
            f"{minutes:.0f} minutes and {cells * 4 / 1e9:.1f} GB a design: add --yes, or take fewer tokens"
        )


def require_consent_along(model: ModelArchitecture, trace: Any, axes: Mapping[str, Any]) -> None:
    """`require_consent` for the largest workload on `axes`, lists of values or ranges; `trace`: a `TraceRecipe`."""
    if trace.path is not None:
        return
    if trace.batch == "max":  # what memory holds is known where a machine is: the solver has a limit of its own
        return
    sizes = {name: getattr(trace, name) for name in _SIZES} | {
        name: _largest(name, axes[name]) for name in _SIZES if name in axes
    }
    require_consent(model, **sizes)


def _largest(name: str, values: Any) -> int:
    """The largest count of an axis: of a range `(low, high)`, or with a spacing, its end."""
    from pregate.sweeps.axes import read_axes

    ends = list(values[:2]) if isinstance(values, tuple) else values
    return max(int(value) for axis in read_axes({name: list(dict.fromkeys(ends))}) for value in axis.values)


def require_consent_to_points(axes: Mapping[str, Any], sample: Any, n_designs: int) -> None:
    """Raise `InvalidInput` for a sweep of very many points; `sample`: a `LatinHypercube`, or None for a grid."""
    n_machines = math.prod(len(values) for values in axes.values()) if sample is None else sample.n
    points = n_machines * n_designs
    minutes, gigabytes = points / _POINTS_PER_S / 60, points * _BYTES_A_POINT / 1e9
    if points > LARGE_SWEEP_POINTS:
        raise InvalidInput(
            f"{n_machines:,} points x {n_designs} designs are {points:,} predictions, some "
            f"{minutes:.0f} minutes and {gigabytes:.1f} GB: add --yes, or take fewer values"
        )
