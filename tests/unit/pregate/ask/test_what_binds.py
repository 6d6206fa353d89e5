"""What a run waits for, in words and shares of its lanes."""

from __future__ import annotations

import re

import pregate
from offload.ops import Lane
from pregate.ask.comparison import what_binds
from simulator.modes import Modes


def test_no_lane_is_busy_for_longer_than_the_run() -> None:
    """A copy that gives way is under way as long as the one before it: the link carries both, and is busy once."""
    model, hw = pregate.load_model("mixtral-mini-8"), pregate.load_hardware("rtx-3060-12gb", "streams")
    modes = Modes("priority", chunk_bytes=1 << 18, cancel=True)
    result = pregate.simulate(model, hw, pregate.synthesize(model, 4, 4), "pregate", engine="event", modes=modes)
    timeline = result.timeline
    assert timeline is not None
    copies = timeline.schedule.lane == Lane.H2D
    assert (timeline.end_s - timeline.start_s)[copies].sum() > result.makespan_s
    for lane in Lane:
        assert timeline.busy_s(lane) <= result.makespan_s * (1 + 1e-12)
    assert all(int(share) <= 100 for share in re.findall(r"(\d+)%", what_binds(result)))
