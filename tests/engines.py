"""One oracle for all schedules on FIFO lanes: every interpreter gives every op the times that SimPy gives it."""

from __future__ import annotations

from hwmodels.cost import Costs
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator import recurrence
from simulator.definition import des
from simulator.events import event_engine

__all__ = ["timed_alike"]


def timed_alike(schedule: Schedule, costs: Costs, hbm_bytes: int = 1 << 50) -> Timeline:
    """The timeline on SimPy, which the recurrence, written in Python and compiled, and the event engine have too."""
    defined = des.simulate(schedule, costs, hbm_bytes)
    walked = (recurrence.simulate(schedule, costs, small=small) for small in (True, False))
    for found in (*walked, event_engine.simulate(schedule, costs)):
        assert found.start_s.tobytes() == defined.start_s.tobytes()
        assert found.end_s.tobytes() == defined.end_s.tobytes()
    return defined
