"""One formula for one machine, for many, and for derivatives; and where each second of an op goes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hwmodels.cost import Costs, parts_of, price, price_figures
from hwmodels.figures import check_axis, figure_keys, figures_of
from hwmodels.platform import load_platform
from hwmodels.stacks.stack_files import stack_names
from offload import ffn_work, work
from offload.ops import OpKind, Work
from pregate.named import load_model
from traces.errors import InvalidInput, UnknownName


@cache
def works() -> list[Work]:
    """One of every kind, memory-bound and compute-bound."""
    model = load_model("switch-base-8")
    stack = model.decoder
    return [
        work.self_attention_work(model, stack, 1, 300, 300),
        work.self_attention_work(model, stack, 512, 512, 512 * 512),
        work.cross_attention_work(model, stack, 4, 1024, 256),
        work.gate_work(model, 7),
        ffn_work.experts_work(model, [1, 1, 5]),
        ffn_work.experts_work(model, [400] * 8),
        ffn_work.dense_ffn_work(model, stack, 64),
        work.head_work(model, 2),
        work.expert_copy_work(model, OpKind.FETCH),
        work.expert_copy_work(model, OpKind.STAGE),
        work.expert_copy_work(model, OpKind.DISK_READ),
        work.readback_work(12),
        work.cpu_expert_work(model, 3),
        work.cpu_layer_work(model, work.self_attention_work(model, stack, 5, 900, 4000)),
        work.handover_work(model, 4),
        work.return_work(model, 4),
        work.stream_work(1 << 20),
        Work(OpKind.WAIT),
        Work(OpKind.STEP),
    ]


@pytest.mark.parametrize("stack", stack_names())
def test_many_machines_are_priced_as_each_of_them_to_the_last_bit(stack: str) -> None:
    rng = np.random.default_rng(1)
    base = load_platform("a100-sxm4-80gb", stack)
    varied = {
        "link.h2d_bytes_per_s": rng.uniform(1e9, 1e11, 9),
        "accelerator.hbm_bytes_per_s": rng.uniform(1e11, 5e12, 9),
        "accelerator.peak_flop_per_s.fp32": rng.uniform(1e12, 1e14, 9),
        "accelerator.n_sm": rng.integers(20, 200, 9).astype(np.float64),
        "stack.kernel_s": rng.uniform(1e-6, 1e-4, 9),
        "host.dram_bytes_per_s": rng.uniform(1e9, 1e12, 9),
    }
    many = price_figures(works(), figures_of(base).with_values(varied), 9)
    for i in range(9):
        overrides = {key: float(values[i]) for key, values in varied.items()}
        one = price(works(), load_platform("a100-sxm4-80gb", stack, overrides))
        for name in ("issue_s", "duration_s", "link_s", "hbm_s"):
            assert getattr(many, name)[:, i].tobytes() == getattr(one, name).tobytes(), name


@pytest.mark.parametrize("stack", stack_names())
def test_parts_sum_to_the_duration_and_name_what_binds(stack: str) -> None:
    figures = figures_of(load_platform("a100-sxm4-80gb", stack))
    costs = price_figures(works(), figures)
    for i, each in enumerate(works()):
        parts = parts_of(each, figures)
        assert sum(parts) == pytest.approx(costs.duration_s[i], rel=1e-14)
        assert all(part >= 0 for part in parts)
        assert costs.hbm_s[i] <= costs.duration_s[i]
        assert costs.link_s[i] == parts.link_s
    fetch = parts_of(works()[8], figures)
    assert fetch.link_s > 0
    assert fetch.hbm_s == fetch.compute_s == 0
    prefill, decode = parts_of(works()[5], figures), parts_of(works()[0], figures)
    assert prefill.compute_s > prefill.hbm_s
    assert decode.hbm_s > decode.compute_s or figures.stack.row_blocks.passes  # their blocks take longer than memory


@pytest.mark.parametrize("stack", stack_names())
def test_a_complex_step_is_the_exact_derivative_of_every_price(stack: str) -> None:
    """Against central differences, for every number of the machine; waves of tiles are held."""
    figures = figures_of(load_platform("a100-sxm4-80gb", stack))
    keys = [key for key, value in figures.values.items() if key != "accelerator.n_sm" and value != 0]
    steps = 1e-5 * np.concatenate([np.eye(len(keys)), -np.eye(len(keys))], axis=1)  # a machine for each, up then down
    stepped = figures.with_values(
        {key: figures.values[key] * (1 + step) for key, step in zip(keys, steps, strict=True)}
    )
    up, down = np.split(price_figures(works(), stepped, 2 * len(keys)).duration_s, 2, axis=1)
    for i, key in enumerate(keys):
        changed = figures.with_values({key: figures.values[key] * (1 + 1e-30j)})
        slope = price_figures(works(), changed).duration_s.imag / 1e-30
        assert slope == pytest.approx((up - down)[:, i] / 2e-5, rel=1e-6, abs=1e-14), key


def test_costs_without_shares_have_none() -> None:
    costs = Costs(np.zeros(2), np.ones(2))
    assert costs.link_s.tolist() == costs.hbm_s.tolist() == [0.0, 0.0]


def test_a_stated_link_latency_takes_the_place_of_the_stacks() -> None:
    stated = figures_of(load_platform("a100-sxm4-80gb", "streams", {"link.copy_latency_s": 3e-6}))
    assert stated.copy_latency_s == 3e-6
    assert figures_of(load_platform("a100-sxm4-80gb", "streams")).copy_latency_s == 1e-5


def test_what_is_no_figure_or_no_possible_value_is_refused() -> None:
    figures = figures_of(load_platform("a100-sxm4-80gb", "streams"))
    with pytest.raises(UnknownName, match=r"did you mean 'link.h2d_bytes_per_s'"):
        figures.with_values({"link.h2d_byte_per_s": 1e9})
    assert set(figures.values) <= set(figure_keys())
    check_axis("link.h2d_bytes_per_s", np.array([1e9, 2e9]))
    for key, bad in (("link.h2d_bytes_per_s", 0.0), ("stack.gemm_efficiency", 1.5), ("accelerator.n_sm", 1.5)):
        with pytest.raises(InvalidInput, match=key):
            check_axis(key, np.array([1.0, bad]))


@pytest.mark.parametrize("fitted", [True, False], ids=["fitted", "claimed"])
def test_a_share_of_the_link_that_is_set_stays_whatever_the_stacks_own_is(fitted: bool) -> None:
    stack = "fastertransformer" if fitted else "streams"
    set_in_platform = figures_of(load_platform("a100-sxm4-80gb", stack, {"link.h2d_efficiency": 0.4}))
    set_in_figures = figures_of(load_platform("a100-sxm4-80gb", stack)).with_values({"link.h2d_efficiency": 0.4})
    fetch = [work.expert_copy_work(load_model("switch-base-8"), OpKind.FETCH)]
    for figures in (set_in_platform, set_in_figures):
        moved = figures.with_values({"stack.link_efficiency": 0.9})
        assert moved["link.h2d_efficiency"] == 0.4
        assert price_figures(fetch, moved).duration_s == price_figures(fetch, figures).duration_s
