"""`pregate plan`: the verdict card; `pregate` alone: the machine that was found, and three cards."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pregate.cli import options
from pregate.cli.assumption_lines import (
    say_as_published,
    say_cards_in_turn,
    say_in_turn_alone,
    say_left_out,
    say_scale_of_fp8,
    say_stood_for,
    say_weights,
)
from pregate.cli.card_question import CardQuestion
from pregate.cli.option_groups import takes
from pregate.cli.option_values import build_model
from pregate.cli.output_paths import require_ledger
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from pregate.card.card import Card
    from pregate.economics.machine_ranking import MachineRanking
    from traces.model.architecture import ModelArchitecture


WELL_KNOWN = (("gpt-oss-20b", None), ("qwen3-30b-a3b", "all=q4_k_m"), ("mixtral-8x7b", "all=q4_k_m"))
"""Models of the cards that `pregate` alone prints, and the formats they are mostly run in (None: as published)."""

_LEAST, _PIPED, _MOST = 40, 80, 140
"""Columns of a card: at least, where nobody looks, at most."""


class CardFormat(StrEnum):
    """How a card is printed."""

    table = "table"
    json = "json"
    markdown = "markdown"


@takes("question", CardQuestion)
def plan(
    *,
    question: CardQuestion,
    ledger: options.LedgerFile = None,
    details: Annotated[
        bool, typer.Option("--details", help="All that the card knows: each interval, flags and benchmarks to copy.")
    ] = False,
    no_cache: options.NoSchedules = False,
    format: Annotated[CardFormat, typer.Option("--format", help="table, json or markdown.")] = CardFormat.table,
) -> None:
    """Say what to run on a machine, or which machine to take: how fast, how sure that is, and what would change it.

    Several machines: which of them, with the best design on each and what a million tokens cost there.

    Example: pregate plan mixtral-mini-8 --hardware rtx-4090 --input-tokens 64 --output-tokens 16
    """
    model, overrides = question.architecture(), question.overrides()
    if ledger is not None:
        require_ledger(ledger)
    machines, hardware = question.machines(), question.hardware
    told, brief = [], ""
    if hardware is None:
        from pregate.card.this_machine import find_machine

        found = find_machine()
        hardware, overrides = found.hardware, found.with_given(overrides)
        told, brief = found.told(), found.briefly()
    asked = question.requests(model) | {"overrides": overrides, "cache_dir": not no_cache}
    answer: Card | MachineRanking
    with spinner("planning") as update:
        if len(machines) > 1:
            answer = _ranked(question, model, machines, asked, update)
        else:
            answer = _judged(question, model, hardware, asked)
    if ledger is not None:
        from pregate.validation.ledger import append_predictions

        append_predictions(ledger, answer.predictions())
    _print(answer, format, told, brief, details)
    _say_left_unsaid(question, model, answer)


def _judged(question: CardQuestion, model: ModelArchitecture, hardware: str, asked: dict[str, Any]) -> Card:
    from pregate.card.plan import plan as run_plan

    return run_plan(model, hardware, **asked, now=question.now, weights=question.model)


def _ranked(
    question: CardQuestion,
    model: ModelArchitecture,
    machines: list[str],
    asked: dict[str, Any],
    progress: Callable[[str], None],
) -> MachineRanking:
    from pregate.cli.option_values import assumed
    from pregate.economics.machine_ranking import rank_machines

    figures = assumed(None, question.assume)
    return rank_machines(
        model, machines, **asked, basis=question.basis or "own", assumptions=figures, progress=progress
    )


def _say_left_unsaid(question: CardQuestion, model: ModelArchitecture, answer: Card | MachineRanking) -> None:
    """What a reader of the answer should know and did not ask."""
    from pregate.card.card import Card

    say_stood_for(question.stacks() or [])
    if isinstance(answer, Card) and question.formats is None and question.dtype is None:
        say_as_published(question.model, model, answer)
        if question.stack is None:
            best = answer.choice.best
            say_left_out(model, best.planned.hw, [one.design.stack for one in answer.choice.ranked])
    rankings = [answer.choice] if isinstance(answer, Card) else [one.choice for one in answer.machines]
    machines = [one.planned.hw for ranking in rankings for one in ranking.ranked]
    say_scale_of_fp8((question.formats, question.dtype), machines)
    say_weights(model, machines)
    say_in_turn_alone(model, machines)
    if question.stack is None:
        ranked = [answer] if isinstance(answer, Card) else answer.machines
        say_cards_in_turn(model, [one.best.planned.hw for one in ranked])


def _print(found: Card | MachineRanking, format: CardFormat, told: list[str], brief: str, details: bool) -> None:
    if format is CardFormat.json:
        render.print_json(found.to_dict())
    elif format is CardFormat.markdown:
        print("\n\n".join([*told, found.markdown()]))
    elif details:
        print(*([_folded(told)] if told else []), found.text(columns(), details=True), sep="\n")
    else:  # what was found takes a line of the screen
        from pregate.card.display.one_screen import LINES
        from pregate.card.display.text_layout import cut, folded

        above = cut(folded(brief, columns()), 1, columns()) if brief else []
        print(*above, found.text(columns(), n_lines=LINES - len(above)), sep="\n")


def _folded(sentences: list[str]) -> str:
    return "\n".join(textwrap.fill(sentence, columns(), break_long_words=False) for sentence in sentences)


def columns() -> int:
    """How wide a card is: as the terminal, within limits."""
    if not sys.stdout.isatty():
        return _PIPED
    return min(max(shutil.get_terminal_size((_PIPED, 24)).columns, _LEAST), _MOST)


def here() -> None:
    """What this machine is taken for, and the cards of three well-known models on it."""
    from pregate.card.plan import plan as run_plan
    from pregate.card.this_machine import find_machine

    found = find_machine()
    print(_folded(found.told()))
    for name, formats in WELL_KNOWN:
        print()
        try:
            model = build_model(name, None, None, formats)
            card = run_plan(model, found.hardware, overrides=found.overrides, cache_dir=True)
        except InvalidInput as error:
            print(_folded([f"{name}: {error}"]))
            continue
        print(card.summary(columns()))
    print()
    print(
        _folded(["`pregate plan MODEL` prints a whole card, `--details` all it knows, `pregate --help` all commands."])
    )
