"""A line for sequences that go beyond the context of the maker's configuration: their times are still predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture
    from traces.routing import RoutingTrace


def longest_of(trace: RoutingTrace) -> int:
    """Tokens of the longest sequence of a trace, and the one that its last pass makes."""
    return int(trace.position.max(initial=-1)) + 2


def say_beyond_context(model: ModelArchitecture, n_tokens: int) -> None:
    """One line on standard error where a sequence of `n_tokens` is longer than `model` goes to."""
    if 0 < model.trained_context < n_tokens:
        typer.echo(
            f"note: a sequence of {n_tokens:,} tokens is beyond the {model.trained_context:,} that the configuration "
            f"of {model.name} goes to: times are predicted, engines may refuse it or need RoPE scaling",
            err=True,
        )
