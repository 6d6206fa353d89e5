"""Works priced once for all schedules of a page take what each schedule, priced alone, says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pregate
from hwmodels.cost import parts_of, price_figures
from hwmodels.figures import Figures, figures_of
from offload.ops import Work
from pregate.ask.capturing.capture import capture
from pregate.page.priced_works import PricedWorks
from pregate.page.subject import link_stops
from traces.foundation.read_only import ReadOnly

DESIGNS = ("gpu_only", "on_demand", "on_demand+lru:0.25", "on_demand+lru:0.5", "gpu_only@experts=cpu")


@pytest.mark.parametrize("hardware", ["a100-sxm4-80gb", "rtx-4090"])
def test_each_schedule_has_the_prices_that_it_has_alone(hardware: str) -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware(hardware)
    trace, links, figures = pregate.synthesize(model, 8, 3), link_stops(hw), figures_of(hw)
    priced = PricedWorks(figures, links)
    for design in DESIGNS:
        works = capture(model, hw, trace, design).decoded.schedule.works
        costs, parts = priced.of(works)
        wanted = price_figures(works, figures.with_values({"link.h2d_bytes_per_s": links}), len(links), shares=False)
        assert np.array_equal(costs.issue_s, wanted.issue_s)
        assert np.array_equal(costs.duration_s, wanted.duration_s)
        alone = figures.for_works(works)
        assert parts.tolist() == np.array([parts_of(work, alone) for work in works], np.float32).tolist()


def test_slots_count_where_a_fit_says_that_a_cache_answers_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Works that differ in the slots of experts alone are one, unless what is priced asks for them."""
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("rtx-4090")
    trace, links, figures = pregate.synthesize(model, 8, 3), link_stops(hw), figures_of(hw)
    schedules = [capture(model, hw, trace, f"on_demand+lru:{share}").decoded.schedule.works for share in (0.25, 0.5)]

    def asked(figures: Figures) -> list[Work]:
        seen: list[Work] = []

        def price(works: list[Work], *rest: object, **more: object) -> object:
            seen.extend(works)
            return price_figures(works, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr("pregate.page.priced_works.price_figures", price)
        priced = PricedWorks(figures, links)
        for works in schedules:
            priced.of(works)
        return seen

    plain = asked(figures)
    measured = asked(replace(figures, values=ReadOnly({**figures.values, "kernel.experts.cached": 0.5})))
    assert not any(work.slots_bytes for work in plain)
    assert set(measured) == {work for works in schedules for work in works}
