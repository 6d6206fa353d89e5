"""The page of `pregate explore` in Chromium, where it is installed: what it prints, its keys, its names, its widths."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pregate
from pregate.draw.render import si
from pregate.economics.poc import plan_poc
from pregate.economics.poc_page import poc_page

api = pytest.importorskip("playwright.sync_api", reason="drives a browser (the extra 'browser')")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_END = 0
"""For Playwright: no deadline."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

DESIGNS = ["gpu_only", "on_demand", "pregate"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    machines = ["a100-sxm4-80gb", "rtx-4090"]
    pregate.explore_page(["switch-mini-16"], machines, path, DESIGNS, batches=(1, 2), prompts=(8,), output_tokens=4)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=NO_END)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = patient(context.new_page())
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda request: opened.said.append(request.url) if "file:" not in request.url else None)
    visit(opened, address)
    yield opened
    assert opened.said == []
    context.close()


def patient(page: Any) -> Any:
    """The page, which is waited for however slow the machine is."""
    page.set_default_timeout(NO_END)
    return page


def visit(page: Any, address: str) -> None:
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_function("window.answers !== undefined")


def rows(page: Any) -> dict[str, list[str]]:
    lines = page.locator("#designs tbody tr").all()
    return {line.locator("th").inner_text(): line.locator("td").all_inner_texts() for line in lines}


def test_the_table_prints_what_python_prints(page: Any, address: str) -> None:
    visit(page, f"{address}#machine=1&batch=1")
    machine = pregate.load_hardware("rtx-4090")
    model = pregate.load_model("switch-mini-16")
    trace = pregate.synthesize(model, 8, 4, 2)
    printed = rows(page)
    assert list(printed) == DESIGNS
    best = page.locator("#designs tr.best th").inner_text()
    found = {design: pregate.simulate(model, machine, trace, design) for design in DESIGNS}
    assert best == min(found, key=lambda design: found[design].tpot_s)
    for design, result in found.items():
        expected = [si(result.tpot_s, "s"), si(result.ttft_s, "s"), si(result.moe_layer_latency_s, "s")]
        assert printed[design][:4] == [*expected, f"{result.tokens_per_s:.4g}"]
    assert page.locator("#verdict").inner_text().startswith(f"{best} wins: {si(found[best].tpot_s, 's')} ")
    assert f"(95 %: {printed[best][5]})" in page.locator("#verdict").inner_text()
    visit(page, f"{address}#machine=1&batch=1&metric=moe_layer_latency_s")
    for design, cells in rows(page).items():
        assert found[design].moe_layer_latency_ci95_s is not None
        assert cells[5] == " to ".join(si(end, "s") for end in found[design].moe_layer_latency_ci95_s or ())


def test_intervals_are_of_what_it_is_judged_by_and_of_the_link_that_the_machine_has(page: Any, address: str) -> None:
    visit(page, f"{address}#machine=1&metric=tokens_per_s")
    low, high = map(float, rows(page)["pregate"][5].split(" to "))
    assert low < float(rows(page)["pregate"][3]) < high
    visit(page, f"{address}#machine=1&link=0")
    assert {cells[5] for cells in rows(page).values() if len(cells) > 1} == {""}
    assert "95 %" not in page.locator("#verdict").inner_text()


def test_the_state_is_in_the_address_and_comes_back_from_it(page: Any) -> None:
    page.focus("#link")
    page.keyboard.press("Home")
    slowest = page.locator("#link-value").inner_text()
    assert slowest == "1 GB/s"
    page.select_option("#machine", "1")
    assert page.locator("#link-value").inner_text() == "31.5 GB/s"
    page.focus("#batch")
    page.keyboard.press("End")
    page.select_option("#metric", "ttft_s")
    seen, address = page.locator("#answer").inner_text(), page.url
    visit(page, address)
    assert page.locator("#answer").inner_text() == seen
    assert page.locator("#batch-value").inner_text() == "2"
    page.click("#reset")
    assert page.locator("#batch-value").inner_text() == "1"


@pytest.mark.parametrize(
    "hash", ["#machine=99&link=-4&batch=x&metric=nosuch&rows=nosuch", "#%3Cscript%3E", "#link=1e99"]
)
def test_an_address_that_makes_no_sense_shows_the_page_all_the_same(page: Any, address: str, hash: str) -> None:
    visit(page, address + hash)
    assert "wins" in page.locator("#verdict").inner_text()


