"""Fused ops of experts priced many at once: to the last bit what each is alone, whatever the tile and the machine."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.cost import price_figures
from hwmodels.figures import Figures, figures_of
from hwmodels.kernels import similar_works
from hwmodels.kernels.fused_tile import UNPADDED, FusedTile
from hwmodels.kernels.row_blocks import NO_ROW_BLOCKS
from hwmodels.platform import load_platform
from offload.ffn_work import experts_work
from offload.ops import Work
from offload.work import cpu_expert_work, gate_work, head_work
from pregate.named import load_model
from traces.model.architecture import ModelArchitecture

TILES = (
    UNPADDED, FusedTile((16, 64)), FusedTile((8, 32, 128), "pass", (128, 64), 4), FusedTile((64,), "pairs", (32, 32)),
    FusedTile((32,), from_tokens=32, each_pair=True),
    FusedTile((8, 24, 64), "pass", (128, 64), 2, apart_from=40, launches_apart=3),
)  # fmt: skip
MODELS = ("mixtral-8x7b", "deepseek-v2-lite")  # without and with shared experts

blocks = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), min_size=2, max_size=12)


@cache
def figures(stack: str, tile: FusedTile) -> Figures:
    found = figures_of(load_platform("rtx-4090", stack))
    return dataclasses.replace(found, stack=dataclasses.replace(found.stack, fused_tile=tile), is_cut=False)


@cache
def model_named(name: str) -> ModelArchitecture:
    return load_model(name)


def works(model: str, tokens: list[list[int]], n_shared: int) -> list[Work]:
    known = model_named(model)
    return [experts_work(known, one, n_shared, fused=True) for one in tokens]


@settings(max_examples=8)
@given(tokens=blocks, n_shared=st.sampled_from([0, 1, 7]))
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stack", ["llama-cpp", "pytorch-eager"])
@pytest.mark.parametrize("tile", TILES)
def test_together_as_alone(tile: FusedTile, stack: str, model: str, tokens: list[list[int]], n_shared: int) -> None:
    machine, asked = figures(stack, tile), works(model, tokens, n_shared)
    together = price_figures(asked, machine)
    alone = [price_figures([one], machine) for one in asked]
    for name in ("issue_s", "duration_s", "link_s", "hbm_s", "contended"):
        assert getattr(together, name).tolist() == [getattr(one, name)[0] for one in alone], name


@pytest.mark.parametrize("stack", ["llama-cpp", "pytorch-eager"])
def test_shared_rows_of_each_and_traffic_beside_the_weights_count(stack: str) -> None:
    machine, known = figures(stack, TILES[1]), model_named("deepseek-v2-lite")
    plain = [experts_work(known, [3, 1, 9], n, fused=True) for n in (1, 7, 1, 9)]
    more = [work._replace(hbm_bytes=1 << 20) for work in plain]
    for asked in (plain, more):
        together, alone = price_figures(asked, machine), [price_figures([one], machine) for one in asked]
        assert together.duration_s.tolist() == [one.duration_s[0] for one in alone]
        assert together.hbm_s.tolist() == [one.hbm_s[0] for one in alone]
    assert np.all(price_figures(more, machine).hbm_s > price_figures(plain, machine).hbm_s)


@pytest.mark.parametrize("tile", TILES)
def test_many_machines_as_one(tile: FusedTile) -> None:
    machine = figures("llama-cpp", tile)
    asked = works("deepseek-v2-lite", [[3, 1, 9], [40, 2], [1], [7, 7, 7, 7]], 3)
    rates = np.array([2e11, 1e12])
    many = price_figures(asked, machine.with_values({"accelerator.hbm_bytes_per_s": rates}), 2)
    for i, rate in enumerate(rates.tolist()):
        one = price_figures(asked, machine.with_values({"accelerator.hbm_bytes_per_s": rate}))
        assert many.duration_s[:, i].tolist() == one.duration_s.tolist()
        assert many.hbm_s[:, i].tolist() == one.hbm_s.tolist()


@settings(max_examples=10)
@given(rows=st.lists(st.integers(1, 300), min_size=2, max_size=12), n_shared=st.sampled_from([0, 1, 7]))
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "stack", ["mixtral-offloading", "moe-lightning", "llama-cpp", "pytorch-eager", "fastertransformer"]
)
def test_experts_one_by_one_together_as_alone(stack: str, model: str, rows: list[int], n_shared: int) -> None:
    machine, known = figures(stack, UNPADDED), model_named(model)
    asked = [experts_work(known, [n]) for n in rows] + [experts_work(known, (), n_shared)] * bool(n_shared)
    asked += (
        [gate_work(known, n) for n in rows] + [cpu_expert_work(known, n) for n in rows] + [head_work(known, rows[0])]
    )
    together = price_figures(asked, machine)
    moved = machine.with_values({"stack.gemm_efficiency": 0.5 * (1 + 1j * np.array([0.0, 1e-30, 0.0]))})
    many = price_figures(asked, moved, 3)
    for i, one in enumerate(asked):
        alone, apart = price_figures([one], machine), price_figures([one], moved, 3)
        for name in ("issue_s", "duration_s", "hbm_s"):
            assert getattr(together, name)[i] == getattr(alone, name)[0], name
            assert getattr(many, name)[i].tolist() == getattr(apart, name)[0].tolist(), name


def test_products_of_fewer_rows_than_have_tiles_are_priced_apart_from_those_of_more() -> None:
    machine = figures("llama-cpp", TILES[4])
    machine = dataclasses.replace(
        machine, stack=dataclasses.replace(machine.stack, row_blocks=NO_ROW_BLOCKS, graph_tokens=0)
    )
    asked = [gate_work(model_named("mixtral-8x7b"), n) for n in (1, 5, 31, 32, 100)]
    together = price_figures(asked, machine).duration_s.tolist()
    assert together == [price_figures([one], machine).duration_s[0] for one in asked]


def test_a_schedules_works_are_grouped_once_for_one_machine_and_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, asked = figures("mixtral-offloading", UNPADDED), works("mixtral-8x7b", [[3, 1, 9], [40, 2], [1]], 0)
    many = machine.with_values({"stack.gemm_efficiency": np.array([0.1, 0.2])})
    calls, grouped = list[int](), similar_works._grouped

    def told(*given: Any) -> Any:
        calls.append(len(given[0]))
        return grouped(*given)

    monkeypatch.setattr(similar_works, "_grouped", told)
    of_tuple = tuple(asked)
    apart = price_figures(of_tuple, machine).duration_s, price_figures(of_tuple, many, 2).duration_s
    assert calls == [3]
    edited = list(asked)
    price_figures(edited, machine)
    edited[0] = experts_work(model_named("mixtral-8x7b"), [2000, 1000, 500, 9], fused=True)  # a list may change between
    assert price_figures(edited, machine).duration_s[0] > apart[0][0]
    other = dataclasses.replace(machine, stack=dataclasses.replace(machine.stack, fused_tile=TILES[1]))
    assert price_figures(of_tuple, other).duration_s.tolist() == price_figures(asked, other).duration_s.tolist()
    assert (
        apart[1][:, 0].tolist()
        == price_figures(asked, machine.with_values({"stack.gemm_efficiency": 0.1})).duration_s.tolist()
    )


def test_two_schedules_of_the_same_ops_count_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, count = list[int](), similar_works.counted

    def counted(works: Any, *rest: Any) -> Any:
        counts.append(len(works))
        return count(works, *rest)

    monkeypatch.setattr(similar_works, "counted", counted)
    similar_works._last_counted.cache_clear()
    model = model_named("mixtral-8x7b")
    ops = [experts_work(model, (n, n + 3), fused=True) for n in range(1, 5)]
    first, second = (figures("llama-cpp", tile) for tile in TILES[1:3])
    of_gate, of_head = (
        price_figures((gate_work(model, 3), *ops), first),
        price_figures((*ops, head_work(model, 1)), first),
    )
    assert counts == [4]
    assert of_gate.duration_s[1:].tolist() == of_head.duration_s[:-1].tolist()
    for works, one in ((tuple(ops), second), (tuple(ops[1:]), first), (tuple(ops[::-1]), first)):
        seconds = price_figures(works, one).duration_s.tolist()
        assert seconds == [price_figures((work,), one).duration_s[0] for work in works]
    assert counts == [4, 4, 3, 4]
