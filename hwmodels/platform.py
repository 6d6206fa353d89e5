"""A platform: a machine as its makers describe it, a software stack, and what was measured of the two."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hwmodels.fits.fit import Fit
from hwmodels.fits.fit_choice import OF_TABLES, fit_for, fit_named, published_machine
from hwmodels.fits.fit_files import fit_names
from hwmodels.quantity import DIMENSIONS, Quantity, ReadOnly, parse_override, real_number
from hwmodels.specs.machine_fields import FIELDS
from hwmodels.specs.machine_files import hardware_names, load_machine
from hwmodels.specs.overrides import with_overrides
from hwmodels.specs.spec import Accelerator, MachineSpec
from hwmodels.stacks.stack import BETWEEN_CARDS, CONSTANTS, OPTIONAL, UNPACKING, VENDORS, SoftwareStack, check_constant
from hwmodels.stacks.stack_files import load_stack, stack_names
from hwmodels.stacks.usual_passes import serving_on
from offload.execution import Execution
from traces.errors import InvalidInput, unknown_name

IN_TURN = "llama-cpp"
"""The stack of several cards where none is named."""

DEFAULT_STACK = "streams"
"""The stack of a machine that no fit was made on: what this project's own runtime executes."""

SHARING = "vllm"
"""The stack whose cards share every layer."""

SHARED = "every layer shared (tensor parallel) but for turns: sums over cards at claimed rates, no switch between links"
"""What predictions for cards that share layers rest on."""

_NO_PEERS = re.compile(r"rtx-[45]0[5-9]0\b.*")
"""GeForce cards whose driver has no access from card to card: NVIDIA/nccl issue 1127 (RTX 4090), 1637 and
tinygrad/open-gpu-kernel-modules issue 29 (RTX 5090), read 2026-11-30."""

THROUGH_HOST = "GeForce 40 and 50 have no access from card to card, sums of two go through host memory and take longer"
"""What predictions for two such cards that share layers do not know."""

TURNS = "cards take turns (turns=1: they share every layer); what passes between cards is left out"
"""What predictions for several cards do not know."""

OF_CUDA = "constants of CUDA's kernels stand in: of SYCL and Vulkan nobody measured any"
"""What predictions for cards of `_UNMEASURED_MAKERS` rest on."""

_UNMEASURED_MAKERS = ("intel",)

_BESIDE_THE_POINT = (
    "accelerator.price_usd", "storage.read_bytes_per_s", "storage.read_latency_s", "storage.reader_bytes_per_s",
    "storage.filing_bytes_per_s",
)  # fmt: skip
"""Figures that no time depends on while weights lie in memory."""

_NAMED = 3
"""So many unverified figures are named in a line; `pregate hardware show` has all."""

