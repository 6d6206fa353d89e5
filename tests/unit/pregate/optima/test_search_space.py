"""Where a search looks, what a machine costs there, and what is asked of Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.policy import Cache
from pregate.named import load_hardware, load_model
from pregate.optima import space as space_
from pregate.optima import trials as trials_
from pregate.optima.space import Range, Space, read_space
from pregate.optima.trials import GENERATION, Trials, points_as_axes
from pregate.routing_traces import synthesize
from pregate.sweeps.axes import Axis
from pregate.sweeps.machines import MachineRecipe
from pregate.sweeps.workloads import TraceRecipe
from traces.errors import InvalidInput
from traces.routing import RoutingTrace

MODEL = load_model("switch-mini-16")
RECIPE = TraceRecipe(input_tokens=4, output_tokens=3)
LINK = "link.h2d_bytes_per_s"


def space(axes: dict[str, Any], policies: Any = ("gpu_only", "on_demand"), hw: Any = "rtx-4090", trace: Any = RECIPE,
          **how: Any) -> Space:  # fmt: skip
    return read_space(MODEL, hw, trace, policies, axes, **how)


def test_lists_are_axes_and_tuples_are_ranges() -> None:
    found = space({"batch": (1, 6), LINK: ("8GB/s", "64GB/s", "log"), "hbm_bytes": ("1.5GB", "24GB"), "top_k": [1, 2],
                   "hardware": ["rtx-4090", "l4"]}, hw=None)  # fmt: skip
    batch, link, hbm, top_k, hardware = found.parameters
    assert batch == Range("batch", "batch", "1", 1.0, 6.0, False, True)
    assert link == Range(LINK, LINK, "B/s", 8e9, 64e9, True, False)
    assert hbm == Range("hbm_bytes", "accelerator.hbm_bytes", "B", 1.5e9, 24e9, False, True)
    assert isinstance(top_k, Axis)
    assert isinstance(hardware, Axis)
    assert (top_k.values.tolist(), hardware.values.tolist()) == ([1, 2], ["rtx-4090", "l4"])
    assert found.n_evaluations is None
    with pytest.raises(InvalidInput, match="axis batch is a range, which has no end of values"):
        found.grid()
    listed = space({"batch": [1, 2, 3], "top_k": [1, 2]})
    assert listed.n_evaluations == 12
    assert [axis.name for axis in listed.grid()] == ["batch", "top_k"]
    assert space({}).n_evaluations == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((1, 2, "log", 4), r"axis batch = \(1, 2, 'log', 4\): a range is"), ((1,), r"axis batch = \(1,\): a range is"),
        ((2, 2), r"axis batch = \(2, 2\): a range must rise"), ((2, 1), r"axis batch = \(2, 1\): a range must rise"),
        ((0, 2, "log"), "a log space from 0 to 0 needs both above 0"),
        ((1, 2, "cubic"), "spacing 'cubic' is neither linear nor log"),
    ],
)  # fmt: skip
def test_ranges_that_are_none_are_refused(given: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        space({"batch": given})


def test_the_accelerators_searched_are_named() -> None:
    assert space({}).hardware == "rtx-4090"
    assert space({"hardware": ["rtx-4090", "l4"]}, hw=None).hardware == "rtx-4090, l4"
    assert space({"accelerator": ["rtx-4090", "l4"]}, hw="rtx-3090").hardware == "rtx-4090, l4"
    both = space({"hardware": ["rtx-3090"], "accelerator": ["rtx-4090", "l4"]}, hw=None)
    assert both.hardware == "rtx-4090, l4"
    assert space({"stack": ["streams"], "link": ["pcie5-x16"]}).hardware == "rtx-4090"
    assert space({}, hw=MachineRecipe("l4")).hardware == "l4"
    assert space({}, hw=load_hardware("l4")).hardware == "l4"
    assert space({}, hw=Path("l4")).hardware == "l4"


def prices(found: Space, axes: list[Axis], n: int) -> list[float | None]:
    return [None if np.isnan(one) else float(one) for one in found.price_usd(axes, n)]


def names(*values: str, key: str = "hardware") -> Axis:
    return Axis(key, key, np.array(values), "")


def numbers(key: str, *values: float) -> Axis:
    return Axis(key, key, np.array(values), "1")


def test_a_point_costs_what_all_cards_of_its_machine_do() -> None:
    alone = space({"batch": [1, 2]})
    assert (alone.priced_by, alone.prices, alone.n_cards) == ("", {"": 1599.0}, {"": 1})
    assert prices(alone, [numbers("batch", 1, 2)], 2) == [1599.0, 1599.0]
    some = space({"hardware": ["2x rtx-4090", "a10", "l4"]}, hw=None)
    assert some.priced_by == "hardware"
    assert some.prices == {"2x rtx-4090": 1599.0, "a10": None, "l4": 2500.0}
    assert prices(some, [names("l4", "2x rtx-4090", "a10", "l4")], 4) == [2500.0, 3198.0, None, 2500.0]
    swapped = space({"accelerator": ["l4", "rtx-4090"], "hardware": ["rtx-3090"]}, hw=None)
    assert swapped.priced_by == "accelerator"
    assert prices(swapped, [names("rtx-3090"), names("l4", key="accelerator")], 1) == [2500.0]
    stated = space({"accelerator.price_usd": [700.0, 500.0], "hardware": ["2x rtx-4090", "l4"]}, hw=None)
    assert stated.prices == {}
    both = [numbers("accelerator.price_usd", 700, 500), names("2x rtx-4090", "l4")]
    assert prices(stated, both, 2) == [1400.0, 500.0]
    numbered = space({"accelerator.n_cards": [1, 3]})
    assert prices(numbered, [numbers("accelerator.n_cards", 1, 3)], 2) == [1599.0, 4797.0]


def test_prices_are_of_the_machine_that_other_parts_leave() -> None:
    """The first value of every other axis stands for them."""
    found = space({"stack": ["streams", "fastertransformer"], "hardware": ["l4"], "link": ["pcie5-x16"]}, hw=None)
    assert found.prices == {"l4": 2500.0}
    swapped = space({"accelerator": ["l4"], "host": ["desktop-ddr5"]}, hw="a10")
    assert swapped.prices == {"l4": 2500.0}


def test_machines_without_a_price_are_left_out_where_prices_count() -> None:
    axes = {"hardware": ["a10", "l4", "v100-sxm2-16gb", "rtx-4090"], "batch": [1, 2]}
    free, counted = space(axes, hw=None), space(axes, hw=None, need_prices=True)
    assert (free.left_out, counted.left_out) == ((), ("a10", "v100-sxm2-16gb"))
    assert [parameter.values.tolist() for parameter in counted.grid()] == [["l4", "rtx-4090"], [1, 2]]
    assert counted.parameters[0].name == counted.parameters[0].key == "hardware"
    assert counted.parameters[0].unit == ""
    for given, hw, named in (({"hardware": ["a10", "t4"]}, None, "a10, t4"), ({}, "a10", "a10")):
        with pytest.raises(InvalidInput) as refused:
            space(given, hw=hw, need_prices=True)
        assert str(refused.value) == (
            f"no price is known of {named}: give one (accelerator.price_usd=1500), a machine that has one (`pregate "
            f"hardware show NAME`), or goals without prices"
        )
        assert space(given, hw=hw).left_out == ()
    assert space({"accelerator.price_usd": [9.0]}, hw="a10", need_prices=True).left_out == ()
    swapped = space({"accelerator": ["a10", "l4"], "hardware": ["a10"]}, hw=None, need_prices=True)
    assert [axis.values.tolist() for axis in swapped.grid()] == [["l4"], ["a10"]]


def test_designs_that_are_no_answer_are_told_apart() -> None:
    found = space({"batch": [1]}, policies=("oracle", "on_demand"))
    assert [design.policy.name for design in found.subject.designs] == ["on_demand"]
    assert found.told_apart == ("oracle knows what no gate has said, so that nobody can build it.",)
    cached = space({}, policies=("on_demand", "pregate"), cache=Cache("lru"))
    assert [design.cache for design in cached.subject.designs] == [Cache("lru")] * 2
    assert cached.told_apart == ()
    kept = space({}, policies=("on_demand",), cache=Cache("belady"))
    assert kept.told_apart != ()
    assert len(kept.subject.designs) == 1  # there is no other


def test_the_subject_is_what_was_asked() -> None:
    found = space({"batch": [1]}, expert_tier="ssd")
    assert (found.subject.model, found.subject.expert_tier, found.subject.fills_memory) == (MODEL, "ssd", False)
    assert found.subject.hw == MachineRecipe("rtx-4090")
    assert space({}).subject.expert_tier == "dram"
    with pytest.raises(InvalidInput, match="no hardware: name a machine"):
        space({"batch": [1]}, hw=None)
    assert found.subject.trace == RECIPE  # made at each point
    assert isinstance(space({}).subject.trace, RoutingTrace)  # once for all
    assert isinstance(space({LINK: [1e9]}).subject.trace, RoutingTrace)
    for moved in ({"batch": [1]}, {"input_tokens": [4]}, {"top_k": [1]}):
        assert isinstance(space(moved).subject.trace, TraceRecipe)
    filled = space({}, trace=TraceRecipe(4, 3, "max")).subject
    assert (filled.fills_memory, filled.trace) == (True, TraceRecipe(4, 3, "max"))
    named = read_space("switch-mini-16", None, None, ["gpu_only"], {"hardware": ["l4"], "batch": [1]})
    assert (named.subject.model, named.subject.trace) == (MODEL, TraceRecipe())
    recorded = synthesize(MODEL, 4, 3, 2)
    assert space({}, trace=recorded).subject.trace is recorded
    for axes, trace, told in (
        ({"batch": [1]}, TraceRecipe(4, 3, "max"), "leave out one of the two"),
        ({"input_tokens": [4]}, recorded, "needs a synthetic trace"), ({"batch": (1, 6)}, recorded, "2"),
        ({"tier_bytes": [1e9]}, RECIPE, "dram"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=told):
            space(axes, trace=trace)


def test_a_recording_is_read_as_one_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(space_, "as_source", lambda *given: asked.append(given) or RECIPE)
    space({}, trace="recorded.safetensors")
    assert asked == [("recorded.safetensors", MODEL)]


RANGED: dict[str, Any] = {
    "batch": (1, 6), LINK: (8e9, 64e9, "log"), "hardware": ["l4", "rtx-4090"], "top_k": [1, 2],
    "stack.gemm_efficiency": (0.2, 0.9),
}  # fmt: skip


def test_every_policy_is_tried_first_at_the_low_end_of_everything() -> None:
    found = Trials(space(RANGED, hw=None), 2, 0)
    asked = found.ask(5)
    assert asked[:2] == [(i, 1, 8e9, 0, 0, 0.2) for i in (0, 1)]
    assert [type(one) for one in asked[0]] == [int, int, float, int, int, float]
    for policy, batch, link, i_hardware, i_top_k, efficiency in asked:
        assert policy in (0, 1)
        assert batch in range(1, 7)
        assert 8e9 <= link <= 64e9
        assert i_hardware in (0, 1)
        assert i_top_k in (0, 1)
        assert 0.2 <= efficiency <= 0.9
    found.tell(np.ones((5, 2)), np.zeros((5, 1)))
    assert found.told == 5
    found.ask(3)
    found.tell(np.ones((3, 2)), np.zeros((3, 1)))
    assert found.told == 8
    trials = found._study.get_trials()
    assert [trial.values for trial in trials] == [[1.0, 1.0]] * 8
    assert [trial.user_attrs for trial in trials] == [{"excess": [0.0]}] * 8
    assert found._study.sampler._constraints_func is not None  # type: ignore[attr-defined]
    assert found._study.sampler._constraints_func(trials[0]) == [0.0]  # type: ignore[attr-defined]
    kinds = {name: type(one).__name__ for name, one in trials[0].distributions.items()}
    assert kinds == {
        "policy": "CategoricalDistribution", "batch": "IntDistribution", LINK: "FloatDistribution",
        "hardware": "CategoricalDistribution", "top_k": "IntDistribution", "stack.gemm_efficiency": "FloatDistribution",
    }  # fmt: skip
    drawn: Any = trials[0].distributions
    assert (drawn["top_k"].low, drawn["top_k"].high, drawn["hardware"].choices) == (0, 1, (0, 1))
    assert (drawn["batch"].low, drawn["batch"].high, drawn[LINK].low, drawn[LINK].high) == (1, 6, 8e9, 64e9)
    logs = {name: getattr(one, "log", None) for name, one in trials[0].distributions.items()}
    assert logs == {"policy": None, "batch": False, LINK: True, "hardware": None, "top_k": False,
                    "stack.gemm_efficiency": False}  # fmt: skip


def test_a_seed_decides_what_is_asked() -> None:
    one, same, other = (Trials(space(RANGED, hw=None), 1, seed).ask(20) for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_whole_numbers_of_a_log_range_are_drawn_by_their_logarithm() -> None:
    trials = Trials(space({"batch": (1, 64, "log")}), 1, 0)
    assert trials.ask(1) == [(0, 1)]
    ((_, batch),) = trials._open[0].distributions.items() - {("policy", trials._open[0].distributions["policy"])}
    assert (batch.log, batch.low, batch.high) == (True, 1, 64)


def test_a_study_is_of_generations_that_are_crossed_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    told: dict[str, Any] = {}
    real = optuna.samplers.NSGAIISampler

    def sampler(**given: Any) -> Any:
        told.update(given, verbosity=optuna.logging.get_verbosity())
        return real(**given)

    monkeypatch.setattr(optuna.samplers, "NSGAIISampler", sampler)
    before = optuna.logging.get_verbosity()
    study = trials_._new_study(3, 7)
    assert [direction.name for direction in study.directions] == ["MINIMIZE"] * 3
    assert (told["population_size"], told["seed"], told["verbosity"]) == (GENERATION, 7, optuna.logging.WARNING)
    assert type(told["crossover"]).__name__ == "BLXAlphaCrossover"
    assert optuna.logging.get_verbosity() == before


def test_points_are_read_as_values_of_each_axis() -> None:
    found = space(RANGED, hw=None)
    i_policy, axes = points_as_axes([(1, 3, 9e9, 1, 0, 0.5), (0, 2, 8e9, 0, 1, 0.25)], found)
    assert (i_policy.tolist(), i_policy.dtype) == ([1, 0], np.int64)
    assert [(axis.name, axis.key, axis.unit) for axis in axes] == [
        (parameter.name, parameter.key, parameter.unit) for parameter in found.parameters
    ]
    assert [axis.values.tolist() for axis in axes] == [
        [3.0, 2.0], [9e9, 8e9], ["rtx-4090", "l4"], [1.0, 2.0], [0.5, 0.25]
    ]  # fmt: skip
    assert axes[0].values.dtype == np.float64