def test_every_control_and_picture_has_a_name(page: Any) -> None:
    named = (
        "(e) => e.labels && e.labels.length ? e.labels[0].textContent : e.getAttribute('aria-label') || e.textContent"
    )
    for control in page.locator("input, select, button, canvas, form, table").all():
        assert control.evaluate(named).strip(), control.evaluate("(e) => e.outerHTML.slice(0, 80)")
    assert page.locator("#link").get_attribute("aria-valuetext") == page.locator("#link-value").inner_text()
    assert "Best design" in page.locator("#map").get_attribute("aria-label")
    assert page.locator("#verdict").get_attribute("aria-live") == "polite"


def test_marks_of_designs_differ_in_lightness_or_in_hatch(browser: Any, tmp_path: Path) -> None:
    """Grey print of the map and of its legend: more designs than there are colours that grey tells apart."""
    owned = ["gpu_only", "on_demand", "pregate", "lru", "pregate(2)", "prefetch_all"]
    designs = [*owned, "pregate+lfu:0.5", "on_demand+fifo:0.5"]
    path = tmp_path / "many.html"
    pregate.explore_page(["switch-mini-16"], ["rtx-4090"], path, designs, batches=(1,), prompts=(8,), output_tokens=2)
    page = patient(browser.new_page())
    visit(page, path.as_uri())
    drawn = page.locator("#designs tbody i").evaluate_all("(all) => all.map((e) => e.style.background)")
    assert len(set(drawn)) == len(designs)
    assert sum("gradient" in background for background in drawn) == 2
    pixels = "new Uint32Array(tile.getContext('2d').getImageData(0, 0, 8, 8).data.buffer)"
    shades = page.evaluate(f"tiles.map((tile) => new Set({pixels}).size)")
    assert [n > 1 for n in shades] == [False] * len(owned) + [True] * 2
    page.close()