_NEVER_FITTED = ("memory_share", "schedule_s", "reread_exponent", *UNPACKING, *BETWEEN_CARDS)
"""Constants that a stack states whatever was measured of it."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What a cost model needs to know. `fit` is None when every constant is a claim.

    `overridden` holds stack constants set by the user.
    """

    machine: MachineSpec
    stack: SoftwareStack
    fit: Fit | None
    overridden: Mapping[str, float]

    @property
    def hardware(self) -> str:
        """The accelerator's name, which stands for the machine around it: `2x rtx-3090` where there are two."""
        n, name = self.machine.n_cards, self.machine.accelerator.name
        return name if n == 1 else f"{n}x {name}"

    def __str__(self) -> str:
        """The machine in a line; `repr` has every number with its source."""
        card, host, link = self.machine.accelerator, self.machine.host, self.machine.link
        memory = f"{card.hbm_bytes / 1e9:.1f} GB at {card.hbm_bytes_per_s / 1e9:,.0f} GB/s"
        beside = "" if self.machine.has_one_memory else f", {link.name} at {link.h2d_bytes_per_s / 1e9:.3g} GB/s"
        ram = f"{host.name} with {host.dram_bytes / 1e9:,.0f} GB at {host.dram_bytes_per_s / 1e9:.3g} GB/s"
        return f"{self.hardware} ({self.stack.name}): {memory}{beside}, {ram}; {'fitted' if self.fit else 'claimed'}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(str(self))}</p>"

    def __post_init__(self) -> None:
        if self.machine.n_cards == 1:
            return
        if not self.stack.cards_in_turn and not self.execution.shares_layers:
            raise InvalidInput(
                f"{self.hardware} with {self.stack.name}: of one card; several share every layer under {SHARING}, or "
                f"have whole layers each under {IN_TURN} or {', '.join(_in_turn()[1:])}: choose one as --stack"
            )
        if self.machine.has_one_memory:
            raise InvalidInput(f"{self.hardware}: machines with one memory for all are no cards of one host")

    @property
    def execution(self) -> Execution:
        """How the stack executes: as it was measured, or as it claims where it was not, in passes of this card."""
        claimed = self.stack.claimed_execution
        found = self.stack.execution if self.fit is not None or claimed is None else claimed
        return serving_on(found, self.machine.accelerator)

    @property
    def constants(self) -> Mapping[str, float]:
        """Every stack constant that is known. Floors are claims: where kernels were fitted there are none."""
        known = [name for name in CONSTANTS if name not in OPTIONAL or self._states(name)]
        return ReadOnly({name: self.constant(name) for name in known})

    def _states(self, name: str) -> bool:
        if name in self.overridden or (self.fit is not None and name in self.fit.constants):
            return True
        if name in UNPACKING and not self.overridden.keys().isdisjoint(UNPACKING):
            return False
        return name in self.stack.constants and (self.fit is None or name in _NEVER_FITTED)

    def constant(self, name: str) -> float:
        """A stack constant: the user's, else the fitted, else the claimed one."""
        if name in self.overridden:
            return self.overridden[name]
        if self.fit is not None and name in self.fit.constants:
            return self.fit.constants[name].value
        return self.stack.constants[name].value

    def calibration(self, dtype: str) -> str:
        """Whether a prediction for weights in `dtype` is "fitted" (this machine and stack were measured with it),
        "extrapolated" (a fit of another machine or format, or of other numbers than the user's) or only "claimed".
        """
        if self.fit is None:
            return "claimed"
        machine = measured_machine(self.fit)
        untouched = not self.overridden and self.stack.host_memory == _host_memory(self.stack.name)
        as_fitted = dtype in self.fit.dtypes and untouched and self.machine == machine
        return "fitted" if as_fitted else "extrapolated"

    @property
    def unverified(self) -> tuple[str, ...]:
        """Figures that times and sizes are made of and that nobody could read at their source, by dotted key."""
        quantities = self.machine.quantities()
        return tuple(key for key, one in quantities.items() if one.unverified and key not in _BESIDE_THE_POINT)

    def describe_calibration(self, dtype: str) -> str:
        """`calibration` in plain words, and which figures of the machine nobody could read."""
        unread = self.unverified
        named = ", ".join(unread[:_NAMED]) + (f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else "")
        turns = ""
        if self.machine.n_cards > 1:
            turns = f"; {self.hardware}: {SHARED if self.execution.shares_layers else TURNS}"
            if self.execution.shares_layers and self.machine.n_cards == 2 and self._has_no_peers:
                turns += f"; {THROUGH_HOST}"
        lent = f"; {OF_CUDA}" if self.is_of_cuda else ""
        return self._calibration(dtype) + turns + lent + (f"; unverified: {named}" if unread else "")

    @property
    def _has_no_peers(self) -> bool:
        card = self.machine.accelerator
        return card.peer_bytes_per_s is None and _NO_PEERS.fullmatch(card.name) is not None

    @property
    def is_of_cuda(self) -> bool:
        """Whether constants of CUDA's kernels stand in for those of a maker's own, which nobody measured."""
        return self.fit is None and self.machine.accelerator.vendor.casefold() in _UNMEASURED_MAKERS

    def _calibration(self, dtype: str) -> str:
        match self.calibration(dtype):
            case "fitted":
                return f"fitted on {self.hardware} with {self.stack.name}"
            case "extrapolated":
                assert self.fit is not None
                formats = ", ".join(self.fit.dtypes)
                known = "measured" if self.fit.machine else "published"
                return f"extrapolated: {self.stack.name} was fitted on {self.fit.hardware} as {known}, in {formats}"
            case _:
                return f"claimed figures only: {self.stack.name} has not been fitted on {self.hardware}"


def platform_of(fit: Fit, overrides: Mapping[str, float | str] | None = None) -> Platform:
    """The machine that a fit was made on, with the stack that ran on it; `overrides` as of `load_platform`."""
    ours, theirs, stack = _split(overrides or {}, load_stack(fit.stack))
    return Platform(with_overrides(measured_machine(fit), theirs), stack, fit, ours)


def measured_machine(fit: Fit) -> MachineSpec:
    """The machine that a fit was made on: as the fit describes it, or as its makers do, with the link as measured."""
    return _measured(fit, fit.machine or published_machine(fit.hardware))


