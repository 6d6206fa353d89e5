"""A report is whole or not there, fetches nothing, escapes what it is given, and says what the numbers say."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pregate
from offload.timeline import Timeline
from pregate.draw.palette import colours_of
from pregate.validation.outcome import Validation
from pregate.validation.report import report_files
from pregate.validation.report.report_files import FILES, gate, verdict, write_report
from pregate.validation.report.theme import inline_svg
from pregate.validation.report.validation_plots import (
    naive_bars,
    op_errors,
    predicted_above_measured,
    predicted_against_measured,
)
from pregate.validation.scores.validation_summary import rows, summarise_validation
from tests.small_validations import ZERO, full, outcome, validation
from traces.errors import InvalidFile, InvalidInput

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = '<script>alert("x")</script> & $\\frac$ "quoted" \'single\''


class Page(HTMLParser):
    """Collects tags, ids, texts and addresses; fails on a tag that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.append(values["id"])
        self.addresses += [values[name] for name in ("src", "href", "xlink:href", "data", "action") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def timeline() -> Timeline:
    model = pregate.load_model("switch-base-8")
    machine = pregate.load_hardware("a100-sxm4-80gb")
    found = pregate.simulate(model, machine, pregate.synthesize(model, 8, 6), "on_demand").timeline
    assert found is not None
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "new" / "folder"
    write_report(full((timeline(), timeline())), folder)
    return folder


def test_a_report_is_three_files_and_nothing_else(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(FILES)


def test_the_page_is_whole_and_fetches_nothing(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids)) > 0
    assert set(page.addresses) <= {f"#{name}" for name in page.ids}
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert "http" not in text
    assert "@import" not in text
    assert page.tags.count("svg") == 4
    assert text.count('role="img" aria-label="') == 4


def test_the_page_begins_with_the_verdict_and_has_every_part(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    said = verdict(summarise_validation(full()))
    assert said in page.text
    parts = [
        "Not as it should be", "By metric", "Predicted against measured", "By policy", "By model",
        "The policy to choose", "Beside naive predictions", "By op", "Both timelines", "Every configuration",
        "Runs thrown away", "Where it is from",
    ]  # fmt: skip
    places = [page.text.find(part) for part in [said, *parts]]
    assert places == sorted(places)
    assert -1 not in places
    for word in ("b/lru not measured", "a busy core", "machine.link.h2d_bytes_per_s", "p1", "a-fit"):
        assert word in page.text


def test_pictures_take_the_colours_of_the_page(written: Path) -> None:
    text = (written / "report.html").read_text()
    svg = text[text.index("<svg") : text.rindex("</svg>")]
    assert "currentColor" in svg
    assert "var(--line)" in svg
    assert not re.search(r"#(1f2328|ffffff|dddddd|000000)", svg, re.I)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_what_it_is_given_is_escaped(tmp_path: Path) -> None:
    hostile = outcome(
        HOSTILE, 1.0, (1.0, 1.1), group=HOSTILE, model=HOSTILE, naive={HOSTILE: 1.0}, disturbances=(HOSTILE,),
        exact=({HOSTILE: 1}, {HOSTILE: 2}), ops=({HOSTILE: ZERO}, {HOSTILE: ZERO}), output=HOSTILE,
        timelines=(timeline(), timeline()),
    )  # fmt: skip
    other = outcome("other", 1.0, (1.0,), group=HOSTILE, model="<b>", output="<i>")
    found = validation(hostile, other, machine={HOSTILE: HOSTILE})
    found = replace(found, fit=HOSTILE, predicted_first=HOSTILE, provenance={HOSTILE: HOSTILE, "date": HOSTILE})
    write_report(found, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("b") == 11  # the headline figures alone
    assert HOSTILE in page.text
    assert json.loads((tmp_path / "summary.json").read_text())["machine"] == {HOSTILE: HOSTILE}


def test_rows_come_back_as_they_were(written: Path) -> None:
    with (written / "rows.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    expected = rows(full())
    assert len(found) == len(expected)
    for read, row in zip(found, expected, strict=True):
        assert list(read) == list(row)
        for name, value in row.items():
            if value is None:
                assert read[name] == ""
            elif isinstance(value, bool):
                assert read[name] == str(value).lower()
            else:
                assert type(value)(read[name]) == value


def test_the_summary_has_no_number_that_is_none(written: Path) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    summary = json.loads((written / "summary.json").read_text(), parse_constant=refuse)
    keys = {"mape", "worst", "bias", "kendall_tau", "regret", "bytes_exact", "residency_exact", "n", "valid"}
    assert keys <= set(summary)
    assert (summary["n"], summary["n_invalid"], summary["valid"], summary["bytes_exact"]) == (4, 1, False, True)
    assert summary["machine"]["odd"] is None
    assert summary["mape"] == summarise_validation(full())["mape"]


def test_a_crash_midway_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(validation(outcome("lru", 1.0, None)), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def crash(*_: object) -> str:
        raise KeyboardInterrupt

    for place in ("page", "_csv", "_json"):
        with monkeypatch.context() as patch:
            patch.setattr(report_files, place, crash)
            with pytest.raises(KeyboardInterrupt):
                write_report(validation(), tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_full_disk_leaves_the_old_report_and_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    whole = Path.write_text

    def fill(self: Path, data: str, *args: object, **options: object) -> int:
        if "summary" in self.name:
            raise OSError(28, "No space left on device")
        return whole(self, data, encoding="utf-8")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(InvalidFile, match="No space left"):
        write_report(validation(), folder)
    assert not list(tmp_path.iterdir())
    folder.mkdir(parents=True)
    (folder / "report.html").write_bytes(b"old")
    with pytest.raises(InvalidFile, match="No space left"):
        write_report(validation(), folder)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("report.html", b"old")]


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidFile, match="cannot be made a folder"):
            write_report(validation(), path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "found",
    [validation(), validation(outcome("lru", 1.0, None)), validation(outcome("lru", 0.0, (0.0,), bound_s=0.0))],
    ids=["no case", "all too busy", "times of nothing"],
)
def test_nothing_measured_is_still_a_report(found: Validation, tmp_path: Path) -> None:
    write_report(found, tmp_path)
    Page((tmp_path / "report.html").read_text())
    json.loads((tmp_path / "summary.json").read_text())


def test_one_case_is_a_report_without_an_order(tmp_path: Path) -> None:
    write_report(validation(outcome("lru", 1.0, (1.0,))), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["kendall_tau"] is None
    assert "Kendall tau of" not in Page((tmp_path / "report.html").read_text()).text


def test_the_verdict_is_a_few_sentences_with_the_numbers() -> None:
    assert verdict(summarise_validation(full())) == (
        "The time per output token was predicted 4.7 % off on average over 4 configurations, 9.1 % at worst "
        "(b/pregate), and their order to a Kendall tau of 1.000; taking the policy predicted fastest costs 0.0 % on "
        "average, 0.0 % at worst. Transferred bytes and residency match exactly; 1 of 5 configurations and 1 single "
        "run were thrown away because the machine was busy. Trust in the times is high: the same thing takes 4 % more "
        "or less when timed again."
    )
    assert verdict(summarise_validation(validation(outcome("lru", 1.1, (1.0,))))) == (
        "The time per output token was predicted 10.0 % off in the one configuration that was measured. Transferred "
        "bytes and residency match exactly; nothing was thrown away. Trust in the times is fair: nothing was timed "
        "twice."
    )
    assert verdict(summarise_validation(validation(outcome("lru", 1.0, None)))) == (
        "Nothing was measured, so nothing is known of how right the predictions are. 1 of 1 configuration was thrown "
        "away because the machine was busy."
    )


def test_the_verdict_says_what_does_not_match() -> None:
    wrong = outcome("lru", 1.0, (1.0,), exact=({"h2d_bytes": 1, "hits": 1}, {"h2d_bytes": 2, "hits": 1}))
    other = outcome("pregate", 1.0, (1.0,), output="else")
    said = verdict(summarise_validation(validation(wrong, other)))
    assert "Residency matches exactly, transferred bytes do NOT match in 1 configuration" in said
    assert "policies of 1 group end in DIFFERENT hidden states" in said
    assert "residency was not compared" in verdict(
        summarise_validation(validation(outcome("lru", 1.0, (1.0,), exact=({"h2d_bytes": 1}, {"h2d_bytes": 1}))))
    )


def test_the_gate_opens_for_what_is_right() -> None:
    assert gate(full(), 0.05) == []
    assert gate(full()) == []


def test_the_gate_fails_for_each_reason() -> None:
    assert gate(full(), 0.04) == ["MAPE of tpot_s is 4.73 %, the limit is 4 %"]
    bytes_wrong = outcome("lru", 1.0, (1.0,), exact=({"h2d_bytes": 1, "hits": 1}, {"h2d_bytes": 2, "hits": 1}))
    assert gate(validation(bytes_wrong), 0.1) == ["bytes not exact: mini/b1/lru h2d_bytes 2 instead of 1"]
    said, seen = {f"n{i}": i for i in range(5)}, {f"n{i}": i + 1 for i in range(5)}
    hits_wrong = outcome("lru", 1.0, (1.0,), exact=({"d2h_bytes": 0} | said, {"d2h_bytes": 0} | seen))
    (reason,) = gate(validation(hits_wrong), 0.1)
    assert reason.startswith("residency not exact: mini/b1/lru n0 1 instead of 0;")
    assert reason.endswith("and 2 more")
    (reason,) = gate(validation(outcome("a", 1.0, (1.0,)), outcome("b", 1.0, (1.0,), output="else")), 0.1)
    assert reason == "mini/b1: policies end in different hidden states: a same, b else"
    assert gate(validation(outcome("lru", 1.0, None)), 0.1) == ["nothing was measured: machine too busy"]
    assert gate(validation(), 0.1) == ["nothing was measured"]
    assert gate(validation(outcome("lru", 0.0, (0.0,))), 0.1) == ["no time per output token was measured"]
    assert len(gate(validation(outcome("lru", 1.0, (1.0,), exact=({}, {}))))) == 2


@pytest.mark.parametrize("limit", [0.0, -0.1, math.nan, math.inf])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(InvalidInput, match=r"0.07 for 7 %"):
        gate(full(), limit)


def test_a_policy_has_one_colour_and_no_two_share_one() -> None:
    names = ["pregate", "lru", "lfu", "belady", "gpu_only", "lru"]
    colours = colours_of(names)
    assert list(colours) == ["pregate", "lru", "lfu", "belady", "gpu_only"]
    assert len(set(colours.values())) == 5
    assert colours["pregate"] == colours_of(["pregate"])["pregate"]


def test_pictures_name_their_axes_with_units_and_draw_every_case() -> None:
    found = full()
    figure = predicted_against_measured(found)
    assert figure is not None
    assert figure.axes[0].get_xlabel() == ""
    assert {axes.get_ylabel() for axes in figure.axes} == {"predicted (s)", "error (%)"}
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() != "None"]
    assert sorted(line.get_xydata().tolist()[0] for line in points) == [
        [1.005, 1.02], [2.0, 2.1], [3.0, 3.1], [4.4, 4.0]
    ]  # fmt: skip
    ops = op_errors(found)
    assert ops is not None
    assert [label.get_text() for label in ops.axes[0].get_yticklabels()] == ["fetch (92.3 %)", "experts (7.7 %)"]
    bars = naive_bars(summarise_validation(found))
    assert bars is not None
    assert [text.get_text() for text in bars.legends[0].get_texts()][1:] == ["roofline", "bandwidth", "serialised"]
    assert "%" in bars.axes[0].get_xlabel()


def test_both_timelines_stand_on_one_time_axis() -> None:
    drawn = predicted_above_measured(outcome("pregate", 1.0, (1.0,), timelines=(timeline(), timeline())))
    assert drawn is not None
    assert [axes.get_title(loc="left").split(":")[0] for axes in drawn.axes] == ["predicted", "measured"]
    assert drawn.axes[0].get_xlim() == drawn.axes[1].get_xlim()
    assert predicted_above_measured(outcome("pregate", 1.0, (1.0,), timelines=(timeline(), None))) is None
    assert predicted_above_measured(outcome("pregate", 1.0, None)) is None


def test_nothing_measured_is_not_drawn() -> None:
    busy = validation(outcome("lru", 1.0, None))
    assert predicted_against_measured(busy) is None
    assert op_errors(busy) is None
    assert naive_bars(summarise_validation(busy)) is None


def test_the_same_picture_is_the_same_text() -> None:
    first, second = (predicted_against_measured(full()) for _ in range(2))
    assert first is not None
    assert second is not None
    assert inline_svg(first, "a", "x") == inline_svg(second, "a", "x")


def test_a_verdict_says_what_is_left_out_of_the_times_of_interrupted_runs() -> None:
    calm, mine = outcome("lru", 1.0, (1.0,)), outcome("pregate", 1.0, (1.0,))
    assert "interruptions" not in verdict(summarise_validation(validation(calm)))
    assert mine.measurement is not None
    cut = replace(mine, measurement=replace(mine.measurement, interrupted=0.414))
    summary = summarise_validation(validation(calm, cut))
    assert summary["interrupted"] == 0.414
    assert "; interruptions by other work, up to 41.4 % of a run, are left out." in verdict(summary)
