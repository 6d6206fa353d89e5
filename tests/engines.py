"""Interpreters by one signature, and one oracle for schedules on FIFO lanes: every op has the times it has on SimPy."""

from __future__ import annotations

from collections.abc import Callable

from hwmodels.cost import Costs
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator import recurrence
from simulator.definition import des
from simulator.events import event_engine
from simulator.modes import Modes

Engine = Callable[[Schedule, Costs, Modes], Timeline]

ENGINES: list[Engine] = [
    lambda schedule, costs, modes: des.simulate(schedule, costs, 1 << 50, modes),
    lambda schedule, costs, modes: event_engine.simulate(schedule, costs, modes),
]
"""Those of every mode: SimPy, and the compiled event engine."""


def timed_alike(schedule: Schedule, costs: Costs, hbm_bytes: int = 1 << 50) -> Timeline:
    """The timeline on SimPy, which the recurrence, written in Python and compiled, and the event engine have too."""
    defined = des.simulate(schedule, costs, hbm_bytes)
    walked = (recurrence.simulate(schedule, costs, small=small) for small in (True, False))
    for found in (*walked, event_engine.simulate(schedule, costs)):
        assert found.start_s.tobytes() == defined.start_s.tobytes()
        assert found.end_s.tobytes() == defined.end_s.tobytes()
    return defined
