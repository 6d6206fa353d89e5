"""What a comparison rests on, in words: what a fit has not seen is told once, with its least and most share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, cast

import pregate
from offload.policies import policy_named
from pregate.ask.calibration_summary import describe_calibration


@dataclass
class Result:
    beyond_fit: str
    fitted_share: float = field(default=0.5)
    policy: str = field(default="gpu_only")


def test_kernels_of_several_results_are_told_once() -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("h100-sxm", "vllm")
    told = ["kernels (11% of their time)", "", "kernels (27% of their time)", "copies over the link"]
    words = describe_calibration(hw, model, cast(Any, [Result(one) for one in told]), [])
    assert "but not copies over the link, kernels (11 to 27% of their time): extrapolated" in words
    one = describe_calibration(hw, model, cast(Any, [Result(told[0])]), [])
    assert "but not kernels (11% of their time): extrapolated" in one


def test_weights_that_kernels_read_in_host_memory_are_told_by_the_placement_not_by_a_name() -> None:
    model, hw = pregate.load_model("qwen3-30b-a3b"), pregate.load_hardware("h100-sxm", "vllm")
    placed, own = policy_named("gpu_only@experts=zerocopy:4"), policy_named("gpu_only")
    note = "whether rows beyond 64 read weights of the host again is not known"
    assert note in describe_calibration(hw, model, [], [own, placed])
    called = dataclasses.replace(own, name="zerocopy")
    assert note not in describe_calibration(hw, model, [], [called])
