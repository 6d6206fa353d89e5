"""Links beside what others measured: every row that our words can say comes out as the cost model says it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from hwmodels.cost import price
from hwmodels.platform import load_platform
from hwmodels.specs.measured_links import MEASURED_LINKS, MeasuredLink, measured_links
from offload.ops import OpKind, Work
from traces.errors import InvalidFile

ROWS = list(measured_links())
SAID = [row for row in ROWS if not row.reason]
COPY = Work(OpKind.FETCH, copy_bytes=1 << 30)


def test_a_row_that_cannot_be_said_says_why_and_none_is_dropped() -> None:
    assert len(ROWS) == MEASURED_LINKS.read_text(encoding="utf-8").count("\n") - 1
    assert len(SAID) >= 30


@pytest.mark.parametrize("way", ["h2d", "d2h"])
@pytest.mark.parametrize("link", ["pcie3-x16", "pcie4-x16", "pcie5-x16", "nvlink-c2c"])
def test_pinned_copies_one_way_come_within_a_tenth_of_the_middle_of_what_was_seen(link: str, way: str) -> None:
    errors = [
        row.error
        for row in SAID
        if (row.link, row.direction, row.beside, row.memory) == (link, way, "nothing", "pinned")
    ]
    assert errors
    assert abs(statistics.median(errors)) < 0.1


def test_the_median_error_of_all_rows_is_small() -> None:
    assert statistics.median(abs(row.error) for row in SAID) < 0.05


def test_each_way_has_a_rate_of_its_own_and_one_cap_holds_for_both_at_once() -> None:
    hw = load_platform("rtx-5090", "streams")
    alone, back = (row.predicted_bytes_per_s for row in (_row("h2d", "nothing"), _row("d2h", "nothing")))
    both = [_row(way, "other way").predicted_bytes_per_s for way in ("h2d", "d2h")]
    assert alone != back
    assert sum(both) == pytest.approx(hw.machine.link.both_ways_bytes_per_s, rel=1e-12)
    costs = price([COPY], hw)
    assert costs.crossed_s[0] / costs.link_s[0] == pytest.approx(alone / both[0], rel=1e-12)


def test_a_share_of_the_users_replaces_that_of_the_link_and_the_users_own_of_the_link_stands() -> None:
    def rate(**overrides: float) -> float:
        hw = load_platform("rtx-5090", "streams", {key.replace("__", "."): x for key, x in overrides.items()})
        return COPY.copy_bytes / float(price([COPY], hw).link_s[0]) / hw.machine.link.h2d_bytes_per_s

    assert rate() == pytest.approx(0.885)
    assert rate(stack__link_efficiency=0.5) == pytest.approx(0.5)
    assert rate(link__h2d_efficiency=0.6) == pytest.approx(0.6)
    assert rate(stack__link_efficiency=0.5, link__h2d_efficiency=0.6) == pytest.approx(0.6)


def test_a_fit_of_this_machine_knows_better_than_its_link() -> None:
    hw = load_platform("a100-sxm4-80gb", "fastertransformer")
    assert hw.fit is not None
    rate = COPY.copy_bytes / float(price([COPY], hw).link_s[0])
    fitted = hw.fit.constants["link_efficiency"].value
    assert rate == pytest.approx(fitted * hw.machine.link.h2d_bytes_per_s, rel=1e-12)
    elsewhere = load_platform("rtx-5090", "fastertransformer")
    rate = COPY.copy_bytes / float(price([COPY], elsewhere).link_s[0])
    assert rate == pytest.approx(0.885 * elsewhere.machine.link.h2d_bytes_per_s, rel=1e-12)


def test_a_row_that_is_no_copy_is_refused(tmp_path: Path) -> None:
    for wrong, message in (("sideways,nothing,pinned", "sideways"), ("h2d,nothing,paper", "memory = 'paper'")):
        path = tmp_path / "links.csv"
        header = MEASURED_LINKS.read_text(encoding="utf-8").splitlines()[0]
        path.write_text(f"{header}\nmine,pcie4-x16,{wrong},20,mine,mine,,\n", encoding="utf-8")
        with pytest.raises(InvalidFile, match=message):
            list(measured_links(path))


def _row(way: str, beside: str) -> MeasuredLink:
    return MeasuredLink("mine", "pcie5-x16", way, beside, "pinned", 1e9, "mine", "mine", "", "")
