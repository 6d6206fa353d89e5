"""Options that commands share: declared once, taken by each command under the same name, order and default."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from pregate.cli.main import application
from pregate.cli.question import ENGINES, Question, asks
from traces.errors import InvalidInput


def call(command: Any, *words: str) -> Any:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_question_is_built_from_the_options_and_own_options_stay_the_commands() -> None:
    seen: list[tuple[Question, str]] = []

    @asks()
    def command(*, question: Question, policy: Annotated[str, typer.Option()] = "pregate") -> None:
        seen.append((question, policy))

    call(command, "m", "--hardware", "h", "--batch", "3", "--set", "a=1", "--set", "b=2", "--policy", "lru")
    assert seen == [(Question("m", "h", batch="3", sets=["a=1", "b=2"]), "lru")]


def test_options_that_a_command_has_no_use_for_are_refused_and_keep_their_defaults() -> None:
    seen: list[Question] = []

    @asks(*ENGINES)
    def command(*, question: Question) -> None:
        seen.append(question)

    assert call(command, "m", "--hardware", "h", "--engine", "des").exit_code == 2
    assert call(command, "m", "--hardware", "h").exit_code == 0
    assert seen == [Question("m", "h")]


def test_engines_are_fields_of_a_question() -> None:
    assert set(ENGINES) < {field.name for field in fields(Question)}


@pytest.mark.parametrize("command", ["compare", "simulate", "explain", "crossover"])
def test_help_lists_model_and_machine_first_and_the_format_last(command: str) -> None:
    text = CliRunner().invoke(application(), [command, "--help"]).output
    options = [line.split()[0] for line in text.splitlines() if line.strip().startswith("--")]
    assert options[0] == "--hardware"
    assert options[-1] == "--format"
    assert options.count("--trace") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("run", "no-such-model", "--gantt", "{folder}/out.txt"),
        ("simulate", "no-such-model", "--hardware", "t4", "--gantt", "{folder}/out.txt"),
        ("explain", "no-such-model", "--hardware", "t4", "--tornado", "{folder}/out.txt"),
    ],
)
def test_a_picture_of_no_known_kind_is_refused_before_the_work(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"out\.txt: pictures are written as \.png, \.svg or \.pdf"):
        application()([word.format(folder=tmp_path) for word in (*words, "--seed", "0")], standalone_mode=False)