def load_platform(
    hardware: str, stack: str | None = None, overrides: Mapping[str, float | str] | None = None
) -> Platform:
    """The platform of `hardware` running `stack` (None: the one it was fitted with, else `streams`).

    `hardware`: an accelerator by name, a YAML file of a machine, or a fit (by file, or by name where no maker describes
    the machine), which names its stack.

    `overrides`: dotted keys of the machine (`link.h2d_bytes_per_s`) or of the stack (`stack.sync_s`), SI numbers
    or text with a unit; `stack.host_memory` is a kind of `HOST_MEMORY`. Raises `UnknownName` for typos,
    `InvalidInput` for impossible values, or a stack that runs on nothing of that maker.
    """
    found = fit_named(hardware, stack)
    if found is not None:
        return platform_of(found, overrides)
    machine = load_machine(hardware, overrides)
    if stack is None:
        fitted = [name.split(".")[1] for name in fit_names() if name.split(".")[0] == machine.accelerator.name]
        usual = DEFAULT_STACK if machine.n_cards == 1 else IN_TURN
        stack = next((name for name in fitted if name not in OF_TABLES and machine.n_cards == 1), usual)
    ours, theirs, chosen = _split(overrides or {}, _on(machine.accelerator, stack))
    _check_maker(machine.accelerator, chosen)
    fit = fit_for(machine.accelerator, stack)
    if fit is not None and fit.hardware == machine.accelerator.name:
        machine = _measured(fit, machine)
    return Platform(with_overrides(machine, theirs), chosen, fit, ours)


def _on(accelerator: Accelerator, stack: str) -> SoftwareStack:
    """The stack with the kernels that it has on such an accelerator."""
    return load_stack(stack).on(accelerator.vendor, accelerator.compute_capability)


def machines_of(stack: str | None) -> tuple[str, ...]:
    """The machines that ship and that `stack` runs on; None: all."""
    if stack is None or not load_stack(stack).vendors:
        return hardware_names()
    return tuple(
        name for name in hardware_names() if load_stack(stack).runs_on(published_machine(name).accelerator.vendor)
    )


def _check_maker(accelerator: Accelerator, stack: SoftwareStack) -> None:
    """Raise `InvalidInput` where the stack does not run on what the maker makes; of a maker unknown here, it may."""
    vendor = accelerator.vendor.casefold()
    if stack.runs_on(vendor) or vendor not in (name.casefold() for name in VENDORS):
        return
    others = [name for name in stack_names() if load_stack(name).runs_on(vendor)]
    raise InvalidInput(
        f"stack {stack.name} runs on accelerators of {' or '.join(stack.vendors)}, {accelerator.name} is of "
        f"{accelerator.vendor}: choose another stack ({', '.join(others)})"
    )


@cache
def _in_turn() -> tuple[str, ...]:
    """Stacks whose cards take layers in turn, the usual one first."""
    return (IN_TURN, *(name for name in stack_names() if name != IN_TURN and load_stack(name).cards_in_turn))


def _measured(fit: Fit, machine: MachineSpec) -> MachineSpec:
    """`machine` with the figures of its link that `fit` measured."""
    if not fit.link:
        return machine
    rules, link = FIELDS["link"], machine.link
    source, figures = f"fitted: {fit.name}", dict[str, Any](fit.link)
    sources = {name: Quantity(x, DIMENSIONS[rules[name].dimension], source) for name, x in figures.items()}
    return replace(machine, link=replace(link, sources={**link.sources, **sources}, **figures))


def _split(
    overrides: Mapping[str, float | str], stack: SoftwareStack
) -> tuple[Mapping[str, float], dict[str, float | str], SoftwareStack]:
    """The stack's numbers, what is the machine's, and `stack` with the kind of host memory that the user wants."""
    stack_values: dict[str, float] = {}
    machine_values: dict[str, float | str] = {}
    for key, value in overrides.items():
        name = key.removeprefix("stack.")
        if not key.startswith("stack."):
            machine_values[key] = value
        elif name == "host_memory":
            stack = replace(stack, host_memory=str(value))
        else:
            stack_values[name] = _stack_number(key, name, value)
    if stack_values.keys() >= set(UNPACKING):
        raise InvalidInput(f"stack.{' and stack.'.join(UNPACKING)} both say what unpacking weights costs: set one")
    return ReadOnly(stack_values), machine_values, stack


def _stack_number(key: str, name: str, value: float | str) -> float:
    """A constant of the stack as the user set it. Raises `UnknownName` or `InvalidInput`."""
    if name not in CONSTANTS:
        raise unknown_name("stack constant", name, (*CONSTANTS, "host_memory"))
    number = parse_override(value, CONSTANTS[name]) if isinstance(value, str) else real_number(value, key)
    try:
        check_constant(name, number, key)
    except InvalidInput as error:
        raise InvalidInput(str(error).removeprefix(f"{key}: ")) from None
    return number


@cache
def _host_memory(stack: str) -> str:
    """How a stack holds weights when nobody says otherwise."""
    return load_stack(stack).host_memory
