"""Whether two back ends compute the same, as nearly as sums in another order can."""

from __future__ import annotations

import numpy as np

from runtime.run import MeasuredRun, OutputMismatch

STATES_TOLERANCE = 1e-3
"""How far two back ends may differ in fp32, over the largest hidden state: sums of some thousand products in another
order, through some tens of layers, each normed again."""


def check_close_output(here: MeasuredRun, there: MeasuredRun, tolerance: float = STATES_TOLERANCE) -> float:
    """The largest difference between the hidden states of two back ends, over the largest state; 0.0 when they agree.

    Raises `OutputMismatch` when it is above `tolerance`, or the states are not finite or not of one shape.
    """
    if here.states.shape != there.states.shape:
        raise OutputMismatch(
            f"hidden states of {here.states.shape} and {there.states.shape} tokens: not the same trace"
        )
    difference = float(np.abs(here.states - there.states).max() / np.abs(here.states).max())
    if not difference <= tolerance:
        raise OutputMismatch(
            f"{here.timeline.source} and {there.timeline.source} differ by {difference:.2g} of the largest state, "
            f"more than {tolerance:g}: one of them computes something else"
        )
    return difference
