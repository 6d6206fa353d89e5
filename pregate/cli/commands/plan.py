"""`pregate plan`: the verdict card; `pregate` alone: the machine that was found, and three cards."""

from __future__ import annotations

import shutil
import sys
import textwrap
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodels.specs.set_options import parse_sets
from pregate.cli import options
from pregate.cli.left_unsaid import say_as_published, say_cards_in_turn, say_stood_for
from pregate.cli.option_values import build_model, distinct
from pregate.cli.output_paths import require_ledger
from pregate.cli.progress import spinner
from pregate.cli.trained_context import longest_of, say_beyond_context
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from pregate.card.card import Card
    from pregate.economics.machine_ranking import MachineRanking

__all__ = ["here", "plan"]

WELL_KNOWN = (("gpt-oss-20b", None), ("qwen3-30b-a3b", "all=q4_k_m"), ("mixtral-8x7b", "all=q4_k_m"))
"""Models of the cards that `pregate` alone prints, and the formats they are mostly run in (None: as published)."""

_LEAST, _PIPED, _MOST = 40, 80, 140
"""Columns of a card: at least, where nobody looks, at most."""


class CardFormat(StrEnum):
    """How a card is printed."""

    table = "table"
    json = "json"
    markdown = "markdown"


def plan(
    model: options.Model,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            help="Machine (`pregate hardware`) or YAML file; several by comma are ranked; default: this machine.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Host by name or file, in place of the machine's usual one.")] = None,
    link: Annotated[str | None, typer.Option(help="Link by name or file, in place of the machine's usual one.")] = None,
    stack: Annotated[
        str | None, typer.Option(help="Software to look at, by comma; default: all that run such a model.")
    ] = None,
    trace: options.TraceFile = None,
    objective: Annotated[str, typer.Option(help="request, ttft, tpot or throughput.")] = "request",
    now: Annotated[
        str | None, typer.Option("--now", help="What runs today: STACK/DESIGN, such as llama-cpp/gpu_only@layers=cpu.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Designs to judge beside those of the software, by comma: ./mine.py:MyPolicy.")
    ] = None,
    input_tokens: Annotated[int, typer.Option(help="Prompt tokens of a request.")] = 512,
    output_tokens: Annotated[int, typer.Option(help="Generated tokens of a request.")] = 256,
    batch: Annotated[int | None, typer.Option("--batch", "--concurrency", help="Requests at once; default: 1.")] = None,
    popularity: options.Popularity = None,
    hbm: options.Hbm = None,
    dram: Annotated[str | None, typer.Option(help="Memory of the host, such as 96GB.")] = None,
    sets: options.Sets = None,
    dtype: options.Dtype = None,
    formats: options.Formats = None,
    top_k: options.TopK = None,
    seed: options.Seed = 0,
    basis: Annotated[
        str | None, typer.Option(help="Of several machines: own (bought, with electricity; the default) or rent.")
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", help="Of several machines: a figure of their cost, as of `pregate cost`."),
    ] = None,
    ledger: options.LedgerFile = None,
    details: Annotated[
        bool, typer.Option("--details", help="All that the card knows: each interval, flags and benchmarks to copy.")
    ] = False,
    no_cache: options.NoSchedules = False,
    format: Annotated[CardFormat, typer.Option("--format", help="table, json or markdown.")] = CardFormat.table,
) -> None:
    """Judge whole requests under every design that fits: what to run, how sure that is, and what would change it.

    Several machines: which of them, with the best design on each and what a million tokens cost there.

    Example: pregate plan mixtral-mini-8 --hardware rtx-4090 --input-tokens 64 --output-tokens 16
    """
    architecture = build_model(model, dtype, top_k, formats)
    overrides = _overrides(sets, {"host": host, "link": link, "hbm_bytes": hbm, "host.dram_bytes": dram})
    if ledger is not None:
        require_ledger(ledger)
    stacks = None if stack is None else [name.strip() for name in stack.split(",")]
    machines = [] if hardware is None else distinct(hardware, "--hardware")
    several = len(machines) > 1
    _check_asked_of(several, now, basis, assume)
    told, brief = [], ""
    if hardware is None:
        from pregate.card.this_machine import find_machine

        found = find_machine()
        hardware, overrides = found.hardware, found.with_given(overrides)
        told, brief = found.told(), found.briefly()
    from pregate.card.card import Card
    from pregate.card.job import RequestLoad
    from pregate.card.plan import plan as run_plan
    from pregate.routing_traces import load_popularity, load_trace

    recorded = None if trace is None else load_trace(trace, batch=batch, model=architecture)
    job = None if trace is not None else RequestLoad(input_tokens, output_tokens, batch or 1)
    say_beyond_context(architecture, input_tokens + output_tokens if recorded is None else longest_of(recorded))
    counted = None if popularity is None else load_popularity(popularity, model=architecture)
    asked: dict[str, Any] = {
        "trace": recorded, "objective": objective, "stacks": stacks, "overrides": overrides, "popularity": counted,
        "seed": seed, "cache_dir": not no_cache,
        "policies": [] if policies is None else distinct(policies, "--policies"),
    }  # fmt: skip
    answer: Card | MachineRanking
    with spinner("planning") as update:
        if several:
            from pregate.cli.option_values import assumed
            from pregate.economics.machine_ranking import rank_machines

            figures = assumed(None, assume)
            answer = rank_machines(
                architecture, machines, job, **asked, basis=basis or "own", assumptions=figures, progress=update
            )
        else:
            answer = run_plan(architecture, hardware, job, **asked, now=now, weights=model)
    if ledger is not None:
        from pregate.check.ledger import append_predictions

        append_predictions(ledger, answer.predictions())
    _print(answer, format, told, brief, details)
    say_stood_for(stacks or [])
    if isinstance(answer, Card) and formats is None and dtype is None:
        say_as_published(model, architecture, answer)
    if stack is None:
        ranked = [answer] if isinstance(answer, Card) else answer.machines
        say_cards_in_turn(architecture, [one.best.planned.hw for one in ranked])


def _overrides(sets: list[str] | None, given: dict[str, Any]) -> dict[str, float | str]:
    """What `--set` says, and options of their own that say the same."""
    found: dict[str, float | str] = {**parse_sets(sets)}
    for key, value in given.items():
        if value is not None and found.setdefault(key, value) != value:
            raise InvalidInput(f"--set {key} is given twice: give it once")
    return found


def _check_asked_of(several: bool, now: str | None, basis: str | None, assume: list[str] | None) -> None:
    """Raise `InvalidInput` for what is asked of one machine only, or of several only."""
    if several and now is not None:
        raise InvalidInput("--now is what runs on one machine: leave it out, or name one machine")
    if not several and (basis, assume) != (None, None):
        raise InvalidInput("--basis and --assume are of several machines: name them by comma, or ask `pregate cost`")


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
