"""The machine of a point: a platform, or a recipe in which axes swap accelerator, link, host, storage or stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwmodels.platform import Platform
from hwmodels.specs.machine_fields import FIELDS
from hwmodels.specs.machine_files import hardware_names, load_machine
from pregate.named import load_hardware
from pregate.sweeps.axes import MACHINE
from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields


@dataclass(frozen=True, slots=True)
class MachineRecipe:
    """The arguments of `pregate.load_hardware`; an axis takes the place of one of them.

    `hardware` may be empty where an axis gives it. `overrides` stay whatever an axis swaps.
    """

    hardware: str = ""
    stack: str | None = None
    overrides: Mapping[str, float | str] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def platform(self, choice: Mapping[str, Any]) -> Platform:
        """The platform with the parts that a point chose. Raises `UnknownName` or `InvalidInput` as `load_hardware`."""
        hardware = choice.get("hardware", self.hardware)
        if not hardware:
            raise InvalidInput("no hardware: name a machine (`pregate hardware`), or give an axis hardware")
        swaps = {kind: choice[kind] for kind in FIELDS if kind in choice}
        return load_hardware(hardware, choice.get("stack", self.stack), {**(self.overrides or {}), **swaps})


def platform_at(hw: Platform | MachineRecipe | str | Path, choice: Mapping[str, Any]) -> Platform:
    """The platform of a point. Raises `InvalidInput` when parts are swapped of a `Platform` of one's own making."""
    swaps = {name: choice[name] for name in MACHINE if name in choice}
    if isinstance(hw, Platform):
        return _recipe_of(hw).platform(swaps) if swaps else hw
    recipe = hw if isinstance(hw, MachineRecipe) else MachineRecipe(str(hw))
    return recipe.platform(swaps)


def _recipe_of(platform: Platform) -> MachineRecipe:
    """The recipe that makes `platform`: what was overridden in it stays overridden in other machines."""
    name, machine = platform.hardware, platform.machine
    if machine.accelerator.name in hardware_names():
        usual = load_machine(name)
        overrides: dict[str, float | str] = {
            kind: getattr(machine, kind).name
            for kind in FIELDS
            if getattr(machine, kind).name != getattr(usual, kind).name
        }
        overrides |= {key: q.value for key, q in machine.quantities().items() if q.source == "override"}
        overrides |= {f"stack.{constant}": value for constant, value in platform.overridden.items()}
        overrides["stack.host_memory"] = platform.stack.host_memory
        recipe = MachineRecipe(name, platform.stack.name, overrides)
        try:
            same = recipe.platform({}) == platform
        except InvalidInput:
            same = False
        if same:
            return recipe
    raise InvalidInput(
        f"the machine around {name} does not ship with pregate: for axes that swap its parts, give its name or file"
    )
