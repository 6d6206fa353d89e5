"""A card as text, Markdown and HTML, and the two commands."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap

import pytest

import pregate
from pregate.card.card import Card
from pregate.card.display.phrases import rate
from pregate.card.job import RequestLoad
from pregate.card.plan import plan
from pregate.cli.commands import plan as command
from pregate.engines.writing import Flags
from tests.command_line import Run, runner

LOAD = RequestLoad(24, 40, 1)
HOSTILE = "<script>alert(1)</script>|`x`"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def card() -> Card:
    return plan("mixtral-mini-8", pregate.load_hardware("rtx-4090", "streams", {"hbm_bytes": "2GB"}), LOAD)


def test_each_line_of_a_summary_with_figures_says_what_they_rest_on() -> None:
    card = plan("mixtral-mini-8", "rtx-3060-12gb", LOAD)
    assert card.turning_points
    text = " ".join(card.summary(100).split())
    assert f"{card.reached:.0%} of the claimed speed limit" in text
    assert "Would change it (claimed):" in text
    assert re.search(r"\(claimed\): too close|, claimed\)|best of \d+ that fit", card.verdict())


@pytest.mark.parametrize(
    ("number", "told"), [(3547.0, "3,550"), (999.6, "1,000"), (12.34, "12.3"), (1.09e5, "109,000")]
)
def test_rates_are_never_powers_of_ten(number: float, told: str) -> None:
    assert rate(number) == told


def test_a_narrow_card_names_the_columns_that_it_left_out(card: Card) -> None:
    narrow = card.text(42, details=True)
    assert max(map(len, narrow.splitlines())) <= 42
    assert "Left out, 42 columns are too few:" in " ".join(narrow.split())
    assert "Left out" not in card.text(120, details=True)


def test_the_card_says_all_that_it_is_asked_for(card: Card) -> None:
    said = card.text(120, details=True)
    for label in ("Speed limit", "What binds", "Would change it", "How sure", "Measure next", "(* default"):
        assert label in said
    for words in ("first token", "95 % interval", "claimed"):
        assert words in said
    assert card.verdict() in " ".join(said.split())
    for one in card.choice.ranked[:3]:
        assert str(one.design) in said
    assert card.verdict() in " ".join(card.summary(90).split())


def test_html_and_markdown_escape_what_is_written(card: Card) -> None:
    hostile = dataclasses.replace(card, model=HOSTILE, flags=Flags(HOSTILE, ""))
    shown = hostile._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    outside_code = re.sub(r"`[^`]*`", "", hostile.markdown())
    assert re.search(r"(?<!\\)<script", outside_code) is None
    assert shown.count("<table>") == shown.count("</table>") == 2


def test_the_document_is_json(card: Card) -> None:
    document = json.loads(json.dumps(card.to_dict(), allow_nan=False))
    assert document["best"]["request_s"]["ci95"][0] < document["best"]["request_s"]["value"]
    assert document["job"] == {"input_tokens": 24, "output_tokens": 40, "batch": 1}
    assert len(document["designs"]) == len(card.choice.ranked)
    assert len(card.rows()) == len(card.choice.ranked) + len(card.choice.beside)


PLAN = ("plan", "mixtral-mini-8", "--hardware", "rtx-4090", "--stack", "streams", "--input-tokens", "16",
        "--output-tokens", "8")  # fmt: skip


def test_the_command_prints_the_card_in_each_format(run: Run) -> None:
    status, out, err = run(*PLAN)
    assert (status, err) == (0, "")
    assert "Limit (claimed" in out
    assert len(out.splitlines()) <= 24
    status, out, _ = run(*PLAN, "--details")
    assert (status, "Speed limit" in out) == (0, True)
    status, out, _ = run(*PLAN, "--format", "json", "--concurrency", "2", "--objective", "throughput")
    assert (status, json.loads(out)["job"]["batch"]) == (0, 2)
    status, out, _ = run(*PLAN, "--format", "markdown")
    assert out.startswith("## ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--objective", "beauty"), "objective 'beauty'"),
        (("--now", "nosuch"), "nosuch"),
        (("--now", "llama-cpp"), "--now 'llama-cpp' names no design"),
        (("--now", "llama.cpp"), "--now 'llama.cpp' names no design"),
        (("--now", "llama-server -ngl 99 --n-cpu-moe 30"), "names no design: STACK/DESIGN, such as llama-cpp/"),
        (("--now", "/gpu_only"), "--now '/gpu_only' names no design"),
        (("--now", "llama-cpp/gpu_only"), "unknown stack"),
        (("--stack", "nosuch"), "nosuch"),
        (("--host", "nosuch"), "nosuch"),
        (("--link", "pcie5-x16", "--set", "link=pcie4-x16"), "given twice"),
        (("--input-tokens", "0"), "--input-tokens 0: give 1 or more"),
        (("--output-tokens", "1"), "2 or more"),
        (("--batch", "-1"), "--batch -1: give 1 or more"),
        (("--batch", "1", "--concurrency", "2"), "given twice"),
        (("--trace", "/nosuch"), "nosuch"),
        (("--format", "yaml"), "yaml"),
        (("--hbm", "1MB"), "no design fits"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, words: tuple[str, ...], told: str) -> None:
    given = [word for word in PLAN if word not in ("--stack", "streams")] if words[0] == "--stack" else list(PLAN)
    for name, value in (("--input-tokens", "16"), ("--output-tokens", "8")):
        if name in words or "--trace" in words:
            at = given.index(name)
            assert given[at + 1] == value
            del given[at : at + 2]
    status, out, err = run(*given, *words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err


def test_pregate_alone_says_what_it_found_and_prints_cards(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WELL_KNOWN", (("mixtral-mini-8", None), ("deepseek-v3", None)))
    status, out, err = run()
    assert (status, err) == (0, "")
    assert "Found:" in out
    assert "mixtral-mini-8 on rtx-4090" in out
    assert "deepseek-v3: no design fits" in " ".join(out.split()) or "deepseek-v3 on" in out
    assert "claimed" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_the_three_models_ship() -> None:
    for name, _ in command.WELL_KNOWN:
        assert textwrap.shorten(pregate.load_model(name).name, 80) == name
