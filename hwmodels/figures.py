"""The numbers that prices are made of, by dotted key, for one platform or for many that differ in a few of them.

`link.h2d_bytes_per_s` is the machine's, `stack.sync_s` the software's. A value is a float, or an array with a value for
each of `n` machines: a formula written in `+ - * /` and `np.maximum` serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from hwmodels.spec import FIELDS, PEAK_DTYPES, check_figure, find_field
from hwmodels.stack import CONSTANTS, SoftwareStack, check_constant
from traces.errors import InvalidInput, unknown_name

__all__ = ["MEMORY_FIGURES", "Figures", "check_axis", "figure_keys", "figures_of"]

MEMORY_FIGURES = ("accelerator.hbm_bytes", "host.dram_bytes", "stack.reserve_bytes")
"""Sizes of memory: they decide what a schedule is, not what it takes."""

Number = Any
"""A float, or (n_machines,) float64; complex where a derivative is taken by a complex step."""


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """Every number of a platform, or of many: `values` by dotted key, each a float or (n_machines,).

    `stack` owns what is counted, not measured (launches, tile); `hardware` names the accelerator in messages.
    """

    values: Mapping[str, Number]
    stack: SoftwareStack
    hardware: str

    def __getitem__(self, key: str) -> Number:
        return self.values[key]

    def with_values(self, values: Mapping[str, Number]) -> Figures:
        """These figures with others in their place. Raises `UnknownName` for a key that is none."""
        for key in values:
            if key not in figure_keys():
                raise unknown_name("hardware number", key, figure_keys())
        return replace(self, values=ReadOnly({**self.values, **values}))

    def stack_constant(self, name: str) -> Number:
        """A constant of the stack."""
        return self.values[f"stack.{name}"]

    @property
    def copy_latency_s(self) -> Number:
        """Fixed time of a copy over the link: the link's where one is stated, else the stack's."""
        stated = self.values.get("link.copy_latency_s")
        return self.stack_constant("copy_latency_s") if stated is None else stated

    @property
    def hbm_bytes_per_s(self) -> Number:
        """What kernels achieve of the HBM bandwidth."""
        return self.values["accelerator.hbm_bytes_per_s"] * self.stack_constant("hbm_efficiency")

    def link_bytes_per_s(self, direction: str) -> Number:
        """What copies achieve: `direction` is "h2d" or "d2h"."""
        return self.values[f"link.{direction}_bytes_per_s"] * self.stack_constant("link_efficiency")

    def flop_per_s(self, dtype: str) -> Number:
        """What GEMMs in `dtype` achieve. Raises `InvalidInput` where the accelerator states no rate for it."""
        peak = self.values.get(f"accelerator.peak_flop_per_s.{dtype}")
        if peak is None:
            stated = [name for name in PEAK_DTYPES if f"accelerator.peak_flop_per_s.{name}" in self.values]
            settable = f", or --set accelerator.peak_flop_per_s.{dtype}=..." if dtype in PEAK_DTYPES else ""
            raise InvalidInput(
                f"{self.hardware} states no {dtype} rate (it has {', '.join(sorted(stated))}): "
                f"choose another dtype{settable}"
            )
        return peak * self.stack_constant("gemm_efficiency")


def figure_keys() -> tuple[str, ...]:
    """Every key that a machine or a stack can have."""
    machine = [f"{kind}.{field}" for kind, fields in FIELDS.items() for field in fields]
    return (*machine, *(f"stack.{name}" for name in CONSTANTS))


def figures_of(platform: Platform) -> Figures:
    """The figures of one platform; what its machine does not state is absent."""
    values: dict[str, float] = {}
    for kind, fields in FIELDS.items():
        component = getattr(platform.machine, kind)
        for field in fields:
            attribute, _, dtype = field.partition(".")
            value = getattr(component, attribute)
            value = value.get(dtype) if dtype else value
            if value is not None:
                values[f"{kind}.{field}"] = float(value)
    values |= {f"stack.{name}": platform.constant(name) for name in CONSTANTS}
    return Figures(ReadOnly(values), platform.stack, platform.hardware)


def check_axis(key: str, values: NDArray[np.float64]) -> None:
    """Raise `InvalidInput` naming the first of `values` that number `key` cannot have, `UnknownName` for the key."""
    stack_constant = key.removeprefix("stack.")
    for value in values.tolist():
        if key.startswith("stack."):
            check_constant(stack_constant, value, key)
        else:
            check_figure(*find_field(key), value)
