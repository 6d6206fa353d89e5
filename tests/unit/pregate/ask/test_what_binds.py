"""What a run waits for, in words and shares of its lanes."""

from __future__ import annotations

import re

import pytest

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


@pytest.mark.parametrize(
    ("hardware", "policy", "output_tokens"),
    [
        ("rtx-3060-12gb", "gpu_only@experts=cpu:keep=60", 24),
        ("rtx-3060-12gb", "gpu_only@experts=cpu:19", 8),
        ("rtx-3060-12gb", "gpu_only@experts=cpu", 8),
        ("rtx-3060-12gb", "bandwidth_split", 8),
        ("rtx-3060-12gb", "pregate+lru", 24),
        ("rtx-4090", "gpu_only", 8),
        ("rtx-4090", "pregate", 8),
    ],
)
def test_what_is_said_to_bind_takes_most_of_the_time(hardware: str, policy: str, output_tokens: int) -> None:
    """Neither a link that is idle is said to take half of the time, nor launches what the processor computes."""
    model = pregate.load_model("qwen3-30b-a3b", formats={"all": "q4_k_m"})
    hw = pregate.load_hardware(hardware, "llama-cpp" if policy.startswith("gpu_only@") else "streams")
    said = what_binds(pregate.simulate(model, hw, pregate.synthesize(model, 8, output_tokens), policy))
    shares = {name.removesuffix(" busy"): int(share) for name, share in re.findall(r"([a-z' ]+) (\d+)%", said)}
    taken = {
        "compute": shares["compute"], "transfers": shares[" stalled"],
        "what the host computes": shares.get(" the host's processor", 0),
    }  # fmt: skip
    taken["launches and synchronisation on the host"] = 100 - sum(taken.values())
    named = said.partition(" (")[0]
    first = sorted(taken.values())[::-1]
    if "share the time" in named:
        assert {taken[what] for what in taken if what in named} == set(first[:2])
        assert first[0] <= 51
    else:
        assert {taken[what] for what in taken if re.match(rf"{what} binds? it", named)} == {first[0]}
        assert first[0] >= 50
