"""Which fit holds for a machine: one of this very pair, one that is lent by a relative, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hwmodels.compute_formats import computes_in
from hwmodels.fits.fit import Fit, elsewhere
from hwmodels.fits.fit_files import fit_names, is_fit, load_fit
from hwmodels.laws.families import family_of
from hwmodels.specs.machine_files import hardware_names, load_machine
from hwmodels.specs.spec import Accelerator, MachineSpec
from traces.errors import InvalidInput

OF_TABLES = ("vllm",)
"""Stacks that public tables of kernels were fitted for: asked for by name, and lent within a family of cards only."""

_NEARLY = 1.1
"""How far beyond the figures of fitted cards another still counts as one of them."""


@cache
def published_machine(hardware: str) -> MachineSpec:
    """The machine as its makers describe it, read once."""
    return load_machine(hardware)


def fit_named(hardware: str, stack: str | None) -> Fit | None:
    """The fit that `hardware` names: a file, or a shipped one of a machine that has no description of its own.

    Raises `InvalidInput` for one of another stack.
    """
    path = Path(hardware)
    found = None
    if path.suffix in (".yaml", ".yml"):
        found = load_fit(path) if is_fit(path) else None
    elif hardware not in hardware_names():
        names = [name for name in fit_names() if name.rpartition(".")[0] == hardware]
        asked = f"{hardware}.{stack}"
        found = load_fit(asked if asked in names else names[0]) if names else None
    if found is not None and stack not in (None, found.stack):
        raise InvalidInput(f"{hardware} was fitted with the stack {found.stack}, not {stack}: leave out --stack")
    return found


def fit_for(accelerator: Accelerator, stack: str) -> Fit | None:
    """The fit of this very pair, else one of the same stack elsewhere, else None."""
    candidates = [name for name in fit_names() if name.split(".")[1] == stack]
    exact = f"{accelerator.name}.{stack}"
    if exact in candidates:
        return load_fit(exact)
    if stack in OF_TABLES:
        return _relative_fit(accelerator, [name.split(".")[0] for name in candidates], stack)
    return load_fit(candidates[0]) if candidates else None


def _relative_fit(accelerator: Accelerator, fitted: Sequence[str], stack: str) -> Fit | None:
    """The fit of the card of the same family whose memory's rate comes next, as uncertain as laws are elsewhere: on a
    card between those that were fitted, or beyond them.
    """
    family = family_of(accelerator.compute_capability)
    if family is None:
        return None
    cards = [published_machine(name).accelerator for name in fitted]
    relatives = [card for card in cards if family_of(card.compute_capability) == family]
    if not relatives:
        return None
    apart = {card.name: abs(math.log(card.hbm_bytes_per_s / accelerator.hbm_bytes_per_s)) for card in relatives}
    nearest = load_fit(f"{min(apart, key=lambda name: (apart[name], name))}.{stack}")
    return elsewhere(nearest, alike=_lies_between(accelerator, relatives))


def _lies_between(card: Accelerator, fitted: Sequence[Accelerator]) -> bool:
    """Whether memory, arithmetic and multiprocessors of a card are within a tenth of what the fitted ones span."""
    for figure in (_memory_rate, _arithmetic_rate, _multiprocessors):
        span = [figure(one) for one in fitted]
        if not min(span) / _NEARLY <= figure(card) <= max(span) * _NEARLY:
            return False
    return True


def _memory_rate(card: Accelerator) -> float:
    return card.hbm_bytes_per_s


def _arithmetic_rate(card: Accelerator) -> float:
    return card.peak_flop_per_s[computes_in("bf16", card.peak_flop_per_s)]


def _multiprocessors(card: Accelerator) -> float:
    return card.n_sm
