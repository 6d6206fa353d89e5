"""What every interpreter demands of the times it is given, before it starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.schedule import Schedule
from traces.errors import InvalidInput

__all__ = ["check_times"]


def check_times(schedule: Schedule, issue_s: NDArray[np.float64], duration_s: NDArray[np.float64]) -> None:
    """Raise `InvalidInput` unless both are (n_works,) finite seconds, 0 or above."""
    for name, values in (("issue_s", issue_s), ("duration_s", duration_s)):
        if values.shape != (len(schedule.works),):
            raise InvalidInput(f"{name} has shape {values.shape}, the schedule prices {len(schedule.works)} works")
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise InvalidInput(f"{name} holds a time that is negative or not finite")
