"""Results as a notebook shows them: a table, its verdict above, all text escaped; and as rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import pregate
from pregate.ask.result_display import html_rows
from runtime.microbench.session import measure
from tests import drawn, small_fits
from tests.small_validations import full
from traces.errors import InvalidInput, UnknownName

SHOWN: dict[str, tuple[Callable[[], Any], str]] = {
    "explanation": (drawn.explained, "link.h2d_bytes_per_s"),
    "crossovers": (lambda: drawn.crossing()[0], "Best tokens_per_s"),
    "residency": (
        lambda: pregate.residency(drawn.traced(), ["lru"], [50], expert_bytes=1 << 24),
        "hit_pct_decode",
    ),
    "every capacity": (lambda: pregate.lru_curve(drawn.traced()), "hit_rate_decode"),
    "optimum": (drawn.searched, "Lowest price_usd"),
    "costs": (drawn.costed, "per_million_tokens"),
    "reproduction": (drawn.published, "mape_unseen"),
    "validation": (full, "predicted"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_result_shows_itself_as_a_table(name: str) -> None:
    make, told = SHOWN[name]
    result = make()
    html = result._repr_html_()
    assert html.count("<table>") == html.count("</table>") == 1
    assert "<caption>" in html
    assert told in html
    line = repr(result)
    assert line.startswith(f"{type(result).__name__}(")
    assert len(line) < 1000
    assert "\n" not in line


def test_rows_are_escaped_and_a_long_table_says_what_it_leaves_out() -> None:
    html = html_rows([{"a<b": "<script>", "c": None}, {"d": 1.23456}], "x & y", most=1)
    assert "<script>" not in html
    assert "x &amp; y The first 1 of 2 rows." in html
    assert "<td>-</td>" in html
    assert "1.23" not in html


def test_costs_are_rows_and_a_frame() -> None:
    report = drawn.costed()
    frame = report.to_dataframe()
    assert list(frame["design"]) == ["on_demand", "pregate", "gpu_only"]
    assert (frame["total_low"] <= frame["total"]).all()
    assert frame["payback_days"].isna()[0]


def test_a_validation_says_what_its_report_does() -> None:
    found = full()
    assert found.verdict().startswith("The time per output token was predicted")
    assert found.summary()["n"] == 4
    assert len(found.to_dataframe()) == len(found.rows())


def test_a_fit_is_a_machine_without_a_file() -> None:
    fit = small_fits.fit()
    hw = pregate.load_hardware(fit)
    assert (hw.fit, hw.stack.name) == (fit, fit.stack)
    assert pregate.load_hardware(fit, overrides={"link.h2d_bytes_per_s": 7e9}).machine.link.h2d_bytes_per_s == 7e9
    with pytest.raises(InvalidInput, match="leave the stack out"):
        pregate.load_hardware(fit, "vllm")


def test_a_measurement_is_asked_for_in_words() -> None:
    with pytest.raises(UnknownName, match="did you mean 'budget_s'"):
        measure("cpu", budget=1.0)
    with pytest.raises(UnknownName, match="unknown back end 'gpu'"):
        measure("gpu")


def test_the_first_passes_of_a_trace_are_a_trace() -> None:
    trace = pregate.synthesize(pregate.load_model("switch-base-8"), 5, 6, batch=2)
    head = trace.first_steps(3)
    assert head.n_steps == 3
    assert (head.experts == trace.experts[: head.n_tokens]).all()
    assert trace.first_steps(trace.n_steps).digest == trace.digest
    for wrong in (0, trace.n_steps + 1):
        with pytest.raises(InvalidInput, match=f"n_steps = {wrong}"):
            trace.first_steps(wrong)
    assert "12 MoE layers, 8 experts" in repr(trace)
