"""A machine with some of its figures or components replaced, each replaced figure marked in its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hwmodels.quantity import DIMENSIONS, Quantity, parse_override
from hwmodels.specs.machine_fields import ALIASES, FIELDS, find_field, possible_figure
from hwmodels.specs.machine_files import component_names, load_component
from hwmodels.specs.spec import Accelerator, Component, MachineSpec
from traces.errors import InvalidInput


def with_overrides(machine: MachineSpec, overrides: Mapping[str, float | str]) -> MachineSpec:
    """`machine` with other figures, each marked as an override in its source.

    Keys are dotted (`link.h2d_bytes_per_s`, `accelerator.peak_flop_per_s.bf16`; `hbm_bytes` is the
    accelerator's) with numbers in SI or text with a unit (`"24GiB"`), or the bare name of a component
    (`link`, `host`, `storage`, `accelerator`) with the name of another spec of it, which is swapped
    first. Raises `UnknownName` for typos, `InvalidInput` for values out of range, units of another
    dimension or a key given twice.
    """
    swaps = {key: value for key, value in overrides.items() if key in FIELDS}
    components: dict[str, Any] = {kind: getattr(machine, kind) for kind in FIELDS}
    for kind, name in swaps.items():
        if not isinstance(name, str):
            raise InvalidInput(f"{kind} = {name!r}: must be the name of a {kind}: {', '.join(component_names(kind))}")
        components[kind] = load_component(kind, name)
    seen: set[str] = set()
    for written, value in overrides.items():
        if written in swaps:
            continue
        key = ALIASES.get(written, written)
        if key in seen:
            raise InvalidInput(f"{key} is overridden twice: give it once")
        seen.add(key)
        kind, field = find_field(key)
        components[kind] = _with_figure(kind, components[kind], field, value)
    return MachineSpec(**components)


def overriding_figure(kind: str, field: str, value: float | str) -> float | int:
    """The figure that `value` states for a field of a component. Raises `InvalidInput` naming the key."""
    rule, where = FIELDS[kind][field], f"{kind}.{field}"
    if isinstance(value, str):
        try:
            value = parse_override(value, rule.dimension)
        except InvalidInput as error:
            raise type(error)(f"{where}: {error}") from None
    return possible_figure(value, rule, where)


def _with_figure(kind: str, component: Component, field: str, value: float | str) -> Any:
    """`component` with another value in `field`. Raises as `overriding_figure`."""
    figure = overriding_figure(kind, field, value)
    quantity = Quantity(float(figure), DIMENSIONS[FIELDS[kind][field].dimension], "override")
    changes: dict[str, Any] = {"sources": {**component.sources, field: quantity}}
    if isinstance(component, Accelerator) and "." in field:
        dtype = field.partition(".")[2]
        changes["peak_flop_per_s"] = {**component.peak_flop_per_s, dtype: figure}
    else:
        changes[field] = figure
    return replace(component, **changes)
