"""Lines beside a card about what nobody said, and what was taken for it: published formats, cards that take turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hwmodels.stacks.stack_files import load_stack
from hwmodels.stacks.weight_formats import check_weights, unmeasured_weights, why_unread
from pregate.draw.render import si

if TYPE_CHECKING:
    from hwmodels.platform import Platform
    from pregate.card.card import Card
    from pregate.cli.question import Question
    from traces.model.architecture import ModelArchitecture


_WIDE = 16
"""Bits a weight of what few run at home as it was published."""


def say_as_published(name: str, model: ModelArchitecture, card: Card) -> None:
    """One line on standard error where no format was said of a model by `name`, and not all that was published fits."""
    outside = any(design.endswith("/gpu_only") for design, _ in card.unfit)
    if outside and not Path(name).exists() and model.expert_dtype.bits >= _WIDE:
        typer.echo(
            f"note: weights are as published, {si(model.total_bytes, 'B')} in {model.expert_dtype.name}, and do not "
            f"all fit in HBM: --formats says another, such as all=q4_k_m",
            err=True,
        )


def as_no_engine_has(question: Question, model: ModelArchitecture, hw: Platform) -> str:
    """That this project's runtime and published formats were taken where neither was said, and how to ask of an engine
    instead, as a card does; "" where something was said, or no engine runs the model there.
    """
    said = (question.stack, question.formats, question.dtype, question.trace)
    engine, runtime = load_stack("llama-cpp"), "streams"
    runs = not model.is_encoder_decoder and engine.runs_on(hw.machine.accelerator.vendor)
    if said != (None,) * len(said) or hw.stack.name != runtime or not runs or Path(question.model).exists():
        return ""
    formats = " --formats all=q4_k_m" if model.expert_dtype.bits >= _WIDE else ""
    return (
        f"Taken: weights as published, experts in {model.expert_dtype.name}, under {runtime}, this project's runtime. "
        f"Of an engine, as on the card of `pregate plan`: --stack {engine.name}{formats}."
    )


_BARE_FP8 = re.compile(r"(?:^|[=,\s])fp8\s*(?:,|$)", re.IGNORECASE)


def say_scale_of_fp8(asked: Sequence[str | None], machines: Sequence[Platform]) -> None:
    """One line on standard error where fp8 was `asked` for, and a stack was measured with blocks of it too."""
    if not any(text is not None and _BARE_FP8.search(text) for text in asked):
        return
    both = [hw.stack.name for hw in machines if hw.fit is not None and {"fp8", "fp8-b128"} <= set(hw.fit.dtypes)]
    if both:
        typer.echo(
            f"note: fp8 is taken as one scale a tensor; what makers store in blocks is fp8-b128, which {both[0]} "
            f"computes with other kernels",
            err=True,
        )


def say_weights(model: ModelArchitecture, machines: Sequence[Platform]) -> None:
    """One line on standard error for each stack of `machines` whose kernels of the experts' format were not measured,
    and for each whose engine does not run on the card.

    Raises `InvalidInput` where one does not read weights of `model` at all.
    """
    for stack in {hw.stack.name: hw.stack for hw in machines}.values():
        check_weights(model, stack)
        if stands_in := unmeasured_weights(model, stack):
            typer.echo(f"note: {model.expert_dtype.name} under {stack.name}: {stands_in}", err=True)
    for why in dict.fromkeys(_too_old(model, hw) for hw in machines):
        if why:
            typer.echo(f"note: {why}", err=True)


def _too_old(model: ModelArchitecture, hw: Platform) -> str:
    """Why the engine of a stack does not run `model` on the card of `hw`; "" where it does, or the stack is none's."""
    from pregate.engines.flag_table import engine_of

    engine, card, stored = engine_of(hw.stack.name), hw.machine.accelerator, model.expert_dtype.name
    if engine is None or engine.runs_on(card.compute_capability, stored):
        return ""
    return (
        f"{hw.stack.name} runs {stored} on cards of compute capability {engine.least_capability(stored):g} and later, "
        f"{card.name} has {card.compute_capability}: another --stack, such as llama-cpp"
    )


def say_left_out(model: ModelArchitecture, hw: Platform, ranked: Sequence[str]) -> None:
    """One line on standard error where an engine was not looked at because it does not read a model as published."""
    for name in ("llama-cpp", "vllm"):
        stack = load_stack(name)
        why = why_unread(model, stack) if name not in ranked and stack.runs_on(hw.machine.accelerator.vendor) else ""
        if why and not model.is_encoder_decoder:
            typer.echo(f"note: {name} was not looked at: {why.removesuffix(', or another --stack')}", err=True)


def say_stood_for(stacks: Sequence[str]) -> None:
    """One line on standard error where engines that were named have no constants and flags of their own here."""
    from pregate.spellings.names import our_name

    for name in stacks:
        ours = our_name("stack", name)
        if re.fullmatch(r"sglang|(?:hf[ -]?)?transformers", name.strip(), re.IGNORECASE) and ours != name:
            typer.echo(f"note: {name} is predicted as {ours}, whose constants and flags stand here", err=True)


def say_cards_in_turn(model: ModelArchitecture, machines: Sequence[Platform]) -> None:
    """One line on standard error where several cards of a machine take turns because no engine was named that has them
    share.
    """
    from pregate.card.designs import stacks_for

    in_turn = [hw for hw in machines if hw.machine.n_cards > 1 and not hw.execution.shares_layers]
    cards = [(hw.stack.name, hw.machine.accelerator) for hw in in_turn]
    if any("vllm" in stacks_for(model, name, ("vllm",), one.vendor, one.compute_capability) for name, one in cards):
        typer.echo(
            f"note: the cards of {in_turn[0].hardware} take layers in turn, as under llama.cpp; --stack vllm has them "
            f"share every layer",
            err=True,
        )


def say_in_turn_alone(model: ModelArchitecture, machines: Sequence[Platform]) -> None:
    """One line on standard error where cards of an engine that has them share every layer cannot share those of
    `model`, so that its designs have layers in turn.
    """
    from pregate.card.designs import why_unshared

    for why in dict.fromkeys(filter(None, (why_unshared(model, hw) for hw in machines))):
        typer.echo(f"note: {why}; the designs here have layers in turn", err=True)
