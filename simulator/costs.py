"""What every interpreter demands of the costs it is given, before it starts."""

from __future__ import annotations

import numpy as np

from hwmodels.cost import Costs
from offload.schedule import Schedule
from offload.slots.copy_runs import Unrolled
from traces.errors import InvalidInput

_SHARES = ("contended", "beside_copies")
"""Of a rate, 1 of what nothing slows."""


def check_costs(schedule: Schedule, costs: Costs) -> None:
    """Raise `InvalidInput` unless all are (n_works,) finite seconds, 0 or above, no share longer than the whole."""
    for name in ("issue_s", "duration_s", "link_s", "hbm_s", "crossed_s", *_SHARES):
        values = getattr(costs, name)
        if values.shape != (len(schedule.works),):
            raise InvalidInput(f"{name} has shape {values.shape}, the schedule prices {len(schedule.works)} works")
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise InvalidInput(f"{name} holds a time that is negative or not finite")
        if name in ("link_s", "hbm_s") and np.any(values > costs.duration_s * (1 + 1e-9)):
            raise InvalidInput(f"{name} holds a time that is longer than the op itself")
        if name in _SHARES and (np.any(values > 1) or np.any(values <= 0)):
            raise InvalidInput(f"{name} holds a share of a rate that is not above 0, at most 1")
        if name == "crossed_s" and np.any(values < costs.link_s):
            raise InvalidInput("crossed_s holds a time that is shorter than link_s: copies one way are never slower")


def one_by_one(costs: Costs, copies: Unrolled) -> Costs:
    """The costs of single copies, from those of the schedule with runs: an equal share of each run."""
    n = copies.n_copies
    whole = {name: getattr(costs, name)[copies.row] for name in ("duration_s", "link_s", "hbm_s", "crossed_s")}
    shares = {name: values / n for name, values in whole.items()}
    kept = {name: getattr(costs, name)[copies.row] for name in _SHARES}
    return Costs(costs.issue_s[copies.row], **shares, **kept)
