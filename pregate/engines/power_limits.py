"""A board that is held below its power limit or its clock, in numbers of a machine.

A prompt waits for arithmetic, whose clock falls with the power; decoding waits for memory, whose clock does not. How
far both fall is `power_limits.yaml`: one board's, taken for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from hwmodels.quantity import ReadOnly
from hwmodels.specs.machine_files import load_machine
from hwmodels.specs.spec import Accelerator
from pregate.economics.assumptions import load_assumptions
from traces.errors import InvalidInput
from traces.foundation.documents import read_yaml

PROMPT_METRICS = ("prefill_tokens_per_s", "ttft")
"""Metrics of rows that a prompt alone decides."""

_FILE = Path(__file__).parent / "power_limits.yaml"


def board_watts(hardware: str) -> float | None:
    """The power limit that a card ships with, W; None where it is not known."""
    stated = load_assumptions().get(f"cards.{hardware}.limit_watts")
    return None if stated is None else stated.value


def at_power(hardware: str, watts: float, metric: str) -> dict[str, str]:
    """Numbers of `hardware` at a limit of `watts` while it does what `metric` is of; none at its own limit or above.

    Raises `InvalidInput` for a card whose own limit is not known, or a limit below what the table has.
    """
    own = board_watts(hardware)
    if own is None:
        raise InvalidInput(
            f"policy: -pl {watts:g}: the power limit of {hardware} is not known: lock its clock, -lgc MHZ"
        )
    if watts >= own:
        return {}
    shares = _table()
    if watts < own * shares["share"][0]:
        least = own * shares["share"][0]
        raise InvalidInput(f"policy: -pl {watts:g}: below {least:.0f} of {own:g} W nothing was measured: give a reason")
    of_prompt = metric in PROMPT_METRICS
    rate = float(np.interp(watts / own, shares["share"], shares["prompt" if of_prompt else "decode"]))
    card = _card(hardware)
    slower = _arithmetic(card, rate)
    return slower if of_prompt else slower | {"accelerator.hbm_bytes_per_s": f"{card.hbm_bytes_per_s * rate:.6g}B/s"}


def at_clock(hardware: str, clock_hz: float) -> dict[str, str]:
    """Numbers of `hardware` whose clock is locked at `clock_hz`; none from its boost clock on."""
    card = _card(hardware)
    return {} if clock_hz >= card.clock_hz else _arithmetic(card, clock_hz / card.clock_hz)


def least(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Numbers of `one`, as `at_clock` has them, or of `other` where that has them lower: of two limits the one that
    holds.
    """
    return {key: min(value, other.get(key, value), key=_amount) for key, value in one.items()}


def _amount(written: str) -> float:
    return float(written.removesuffix("FLOP/s").removesuffix("Hz"))


def _card(hardware: str) -> Accelerator:
    return load_machine(hardware).accelerator


def _arithmetic(card: Accelerator, share: float) -> dict[str, str]:
    peaks = {
        f"accelerator.peak_flop_per_s.{of}": f"{peak * share:.6g}FLOP/s" for of, peak in card.peak_flop_per_s.items()
    }
    clock = {} if card.clock_hz is None else {"accelerator.clock_hz": f"{card.clock_hz * share:.6g}Hz"}
    return peaks | clock


@cache
def _table() -> Mapping[str, list[float]]:
    section = read_yaml(_FILE)
    section.text("source"), section.text("note"), section.take("read")
    found = ReadOnly({name: [float(x) for x in section.take(name)] for name in ("share", "prompt", "decode")})
    section.done()
    return found