def test_a_click_on_the_map_moves_the_sliders(page: Any) -> None:
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 20, box["y"] + 12)
    assert page.locator("#link-value").inner_text() == "512 GB/s"
    assert page.locator("#hbm").input_value() == page.locator("#hbm").get_attribute("max")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways_in_both_schemes(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 700}, color_scheme=scheme)
    page = patient(context.new_page())
    visit(page, address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    table = page.locator(".wide")
    assert table.evaluate("(e) => e.scrollWidth") <= table.evaluate("(e) => e.clientWidth")
    assert page.get_by_role("row").count() == 1 + len(DESIGNS)
    assert page.get_by_role("rowheader").count() == len(DESIGNS)
    assert page.get_by_role("columnheader").count() == 6  # intervals have a line of their own
    assert page.get_by_role("cell").count() == 6 * len(DESIGNS)
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert luminance_ratio(ink, paper) > 7
    context.close()


def luminance_ratio(one: str, other: str) -> float:
    """The contrast of two colours, `rgb(r, g, b)`, as WCAG 2.1 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(word) / 255 for word in colour[4:-1].split(",")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


WRITTEN = """
window.written = new Map();
const fill = CanvasRenderingContext2D.prototype.fillText, resize = Object.getOwnPropertyDescriptor(HTMLCanvasElement.prototype, "width");
Object.defineProperty(HTMLCanvasElement.prototype, "width", {...resize, set(value) { window.written.set(this.id, []); resize.set.call(this, value); }});
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  const wide = this.measureText(text).width, shift = {left: 0, center: wide / 2, right: wide}[this.textAlign];
  window.written.get(this.canvas.id).push({text, left: x - shift, right: x - shift + wide, y});
  fill.call(this, text, x, y);
};
const arc = CanvasRenderingContext2D.prototype.arc;
CanvasRenderingContext2D.prototype.arc = function (x, y, radius, ...rest) {
  window.circle = {x, y, radius: radius + this.lineWidth / 2};
  arc.call(this, x, y, radius, ...rest);
};
"""  # noqa: E501
"""Keeps where every text of a picture stands since it was last drawn, and the ring around what the sliders say."""


def test_no_text_of_a_picture_stands_over_another_on_a_phone(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 700})
    page = patient(context.new_page())
    page.add_init_script(WRITTEN)
    for batch, metric in itertools.product((0, 1), ("tpot_s", "ttft_s")):
        visit(page, f"{address}#batch={batch}&metric={metric}")
        written = page.evaluate("Object.fromEntries(window.written)")
        assert {"map", "timeline"} <= {name for name, texts in written.items() if texts}
        for texts in written.values():
            for one, other in itertools.combinations(texts, 2):
                apart = (
                    one["right"] <= other["left"] or other["right"] <= one["left"] or abs(one["y"] - other["y"]) > 10
                )
                assert apart, (one["text"], other["text"])
    context.close()


def test_the_ring_hides_no_value_of_a_line_on_a_phone(browser: Any, tmp_path: Path) -> None:
    """Wherever the sliders stand; and no line loses its value to the ring, since it has other places along it."""
    path = tmp_path / "lines.html"
    pregate.explore_page(["switch-mini-16"], ["rtx-4090"], path, ["pregate"], batches=(1,), prompts=(8,))
    context = browser.new_context(viewport={"width": 375, "height": 700})
    page = patient(context.new_page())
    page.add_init_script(WRITTEN)
    visit(page, path.as_uri())
    stops = [range(int(page.locator(f"#{name}").get_attribute("max")) + 1) for name in ("link", "hbm")]
    values = set()
    for link, hbm in itertools.product(*stops):
        page.evaluate(f"move({{link: {link}, hbm: {hbm}}})")
        ring, texts = page.evaluate("[window.circle, window.written.get('map')]")
        values.add(tuple(sorted(text["text"] for text in texts if text["text"].endswith(" ms"))))
        for text in texts:
            beside = max(text["left"] - ring["x"], ring["x"] - text["right"])
            assert beside >= ring["radius"] or abs(text["y"] - ring["y"]) >= ring["radius"] + 5, (link, hbm, text)
    assert len(values) == 1, values
    assert len(next(iter(values))) > 1
    context.close()


def test_a_design_that_does_the_same_is_told_on_any_link_and_the_next_is_another(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "same.html"
    designs = ["gpu_only", "gpu_only@experts=cpu:fit", "on_demand"]
    pregate.explore_page(["mixtral-mini-8"], ["rtx-4090"], path, designs, batches=(1,), prompts=(8,), output_tokens=4)
    page = patient(browser.new_page())
    for link in ("", "#link=3"):
        visit(page, path.as_uri() + link)
        told = page.locator("#verdict").inner_text()
        assert told.startswith("gpu_only wins: ")
        assert "times as fast as on_demand; gpu_only@experts=cpu:fit does the very same here." in told
    page.close()


def test_where_nothing_fits_no_step_of_before_is_left(browser: Any, tmp_path: Path) -> None:
    """Nor its legend, its name and its waits."""
    path = tmp_path / "tight.html"
    pregate.explore_page(
        ["switch-mini-16"], ["rtx-4090"], path, ["pregate"], batches=(1,), prompts=(8,), hbm_factors=(1e-4, 1)
    )
    page = patient(browser.new_page())
    page.add_init_script(WRITTEN)
    visit(page, path.as_uri())
    assert page.evaluate("window.written.get('timeline').length") > 0
    assert page.locator("#map-legend span").all_inner_texts() == ["pregate", "empty: none"]
    page.focus("#hbm")
    page.keyboard.press("Home")
    assert page.locator("#verdict").inner_text().startswith("No answer here")
    assert page.evaluate("window.written.get('timeline').length") == 0
    assert page.locator("#timeline-legend span").count() == page.locator("#bars .bar").count() == 0
    assert page.locator("#timeline").get_attribute("aria-label").startswith("No design fits")
    page.close()


def test_the_page_is_whole_on_disk(address: str) -> None:
    assert Path(address.removeprefix("file://")).read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.fixture(scope="module")
def plan_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the example, of fewer tokens."""
    folder = tmp_path_factory.mktemp("poc")
    text = (Path(__file__).parents[4] / "examples" / "poc.yaml").read_text(encoding="utf-8")
    long, short = "input_tokens: 256, output_tokens: 128", "input_tokens: 16, output_tokens: 4"
    assert long in text
    (folder / "poc.yaml").write_text(text.replace(long, short), encoding="utf-8")
    path = folder / "poc.html"
    path.write_text(poc_page(plan_poc(folder / "poc.yaml")), encoding="utf-8")
    return path


def test_a_plan_for_those_who_decide_is_cut_at_no_width(browser: Any, plan_page: Path) -> None:
    """No part of it scrolls, so that nothing is lost on a phone or on paper."""
    for width in (390, 1100):
        page = patient(browser.new_page(viewport={"width": width, "height": 900}))
        page.goto(plan_page.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
        boxes = "[...document.querySelectorAll('.wide, pre, td')]"
        assert page.evaluate(f"{boxes}.filter(e => e.scrollWidth > e.clientWidth + 1).length") == 0, width
        assert page.get_by_role("cell").count() > 50
        page.close()
