"""`pregate poc`: the plan, the page, and files that are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pregate.economics.assumptions import load_assumptions
from pregate.economics.cost_draws import unfitted_error
from pregate.economics.poc import N_MEASUREMENTS, _how, plan_poc
from pregate.economics.poc_page import poc_page
from tests.command_line import Run

FILE = """
title: A <b>trial</b>
model: switch-mini-16
hardware: a100-sxm4-80gb
stack: streams
workload: {input_tokens: 8, output_tokens: 4, requests_per_s: 50}
promise: {tpot: 1s}
now: on_demand
candidates: [pregate, "on_demand+lru:0.5"]
batches: [1, 2]
assume: {pue: "1.2:1.3:1.4"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "poc.yaml"
    path.write_text(FILE)
    return path


def test_a_plan_has_a_design_to_try_and_what_to_measure_first(file: Path) -> None:
    plan = plan_poc(file)
    assert plan.chosen is not None
    assert plan.chosen.served.design in ("pregate", "on_demand+lru:0.5")
    assert plan.now is not None
    assert plan.now.served.design == "on_demand"
    assert 1 <= len(plan.measurements) <= N_MEASUREMENTS
    shares = [one.share for one in plan.measurements]
    assert shares == sorted(shares, reverse=True)
    assert all(len(one.how) > 20 for one in plan.measurements)
    assert plan.report.assumed["pue"].high == 1.4


def test_thresholds_are_the_promise_or_as_far_as_the_prediction_may_be_off(file: Path) -> None:
    plan = plan_poc(file)
    assert plan.chosen is not None
    served = plan.chosen.served
    by_figure = {one.figure.split(",")[0]: one for one in plan.thresholds}
    assert by_figure["time per output token"].accept == "at most 1 s"
    assert by_figure["time per output token"].roll_back.startswith("above 1.2 s")
    most = served.ttft_s * unfitted_error(served, load_assumptions()).high  # nothing is fitted
    shown = by_figure["time to the first token"].accept.removeprefix("at most ").split()
    assert float(shown[0]) * {"ms": 1e-3, "us": 1e-6, "s": 1}[shown[1]] == pytest.approx(most, rel=0.005)
    assert plan.now is not None
    assert f"below {plan.now.served.requests_per_s:.3g}" in by_figure["requests/s at batch 2"].roll_back


def test_every_assumption_that_may_drive_a_choice_has_a_way_to_settle_it(file: Path) -> None:
    plan = plan_poc(file)
    for name in plan.report.assumed:
        assert len(_how(name)) > 20


def test_the_page_escapes_what_it_is_told_and_fetches_nothing(file: Path) -> None:
    html = poc_page(plan_poc(file))
    assert "<b>trial" not in html
    assert "A &lt;b&gt;trial" in html
    assert "src=" not in html
    assert "<script" not in html
    assert ">12000<" in html
    for part in ("Candidates", "Measure first", "Accept, go back, watch", "Ask again", "Assumed", "runs now"):
        assert part in html


def test_where_no_candidate_serves_nothing_is_tried(file: Path) -> None:
    file.write_text(FILE.replace("tpot: 1s", "tpot: 1us"))
    plan = plan_poc(file)
    assert plan.chosen is None
    assert plan.thresholds == ()
    html = poc_page(plan)
    assert "Nothing to try" in html


def test_the_command_writes_the_page(run: Run, file: Path, tmp_path: Path) -> None:
    status, out, err = run("poc", str(file), "-o", str(tmp_path / "poc.html"))
    assert (status, out) == (0, "")
    assert err == f"wrote {tmp_path / 'poc.html'}\n"
    assert (tmp_path / "poc.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("now: on_demand", "now: nosuch", "nosuch"),
        ("now: on_demand", "now: pregate", "each once"),
        ('candidates: [pregate, "on_demand+lru:0.5"]', "candidates: []", "candidates"),
        ("requests_per_s: 50", "requests_per_s: 0", "requests_per_s"),
        ("tpot: 1s", "tpot: soon", "promise: tpot: "),
        ("tpot: 1s", "tpot: 5 parsecs", "promise: tpot: "),
        ("batches: [1, 2]", "batches: [1, x]", "batches: 'x'"),
        ("batches: [1, 2]", "batches: [true]", "batches: True"),
        ("title:", "colour: red\ntitle:", "colour"),
        ("pue: ", "nosuch: ", "nosuch"),
        ("model: switch-mini-16\n", "", "model"),
    ],
)
def test_wrong_files_are_refused_in_one_line(
    run: Run, file: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in FILE
    file.write_text(FILE.replace(old, new, 1))
    status, out, err = run("poc", str(file), "-o", str(tmp_path / "poc.html"))
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "poc.html").exists()


def test_every_cell_knows_its_head_for_a_screen_too_narrow_for_a_table(file: Path) -> None:
    html = poc_page(plan_poc(file))
    cells = re.findall(r"<td[^>]*>", html)
    assert len(cells) > 50
    assert all('data-head="' in one and 'role="cell"' in one for one in cells)
    for name in ("USD/M tokens", "go back", "source"):
        assert f'data-head="{name}"' in html
