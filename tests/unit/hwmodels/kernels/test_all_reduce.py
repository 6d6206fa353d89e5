"""What a sum over cards takes: the law by hand, and beside times that were measured of a serving engine's kernels."""

from __future__ import annotations

import pytest

from hwmodels.cost import price
from hwmodels.figures import figures_of
from hwmodels.kernels.all_reduce import all_reduce_s, send_s
from hwmodels.platform import load_platform
from offload.ops import OpKind, Work
from traces.errors import InvalidInput


def summed_s(hardware: str, message_bytes: int) -> float:
    hw = load_platform(hardware, "vllm")
    work = Work(OpKind.ALL_REDUCE, copy_bytes=message_bytes, n_entries=hw.machine.n_cards)
    return float(all_reduce_s(work, figures_of(hw)))


def test_a_short_message_is_read_whole_of_all_others_and_a_long_one_in_parts() -> None:
    start_s, rate = 5e-6, 0.6 * 450e9
    assert summed_s("4x h100-sxm", 1 << 18) == pytest.approx(start_s + 3 * (1 << 18) / rate)
    assert summed_s("4x h100-sxm", 1 << 20) == pytest.approx(start_s + 1.5 * (1 << 20) / rate)
    assert summed_s("8x h100-sxm", 1 << 18) == pytest.approx(start_s + 1.75 * (1 << 18) / rate)
    assert summed_s("2x h100-sxm", 1 << 30) == pytest.approx(start_s + (1 << 30) / rate)


def test_more_than_two_cards_without_links_of_their_own_hand_on_round_a_ring() -> None:
    rate = load_platform("l40s").machine.link.d2h_bytes_per_s
    assert summed_s("4x l40s", 1 << 20) == pytest.approx(6 * 2e-6 + 1.5 * (1 << 20) / (0.25 * rate))
    assert summed_s("2x l40s", 1 << 20) == pytest.approx(5e-6 + (1 << 20) / (0.6 * rate))


@pytest.mark.parametrize(
    ("hardware", "message_bytes", "measured_us"),
    [
        ("2x a100-sxm4-80gb", 16 << 10, 5.3), ("8x a100-sxm4-80gb", 8 << 10, 6.3),
        ("4x a100-sxm4-80gb", 128 << 20, 996),
        ("2x h100-sxm", 8 << 10, 4.4), ("4x h100-sxm", 16 << 10, 4.8), ("8x h100-sxm", 16 << 10, 5.3),
        ("4x h100-sxm", 4 << 20, 30.2), ("4x h200-sxm", 32 << 20, 179.6), ("2x l40s", 16 << 20, 891.9),
    ],
)  # fmt: skip
def test_times_of_a_serving_engine_are_met_within_a_quarter(
    hardware: str, message_bytes: int, measured_us: float
) -> None:
    """aiconfigurator-core 0.12.0, custom_allreduce_perf of vllm: the constants were read of these tables."""
    assert summed_s(hardware, message_bytes) == pytest.approx(measured_us / 1e6, rel=0.25)


def test_what_is_sent_goes_over_one_link_and_parts_are_gathered_as_in_half_a_sum() -> None:
    figures = figures_of(load_platform("4x h100-sxm", "vllm"))
    work = Work(OpKind.SEND, copy_bytes=1 << 24, n_entries=1)
    alone_s, rate = 5e-6 + (1 << 24) / (0.6 * 450e9), 0.6 * 450e9
    assert send_s(work, figures) == pytest.approx(alone_s)
    in_four_s = 5e-6 + (1 << 22) / rate + 5e-6 + 0.75 * (1 << 24) / rate
    assert send_s(work._replace(n_entries=4), figures) == pytest.approx(in_four_s)


def test_a_stack_that_does_not_say_is_told_what_is_missing() -> None:
    figures = figures_of(load_platform("h100-sxm", "streams"))
    with pytest.raises(InvalidInput, match=r"stack streams does not say.*all_reduce_s, ring_step_s, peer_eff"):
        all_reduce_s(Work(OpKind.ALL_REDUCE, copy_bytes=8, n_entries=2), figures)


def test_a_measured_stack_states_it_too() -> None:
    """Fits of kernels are of one card; what is between cards stays as the stack claims it."""
    hw = load_platform("2x h100-sxm", "vllm")
    assert hw.fit is not None
    costs = price([Work(OpKind.ALL_REDUCE, copy_bytes=8192, n_entries=2)], hw)
    assert costs.duration_s[0] == pytest.approx(5e-6 + 8192 / (0.6 * 450e9))
    assert costs.issue_s[0] == 0
